package lifecycle

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

func TestRecordsComeBackAsWritten(t *testing.T) {
	rs := records{filepath.Join(t.TempDir(), "models")}
	want := record(Active)
	want.History = []Transition{{At: testNow, From: Pending, To: Active, By: "sync", Why: "passed"}}
	if err := rs.write(want.ID(), want); err != nil {
		t.Fatal(err)
	}
	var got Record
	if err := rs.read(want.ID(), &got); err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(want)
	b, _ := json.Marshal(got)
	if string(a) != string(b) {
		t.Errorf("got  %s\nwant %s", b, a)
	}
	if ids, err := rs.ids(); err != nil || len(ids) != 1 || ids[0] != "tiny@v1" {
		t.Errorf("ids: %v, %v", ids, err)
	}
}

func TestDamagedRecordsAreNotRead(t *testing.T) {
	good, err := seal(record(Pending))
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty":          nil,
		"torn":           good[:len(good)/2],
		"trailing":       append(append([]byte{}, good...), '1'),
		"state edited":   []byte(strings.Replace(string(good), `"Pending"`, `"Active"`, 1)),
		"other version":  []byte(strings.Replace(string(good), `"version":1`, `"version":2`, 1)),
		"duplicate name": []byte(strings.Replace(string(good), `"version":1`, `"version":1,"version":1`, 1)),
		"unknown name":   []byte(strings.Replace(string(good), `"version":1`, `"version":1,"more":1`, 1)),
		"huge":           []byte(strings.Repeat(" ", recordMax+1)),
	} {
		t.Run(name, func(t *testing.T) {
			rs := records{t.TempDir()}
			if err := os.WriteFile(rs.path("tiny@v1"), b, 0o600); err != nil {
				t.Fatal(err)
			}
			var r Record
			if err := rs.read("tiny@v1", &r); !errors.Is(err, errCorrupt) {
				t.Fatalf("got %v, want errCorrupt", err)
			}
			to, err := rs.setAside("tiny@v1", testNow)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("not kept for a look: %v", err)
			}
			if ids, _ := rs.ids(); len(ids) != 0 {
				t.Errorf("still listed: %v", ids)
			}
		})
	}
}

// What lies in a record's place and is no file is set aside like a damaged
// one; no FIFO is waited for.
func TestNoFileInARecordsPlace(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"FIFO":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"link":      func(path string) error { return os.Symlink(path, path) },
	} {
		t.Run(name, func(t *testing.T) {
			rs := records{t.TempDir()}
			var r Record
			if err := rs.read("tiny@v1", &r); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, errCorrupt) {
				t.Errorf("nothing there: %v", err)
			}
			if err := put(rs.path("tiny@v1")); err != nil {
				t.Fatal(err)
			}
			if err := rs.read("tiny@v1", &r); !errors.Is(err, errCorrupt) {
				t.Errorf("got %v, want errCorrupt", err)
			}
			if _, err := rs.setAside("tiny@v1", testNow); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAuditOfAFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := auditLines(path, func([]byte) error { return nil }); !errors.Is(err, durable.ErrNotRegular) {
		t.Errorf("got %v", err)
	}
}

func FuzzUnseal(f *testing.F) {
	good, _ := seal(record(Active))
	f.Add(good)
	f.Add([]byte(`{"version":1,"sum":"","record":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Record
		if unseal(b, &r) == nil {
			if _, err := seal(&r); err != nil {
				t.Errorf("read but cannot be written: %v", err)
			}
		}
	})
}

func TestLockNamesItsHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := takeLock(context.Background(), path, "tiny@v1", 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = takeLock(context.Background(), path, "tiny@v1", 0)
	if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "process") {
		t.Errorf("got %v", err)
	}
	done := make(chan error, 1)
	go func() {
		l2, err := takeLock(context.Background(), path, "tiny@v1", 10*time.Second)
		if err == nil {
			l2.Unlock()
		}
		done <- err
	}()
	l.Unlock()
	if err := <-done; err != nil {
		t.Errorf("waiting for a lock that was released: %v", err)
	}
}

func TestIncidents(t *testing.T) {
	n := newNode(Options{StateDir: t.TempDir(), Network: "lab"})
	if ins, err := n.Incidents("", 0); err != nil || ins != nil {
		t.Fatalf("no file: %v, %v", ins, err)
	}
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(in Incident) {
		t.Helper()
		if err := n.incident(in); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		write(Incident{Kind: CauseHash, Model: "tiny", Version: "v1", Reason: strings.Repeat("x", i)})
	}
	write(Incident{Kind: CauseValidation, Model: "other", Version: "v1", Found: strings.Repeat("\u00e9", 100_000), Reason: "\xff\x1b[2J", Expected: strings.Repeat("\"", 5000)})
	f, err := os.OpenFile(n.auditPath(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"time":"2026-11-22T`); err != nil { // a crash tore this one
		t.Fatal(err)
	}
	f.Close()
	write(Incident{Kind: CauseHash, Model: "after", Version: "v1"})
	all, err := n.Incidents("", 0)
	if err != nil || len(all) != 7 {
		t.Fatalf("got %d incidents, %v; want 7", len(all), err)
	}
	if all[6].Model != "after" {
		t.Errorf("what follows a torn line is lost: %+v", all[6])
	}
	if n := len(all[5].Found); n == 0 || n > 2000 {
		t.Errorf("found kept in %d bytes", n)
	}
	newest, err := n.Incidents("tiny", 2)
	if err != nil || len(newest) != 2 || newest[1].Reason != "xxxx" || newest[0].Reason != "xxx" {
		t.Errorf("newest two: %+v, %v", newest, err)
	}
	res, err := n.Audit(func([]byte) error { return nil })
	if err != nil || res.Entries != 7 || res.Torn != 1 || res.Broken != 0 {
		t.Errorf("%+v, %v", res, err)
	}
}

// TestLockOfAnotherUser: who may not open a lock is told who may.
func TestLockOfAnotherUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sync.lock")
	if err := os.WriteFile(path, nil, 0); err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() { // whose thread, without root's privileges, ends with it
		runtime.LockOSThread()
		var none [2]unix.CapUserData
		err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
		if err == nil {
			_, err = takeLock(context.Background(), path, "sync of lab", 0)
		}
		got <- err
	}()
	if err := <-got; !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "sync of lab") || !strings.Contains(err.Error(), "run as its owner") {
		t.Error(err)
	}
}
