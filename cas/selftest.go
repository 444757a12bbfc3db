package cas

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/internal/durable"
)

// networkFileSystems are refused by type (statfs(2), linux/magic.h): their
// locks exclude only some of the writers, or their renames are not atomic for
// the others.
var networkFileSystems = map[uint32]string{
	0x6969:     "nfs",
	0x517b:     "smb",
	0xff534d42: "cifs",
	0xfe534d42: "smb2",
	0x01021997: "9p",
	0x65735546: "fuse",
	0x00c36400: "ceph",
	0x5346414f: "afs",
	0x0bd00bd0: "lustre",
	0x47504653: "gpfs",
	0x19830326: "beegfs",
	0x73757245: "coda",
	0x01161970: "gfs2",
	0x7461636f: "ocfs2",
	0x564c:     "ncp",
	0x20030528: "orangefs",
	0x786f4256: "vboxsf",
	0xbacbacbc: "vmhgfs",
}

func refusedFileSystem(magic uint32, path string) error {
	name, found := networkFileSystems[magic]
	if !found {
		return nil
	}
	return fmt.Errorf("%w: %s is on %s, whose locks cannot be relied on; put the store on a local disk", ErrFileSystem, path, name)
}

// checkFileSystem refuses a file system by its type, before anything is
// written to it: for a store that is to be made, that of the directory which
// is there already.
func (s *Store) checkFileSystem() error {
	var st unix.Statfs_t
	path := s.root
	err := unix.Statfs(path, &st)
	for errors.Is(err, unix.ENOENT) && path != "/" {
		path = filepath.Dir(path)
		err = unix.Statfs(path, &st)
	}
	if err != nil {
		return &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	if err := refusedFileSystem(uint32(st.Type), s.root); err != nil {
		return err
	}
	if path == s.root && st.Flags&unix.ST_RDONLY != 0 {
		return fmt.Errorf("%w: the file system of %s is mounted read-only; remount it read-write", ErrReadOnly, s.root)
	}
	return nil
}

// checkLocks tries out what file systems may lie about.
func (s *Store) checkLocks() error {
	err := probe(durable.Temporary(s.path("probe")), kernel)
	if errors.Is(noSpace(err), ErrNoSpace) {
		// The disk is full, and what frees it has to open the store.
		err = probeLock(s.path("VERSION"), kernel)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.root, readOnly(err))
	}
	return nil
}

// primitives are what the store's safety rests on.
type primitives struct {
	lock      func(path string, flags, how int) (*flock, error) // as tryLock
	link      func(from, to string) error
	renameNew func(from, to string) error
}

var kernel = primitives{tryLock, os.Link, durable.OS.RenameNew}

// probe tries in path what the store relies on: a second owner does not get a
// lock that the first holds, and gets it once the first lets go; a hard link
// has the inode of its origin; a rename that may not replace does not.
//
// The two owners are open file descriptions of one process. A flock belongs to
// an open file description (flock(2)), and where the kernel keeps the locks it
// does not look at processes, so that two of them would be told the same: a
// test of the package asks a second process. Where it is not the kernel that
// answers but a server or a daemon, which may go by process or by machine, no
// probe from one machine can tell: those file systems are refused by type.
func probe(path string, do primitives) (err error) {
	linked := path + "-link"
	holder, err := do.lock(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, unix.LOCK_EX)
	if err != nil {
		return err
	}
	if holder == nil {
		return fmt.Errorf("%w: a new file is locked already", ErrFileSystem)
	}
	defer func() {
		holder.unlock()
		err = errors.Join(err, os.Remove(path))
	}()
	for _, how := range []int{unix.LOCK_EX, unix.LOCK_SH} {
		second, err := do.lock(path, unix.O_RDWR, how)
		if err != nil {
			return err
		}
		if second != nil {
			second.unlock()
			return fmt.Errorf("%w: flock lets two owners in; put the store on a local disk", ErrFileSystem)
		}
	}
	if err := do.link(path, linked); err != nil {
		return fmt.Errorf("%w: no hard links: %w; use ext4, xfs or btrfs", ErrFileSystem, err)
	}
	defer func() { err = errors.Join(err, os.Remove(linked)) }()
	if same, err := holder.is(linked); err != nil || !same {
		return errors.Join(err, fmt.Errorf("%w: a hard link has another inode than its origin", ErrFileSystem))
	}
	if err := do.renameNew(path, linked); !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: a rename that may not replace answers %v", ErrFileSystem, err)
	}
	holder.unlock()
	next, err := do.lock(path, unix.O_RDWR, unix.LOCK_EX)
	if err != nil {
		return err
	}
	if next == nil {
		return fmt.Errorf("%w: flock outlives its owner; put the store on a local disk", ErrFileSystem)
	}
	next.unlock()
	return nil
}

// probeLock tries locks on a file that is there. Another process that does the
// same may be first.
func probeLock(path string, do primitives) error {
	holder, err := do.lock(path, unix.O_RDONLY, unix.LOCK_EX)
	if err != nil || holder == nil {
		return err
	}
	defer holder.unlock()
	second, err := do.lock(path, unix.O_RDONLY, unix.LOCK_SH)
	if err != nil || second == nil {
		return err
	}
	second.unlock()
	return fmt.Errorf("%w: flock lets two owners in; put the store on a local disk", ErrFileSystem)
}
