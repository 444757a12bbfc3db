package probe_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/resultity/rmodels/runner/probe"
)

func TestFrames(t *testing.T) {
	whole := bytes.Join([][]byte{
		probe.Frame(probe.Ready, nil), probe.Frame(probe.Stdout, []byte("a")), probe.Frame(probe.Stderr, []byte("x\n")), probe.Frame(probe.Stdout, []byte("b")),
	}, nil)
	out, errs, err := probe.Unframe(whole)
	if string(out) != "ab" || string(errs) != "x\n" || err != nil {
		t.Errorf("%q, %q, %v", out, errs, err)
	}
	for cut := 1; cut < 6; cut++ {
		if _, _, err := probe.Unframe(whole[:len(whole)-cut]); err == nil {
			t.Errorf("cut by %d: no error", cut)
		}
	}
	if _, _, err := probe.Unframe([]byte("?\x00\x00\x00\x00")); err == nil {
		t.Error("unknown stream: no error")
	}
	if _, _, err := probe.Unframe([]byte("o\xff\xff\xff\xffx")); err == nil {
		t.Error("length beyond the end: no error")
	}
}

func FuzzUnframe(f *testing.F) {
	f.Add([]byte("o\x00\x00\x00\x01a"))
	f.Add([]byte("o\xff\xff\xff\xffa"))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, errs, _ := probe.Unframe(b)
		if len(out)+len(errs) > len(b) {
			t.Error("more came out than went in")
		}
	})
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"try"}, {"try", "no json"}, {"hold"}, {"unknown"}} {
		var out strings.Builder
		if code := probe.Main(args, &out); code != 2 || out.Len() > 0 {
			t.Errorf("%q: exit code %d, %q", args, code, out.String())
		}
	}
}

func TestReports(t *testing.T) {
	one := `{"name":"a","closed":true,"found":"x"}` + "\n"
	for name, c := range map[string]struct {
		text  string
		tries int // -1: refused
	}{
		"whole":         {one + one + `{"end":2}` + "\n", 2},
		"no end":        {one + one, -1},
		"half an end":   {one + `{"end":1`, -1},
		"one is lost":   {one + `{"end":2}` + "\n", -1},
		"more behind":   {one + `{"end":1}` + "\n" + one, -1},
		"two on a line": {strings.TrimSpace(one) + one + `{"end":1}` + "\n", -1},
		"unknown field": {`{"name":"a","open":true}` + "\n" + `{"end":1}` + "\n", -1},
		"nothing":       {"", -1},
	} {
		r, err := probe.ReadReport([]byte(c.text))
		if (err == nil) != (c.tries >= 0) || err == nil && len(r.Tries) != c.tries {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}
