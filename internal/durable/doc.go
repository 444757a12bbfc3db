// Package durable writes files so that they are either wholly there after a
// power loss or not there at all.
//
// The rules, each a step that a file system is allowed to punish when it is
// left out:
//
//  1. Data reaches the disk before its name: write to a temporary name, fsync,
//     rename. (ext4 leaves a zero-byte file under the final name otherwise.)
//  2. A name reaches the disk by fsync of its directory; a new directory by
//     fsync of its parent.
//  3. A failed fsync is final. The kernel drops the dirty pages that it could
//     not write and the next fsync reports success, so nothing here calls it
//     twice.
//  4. A line is appended by one write of at most [MaxLine] bytes. A crash can
//     leave a torn last line; the next append ends it first, so that a torn
//     line never joins a whole one.
//
// [FS] and [File] are the seam at which tests crash the machine: every
// operation that changes what is on disk goes through them. [OS] is the real
// file system. Subpackage crashfs records a run and rebuilds each state that a
// power loss could have left behind.
package durable
