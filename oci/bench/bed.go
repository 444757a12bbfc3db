package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/oci"
)

// bench is the registry and what was measured so far.
type bench struct {
	work                  string
	oras, crane, registry string
	rss                   int64 // the highest of all pulls of ours, bytes

	server *exec.Cmd
	ready  struct {
		Address string `json:"address"`
		Control string `json:"control"`
	}
	client *oci.Client
	serial int
}

func (b *bench) start(ctx context.Context) error {
	at := filepath.Join(b.work, "registry")
	b.server = exec.Command(b.registry, "serve", "-dir", at, "-plain-http", "-no-auth")
	b.server.Stderr = os.Stderr
	b.server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := b.server.Start(); err != nil {
		return err
	}
	for {
		text, err := os.ReadFile(filepath.Join(at, "registry.json"))
		if err == nil && json.Unmarshal(text, &b.ready) == nil {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	var err error
	b.client, err = oci.New(oci.Options{Hosts: map[string]oci.Host{b.ready.Address: {PlainHTTP: true}}, DockerConfig: filepath.Join(b.work, "no-docker.json")})
	return err
}

func (b *bench) stop() {
	_ = b.server.Process.Signal(syscall.SIGTERM)
	_ = b.server.Wait()
}

// faults replaces those of the registry; none ends them.
func (b *bench) faults(text string) error {
	part := b.ready.Control + ".part"
	if err := os.WriteFile(part, []byte(`{"faults":[`+text+`]}`), 0o644); err != nil {
		return err
	}
	return os.Rename(part, b.ready.Control)
}

// place is a fresh name below the work directory.
func (b *bench) place() string {
	b.serial++
	return filepath.Join(b.work, strconv.Itoa(b.serial))
}

// publish packs files, pushes them and removes the originals.
func (b *bench) publish(ctx context.Context, maps bool, files ...file) (oci.Reference, error) {
	dir := b.place()
	defer os.RemoveAll(dir)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return oci.Reference{}, err
	}
	for _, f := range files {
		if err := f.write(filepath.Join(dir, f.name)); err != nil {
			return oci.Reference{}, err
		}
	}
	p, err := oci.Pack(ctx, dir, oci.PackOptions{Name: "bench"})
	if err != nil {
		return oci.Reference{}, err
	}
	ref, err := b.client.Push(ctx, p, b.ready.Address+"/bench/model")
	if err == nil && maps {
		err = b.client.AttachChunkMaps(ctx, ref, p)
	}
	return ref, err
}

// file is noise, with some parts of it replaced.
type file struct {
	name    string
	size    int64
	seed    byte
	head    []byte // before the noise
	changed func(off int64) bool
}

// write makes the file in blocks of 64 KiB.
func (f file) write(path string) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(out, 1<<20)
	_, err = w.Write(f.head)
	block := make([]byte, 64<<10)
	for off := int64(0); off < f.size && err == nil; off += int64(len(block)) {
		key := [32]byte{f.seed, byte(off >> 16), byte(off >> 24), byte(off >> 32), byte(off >> 40)}
		if f.changed != nil && f.changed(off) {
			key[31] = 1
		}
		_, _ = rand.NewChaCha8(key).Read(block)
		_, err = w.Write(block[:min(int64(len(block)), f.size-off)])
	}
	return errors.Join(err, w.Flush(), out.Close())
}

// cost of one run of a program.
type cost struct{ wall, cpu float64 }

func (c cost) best(o cost) cost {
	if c.wall == 0 {
		return o
	}
	return cost{min(c.wall, o.wall), min(c.cpu, o.cpu)}
}

// run measures a program.
func run(c *exec.Cmd) (cost, error) {
	unix.Sync() // what others have written must not slow this one
	var stderr bytes.Buffer
	c.Stderr = &stderr
	began := time.Now()
	err := c.Run()
	wall := time.Since(began).Seconds()
	if err != nil {
		return cost{}, fmt.Errorf("%s: %w: %s", filepath.Base(c.Path), err, stderr.Bytes())
	}
	s := c.ProcessState
	return cost{wall, s.UserTime().Seconds() + s.SystemTime().Seconds()}, nil
}

// ours pulls into a store.
func (b *bench) ours(ctx context.Context, store string, ref oci.Reference, args ...string) (cost, result, error) {
	c, err := b.puller(ctx, store, ref, args...)
	if err != nil {
		return cost{}, result{}, err
	}
	var out bytes.Buffer
	c.Stdout = &out
	took, err := run(c)
	if err != nil {
		return took, result{}, err
	}
	lines := bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n"))
	var r result
	err = json.Unmarshal(lines[len(lines)-1], &r)
	b.rss = max(b.rss, r.RSS)
	return took, r, err
}

func (b *bench) puller(ctx context.Context, store string, ref oci.Reference, args ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, self, append([]string{"-child", "--", "-ref", ref.String(), "-store", store}, args...)...), nil
}

// paired runs ours and the others in turn and keeps the best of each. Every
// run starts with nothing.
func (b *bench) paired(ctx context.Context, ref oci.Reference) (ours, crane, oras cost, err error) {
	for range *times {
		for _, x := range []struct {
			best *cost
			run  func(at string) (cost, error)
		}{
			{&ours, func(at string) (cost, error) { c, _, err := b.ours(ctx, at, ref); return c, err }},
			{&crane, func(at string) (cost, error) {
				return run(exec.CommandContext(ctx, b.crane, "pull", "--insecure", "--format", "oci", ref.String(), at))
			}},
			{&oras, func(at string) (cost, error) {
				return run(exec.CommandContext(ctx, b.oras, "pull", "--plain-http", "--no-tty", "-o", at, ref.String()))
			}},
		} {
			at := b.place()
			c, err := x.run(at)
			if err != nil {
				return ours, crane, oras, err
			}
			*x.best = x.best.best(c)
			if err := remove(at); err != nil {
				return ours, crane, oras, err
			}
		}
	}
	return ours, crane, oras, nil
}

// remove takes a store away, whose trees are read-only.
func remove(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o755)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(dir))
}

// hashOf is the time that SHA-256 takes over a file that is in memory.
func hashOf(path string) (float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	began := time.Now()
	_, err = io.CopyBuffer(sha256.New(), struct{ io.Reader }{f}, make([]byte, 1<<20))
	return time.Since(began).Seconds(), err
}
