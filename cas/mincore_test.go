package cas_test

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mincore says which pages of a mapping are in memory (mincore(2)).
func mincore(view, vec []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&view[0])), uintptr(len(view)), uintptr(unsafe.Pointer(&vec[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
