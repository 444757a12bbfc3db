package snapshot_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/resultity/rmodels/snapshot"
)

func TestCompare(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*snapshot.Snapshot)
		want   string
	}{
		{"nothing", func(*snapshot.Snapshot) {}, ""},
		{"what always differs", func(s *snapshot.Snapshot) {
			s.Sequence++
			s.Created, s.Expires = s.Created.Add(days), s.Expires.Add(days)
		}, ""},
		{"a model's members", func(s *snapshot.Snapshot) { s.Models[0].Enabled, s.Models[0].Size = false, 7 }, "changed model tiny@v1 enabled,size"},
		{"a model for another", func(s *snapshot.Snapshot) { s.Models[0].Version = "v9" }, "removed model tiny@v1; added model tiny@v9"},
		{"order", func(s *snapshot.Snapshot) {
			s.Policies = append([]snapshot.Policy{{Name: "other", Threshold: 1}}, s.Policies...)
		}, "added policy other"},
		{"a policy", func(s *snapshot.Snapshot) { s.Policies[0].Threshold++ }, "changed policy acme threshold"},
		{"settings", func(s *snapshot.Snapshot) { s.Settings.Expired = "stop" }, "changed settings  expired"},
		{"grace", func(s *snapshot.Snapshot) { s.OfflineGrace *= 2 }, "changed offlineGrace"},
		{"a revocation", func(s *snapshot.Snapshot) {
			s.Revocations = append(s.Revocations, snapshot.Revocation{Digest: s.Models[0].Digest()})
		}, fmt.Sprintf(`added revocation {"digest":"%s"}`, validSnapshot().Models[0].Digest())},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := validSnapshot()
			c.change(now)
			var got []string
			for _, x := range must1(snapshot.Compare(validSnapshot(), now))(t) {
				got = append(got, strings.TrimSpace(x.Verb+" "+x.Kind+" "+x.Name+" "+strings.Join(x.Members, ",")))
			}
			if s := strings.Join(got, "; "); s != c.want {
				t.Errorf("%q, want %q", s, c.want)
			}
		})
	}
}
