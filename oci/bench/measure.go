package main

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/oci"
)

func (b *bench) four(ctx context.Context) error {
	var files []file
	for i := range 4 {
		files = append(files, file{name: fmt.Sprintf("model-%05d-of-00004.safetensors", i+1), size: *size, seed: byte(i)})
	}
	ref, err := b.publish(ctx, false, files...)
	if err != nil {
		return err
	}
	ours, crane, oras, err := b.paired(ctx, ref)
	if err != nil {
		return err
	}
	report(figure{"raw-4 wall", "crane", ours.wall / crane.wall, ours.wall, "s", "at most 1.0"})
	report(figure{"raw-4 wall", "oras", ours.wall / oras.wall, ours.wall, "s", ""})
	report(figure{"raw-4 cpu", "oras", ours.cpu / oras.cpu, ours.cpu, "s", "at most 1.0"})
	report(figure{"raw-4 cpu", "crane", ours.cpu / crane.cpu, ours.cpu, "s", ""})
	return nil
}

func (b *bench) capped(ctx context.Context) error {
	ref, err := b.publish(ctx, false, file{name: "model.gguf", size: *size, seed: 10})
	if err != nil {
		return err
	}
	if err := b.faults(`{"name":"cap","kind":"blob","method":"GET","rate":50000000}`); err != nil {
		return err
	}
	defer b.faults("")
	ours, crane, oras, err := b.paired(ctx, ref)
	if err != nil {
		return err
	}
	report(figure{"capped at 50 MB/s a connection, wall", "crane", ours.wall / crane.wall, ours.wall, "s", "at most 0.10"})
	report(figure{"capped at 50 MB/s a connection, wall", "oras", ours.wall / oras.wall, ours.wall, "s", ""})
	return nil
}

func (b *bench) latency(ctx context.Context) error {
	var files []file
	for i := range *small {
		files = append(files, file{name: fmt.Sprintf("part-%04d.json", i), size: 4000, seed: byte(i), head: strconv.AppendInt(nil, int64(i), 10)})
	}
	ref, err := b.publish(ctx, false, files...)
	if err != nil {
		return err
	}
	if err := b.faults(`{"name":"far","latency":"20ms"}`); err != nil {
		return err
	}
	defer b.faults("")
	ours, crane, oras, err := b.paired(ctx, ref)
	if err != nil {
		return err
	}
	report(figure{"small files at 20 ms, wall", "oras", ours.wall / oras.wall, ours.wall, "s", "at most 0.5"})
	report(figure{"small files at 20 ms, wall", "crane", ours.wall / crane.wall, ours.wall, "s", ""})
	return nil
}

// header is a GGUF header as far as a change of its template goes: everything
// behind it moves, by a multiple of the alignment.
func header(template int) []byte {
	h := binary.LittleEndian.AppendUint32([]byte("GGUF"), 3)
	h = binary.LittleEndian.AppendUint64(h, uint64(template))
	return append(h, strings.Repeat("{{ m }} ", template/8)...)
}

func (b *bench) template(ctx context.Context) error {
	model := file{name: "model.gguf", size: *size, seed: 20, head: header(4096)}
	changed := model
	changed.head = header(4096 + 32*11)
	return b.delta(ctx, "template changed, bytes", "at most 0.01", model, changed)
}

func (b *bench) tensors(ctx context.Context) error {
	model := file{name: "model.gguf", size: *size, seed: 30, head: header(4096)}
	changed := model
	one := *size / 100
	changed.changed = func(off int64) bool { n := off / one; return n == 10 || n == 47 || n == 80 }
	return b.delta(ctx, "3 % of the tensors changed, bytes", "at most 0.04", model, changed)
}

// delta pulls one version, then the other beside it.
func (b *bench) delta(ctx context.Context, name, want string, old, changed file) error {
	first, err := b.publish(ctx, true, old)
	if err != nil {
		return err
	}
	second, err := b.publish(ctx, true, changed)
	if err != nil {
		return err
	}
	store := b.place()
	defer remove(store)
	if _, _, err := b.ours(ctx, store, first); err != nil {
		return err
	}
	took, r, err := b.ours(ctx, store, second, "-base", first.Digest.String())
	if err != nil {
		return err
	}
	report(figure{name, "the whole", float64(r.Bytes) / float64(changed.size), float64(r.Bytes), "bytes", want})
	report(figure{strings.Replace(name, "bytes", "wall", 1), "", 0, took.wall, "s", ""})
	return nil
}

