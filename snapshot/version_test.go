package snapshot_test

import (
	"strings"
	"testing"

	"github.com/resultity/rmodels/snapshot"
)

func TestRange(t *testing.T) {
	for _, c := range []struct{ in, holds, not string }{
		{">=0.10 <0.13", "0.10 0.10.0 0.11.2 0.12.99 v0.12", "0.9.9 0.13.0 1.0 0.13.0-rc1 0.11.0-rc1"},
		{">= 0.10, < 0.13", "0.10.0 0.12.9", "0.13.0"},
		{"1.2", "1.2 1.2.0 1.2.9 1.2.3+linux", "1.3 1.1.9 1.2.0-rc1"},
		{"=1.2.3", "1.2.3 1.2.3+build.7", "1.2.4 1.2.3-rc1"},
		{"!=1.2", "1.3 1.1", "1.2.0 1.2.9"},
		{">1.2", "1.3.0 2", "1.2.0 1.2.9"},
		{"<=1.2", "1.2.9 1.1", "1.3.0"},
		{"^1.2.3", "1.2.3 1.9", "1.2.2 2.0.0"},
		{"^0.2.3", "0.2.3 0.2.9", "0.3.0 0.2.2 1.0"},
		{"^0.0.3", "0.0.3", "0.0.4 0.0.2"},
		{"^0", "0.0.0 0.9", "1.0.0"},
		{"~1.2.3", "1.2.3 1.2.9", "1.3.0 1.2.2"},
		{"~1", "1.0 1.9", "2.0 0.9"},
		{"^1.2 || ~3.1", "1.9 3.1.7", "2.0 3.2"},
		{">=1.0.0-rc.2", "1.0.0-rc.2 1.0.0-rc.10 1.0.0-rd 1.0.0 2.0", "1.0.0-rc.1 1.0.0-beta 2.0.0-rc.1 1.0.0-1"},
		{">=550", "550.54.15 560", "535.104.05 549.9"},
	} {
		r, err := snapshot.ParseRange(c.in)
		if err != nil {
			t.Fatalf("%s: %v", c.in, err)
		}
		for want, list := range map[bool]string{true: c.holds, false: c.not} {
			for s := range strings.FieldsSeq(list) {
				v, err := snapshot.ParseVersion(s)
				if err != nil {
					t.Fatal(err)
				}
				if r.Holds(v) != want {
					t.Errorf("%s: %s in it: %v", c.in, s, !want)
				}
			}
		}
	}
}

func TestNoVersion(t *testing.T) {
	for _, s := range []string{"", "v", "1.", ".1", "1.2.3.4", "one", "1.2.x", "1.2-", "1.2+", "1.2.3-rc..1", "1.2.3-ü", "-1", "+1", "1 2", "9999999999", strings.Repeat("1", 65)} {
		if _, err := snapshot.ParseVersion(s); err == nil {
			t.Errorf("version %q", s)
		}
	}
	for _, s := range []string{"", " ", "||", ">=1 ||", ">=", ">=>=1", "=>1", "newest", "1.x", "1 - 2", ">=1 <", ">1 or <2", strings.Repeat("1 ", 200)} {
		if _, err := snapshot.ParseRange(s); err == nil {
			t.Errorf("range %q", s)
		}
	}
}
