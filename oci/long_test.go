package oci_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/resultity/rmodels/oci"
)

// What a registry writes into a redirect is named in an error, but not at length.
func TestLongRedirects(t *testing.T) {
	r := newRegistry(t)
	ref := r.model("m", file{"a", []byte("a")})
	long := strings.Repeat("a", 100_000)
	for _, to := range []string{"http://" + long + "/x", long + "://host/x", "http://a" + strings.Repeat("\u0301", 3000) + "/x"} {
		r.setFault(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusTemporaryRedirect)
		})
		_, err := newClient(t, oci.Options{}, r).Resolve(background(t), ref, nil)
		if !errors.Is(err, oci.ErrRedirect) || len(err.Error()) > 2000 {
			t.Errorf("redirect to %.20s: an error of %d bytes, ErrRedirect %t", to, len(err.Error()), errors.Is(err, oci.ErrRedirect))
		}
	}
	r.setFault(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("X-Long", strings.Repeat("a", 2*oci.MaxHeader))
		w.WriteHeader(http.StatusNotFound)
	})
	_, err := newClient(t, oci.Options{}, r).Resolve(background(t), ref, nil)
	if !errors.Is(err, oci.ErrUnavailable) || errors.Is(err, oci.ErrNotFound) {
		t.Errorf("a header of %d bytes: %v", 2*oci.MaxHeader, err)
	}
}
