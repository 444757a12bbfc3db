package filelock

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func owned(fi fs.FileInfo) bool {
	return int(fi.Sys().(*syscall.Stat_t).Uid) == os.Geteuid()
}

// stale reports whether f is no longer, or has just ceased to be, the lock at
// path. A file that others may open is replaced unless a process of this user
// holds it, which is waited for.
func stale(f *os.File, path string) (bool, error) {
	fi, err := f.Stat()
	if err != nil {
		return false, err
	}
	if there, err := os.Lstat(path); err != nil || !os.SameFile(fi, there) {
		return true, nil
	}
	if fi.Mode().Perm()&0o077 == 0 || !owned(fi) {
		return false, nil
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil && !heldByStranger(fi) {
		return false, nil
	}
	free := err == nil // it is held here now
	if err = replace(path, fi); free && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EROFS)) {
		return false, nil // a later holder replaces it
	}
	return true, err
}

// replace puts a new inode of mode 0600 in the place of old. A lock of its own
// keeps two from doing it at once: the second would take the name from an inode
// that somebody has locked meanwhile.
func replace(path string, old fs.FileInfo) error {
	dir, base := filepath.Split(path)
	l, err := Take(context.Background(), dir+"."+base+".replace", Exclusive, time.Second)
	if err != nil {
		return err
	}
	defer l.Unlock()
	defer os.Remove(l.f.Name())
	if there, err := os.Lstat(path); err != nil || !os.SameFile(old, there) {
		return nil // another process has done it
	}
	tmp := dir + "." + base + ".tmp-" + rand.Text()
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

// heldByStranger reports whether the lock on a file is held by a process of
// another user. A holder that cannot be seen, or that has no descriptor of the
// file any more and so has handed the lock on, is a stranger only where
// /proc/locks names it: processes of this program hand no lock on.
func heldByStranger(fi fs.FileInfo) bool {
	st := fi.Sys().(*syscall.Stat_t)
	f, err := os.Open("/proc/locks")
	if err != nil {
		return false
	}
	defer f.Close()
	inode := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	found := false
	for s := bufio.NewScanner(f); s.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 4242 fd:01:123456 0 EOF
		w := strings.Fields(s.Text())
		if len(w) < 6 || w[1] != "FLOCK" || w[5] != inode {
			continue
		}
		found = true
		if pid, err := strconv.Atoi(w[4]); err != nil || ours(pid, fi) {
			return false
		}
	}
	return found
}

// ours reports whether a process runs as this process' user and has the file
// open: a number alone may be used again by another process.
func ours(pid int, fi fs.FileInfo) bool {
	dir := "/proc/" + strconv.Itoa(pid)
	p, err := os.Stat(dir)
	if err != nil || !owned(p) {
		return false
	}
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return true // not told: it is waited for
	}
	for _, fd := range fds {
		if open, err := os.Stat(filepath.Join(dir, "fd", fd.Name())); err == nil && os.SameFile(fi, open) {
			return true
		}
	}
	return false
}
