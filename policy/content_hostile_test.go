package policy_test

import (
	"bytes"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/tinygguf"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/snapshot"
)

// hostile is a file that must be refused, with the rule and the words.
type hostile struct {
	name    string
	path    string
	content []byte
	size    int64 // the file is content and zeros up to size, if set
	policy  snapshot.Content
	model   snapshot.Model
	rule    string
	says    string // in reason, expected or found
	memory  uint64 // bytes that the decision may allocate; 0: the default
	crowd   bool   // a large number of things: ten times the default time
}

func (h hostile) file() policy.ArtifactFile {
	if h.size == 0 {
		return file(h.path, h.content)
	}
	return policy.ArtifactFile{Path: h.path, Size: h.size, Open: func() (policy.ReaderAtCloser, error) {
		return source{ReaderAt: sparse{h.content, h.size}}, nil
	}}
}

// sparse is a file that starts with head and goes on with zeros.
type sparse struct {
	head []byte
	size int64
}

func (s sparse) ReadAt(b []byte, off int64) (int, error) {
	n := int(min(int64(len(b)), max(0, s.size-off)))
	clear(b[:n])
	if off < int64(len(s.head)) {
		copy(b[:n], s.head[off:])
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

var tinyRandom = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	if err := tinygguf.Write(&b, tinygguf.Options{Mode: tinygguf.Random}); err != nil {
		panic(err)
	}
	return b.Bytes()
})

// A refusal costs little whatever the file claims: the bounds are on the
// whole decision.
const (
	hostileMemory = 1 << 20
	hostileTime   = 2 * time.Second // of one processor, which the race detector slows some ten times
)

func TestHostileFilesAreRefused(t *testing.T) {
	for _, group := range []struct {
		name  string
		cases []hostile
	}{
		{"gguf", hostileGGUF()},
		{"safetensors", hostileSafetensors()},
		{"json", hostileJSON()},
		{"text", hostileText()},
		{"polyglot", hostilePolyglots()},
		{"name", hostileNames()},
		{"protobuf", hostileProtobuf()},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, c := range group.cases {
				t.Run(c.name, func(t *testing.T) { c.refused(t) })
			}
		})
	}
}

// processorTime is what the calling thread has used: a busy machine does not
// count. The caller is locked to its thread.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (h hostile) refused(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	f := h.file()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := processorTime(t)
	d := policy.AdmitContent(snapshot.Policy{Content: h.policy}, h.model, []policy.ArtifactFile{f})
	took := processorTime(t) - start
	runtime.ReadMemStats(&after)
	switch {
	case d.Allowed:
		t.Fatalf("admitted: %+v", d)
	case d.Class != policy.ClassContent || d.Rule != h.rule:
		t.Errorf("refused by %s %s, want %s: %+v", d.Class, d.Rule, h.rule, d)
	case !strings.Contains(d.Reason+d.Expected+d.Found, h.says):
		t.Errorf("refusal does not say %q: %+v", h.says, d)
	case d.Reason == "" || d.Expected == "" || d.Found == "":
		t.Errorf("refusal without reason, expected or found: %+v", d)
	case !strings.Contains(d.Reason, h.path) && !strings.Contains(d.Reason, "the policy has a setting"):
		t.Errorf("refusal does not name the file: %+v", d)
	}
	if n := len(d.Reason) + len(d.Expected) + len(d.Found); n > 2000 {
		t.Errorf("refusal of %d bytes repeats too much of the file", n)
	}
	bound := h.memory
	if bound == 0 {
		bound = hostileMemory
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > bound {
		t.Errorf("the refusal allocated %d bytes, at most %d", got, bound)
	}
	most := hostileTime
	if h.crowd {
		most *= 10
	}
	if took > most {
		t.Errorf("the refusal took %v, at most %v", took, most)
	}
}
