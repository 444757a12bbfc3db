package snapshot_test

import (
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/resultity/rmodels/snapshot"
)

// acceptAll is the other process: it accepts push files one after the other.
func acceptAll(t *testing.T, dir, floor, files string) {
	n := &node{t: t, dir: dir, floor: floor}
	n.reopen()
	names := must1(filepath.Glob(filepath.Join(files, "*")))(t)
	slices.Sort(names)
	for _, name := range names {
		must1(n.Apply(mustRead(t, name), start))(t)
		check(t, n.Witness(t.Context(), start))
	}
}

// TestReadersMeanwhile: who reads while another process accepts, follows roots
// or has its floor go back meets no damage and nothing older than it has met.
func TestReadersMeanwhile(t *testing.T) {
	if dir := os.Getenv("RMODELS_TEST_ACCEPT"); dir != "" {
		acceptAll(t, dir, os.Getenv("RMODELS_TEST_FLOOR"), os.Getenv("RMODELS_TEST_FILES"))
		return
	}
	net := newNetwork(t)
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(net.release(), net.now()))(t)
	files := t.TempDir()
	pad := jsontext.Value(`"` + strings.Repeat("x", 200<<10) + `"`)
	f := net.forge()
	put := func(i int) {
		maps.DeleteFunc(f.files, func(name string, _ []byte) bool { // what earlier sets left
			return name != "timestamp.json" && name != f.snapshotName() && name != f.targetsName() && name != f.docName() && !strings.HasSuffix(name, ".root.json")
		})
		check(t, os.WriteFile(filepath.Join(files, fmt.Sprintf("%03d", i)), f.bundle(), 0o600))
	}
	sequence := int64(1)
	edited := func(next int64) []byte {
		sequence = next
		return f.edited(func(s *snapshot.Snapshot) {
			s.Sequence, s.Extensions = next, map[string]jsontext.Value{"pad": pad}
		})
	}
	const each = 12
	for i := range each {
		f.document(edited(sequence+1), "targets-1", "targets-2")
		put(i)
	}
	f.document(edited(math.MaxInt64), "targets-1", "targets-2") // the thief's, and what follows under new keys
	put(each)
	net.rotate("targets-1", "targets-2")
	f.files["2.root.json"] = mustRead(t, filepath.Join(net.dir, "staged", "2.root.json"))
	sequence = 1
	for i := range each {
		f.document(edited(sequence+1), "targets-1-new", "targets-2-new")
		put(each + 1 + i)
	}

	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestReadersMeanwhile$", "-test.v")
	cmd.Env = append(os.Environ(), "RMODELS_TEST_ACCEPT="+n.dir, "RMODELS_TEST_FLOOR="+n.floor, "RMODELS_TEST_FILES="+files)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	check(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, out.String())
		}
		close(ended)
	}()
	defer func() { <-ended }()
	reads, root, last := 0, int64(0), int64(0)
	for reading := true; reading; reads++ {
		select {
		case <-ended:
			reading = false
		default:
		}
		acc, err := n.Current(start)
		if err != nil {
			t.Fatalf("read %d: %v", reads, err)
		}
		if acc.RootVersion < root || acc.RootVersion == root && acc.Document.Sequence < last {
			t.Fatalf("read %d: root %d, sequence %d after root %d, sequence %d", reads, acc.RootVersion, acc.Document.Sequence, root, last)
		}
		root, last = acc.RootVersion, acc.Document.Sequence
	}
	if acc := must1(n.Current(start))(t); acc.RootVersion != 2 || acc.Document.Sequence != sequence {
		t.Errorf("in the end root %d, sequence %d", acc.RootVersion, acc.Document.Sequence)
	}
	t.Logf("%d reads", reads)
}
