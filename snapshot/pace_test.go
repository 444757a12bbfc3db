package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/resultity/rmodels/snapshot"
)

// wire is an HTTP server in memory, so that its time is the test's.
type wire func(*http.Request) (*http.Response, error)

func (w wire) RoundTrip(req *http.Request) (*http.Response, error) { return w(req) }

func silent(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, req.Context().Err()
}

// drip brings step bytes in each time of every.
type drip struct {
	ctx   context.Context
	step  int
	every time.Duration
	from  io.Reader // nil: spaces
}

func (d *drip) Read(b []byte) (int, error) {
	b = b[:min(len(b), d.step)]
	select {
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	case <-time.After(d.every * time.Duration(len(b)) / time.Duration(d.step)):
	}
	if d.from != nil {
		return d.from.Read(b)
	}
	return copy(b, bytes.Repeat([]byte(" "), len(b))), nil
}

// TestSlowSource: a source that is silent, drips, or goes on without end costs
// a known time, and the failure says which; a slow one that is honest delivers.
func TestSlowSource(t *testing.T) {
	net := newNetwork(t)
	net.release()
	site := t.TempDir()
	check(t, net.publish(site))
	root := net.root()
	serve := func(step int, every time.Duration) wire {
		return func(req *http.Request) (*http.Response, error) {
			b, err := os.ReadFile(filepath.Join(site, req.URL.Path))
			if err != nil {
				return &http.Response{StatusCode: http.StatusNotFound, Body: http.NoBody}, nil
			}
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(&drip{req.Context(), step, every, bytes.NewReader(b)})}, nil
		}
	}
	endless := func(step int, every time.Duration) wire {
		return func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(&drip{req.Context(), step, every, nil})}, nil
		}
	}
	for _, tc := range []struct {
		name string
		wire wire
		most time.Duration
		says string // "": it delivers
	}{
		{"silent", silent, 10 * time.Second, "within 10s"},
		{"a byte every 9 s", endless(1, 9*time.Second), 10 * time.Second, "within 10s"},
		{"a header, then nothing", endless(1, time.Hour), 10 * time.Second, "within 10s"},
		{"just above the least rate, without end", endless(1200, time.Second), 40 * time.Second, "for this file are spent"},
		{"4 KiB a second", serve(4<<10, time.Second), time.Minute, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t, "mainnet", root)
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				_, err := n.Fetch(t.Context(), snapshot.HTTPSource(&http.Client{Transport: tc.wire}, "https://site.example"), net.now())
				if took := time.Since(began); took > tc.most {
					t.Errorf("took %s", took)
				}
				if tc.says == "" {
					check(t, err)
				} else if !errors.Is(err, snapshot.ErrSource) || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), "site.example") {
					t.Errorf("got %v, want %q", err, tc.says)
				}
			})
		})
	}
}

// trickle is a source without any deadline of its own.
type trickle struct{ snapshot.Source }

func (s trickle) Fetch(ctx context.Context, name string, max int64) ([]byte, error) {
	time.Sleep(50 * time.Second)
	return s.Source.Fetch(ctx, name, max)
}

// TestOfferHasADeadline: the files of one snapshot have a deadline together.
func TestOfferHasADeadline(t *testing.T) {
	net := newNetwork(t)
	net.release()
	site := t.TempDir()
	check(t, net.publish(site))
	n := newNode(t, "mainnet", net.root())
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, err := n.Fetch(t.Context(), trickle{snapshot.DirSource(site)}, net.now())
		if took := time.Since(began); took > 4*time.Minute || !errors.Is(err, snapshot.ErrSource) || !strings.Contains(err.Error(), "3m0s for one snapshot") {
			t.Errorf("after %s: %v", took, err)
		}
	})
}
