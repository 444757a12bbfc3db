package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/progress"
	"github.com/resultity/rmodels/oci"
)

// result is what a child prints last. While it works it prints how many bytes
// are there, one number a line.
type result struct {
	Bytes, Resumed, Copied int64
	RSS                    int64 // peak, bytes
}

// pull brings one artifact into a store, durably, with its tree and a ref.
func pull(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("child", flag.ExitOnError)
	reference := f.String("ref", "", "reference")
	store := f.String("store", "", "store")
	base := f.String("base", "", "manifest of another version in the store")
	if err := f.Parse(args); err != nil {
		return err
	}
	ref, err := oci.ParseReference(*reference)
	if err != nil {
		return err
	}
	c, err := oci.New(oci.Options{Hosts: map[string]oci.Host{ref.Registry: {PlainHTTP: true}}, DockerConfig: filepath.Join(*store, "..", "no-docker.json")})
	if err != nil {
		return err
	}
	st, err := cas.Open(*store, cas.Options{Create: true})
	if err != nil {
		return err
	}
	defer st.Close()
	l, err := st.Lease(ctx, "bench")
	if err != nil {
		return err
	}
	defer l.Release()
	a, err := c.Resolve(ctx, ref, nil)
	if err != nil {
		return err
	}
	o := oci.FetchOptions{Progress: told()}
	if *base != "" {
		p, err := oci.Stored(st, digest.Digest(*base))
		if err != nil {
			return err
		}
		for _, b := range p.Blobs() {
			o.Bases = append(o.Bases, b.Digest)
		}
	}
	got, err := c.Fetch(ctx, st, l, a, o)
	if err != nil {
		return err
	}
	entries, err := a.Entries(ctx, st)
	if err != nil {
		return err
	}
	if _, err := st.BuildTree(ctx, l, ref.Digest, entries); err != nil {
		return err
	}
	blobs, layers := a.Kept()
	if err := st.PutRef(ctx, cas.Ref{Name: ref.Digest.Encoded(), Tree: ref.Digest, Blobs: blobs, Layers: layers, LastUsed: time.Now()}); err != nil {
		return err
	}
	rss, err := peakRSS()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result{got.Bytes, got.Resumed, got.Copied, rss})
}

// told prints the sum over all blobs.
func told() progress.Sink {
	done := map[string]int64{}
	next := time.Time{}
	events := make(chan progress.Event, 1000)
	go func() {
		for e := range events {
			done[e.Digest] = e.Done
			if e.Time.Before(next) {
				continue
			}
			next = e.Time.Add(20 * time.Millisecond)
			var sum int64
			for _, n := range done {
				sum += n
			}
			fmt.Println(sum)
		}
	}()
	return func(e progress.Event) {
		if e.Kind != progress.Bytes {
			return
		}
		select {
		case events <- e:
		default: // a lost count is followed by another
		}
	}
}

// peakRSS reads the high-water mark of this program alone: what wait4 says
// begins with that of the parent.
func peakRSS() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), "VmHWM:")
	if !ok {
		return 0, errors.New("/proc/self/status: no VmHWM")
	}
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return kib << 10, err
}
