package ceremony

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/resultity/rmodels/snapshot"
)

// shown are the values of a change as they are confirmed.
func (w *world) shown(kind, name string) (all []string) {
	w.t.Helper()
	for _, c := range must1(w.open().Status())(w.t).Pending.Document.Changes {
		if c.Kind != kind || !strings.HasPrefix(c.Name, name) {
			continue
		}
		for _, v := range c.Values {
			all = append(all, fmt.Sprintf("%s|%s|%s", v.Member, v.Was, v.Is))
		}
	}
	return all
}

// TestValuesAreWhole: what is confirmed is shown, however long what stands
// beside it is: lists by their elements, entries by their members.
func TestValuesAreWhole(t *testing.T) {
	w := found(t, 1)
	long := strings.Repeat("p", 20<<10)
	added := model("added")
	added.Validation.Request = []byte(`{"messages":[],"pad":"` + long + `"}`)
	w.must(w.open().Edit(func(s *snapshot.Snapshot) error {
		for i := range 40 {
			s.Policies[0].Images = append(s.Policies[0].Images, snapshot.ImageGlob{Glob: fmt.Sprintf("registry.example/a%03d/**", i)})
		}
		s.Policies[0].Images = append(s.Policies[0].Images, snapshot.ImageGlob{Glob: "evil.example/**"})
		s.Runtimes[0].Args = append([]string{"--log"}, s.Runtimes[0].Args...)
		s.Models = append(s.Models, added)
		return nil
	}))
	if got := w.shown("policy", "acme"); len(got) != 41 || got[40] != `images[41]||{"glob":"evil.example/**"}` {
		t.Errorf("%d values: %.300q", len(got), got)
	}
	if got := w.shown("runtime", "llama"); !slices.Equal(got, []string{`args[0]||"--log"`}) {
		t.Errorf("%q", got)
	}
	got := w.shown("model", "added@v1")
	if len(got) < 5 || got[0] != `reference||"`+added.Reference+`"` || got[1] != `policy||"acme"` {
		t.Fatalf("%.300q", got)
	}
	if !slices.Contains(got, `validation.request.pad||"`+long+`"`) {
		t.Error("a long text is cut off")
	}
}

// TestDifferences: lists by place, since order may count; what is empty; names
// that could pass for others.
func TestDifferences(t *testing.T) {
	for name, c := range map[string]struct {
		was, is string
		want    []Value
	}{
		"the same":          {`{"a":1}`, `{"a":1}`, nil},
		"a member":          {`{"a":1,"b":2}`, `{"a":1,"b":3}`, []Value{{"b", "2", "3"}}},
		"one within":        {`{"a":{"b":[1,2]}}`, `{"a":{"b":[1,3]}}`, []Value{{"a.b[1]", "2", "3"}}},
		"an element less":   {`[1,2,3]`, `[1,3]`, []Value{{"[1]", "2", ""}}},
		"another order":     {`[1,2]`, `[2,1]`, []Value{{"[0]", "1", "2"}, {"[1]", "2", "1"}}},
		"moved and one new": {`[1,2]`, `[2,1,3]`, []Value{{"[0]", "1", ""}, {"[1]", "2", ""}, {"[0]", "", "2"}, {"[1]", "", "1"}, {"[2]", "", "3"}}},
		"an empty list":     {``, `{"a":[]}`, []Value{{"a", "", "[]"}}},
		"emptied":           {`{"a":[1]}`, `{"a":[]}`, []Value{{"a[0]", "1", ""}}},
		"another kind":      {`{"a":[1]}`, `{"a":{"b":1}}`, []Value{{"a", "[1]", `{"b":1}`}}},
		"gone":              {`{"policy":1,"a":2,"reference":3}`, ``, []Value{{"reference", "3", ""}, {"policy", "1", ""}, {"a", "2", ""}}},
		"a name with a dot": {``, `{"a.b":1}`, []Value{{`"a.b"`, "", "1"}}},
		"no object":         {`"1h"`, `"2h"`, []Value{{"", `"1h"`, `"2h"`}}},
	} {
		if got := differences("", []byte(c.was), []byte(c.is)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}
