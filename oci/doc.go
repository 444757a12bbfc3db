// Package oci reads and writes OCI artifacts: it finds a manifest by its
// digest on an ordered list of sources, understands every model format that
// the field pushes, fetches blobs into a [cas.Store] at the speed of the line,
// finds signatures beside an artifact, and packs and pushes new ones.
//
// # What it owns
//
//   - References. A [Reference] names registry, repository and digest. Tags
//     are refused ([ErrTag]): a tag can be moved, so it names nothing.
//   - Sources. The reference's own registry or what its hosts.toml names,
//     mirrors (registry/repository), OCI image layouts on disk
//     (oci-layout:///path, a directory or a tar), tried in order, each with
//     its own health. Credentials come from [Options], else from docker's
//     config.json and its credential helpers.
//   - Formats. [Client.Resolve] tells the format from the manifest and plans
//     which layer becomes which file ([Artifact.Files]).
//   - Fetching. [Client.Fetch] takes closed byte ranges of many blobs over one
//     budget of connections per host, resumes from the store's checkpoints
//     and notes, fails over between sources inside a blob, and says which source sent
//     wrong bytes, and which. Where the artifact carries chunk maps, what
//     another version's blobs hold is copied instead of fetched.
//   - Packed layers. Tar, gzip and zstd layers are unfolded while they arrive,
//     in one pass from the network to the disk; the packed bytes are not kept.
//     [Client.FetchLayers] brings them again for an export. Going on where an
//     earlier process was cut off, and repair by ranges, are promises about raw
//     layers: a packed one starts anew.
//   - Evidence. [Client.Evidence] collects signatures and bundles; package
//     policy judges them.
//   - Publishing. [Pack], [PackImage], [Client.Push], [Client.AttachBundle],
//     [Client.AttachChunkMaps]; [Export] to an image layout.
//   - TUF repositories. [Client.TUF] reads and [Client.PushTUF] writes one under
//     a tag. It is the one place where a tag is followed: the files' own
//     signatures say what they are worth, and their reader checks them.
//
// # What always holds
//
//  1. No byte of an artifact leaves this package unverified: manifests, configs and evidence
//     have hashed to the digest that names them before they are parsed, and
//     blobs are published by the store only under their own SHA-256.
//     Packed layers are unfolded before they are verified, and nothing of that
//     has a name, or can be read, until the layer's bytes have hashed to its
//     digest; whatever else is wrong with a layer is said only after that.
//  2. Every length that a source claims is bounded before memory is allocated
//     or disk is reserved for it.
//  3. Leases come first: Fetch and Image announce every digest to the store
//     before they ask what is already there.
//  4. Credentials go to the host they belong to and to the token service that
//     belongs to it, whatever a redirect or a challenge says; plain HTTP is
//     spoken only to hosts whose options ask for it; link-local addresses,
//     where clouds serve their metadata, are refused.
//  5. A path of an artifact is relative, clean and inside the artifact, or the
//     artifact is refused ([ErrPath]).
//  6. Memory is bounded by connections × one buffer, by the one decoder of
//     packed layers and their windows, which share 8 MiB, or 16 where the
//     decoder needs little, and by limits on every table, whatever the size of
//     a blob.
//  7. Whatever is not a layer is asked for within [Budgets] of time: of a
//     document, of a model, of a host. What a host costs without delivering is
//     paid once in a pass.
//  8. No source is blamed on a guess: a mismatch names a source only when the
//     whole blob came from it, or when the right bytes show what it had sent.
//
// # What it never does
//
// It knows no policy: it does not decide whether an artifact may be used. It
// never resolves an index to "the first child", never follows a layer's urls,
// and never writes a name that an artifact chose to the file system.
package oci
