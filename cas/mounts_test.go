package cas

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func keyNamed(name string) key {
	k, _ := keyOf(digest.FromString(name))
	return k
}

// line is one of a mount table: a tree mounted somewhere.
func line(k key, at string) string {
	return "36 35 98:0 /store/trees/sha256/" + k.hex() + "/tree " + at + " rw - ext4 /dev/x rw\n"
}

func TestFindDigests(t *testing.T) {
	a, b := keyNamed("a"), keyNamed("b")
	long := strings.Repeat("/"+strings.Repeat("x", 250), 10_000)
	for name, c := range map[string]struct {
		table string
		limit int64
		want  []key
		more  bool
	}{
		"root":                        {table: line(a, "/mnt") + line(b, "/mnt"), want: []key{a, b}},
		"ahead of a long path":        {table: line(a, long) + line(b, "/mnt"), want: []key{a, b}},
		"behind a long path":          {table: line(b, long+"/"+a.hex()), want: []key{b, a}},
		"behind an escaped character": {table: `36 35 98:0 / /mnt/\040` + a.hex() + ` rw - ext4 /dev/x rw`, want: []key{a}},
		"three more digits":           {table: "36 35 98:0 / /mnt/040" + a.hex() + " rw - ext4 /dev/x rw"},
		"at the end":                  {table: "x " + a.hex(), want: []key{a}},
		"longer than a digest":        {table: "x " + a.hex() + "0"},
		"upper case":                  {table: "x " + strings.ToUpper(a.hex())},
		"up to the limit":             {table: line(a, "/mnt") + line(b, "/mnt"), limit: int64(len(line(a, "/mnt"))), want: []key{a}, more: true},
		"cut by the limit":            {table: "x " + a.hex(), limit: 60, more: true},
		"as long as the limit":        {table: "x " + a.hex(), limit: 66, want: []key{a}},
	} {
		if c.limit == 0 {
			c.limit = 1 << 30
		}
		got, more, err := findDigests(strings.NewReader(c.table), c.limit, time.Now().Add(time.Hour))
		if err != nil || more != c.more || len(got) != len(c.want) {
			t.Errorf("%s: %v, more %v, %v; want %v", name, got, more, err, c.want)
			continue
		}
		for n := range got {
			if got[n] != c.want[n] {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
		}
	}
}

// host makes a /proc: of each process its user namespace and its mount table.
type host struct{ dir string }

func (h host) process(t *testing.T, pid, user, mnt string, table []byte) {
	t.Helper()
	dir := filepath.Join(h.dir, pid)
	err := os.MkdirAll(filepath.Join(dir, "ns"), 0o755)
	if err == nil {
		err = os.Symlink("user:["+user+"]", filepath.Join(dir, "ns", "user"))
	}
	if err == nil {
		err = os.Symlink("mnt:["+mnt+"]", filepath.Join(dir, "ns", "mnt"))
	}
	if err == nil && table != nil {
		err = os.WriteFile(filepath.Join(dir, "mountinfo"), table, 0o644)
	} else if err == nil { // one that does not answer
		err = unix.Mkfifo(filepath.Join(dir, "mountinfo"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What strangers do in namespaces of their own neither stops a collection nor
// makes it blind; the mounts at the head of their tables are seen.
func TestMountsOfStrangers(t *testing.T) {
	mountPatience = 2 * time.Second
	defer func() { mountPatience = 20 * time.Second }()
	endless := bytes.Repeat([]byte("x"), maxTable+4096)
	for name, stranger := range map[string][]byte{"an endless table": endless, "a table that cannot be read to its end": nil} {
		t.Run(name, func(t *testing.T) {
			h := host{t.TempDir()}
			h.process(t, "1", "1", "10", []byte(line(keyNamed("host"), "/mnt")))
			h.process(t, "7", "2", "70", stranger)
			h.process(t, "8", "2", "80", append([]byte(line(keyNamed("head"), "/mnt")), endless...))
			h.process(t, "9", "3", "90", []byte(line(keyNamed("other"), "/mnt")))
			h.process(t, "10", "1", "90", []byte(line(keyNamed("other"), "/mnt")))
			found, blind, err := mounted(t.Context(), h.dir)
			if err != nil || blind != "" {
				t.Fatalf("blind %q, %v", blind, err)
			}
			for _, k := range []string{"host", "other"} {
				if !found[keyNamed(k)] {
					t.Errorf("the tree %s was not found", k)
				}
			}
			if !found[keyNamed("head")] {
				t.Error("the head of a long table was not read")
			}
		})
	}
}

// Of the host's own namespaces the whole table counts.
func TestMountsOfTheHost(t *testing.T) {
	mountPatience = 2 * time.Second
	defer func() { mountPatience = 20 * time.Second }()
	h := host{t.TempDir()}
	h.process(t, "1", "1", "10", []byte(line(keyNamed("host"), "/mnt")))
	// A stranger shows this namespace first.
	h.process(t, "2", "2", "20", nil)
	h.process(t, "3", "1", "20", nil)
	found, blind, err := mounted(t.Context(), h.dir)
	if err != nil || !strings.Contains(blind, "process 3") || !found[keyNamed("host")] {
		t.Errorf("blind %q, %v", blind, err)
	}
	hidden := host{t.TempDir()}
	hidden.process(t, "5", "1", "10", []byte(line(keyNamed("host"), "/mnt")))
	if _, blind, err := mounted(t.Context(), hidden.dir); err != nil || !strings.Contains(blind, "hidepid") {
		t.Errorf("without the first process: blind %q, %v", blind, err)
	}
}
