package terminal

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
)

func TestEscapeJSON(t *testing.T) {
	evil := "a\u009b31m\u202e\u2028\u2029\u2066é世\x7fz\U000e0041\U0010fffd"
	b, err := json.Marshal(evil)
	if err != nil {
		t.Fatal(err)
	}
	got := string(EscapeJSON(b))
	if strings.ContainsFunc(got, Obeys) || !strings.Contains(got, "é世") {
		t.Errorf("%q", got)
	}
	var back string
	if err := json.Unmarshal([]byte(got), &back); err != nil || back != evil {
		t.Errorf("%q, %v", back, err)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain é 世\n\tx": "plain é 世\n\tx",
		"a\xffb\xc3":     "a\ufffdb\ufffd",
		"\x1b[31m\u009b": "\ufffd[31m\ufffd",
		"\u202eab\u2066": "\ufffdab\ufffd",
		"a\u2028b\rc":    "a\ufffdb\ufffdc",
		"\u200dx\ufeff":  "\u200dx\ufffd",
	} {
		if got := Clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	if got := OneLine(" a\n\tb\r\n"); got != " a  b\ufffd " {
		t.Errorf("%q", got)
	}
}

func TestClip(t *testing.T) {
	for _, c := range []struct {
		in         string
		limit      int
		head, tail string
	}{
		{"short", 5, "short", "short"},
		{"longer", 5, "lo…", "…er"},
		{"ééééé", 6, "é…", "…é"},
		{"世世世", 8, "世…", "…世"},
		{"abcd", 3, "…", "…"},
		{"abcd", 2, "", ""},
		{"abcd", -1, "", ""},
		{"a\xffb", 5, "a\ufffdb", "a\ufffdb"},
		{"\xbf\xbf\xbf\xbf\xbf", 4, "\ufffd", "\ufffd"},
	} {
		if got := Clip(c.in, c.limit); got != c.head {
			t.Errorf("Clip(%q, %d): got %q, want %q", c.in, c.limit, got, c.head)
		}
		if got := ClipTail(c.in, c.limit); got != c.tail {
			t.Errorf("ClipTail(%q, %d): got %q, want %q", c.in, c.limit, got, c.tail)
		}
	}
}

func TestMarshalJSON(t *testing.T) {
	b, err := MarshalJSON(map[string]any{"host\xfe": []string{"\xff\u202e"}})
	if err != nil || string(b) != `{"host`+"\ufffd"+`":["`+"\ufffd"+`\u202e"]}` {
		t.Errorf("%s, %v", b, err)
	}
}

// FuzzText holds every text against what the package promises.
func FuzzText(f *testing.F) {
	f.Add("a\xffb\u202e\x1b[2J世", 7)
	f.Add("\U000e0041", 3)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		c := Clean(s)
		if !utf8.ValidString(c) || Clean(c) != c || strings.ContainsFunc(c, func(r rune) bool { return r != '\n' && r != '\t' && Obeys(r) }) {
			t.Fatalf("Clean(%q) = %q", s, c)
		}
		if l := OneLine(s); strings.ContainsAny(l, "\n\t\r") {
			t.Fatalf("OneLine(%q) = %q", s, l)
		}
		for _, got := range []string{Clip(s, limit), ClipTail(s, limit)} {
			if !utf8.ValidString(got) || len(got) > max(0, limit) {
				t.Fatalf("Clip(%q, %d) = %q", s, limit, got)
			}
		}
		b, err := MarshalJSON(s)
		if err != nil || strings.ContainsFunc(string(b), Obeys) {
			t.Fatalf("MarshalJSON(%q) = %q, %v", s, b, err)
		}
		var back string
		if err := json.Unmarshal(b, &back); err != nil || utf8.ValidString(s) && back != s {
			t.Fatalf("%q reads back as %q, %v", s, back, err)
		}
	})
}
