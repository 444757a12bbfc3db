package lifecycle

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/snapshot"
)

// TestPortalIsNoIncident: what stands between the node and its source says
// nothing about the network.
func TestPortalIsNoIncident(t *testing.T) {
	_, n := installed(t)
	for name, h := range map[string]http.HandlerFunc{
		"a login page": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>log in</html>")
		},
		"forbidden": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(h)
			defer srv.Close()
			res, err := n.Sync(context.Background(), SyncOptions{Source: snapshot.HTTPSource(nil, srv.URL), SourceName: srv.URL})
			if err != nil || res.SnapshotFailure == nil || res.SnapshotFailure.Cause != CauseUnavailable {
				t.Fatalf("got %+v, %v", res.SnapshotFailure, err)
			}
			if ins, _ := n.Incidents("", 0); len(ins) != 0 {
				t.Errorf("incidents: %+v", ins)
			}
		})
	}
	for _, class := range []error{oci.ErrFormat, oci.ErrDigest, oci.ErrTooLarge} {
		if f := AsFailure(fmt.Errorf("%w: timestamp.json: %w", snapshot.ErrSource, class)); f.Cause != CauseUnavailable {
			t.Errorf("%v of a snapshot source is %s", class, f.Cause)
		}
	}
}
