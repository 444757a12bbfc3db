// Package crashfs is a volatile file system for tests: it records what a
// program does to a directory and rebuilds each state that a power loss could
// have left there.
//
// A [Recorder] passes every operation on to the real file system and notes it.
// A [Replay] goes through the notes one by one; after each, [Replay.Rebuild]
// makes a directory of what a disk may hold at that moment under a [Loss].
//
// The model is what POSIX allows and journaling file systems do:
//
//   - Written bytes are volatile until fsync or fdatasync of their file. Lost
//     bytes are the old ones, zeros, or missing at the end of the file.
//   - Names are volatile until fsync of their directory. An fsync of the file
//     does not keep its name.
//   - A rename is one step on disk. Once the new directory is synced the new
//     name stays; the old one may come back until its directory is synced.
//   - Lost names are any subset of the volatile ones, or all after a point in
//     time, as a journal loses them.
//
// Files that a program makes behind the recorder's back (locks) are taken
// along as volatile when they meet a recorded operation.
package crashfs
