package cas

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

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
}

func refusedFileSystem(magic uint32, path string) error {
	name, found := networkFileSystems[magic]
	if !found {
		return nil
	}
	return fmt.Errorf("%w: %s is on %s, whose locks cannot be relied on; put the store on a local disk", ErrFileSystem, path, name)
}

// checkFileSystem keeps invariant 6.
func (s *Store) checkFileSystem() error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return &fs.PathError{Op: "statfs", Path: s.root, Err: err}
	}
	if err := refusedFileSystem(uint32(st.Type), s.root); err != nil {
		return err
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return fmt.Errorf("%w: the file system of %s is mounted read-only; remount it read-write", ErrReadOnly, s.root)
	}
	if err := probe(durable.Temporary(s.path("probe"))); err != nil {
		return fmt.Errorf("%s: %w", s.root, readOnly(err))
	}
	return nil
}

// probe tries in path what the store relies on: a second open file
// description does not get a lock that the first holds, a hard link has the
// inode of its origin, and a rename that may not replace does not.
//
// A flock belongs to an open file description (flock(2)), so that two of one
// process say what those of two processes would. Where the answer depends on
// the process or the machine that asks, the file system is refused by its type.
func probe(path string) (err error) {
	linked := path + "-link"
	holder, err := tryLock(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, unix.LOCK_EX)
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
	second, err := tryLock(path, unix.O_RDWR, unix.LOCK_EX)
	if err != nil {
		return err
	}
	if second != nil {
		second.unlock()
		return fmt.Errorf("%w: flock lets two owners in; put the store on a local disk", ErrFileSystem)
	}
	if err := os.Link(path, linked); err != nil {
		return fmt.Errorf("%w: no hard links: %w; use ext4, xfs or btrfs", ErrFileSystem, err)
	}
	defer func() { err = errors.Join(err, os.Remove(linked)) }()
	if same, err := holder.is(linked); err != nil || !same {
		return errors.Join(err, fmt.Errorf("%w: a hard link has another inode than its origin", ErrFileSystem))
	}
	if err := durable.OS.RenameNew(path, linked); !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: a rename that may not replace answers %v", ErrFileSystem, err)
	}
	return nil
}
