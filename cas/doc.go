// Package cas is the node's content-addressed store: files named by their
// SHA-256, shared by every process on the machine, kept through kill -9, power
// loss, full disks, rot and concurrent garbage collection. It knows no OCI and
// no models: callers name the blobs that belong together. Subpackage orasstore
// is a store as oras-go's content.Storage.
//
// # Life of a blob
//
// A caller takes a [Lease] and announces the digests it will need. [Store.Ingest]
// opens the one writer of a digest, [Ingest.WriteAt] takes its bytes in any
// order, [Ingest.Commit] publishes the blob if, and only if, its bytes hash to
// its name. [Store.Unpack] is the writer of a packed layer: it publishes the
// files that the layer unfolds to, and a record of them, if, and only if, the
// packed bytes hash to the layer's name; those it does not keep.
// [Store.BuildTree] makes a directory of hard links to blobs,
// [Store.PutRef] names blobs and trees that must stay, and the lease is
// released. [Store.GC] frees what no ref, lease, mount or open file holds.
//
// # Invariants
//
// The code that keeps an invariant names its number.
//
//  1. A name under blobs/ exists only when the bytes behind it hashed to that
//     name. Nothing that says "verified" is written before the verification.
//  2. Data reaches the disk before its name: fsync of the data, fsync of its
//     chunk map, rename, fsync of the directory. A blob that still has an
//     ingest directory may lack that last step; whoever needs it takes it.
//  3. Progress is never derived from a file's size. A checkpoint names bytes
//     that were on disk before the checkpoint was written, and is lowered
//     before one of those bytes is rewritten. A note names bytes that were
//     only written: it is believed by the same running kernel for the same
//     inode alone, and its bytes are hashed again.
//  4. A published blob is not trusted for ever: a failed check makes it
//     suspect, and a suspect blob refuses new uses until it is repaired.
//  5. Roots are read fail closed, and what cannot be read never counts as "no
//     roots": a ref or a lease stops a collection; while the index of a tree or
//     the record of a layer in use is unreadable, no blob goes; while a mount
//     table of the host is, no tree.
//  6. Locks are believed only where they work: network file systems are
//     refused, and flock, link and rename are tried at each Open. So are names
//     only where nobody else can make any: a store that is another user's, or
//     that others can write to, is refused.
//  7. Announce, then check: a digest is in a lease before the store is asked
//     whether it is there, and the collector reads leases after it excluded
//     everyone who asks.
//  8. What the collector takes stays restorable: it renames into trash/, and
//     unlinks later what is still dead and open nowhere. Looking for a blob
//     looks in the trash too.
//  9. A ref, tree or layer record appears only while everything that it names
//     is published.
//  10. Of a packed layer nothing is published before all of its bytes hashed to
//     its name; then its files are, in one section under the store lock and
//     announced by the lease before, and the record of them after them.
//
// # Layout
//
//	VERSION                       layout version; an unknown one is refused
//	lock                          store lock, held for microseconds
//	generation                    two counters: root changes, lease changes
//	gc.lock                       one collector at a time
//	ingest/sha256-<hex>/          lock, data, progress and note (written) of one
//	                              unfinished blob
//	ingest/.spool-<lease>-<id>    a file of a layer that is being unpacked
//	blobs/sha256/<ab>/<hex>       0444, modification time [Epoch]
//	maps/sha256/<ab>/<hex>        chunk map of a blob larger than [MapThreshold]
//	layers/sha256/<hex>           what a packed layer unfolded to: path, mode, size, blob
//	suspect/sha256-<hex>          why a blob is not trusted
//	trees/sha256/<hex>/index      what the tree holds
//	trees/sha256/<hex>/tree/      the directory that is mounted
//	refs/<name>                   roots; "/" in a name is written "%2F"
//	leases/p-<id>, leases/t-<id>  process lease (its owner holds a flock), token lease
//	trash/<run>/                  what a collection took: b-, m-, t-, l-<hex>
//	trash/.spare/                 an empty directory, for a collection on a full disk
//
// Lock order: gc.lock, ingest lock, store lock.
//
// # What it never does
//
// It never serves bytes that were not verified, never follows a symbolic link
// inside the store, never copies a large file to make a tree, never deletes on
// a guess, and never touches a file outside its root.
package cas
