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
