package e2e

import (
	"bufio"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/cas"
)

// A container that has a model mounted, which no lease and no ref keeps any
// more, goes on reading its bytes while gc is told to free everything; once it
// is gone, everything goes.
func TestGCBesideAContainer(t *testing.T) {
	dir := t.TempDir()
	s, err := cas.Open(filepath.Join(dir, "store"), cas.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	weights := make([]byte, 6<<20)
	rand.Read(weights)
	d := digest.FromBytes(weights)
	l, err := s.Lease(t.Context(), "test", d)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), l, d, weights); err != nil {
		t.Fatal(err)
	}
	model := digest.FromString("model")
	tree, err := s.BuildTree(t.Context(), l, model, []cas.TreeEntry{{Path: "sub/weights", Blob: d}})
	if err != nil {
		t.Fatal(err)
	}

	rootfs := filepath.Join(dir, "rootfs")
	build := exec.Command("go", "build", "-o", filepath.Join(rootfs, "reader"), "./testdata/reader")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the reader: %v\n%s", err, out)
	}
	const name = "rmodels-e2e-mounted"
	engine := func(args ...string) *exec.Cmd { return exec.Command(bed.Nerdctl, append(bed.EngineArgs, args...)...) }
	remove := func() {
		if out, err := engine("rm", "-f", name).CombinedOutput(); err != nil {
			t.Errorf("remove the container: %v\n%s", err, out)
		}
	}
	c := engine("run", "--name", name, "--network", "none", "--mount", "type=bind,src="+tree.Path+",dst=/model,readonly",
		"--rootfs", rootfs, "/reader", "/model/sub/weights", d.Encoded())
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	removed := false
	defer func() {
		if !removed {
			remove()
		}
		_ = c.Wait()
	}()
	lines := bufio.NewScanner(out)
	readsOn := func(rounds int) {
		t.Helper()
		for range rounds {
			if !lines.Scan() {
				t.Fatal("the container ended")
			}
			if !strings.HasPrefix(lines.Text(), "good") {
				t.Fatalf("the container says %q", lines.Text())
			}
		}
	}
	readsOn(3)
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}

	everything := cas.GCOptions{Proc: "/proc", HighPercent: 1}
	for range 3 {
		r, err := s.GC(t.Context(), everything)
		if err != nil {
			t.Fatal(err)
		}
		kept := false
		for _, i := range r.Items {
			kept = kept || i.Kind == "tree" && i.Name == string(model) && i.Action == cas.Keep && i.Reason == "mounted"
		}
		if !kept {
			t.Errorf("the mounted tree is not kept, or not for that: %+v", r.Items)
		}
		readsOn(5)
	}
	if err := s.CheckTree(t.Context(), model); err != nil {
		t.Error(err)
	}

	remove()
	removed = true
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), "good") {
			t.Errorf("the container says %q", lines.Text())
		}
	}
	eventually(t, "gc frees the model when its container is gone", func() bool {
		if _, err := s.GC(t.Context(), everything); err != nil {
			t.Fatal(err)
		}
		blobs, err := s.Blobs(t.Context())
		return err == nil && len(blobs) == 0
	})
}
