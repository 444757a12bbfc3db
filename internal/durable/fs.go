package durable

import (
	"io"
	"io/fs"
	"time"
)

// FS is what the store does to a file system. Paths are absolute. Every
// method that follows a final symbolic link says so.
type FS interface {
	// OpenFile opens a regular file; flag is of package os. The final
	// component is never followed, and a lease of another process is waited
	// for also with O_NONBLOCK.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	Mkdir(name string, perm fs.FileMode) error
	// Rename replaces an existing file at newName atomically.
	Rename(oldName, newName string) error
	// RenameNew fails with fs.ErrExist when newName exists.
	RenameNew(oldName, newName string) error
	// Exchange swaps two existing names atomically.
	Exchange(a, b string) error
	Link(oldName, newName string) error
	Unlink(name string) error // a file
	Rmdir(name string) error  // an empty directory
	// Chmod follows a final symbolic link.
	Chmod(name string, perm fs.FileMode) error
	// ReadNames lists a directory, in no order.
	ReadNames(dir string) ([]string, error)
	// SyncDir makes the names in a directory durable; it follows a final
	// symbolic link.
	SyncDir(name string) error
}

// File is an open file. Read and write at offsets are safe for concurrent use.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Append writes at the end of a file opened with os.O_APPEND.
	Append(p []byte) error
	Name() string
	Fd() uintptr
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	Chmod(perm fs.FileMode) error
	// SetModTime sets both the access and the modification time.
	SetModTime(t time.Time) error
	// Allocate reserves blocks for size bytes and leaves the file's size
	// alone, so that a full disk is known before the first byte.
	Allocate(size int64) error
	// StartWriteback asks the kernel to begin writing a range; it promises
	// nothing about durability.
	StartWriteback(off, n int64) error
	// Datasync makes the bytes durable, Sync also mode and times.
	Datasync() error
	Sync() error
}
