package snapshot

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/jsonschema-go/jsonschema"
)

// maxSchemaSteps bounds how many subschemas one answer is held against, with
// every reference written out: definitions that each name the next one twice
// double with every line.
const maxSchemaSteps = 10_000

// CompileSchema prepares a test's JSON Schema (draft 2020-12, or 7 where
// $schema says so). A schema stands for itself: it refers to its own $defs and
// to nothing else, and never to itself, which the library would follow without
// an end.
func CompileSchema(raw jsontext.Value) (*jsonschema.Resolved, error) {
	var doc any
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	if _, err := (&references{root: doc, steps: map[string]int{}}).count(doc); err != nil {
		return nil, err
	}
	var s jsonschema.Schema
	if err := s.UnmarshalJSON(raw); err != nil {
		return nil, err
	}
	return s.Resolve(&jsonschema.ResolveOptions{Loader: func(*url.URL) (*jsonschema.Schema, error) {
		return nil, errors.New("a schema may not refer to another document")
	}})
}

// references counts a schema's steps with its references written out.
type references struct {
	root  any
	steps map[string]int // by reference; 0 while it is being counted
}

// keywords says what stands under a keyword: a schema or a list of them, a map
// of names to schemas, or data in which nothing is a keyword.
var keywords = func() map[string]string {
	m := map[string]string{}
	for what, names := range map[string]string{
		"schema": `prefixItems items additionalItems contains unevaluatedItems additionalProperties propertyNames unevaluatedProperties
			allOf anyOf oneOf not if then else contentSchema`,
		"named": "properties patternProperties dependentSchemas dependencies",
		"defs":  "$defs definitions",
		"data": `const enum default examples $schema $comment $vocabulary title description deprecated readOnly writeOnly multipleOf
			minimum maximum exclusiveMinimum exclusiveMaximum minLength maxLength pattern minItems maxItems uniqueItems minContains
			maxContains minProperties maxProperties required dependentRequired contentEncoding contentMediaType format`,
		"type":    "type",
		"ref":     "$ref",
		"refused": "$id $anchor $dynamicAnchor $dynamicRef $recursiveAnchor $recursiveRef",
	} {
		for name := range strings.FieldsSeq(names) {
			m[name] = what
		}
	}
	return m
}()

var types = []string{"null", "boolean", "object", "array", "number", "integer", "string"}

func (r *references) count(v any) (int, error) {
	n := 1
	add := func(v any) error {
		m, err := r.count(v)
		if n += m; err == nil && n > maxSchemaSteps {
			err = fmt.Errorf("it has more than %d steps with its references written out", maxSchemaSteps)
		}
		return err
	}
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			if err := add(x); err != nil {
				return 0, err
			}
		}
	case map[string]any:
		for k, x := range v {
			what, known := keywords[k]
			if err := checkSpelling(k); !known && err != nil {
				return 0, err
			}
			names, _ := x.(map[string]any)
			switch what {
			case "refused":
				return 0, fmt.Errorf("it uses %s; a schema may refer to its own $defs alone", k)
			case "type":
				if err := checkTypes(x); err != nil {
					return 0, err
				}
			case "ref":
				m, err := r.follow(x)
				if n += m; err != nil {
					return 0, err
				}
			case "defs": // counted where they are used
				for _, d := range names {
					if _, err := r.count(d); err != nil {
						return 0, err
					}
				}
			case "named":
				for _, d := range names {
					if err := add(d); err != nil {
						return 0, err
					}
				}
			case "data":
			default:
				if err := add(x); err != nil {
					return 0, err
				}
			}
		}
	}
	return n, nil
}

// checkSpelling refuses a keyword in another case: the library would take it
// for the keyword all the same.
func checkSpelling(k string) error {
	for name := range keywords {
		if strings.EqualFold(k, name) {
			return fmt.Errorf("%q is not how %s is spelled", clip(k), name)
		}
	}
	return nil
}

// checkTypes refuses a type that no value has: nothing would fit it.
func checkTypes(v any) error {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, t := range list {
		if name, ok := t.(string); !ok || !slices.Contains(types, name) {
			return fmt.Errorf("the schema's type %q is none of %s", clip(fmt.Sprint(t)), strings.Join(types, ", "))
		}
	}
	return nil
}

func (r *references) follow(ref any) (int, error) {
	name, _ := ref.(string)
	if n, known := r.steps[name]; known {
		if n == 0 {
			return 0, fmt.Errorf("%s leads back to itself", clip(name))
		}
		return n, nil
	}
	var definition any
	for _, folder := range []string{"$defs", "definitions"} {
		if key, ok := strings.CutPrefix(name, "#/"+folder+"/"); ok && !strings.ContainsAny(key, "/~%") {
			m, _ := r.root.(map[string]any)
			defs, _ := m[folder].(map[string]any)
			definition = defs[key]
		}
	}
	if definition == nil {
		return 0, fmt.Errorf("$ref %q is not one of its own $defs", clip(name))
	}
	r.steps[name] = 0
	n, err := r.count(definition)
	r.steps[name] = n
	return n, err
}
