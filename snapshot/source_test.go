package snapshot_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/resultity/rmodels/snapshot"
)

// TestSourceAnswers: what a proxy, a portal or a closed door answers says
// nothing about the network, and so is no rejection; a store that answers 403
// for what it does not have is read as one that answers 404.
func TestSourceAnswers(t *testing.T) {
	net := newNetwork(t)
	net.release()
	site := t.TempDir()
	check(t, net.publish(site))
	files := http.FileServer(http.Dir(site))
	page := func(w http.ResponseWriter, contentType, text string) {
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, text)
	}
	const login = "\n<!DOCTYPE html><html><body>Please log in.</body></html>"
	last := func(answer http.HandlerFunc) http.HandlerFunc { // only the last file is answered so
		return func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/targets/") {
				answer(w, r)
				return
			}
			files.ServeHTTP(w, r)
		}
	}
	forbidden := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }
	portal := func(w http.ResponseWriter, _ *http.Request) { page(w, "text/html", login) }
	for name, h := range map[string]http.HandlerFunc{
		"forbidden":                    forbidden,
		"forbidden at last":            last(forbidden),
		"a login page":                 portal,
		"a login page at last":         last(portal),
		"a login page that says JSON":  func(w http.ResponseWriter, _ *http.Request) { page(w, "application/json", login) },
		"text":                         func(w http.ResponseWriter, _ *http.Request) { page(w, "text/plain", "Access denied") },
		"nothing":                      func(w http.ResponseWriter, _ *http.Request) { page(w, "application/json", "") },
		"a proxy that wants a log-in":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) },
		"a network that wants a login": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNetworkAuthenticationRequired) },
		"a redirect to a login page": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/login" {
				page(w, "text/html", login)
				return
			}
			http.Redirect(w, r, "/login", http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(h)
			defer srv.Close()
			n := newNode(t, "mainnet", net.root())
			_, err := n.Pull(t.Context(), snapshot.HTTPSource(nil, srv.URL), net.now())
			wantErr(t, err, snapshot.ErrSource, srv.URL)
			if errors.Is(err, snapshot.ErrRejected) {
				t.Errorf("a rejection: %v", err)
			}
		})
	}
	t.Run("a store that may not be listed", func(t *testing.T) {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/2.root.json") {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			files.ServeHTTP(w, r)
		}))
		defer srv.Close()
		n := newNode(t, "mainnet", net.root())
		if acc := must1(n.Pull(t.Context(), snapshot.HTTPSource(nil, srv.URL), net.now()))(t); acc.Document.Sequence != 1 {
			t.Errorf("sequence %d", acc.Document.Sequence)
		}
	})
}
