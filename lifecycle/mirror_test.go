package lifecycle

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/resultity/rmodels/snapshot"
)

// A node's own mirrors, those of hosts.toml files among them, are asked only
// where the snapshot permits it.
func TestNodeMirrorsNeedLeave(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		t.Run(fmt.Sprint(allowed), func(t *testing.T) {
			w := newNetwork(t)
			var asked atomic.Int64
			mirror := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				rw.WriteHeader(http.StatusNotFound)
			}))
			t.Cleanup(mirror.Close)
			hosts := t.TempDir()
			dir := filepath.Join(hosts, strings.Replace(w.host, ":", "_", 1)+"_")
			w.must(os.Mkdir(dir, 0o755))
			w.must(os.WriteFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, "[host.%q]\n", mirror.URL), 0o644))
			w.list("tiny", "v1", w.push("tiny", w.key, "first"))
			w.must(w.repo.Edit(func(s *snapshot.Snapshot) error { s.Sources.AllowNode = allowed; return nil }))
			w.publish()
			n := w.node(func(o *Options) { o.OCI.HostsDir = hosts })
			w.sync(n)
			w.state(n, "tiny@v1", Pending)
			if (asked.Load() > 0) != allowed {
				t.Errorf("the mirror was asked %d times", asked.Load())
			}
		})
	}
}
