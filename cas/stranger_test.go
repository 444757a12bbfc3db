package cas_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/cas"
)

// workDeep mounts a directory at a path of more than a megabyte, as anyone may
// in a mount namespace of his own; args: the directory.
func workDeep(_ context.Context, _ *cas.Store, args []string) error {
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("none", "/mnt", "tmpfs", 0, ""), os.Chdir("/mnt")); err != nil {
		return err
	}
	name := strings.Repeat("a", 250)
	for range 4800 {
		if err := errors.Join(unix.Mkdir(name, 0o755), unix.Chdir(name)); err != nil {
			return err
		}
	}
	if err := unix.Mount(args[0], ".", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	fmt.Println("mounted", len(table))
	for { // until it is killed
		_ = unix.Pause() // ends with any signal, such as the runtime's own
	}
}

// A mount table with a line of any length does not end a collection, and what
// it shows of the store is kept.
func TestGCBesideADeepMount(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	shown, garbage := install(t, s, l, 1), install(t, s, l, 2)
	must(t, l.Release())
	cmd := exec.Command("/proc/self/exe", s.Root(), shown.tree.Path)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	p := startAs(t, cmd, "deep")
	if size := p.until("mounted"); len(size) < len("1200000") {
		t.Fatalf("the table has %s bytes", size)
	}
	r := gc(t, s, cas.GCOptions{})
	if i := item(t, r, "tree", string(shown.manifest)); i.Action != cas.Keep || i.Reason != "mounted" {
		t.Errorf("%+v", i)
	}
	if garbage.present(t, s) {
		t.Error("what nobody shows was kept")
	}
	p.kill()
	gc(t, s, cas.GCOptions{})
	assertEmpty(t, s)
}

// workBlind collects where the processes of the host cannot be seen, and says
// what a dry run had said before.
func workBlind(ctx context.Context, s *cas.Store, _ []string) error {
	plan, err := s.PlanGC(ctx, cas.GCOptions{})
	if err != nil {
		return err
	}
	r, err := s.GC(ctx, cas.GCOptions{})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode([]cas.GCPlan{*plan, r.GCPlan})
}

// In a pid namespace no tree can be freed, also none that was replaced, and a
// plan says so.
func TestGCInAPIDNamespace(t *testing.T) {
	s := newStore(t)
	l := lease(t, s)
	m := install(t, s, l, 1)
	b, _ := content(9, 5000)
	other := put(t, s, l, b)
	_, err := s.BuildTree(t.Context(), l, m.manifest, []cas.TreeEntry{{Path: "other", Blob: other}}) // the first one goes to the trash
	must(t, err)
	must(t, l.Release())
	cmd := exec.Command("/proc/self/exe", s.Root())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	p := startAs(t, cmd, "blind")
	var said []cas.GCPlan
	must(t, json.Unmarshal([]byte("["+p.until("[")), &said))
	kept := map[string]int{}
	for n, plan := range said {
		for _, i := range plan.Items {
			if !slices.Contains(said[1-n].Items, i) && i.Kind != "blob" { // of which a run does not ask the size
				t.Errorf("only one of the two says %+v", i)
			}
			if i.Action == cas.Keep && strings.Contains(i.Reason, "name its /proc") {
				kept[i.Kind]++
			}
		}
	}
	if kept["tree"] != 2 || kept["trash"] != 2 {
		t.Errorf("kept %v", kept)
	}
	if left := list(t, s, "trash"); len(left) == 0 {
		t.Error("the replaced tree was deleted")
	}
}