// resume kills a pull when half is there.
func (b *bench) resume(ctx context.Context) error {
	ref, err := b.publish(ctx, false, file{name: "model.gguf", size: *size, seed: 40})
	if err != nil {
		return err
	}
	store := b.place()
	defer remove(store)
	c, err := b.puller(ctx, store, ref)
	if err != nil {
		return err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := b.faults(`{"name":"slow","kind":"blob","method":"GET","rate":20000000}`); err != nil {
		return err
	}
	defer b.faults("")
	if err := c.Start(); err != nil {
		return err
	}
	killed := false
	for s := bufio.NewScanner(out); s.Scan(); {
		if n, err := strconv.ParseInt(s.Text(), 10, 64); err == nil && n >= *size/2 {
			if err := c.Process.Signal(syscall.SIGKILL); err != nil {
				return err
			}
			killed = true
			break
		}
	}
	_, _ = io.Copy(io.Discard, out)
	_ = c.Wait()
	if !killed {
		return errors.New("the pull ended before it could be killed: use a larger -size")
	}
	_, r, err := b.ours(ctx, store, ref)
	if err != nil {
		return err
	}
	report(figure{"after kill -9 at half, bytes", "the whole", float64(r.Bytes) / float64(*size), float64(r.Bytes), "bytes", "at most 0.52"})
	return nil
}

// zstd pulls a packed layer. What it is compared with first reads files that are
// in memory and writes nothing; then comes a decoder that makes its file durable,
// though it neither fetches nor verifies.
func (b *bench) zstd(ctx context.Context) error {
	dir := b.place()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	raw, layer := filepath.Join(dir, "layer.tar"), filepath.Join(dir, "layer.tar.zst")
	if err := packed(ctx, dir, raw, layer); err != nil {
		return err
	}
	ref, err := b.pushLayer(ctx, layer)
	if err != nil {
		return err
	}
	var ours, decompress, durable cost
	var sha float64
	for range *times {
		at := b.place()
		c, _, err := b.ours(ctx, at, ref)
		if err != nil {
			return err
		}
		ours = ours.best(c)
		if err := remove(at); err != nil {
			return err
		}
		z, err := run(exec.CommandContext(ctx, "zstd", "-q", "-d", "-c", "-o", "/dev/null", "-f", layer))
		if err != nil {
			return fmt.Errorf("%w; install zstd", err)
		}
		decompress = decompress.best(z)
		at = b.place()
		if z, err = run(exec.CommandContext(ctx, "sh", "-c", `zstd -q -d "$0" -o "$1" && sync "$1"`, layer, at)); err != nil {
			return err
		}
		durable = durable.best(z)
		if err := os.Remove(at); err != nil {
			return err
		}
		h, err := hashOf(raw)
		if err != nil {
			return err
		}
		if sha == 0 || h < sha {
			sha = h
		}
	}
	slower, vs := decompress.wall, "zstd -d"
	if sha > slower {
		slower, vs = sha, "SHA-256"
	}
	report(figure{"tar+zstd wall", vs, ours.wall / slower, ours.wall, "s", "at most 1.1"})
	report(figure{"tar+zstd wall", "zstd -d and fsync", ours.wall / durable.wall, ours.wall, "s", ""})
	return nil
}

// packed writes a tar of one file that compresses to about three quarters, as
// weights in 16 bits do, and the same compressed.
func packed(ctx context.Context, dir, raw, layer string) error {
	plain := filepath.Join(dir, "plain")
	if err := (file{size: *size, seed: 50}).write(plain); err != nil {
		return err
	}
	in, err := os.Open(plain)
	if err != nil {
		return err
	}
	defer in.Close()
	defer os.Remove(plain)
	out, err := os.Create(raw)
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	err = w.WriteHeader(&tar.Header{Name: "model.safetensors", Size: *size, Mode: 0o644, Typeflag: tar.TypeReg})
	block := make([]byte, 64<<10)
	for err == nil {
		var n int
		n, err = io.ReadFull(in, block)
		for i := 1; i < n; i += 2 {
			block[i] = 0x3c + block[i]&3 // an exponent
		}
		if n > 0 {
			if _, werr := w.Write(block[:n]); werr != nil {
				err = werr
			}
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	if err := errors.Join(err, w.Close(), out.Close()); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "zstd", "-q", raw, "-o", layer).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s; install zstd", err, out)
	}
	return nil
}

// pushLayer publishes one layer of tar and zstd with oras.
func (b *bench) pushLayer(ctx context.Context, layer string) (oci.Reference, error) {
	dir := filepath.Dir(layer)
	const modelpack = "application/vnd.cncf.model."
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte("{}"), 0o644); err != nil {
		return oci.Reference{}, err
	}
	c := exec.CommandContext(ctx, b.oras, "push", "--plain-http", "--no-tty", "--format", "go-template={{.digest}}",
		"--artifact-type", modelpack+"manifest.v1+json", "--config", "config.json:"+modelpack+"config.v1+json",
		b.ready.Address+"/bench/packed:v1", filepath.Base(layer)+":"+modelpack+"weight.v1.tar+zstd")
	c.Dir, c.Stderr = dir, os.Stderr
	out, err := c.Output()
	if err != nil {
		return oci.Reference{}, err
	}
	d, err := digest.Parse(strings.TrimSpace(string(out)))
	if err != nil || d.Algorithm() != digest.SHA256 {
		return oci.Reference{}, fmt.Errorf("oras push printed %q", out)
	}
	return oci.Reference{Registry: b.ready.Address, Repository: "bench/packed", Digest: d}, nil
}
