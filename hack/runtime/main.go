// Runtime makes the root filesystem of a real inference engine: llama.cpp's
// llama-server with its library closure, the loader and the CPU backends,
// about 35 MB, taken from Debian's own packages. Nothing is installed on this
// machine and nothing outside -cache is written: the packages are resolved
// with a private apt state, verified with Debian's keyring, unpacked, and the
// files that the server needs are copied.
//
//	runtime -cache .cache/runtime
//
// It prints, as JSON, where the root filesystem is and how to start the
// engine. A finished cache is used as it is; -refresh resolves again. The
// packages come from Debian unstable, where llama.cpp lives, so versions move:
// take what resolves and assert the engine's answer, not its version.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"time"
)

// Runtime describes a finished root filesystem.
type Runtime struct {
	RootFS     string   `json:"rootfs"`
	Engine     string   `json:"engine"`
	Version    string   `json:"version"`
	Entrypoint []string `json:"entrypoint"`
	Packages   []string `json:"packages"` // name=version, the ones that files came from
	Files      int      `json:"files"`
	Bytes      int64    `json:"bytes"`
}

const (
	enginePackage = "llama.cpp-tools"
	engineBinary  = "/usr/bin/llama-server"
	doneFile      = "runtime.json"
)

func main() {
	cache := flag.String("cache", ".cache/runtime", "`directory` that holds packages and the root filesystem")
	suite := flag.String("suite", "sid", "Debian `suite` that has "+enginePackage)
	mirror := flag.String("mirror", "", "`URL` of a Debian mirror; default: the one this machine's apt uses")
	refresh := flag.Bool("refresh", false, "resolve the packages again even if the root filesystem is there")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r, err := build(ctx, *cache, *suite, *mirror, *refresh)
	if err != nil {
		fmt.Fprintln(os.Stderr, "runtime:", err)
		os.Exit(1)
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		fmt.Fprintln(os.Stderr, "runtime:", err)
		os.Exit(1)
	}
}

func step(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "runtime: "+format+"\n", args...)
}

func build(ctx context.Context, cache, suite, mirror string, refresh bool) (*Runtime, error) {
	cache, err := filepath.Abs(cache)
	if err != nil {
		return nil, err
	}
	done := filepath.Join(cache, doneFile)
	if !refresh {
		if r, err := finished(done); err == nil {
			return r, nil
		}
	}
	// The description is written last, so its absence marks a broken cache.
	if err := os.Remove(done); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	started := time.Now()
	a, err := newAPT(ctx, filepath.Join(cache, "apt"), suite, mirror)
	if err != nil {
		return nil, err
	}
	step("resolving %s in Debian %s from %s", enginePackage, suite, a.mirror)
	debs, err := a.download(ctx, enginePackage)
	if err != nil {
		return nil, err
	}
	step("unpacking %d packages", len(debs))
	unpacked := filepath.Join(cache, "unpacked")
	packages, err := unpack(ctx, debs, unpacked)
	if err != nil {
		return nil, err
	}
	step("copying the engine and what it links to")
	rootfs := filepath.Join(cache, "rootfs")
	if err := os.RemoveAll(rootfs); err != nil {
		return nil, err
	}
	r, err := assemble(unpacked, rootfs, packages)
	if err != nil {
		return nil, err
	}
	// Only the packages that were copied from stay interesting.
	if err := errors.Join(os.RemoveAll(unpacked), os.RemoveAll(filepath.Join(cache, "apt"))); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(done+".part", append(b, '\n'), 0o644); err != nil {
		return nil, err
	}
	step("%s %s: %d files, %.1f MB, %s", r.Engine, r.Version, r.Files, float64(r.Bytes)/1e6, time.Since(started).Round(time.Second/10))
	return r, os.Rename(done+".part", done)
}

// finished reads the description of a cache and checks that the root
// filesystem which it promises is there.
func finished(done string) (*Runtime, error) {
	b, err := os.ReadFile(done)
	if err != nil {
		return nil, err
	}
	var r Runtime
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	// A moved checkout has moved its cache along.
	r.RootFS = filepath.Join(filepath.Dir(done), "rootfs")
	if _, err := os.Stat(filepath.Join(r.RootFS, engineBinary)); err != nil {
		return nil, err
	}
	return &r, nil
}
