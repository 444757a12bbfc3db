package runner

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/google/jsonschema-go/jsonschema"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/terminal"
	"github.com/resultity/rmodels/snapshot"
)

// expectation is a test's expectation, compiled before anything starts.
type expectation struct {
	snapshot.Expect
	pattern *regexp.Regexp
	schema  *jsonschema.Resolved
}

// refused says what an answer lacks; nil is a right answer.
type refused struct {
	cause           Cause
	reason          string
	expected, found string
}

// newExpectation refuses a test that any answer would pass.
func newExpectation(v snapshot.Validation, protocol string) (*expectation, error) {
	x := &expectation{Expect: v.Expect}
	bad := func(format string, a ...any) error { return fmt.Errorf("%w: %s", ErrTest, fmt.Sprintf(format, a...)) }
	if err := v.CheckRunnable(protocol); err != nil {
		return nil, bad("%v", err)
	}
	var err error
	if x.Regexp != "" {
		if x.pattern, err = regexp.Compile(x.Regexp); err != nil {
			return nil, bad("regexp: %v", err)
		}
	}
	if len(x.Schema) > 0 {
		if x.schema, err = snapshot.CompileSchema(x.Schema); err != nil {
			return nil, bad("schema: %v", err)
		}
	}
	return x, nil
}

// check compares an answer's content.
func (x *expectation) check(a *answer) *refused {
	text := string(a.text)
	no := func(what, expected, found string) *refused {
		return &refused{CauseAnswer, what, terminal.Clip(terminal.Clean(expected), 1024), terminal.Clip(terminal.Clean(found), 1024)}
	}
	if x.Cosine == nil && len(a.text) == 0 {
		return no("the answer is empty", x.describe(), "")
	}
	if x.Exact != "" && text != x.Exact {
		return no("the answer is not the expected text", strconv.Quote(x.Exact), strconv.Quote(terminal.Clip(text, 900)))
	}
	if x.Contains != "" && !strings.Contains(text, x.Contains) {
		return no("the answer does not contain the expected text", strconv.Quote(x.Contains), strconv.Quote(terminal.Clip(text, 900)))
	}
	if x.pattern != nil && !x.pattern.MatchString(text) {
		return no("the answer does not match the expected pattern", x.Regexp, strconv.Quote(terminal.Clip(text, 900)))
	}
	if x.Digest != "" {
		if d := digest.FromBytes(a.text); d != x.Digest {
			return no("the answer's digest is another one", x.Digest.String(), d.String())
		}
	}
	if x.schema != nil {
		var v any
		err := json.Unmarshal(a.text, &v)
		if err == nil {
			err = x.schema.Validate(v)
		}
		if err != nil {
			return no("the answer does not fit the expected schema", terminal.Clip(string(x.Schema), 1024), oneLine(err.Error()))
		}
	}
	if c := x.Cosine; c != nil {
		if len(a.embedding) != len(c.Reference) {
			return no("the embedding has another number of dimensions", strconv.Itoa(len(c.Reference)), strconv.Itoa(len(a.embedding)))
		}
		if got := cosine(a.embedding, c.Reference); !(got >= c.Min) {
			return no("the embedding points elsewhere", fmt.Sprintf("cosine of at least %g", c.Min), fmt.Sprintf("%.6f", got))
		}
	}
	return nil
}

// describe names the expectation for a verdict that has no answer.
func (x *expectation) describe() string {
	var parts []string
	if x.Exact != "" {
		parts = append(parts, "exactly "+strconv.Quote(x.Exact))
	}
	if x.Contains != "" {
		parts = append(parts, "a text with "+strconv.Quote(x.Contains))
	}
	if x.Regexp != "" {
		parts = append(parts, "a match of "+x.Regexp)
	}
	if x.Digest != "" {
		parts = append(parts, "a text of digest "+x.Digest.String())
	}
	if x.schema != nil {
		parts = append(parts, "JSON of the test's schema")
	}
	if x.Cosine != nil {
		parts = append(parts, fmt.Sprintf("an embedding with a cosine of at least %g", x.Cosine.Min))
	}
	return terminal.Clip(terminal.Clean(strings.Join(parts, " and ")), 1024)
}

func norm(v []float64) float64 {
	var s float64
	for _, x := range v {
		s += x * x
	}
	return math.Sqrt(s)
}

func cosine(a, b []float64) float64 {
	var dot float64
	for i := range a {
		dot += a[i] * b[i]
	}
	return dot / (norm(a) * norm(b)) // NaN for a zero vector: refused by the caller's comparison
}

// checkFigures compares what was measured with what the model's entry allows.
func checkFigures(v snapshot.Validation, d *Verdict, load, perSecond float64) *refused {
	if limit := v.MaxLoadTime.Std().Seconds(); limit > 0 && load > limit {
		return &refused{CauseLoad, "the engine loaded too slowly", "at most " + v.MaxLoadTime.String(), d.LoadTime.String()}
	}
	if v.MinTokensPerSecond > 0 && !(perSecond >= v.MinTokensPerSecond) {
		return &refused{CauseSpeed, "the engine answered too slowly", fmt.Sprintf("at least %g tokens per second", v.MinTokensPerSecond), fmt.Sprintf("%.2f", perSecond)}
	}
	if v.MaxMemory > 0 && d.PeakMemory > int64(v.MaxMemory) {
		return &refused{CauseMemory, "the engine used too much memory", "at most " + v.MaxMemory.String(), snapshot.Bytes(d.PeakMemory).String()}
	}
	return nil
}
