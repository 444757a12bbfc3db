package oci

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/resultity/rmodels/internal/progress"
)

// Options configure a [Client]. The zero value speaks HTTPS with the system's
// roots and takes credentials from docker's configuration.
type Options struct {
	Hosts        map[string]Host   // by registry, host[:port] as references write it
	DockerConfig string            // path of a docker config.json; "" is $DOCKER_CONFIG or ~/.docker
	HostsDir     string            // directory of containerd's <registry>/hosts.toml files; "" reads none
	Connections  int               // per host at most; 0 is 16
	Progress     progress.Sink     // of pushes, and of hosts that are waited for
	Budgets      Budgets           // of time, for all that is not a layer
	LimitRate    int64             // bytes per second over all hosts; 0 is no limit
	Schedule     []Hours           // parts of the day with a limit of their own; the first that holds counts, LimitRate where none does
	Now          func() time.Time  // the schedule's clock; nil is time.Now, in local time
	Stall        time.Duration     // a connection that brings nothing for so long is replaced; 0 is 20 s
	Attempts     int               // failures in a row, without progress, until a source is given up for a blob; 0 is 6
	Segment      int64             // bytes of a first range; 0 is 8 MiB. Later ones are what a connection brings in a second
	Backoff      time.Duration     // wait after a first failure, doubled after each further one; 0 is 100 ms
	Offline      bool              // no registry is asked: every request fails with [ErrOffline]; layout directories still serve
	Transport    http.RoundTripper // replaces the network, TLS and proxy settings included; for tests

	window int64 // bytes of packed layers in memory; 0 is windowBytes
}

// Host holds what one registry needs.
type Host struct {
	PlainHTTP bool   // speak HTTP; nothing else ever downgrades
	CAFile    string // PEM; trusted besides the system's roots
	CertFile  string // client certificate, PEM
	KeyFile   string
	Username  string // wins over docker's configuration
	Password  string

	// TokenService, host[:port], may be sent the credentials beside the host
	// itself, where its challenge names it.
	TokenService string
}

// Check says what is wrong with the numbers of the options.
func (o Options) Check() error {
	if o.Connections < 0 {
		return fmt.Errorf("%d connections: want a positive number", o.Connections)
	}
	if err := checkRate(o.LimitRate); err != nil {
		return err
	}
	if err := o.Budgets.check(); err != nil {
		return err
	}
	for _, h := range o.Schedule {
		if err := h.check(); err != nil {
			return err
		}
	}
	return nil
}

func (o Options) connections() int {
	if o.Connections > 0 {
		return o.Connections
	}
	return 16
}

func (o Options) stall() time.Duration {
	if o.Stall > 0 {
		return o.Stall
	}
	return 20 * time.Second
}

func (o Options) attempts() int {
	if o.Attempts > 0 {
		return o.Attempts
	}
	return 6
}

func (o Options) windowBytes() int64 {
	if o.window > 0 {
		return o.window
	}
	return windowBytes
}

func (o Options) segment() int64 {
	if o.Segment > 0 {
		return o.Segment
	}
	return 8 << 20
}

// backoff is how long to wait after the n-th failure in a row, from 1 on.
func (o Options) backoff(n int) time.Duration {
	first := o.Backoff
	if first <= 0 {
		first = 100 * time.Millisecond
	}
	d := min(first<<min(n-1, 10), 100*first)
	return d/2 + rand.N(d/2+1)
}
