package durable_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	for _, content := range []string{"first", "", strings.Repeat("x", 1<<20)} {
		if err := durable.WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Fatalf("read back %d bytes, %v; want %d", len(got), err, len(content))
		}
		st, _ := os.Stat(path)
		if st.Mode() != 0o640 {
			t.Errorf("mode %v, want 0640", st.Mode())
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%d names left, want 1: %v", len(left), left)
	}
	if err := durable.WriteFile(filepath.Join(dir, "none", "state"), nil, 0o600); err == nil {
		t.Error("wrote into a directory that does not exist")
	}
}

func TestWriteFileReplacesALinkNotItsTarget(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(target); string(b) != "kept" {
		t.Errorf("the link's target now holds %q", b)
	}
}

func TestAppendLine(t *testing.T) {
	tests := []struct {
		name, before, line, after string
		fails                     bool
	}{
		{name: "new file", line: "a", after: "a\n"},
		{name: "whole last line", before: "a\n", line: "b", after: "a\nb\n"},
		{name: "torn last line", before: "a\n{\"torn", line: "b", after: "a\n{\"torn\nb\n"},
		{name: "newline inside", before: "a\n", line: "b\nc", after: "a\n", fails: true},
		{name: "too long", before: "a\n", line: strings.Repeat("x", durable.MaxLine), after: "a\n", fails: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			if tt.before != "" {
				if err := os.WriteFile(path, []byte(tt.before), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := durable.AppendLine(path, []byte(tt.line), 0o600)
			if (err != nil) != tt.fails {
				t.Fatalf("error %v, want failure %v", err, tt.fails)
			}
			if got, _ := os.ReadFile(path); string(got) != tt.after {
				t.Errorf("file holds %q, want %q", got, tt.after)
			}
		})
	}
}

// TestAppendAfter: what is appended has seen the line before it, also when a
// crash tore that line, and nobody who locks the file is waited for.
func TestAppendAfter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	reader, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := unix.Flock(int(reader.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var lock sync.Mutex // the caller's
	for range 8 {
		wg.Go(func() {
			for range 20 {
				lock.Lock()
				err := durable.AppendAfter(path, 0o600, func(last []byte) ([]byte, error) {
					n, _ := strconv.Atoi(string(last))
					return strconv.AppendInt(nil, int64(n)+1, 10), nil
				})
				lock.Unlock()
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if b, _ := os.ReadFile(path); !strings.HasSuffix(string(b), "\n159\n160\n") {
		t.Errorf("the counting ends with %q", b[max(0, len(b)-20):])
	}
	long := strings.Repeat("x", durable.MaxLine-2)
	for _, before := range []string{"a\ntorn", "a\n" + long + "\n", long} {
		if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		want := strings.TrimSuffix(before[strings.Index(before, "\n")+1:], "\n")
		if err := durable.AppendAfter(path, 0o600, func(last []byte) ([]byte, error) {
			if string(last) != want {
				t.Errorf("%d bytes seen, %d written", len(last), len(want))
			}
			return nil, errors.New("changed its mind")
		}); err == nil {
			t.Error("the error of next is lost")
		}
		if b, _ := os.ReadFile(path); string(b) != before {
			t.Error("a line that was not made was written")
		}
	}
}

func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "c")
	for range 2 {
		if err := durable.MkdirAll(path, 0o750); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(path); err != nil || !st.IsDir() {
		t.Fatal(st, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.MkdirAll(filepath.Join(file, "x"), 0o750); err == nil {
		t.Error("made a directory below a file")
	}
}

// TestTemporaryOfTheSamePid: a process with the number of one that was killed
// (in a container always 1) writes the same file.
func TestTemporaryOfTheSamePid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "accepted.json")
	seen := map[string]bool{}
	for n := range 100 {
		// What earlier releases left, and what this one leaves.
		for _, left := range []string{
			filepath.Join(filepath.Dir(path), fmt.Sprintf(".accepted.json.tmp-%d-%s", os.Getpid(), strconv.FormatInt(int64(n), 36))),
			durable.Temporary(path),
		} {
			if seen[left] || !durable.IsTemporary(filepath.Base(left)) {
				t.Fatal(left)
			}
			seen[left] = true
			if err := os.WriteFile(left, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := durable.WriteFile(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.RemoveTemporary(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if names, _ := os.ReadDir(filepath.Dir(path)); len(names) != 1 {
		t.Errorf("%d names left", len(names))
	}
}
