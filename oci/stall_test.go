package oci

import (
	"errors"
	"testing"
	"time"
)

// What ended a connection is said as it was.
func TestStallSays(t *testing.T) {
	for want, e := range map[string]stallError{
		"the connection brought no bytes for 30s":                            {0, 30 * time.Second},
		"the connection brought 1 byte in 30.1s, fewer than 1024 a second":   {1, 30*time.Second + 100*time.Millisecond},
		"the connection brought 2000 bytes in 30s, fewer than 1024 a second": {2000, 30 * time.Second},
	} {
		if e.Error() != want || !errors.Is(e, ErrUnavailable) {
			t.Errorf("got %q, want %q", e.Error(), want)
		}
	}
}
