package ceremony

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/resultity/rmodels/snapshot"
)

// values are the entry's members before and after, whole: what is not shown is
// confirmed unread.
func values(c snapshot.Change, old, now *snapshot.Snapshot) []Value {
	return differences("", member(old, c), member(now, c))
}

// differences goes into members and elements as far as both sides have them.
func differences(at string, was, is jsontext.Value) (all []Value) {
	if string(was) == string(is) {
		return nil
	}
	if a, b, ok := both[map[string]jsontext.Value](was, is, '{'); ok {
		names := slices.Sorted(maps.Keys(a))
		for name := range b {
			if _, ok := a[name]; !ok {
				names = append(names, name)
			}
		}
		slices.SortFunc(names, inOrder)
		for _, name := range names {
			all = append(all, differences(memberOf(at, name), a[name], b[name])...)
		}
	} else if a, b, ok := both[[]jsontext.Value](was, is, '['); ok {
		all = elements(at, a, b)
	}
	if len(all) == 0 { // one value, or one that is empty
		return []Value{{at, string(was), string(is)}}
	}
	return all
}

// elements leaves out how two lists begin and end alike. Order counts in some
// lists, so what lies between is shown with its places.
func elements(at string, was, is []jsontext.Value) (all []Value) {
	same := func(a, b jsontext.Value) bool { return string(a) == string(b) }
	begin := 0
	for begin < min(len(was), len(is)) && same(was[begin], is[begin]) {
		begin++
	}
	end := 0
	for end < min(len(was), len(is))-begin && same(was[len(was)-1-end], is[len(is)-1-end]) {
		end++
	}
	place := func(i int) string { return fmt.Sprintf("%s[%d]", at, i) }
	if len(was) == len(is) {
		for i := begin; i < len(is)-end; i++ {
			all = append(all, differences(place(i), was[i], is[i])...)
		}
		return all
	}
	for i := begin; i < len(was)-end; i++ {
		all = append(all, Value{Member: place(i), Was: string(was[i])})
	}
	for i := begin; i < len(is)-end; i++ {
		all = append(all, Value{Member: place(i), Is: string(is[i])})
	}
	return all
}

// memberOf is the path of a member. A name that could pass for more than one
// is quoted.
func memberOf(at, name string) string {
	if strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsLetter(c) && !unicode.IsDigit(c) && c != '_' && c != '-' }) {
		name = strconv.Quote(name)
	}
	return strings.TrimPrefix(at+"."+name, ".")
}

// both decodes two values of one kind; one that is not there has no parts.
func both[T any](was, is jsontext.Value, kind jsontext.Kind) (a, b T, ok bool) {
	for _, x := range []struct {
		v    jsontext.Value
		into *T
	}{{was, &a}, {is, &b}} {
		if len(x.v) > 0 && (x.v.Kind() != kind || json.Unmarshal(x.v, x.into) != nil) {
			return a, b, false
		}
	}
	return a, b, len(was)+len(is) > 0
}

// inOrder puts first what says which bytes are meant and who vouches for them.
func inOrder(a, b string) int {
	first := []string{"reference", "policy", "digest"}
	rank := func(name string) int {
		if i := slices.Index(first, name); i >= 0 {
			return i
		}
		return len(first)
	}
	return cmp.Or(rank(a)-rank(b), strings.Compare(a, b))
}

// member is the JSON of the entry that a change is about, nil for none.
func member(s *snapshot.Snapshot, c snapshot.Change) jsontext.Value {
	encode := func(v any) jsontext.Value {
		b, err := json.Marshal(v, json.Deterministic(true))
		if err != nil {
			return nil
		}
		return b
	}
	switch c.Kind {
	case "model":
		for _, m := range s.Models {
			if m.ID() == c.Name {
				return encode(m)
			}
		}
	case "runtime":
		if r, ok := s.Runtime(c.Name); ok {
			return encode(r)
		}
	case "policy":
		if p, ok := s.Policy(c.Name); ok {
			return encode(p)
		}
	case "trust root":
		if t, ok := s.TrustRoots[c.Name]; ok {
			return encode(t)
		}
	case "revocation":
		for _, r := range s.Revocations {
			if b := encode(r); string(b) == c.Name {
				return b
			}
		}
	case "settings":
		return encode(s.Settings)
	case "sources":
		return encode(s.Sources)
	case "offlineGrace":
		return encode(s.OfflineGrace)
	case "extensions":
		return encode(s.Extensions)
	}
	return nil
}
