package ceremony

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/snapshot"
)

// Refusals of what would take the network back or apart. Each says what to do.
var (
	// ErrIncomplete: a role has not reached its threshold yet.
	ErrIncomplete = errors.New("signatures are missing")
	// ErrBehind: elsewhere something newer was published or seen than this
	// folder knows: an old backup, a late stick, another machine.
	ErrBehind = errors.New("this ceremony is behind what was published")
	// ErrOtherLine: two ceremonies published under the same numbers.
	ErrOtherLine = errors.New("another ceremony published under the same numbers")
	// ErrForeign: the other side begins with another first root.
	ErrForeign = errors.New("another network's root")
	// ErrPublished: what the folder says was published does not verify.
	ErrPublished = errors.New("what was published cannot be read here")
	// ErrUnconfirmed: what would be signed has to be confirmed first.
	ErrUnconfirmed = errors.New("not confirmed")
	// ErrUnrevoked: a published revocation would disappear.
	ErrUnrevoked = errors.New("a published revocation is missing")
	// ErrUnsigned: the draft says something that nobody has signed.
	ErrUnsigned = errors.New("the draft differs from what is signed")
	// ErrNoneAside: no edits were set aside that could be taken up.
	ErrNoneAside error = noneAsideError{}
	// ErrNoSite: a place has nothing, and the network was published before.
	ErrNoSite = errors.New("nothing was published there before")
	// ErrUnlisted: a revocation matches nothing that is listed.
	ErrUnlisted = errors.New("the revocation matches nothing that is listed")
)

// noneAsideError is a kind of [fs.ErrNotExist], without a file's name.
type noneAsideError struct{}

func (noneAsideError) Error() string        { return "no edits were set aside" }
func (noneAsideError) Is(target error) bool { return target == fs.ErrNotExist }

type (
	rootMeta      = metadata.Metadata[metadata.RootType]
	targetsMeta   = metadata.Metadata[metadata.TargetsType]
	snapshotMeta  = metadata.Metadata[metadata.SnapshotType]
	timestampMeta = metadata.Metadata[metadata.TimestampType]
)

func rootFile(v int64) string { return snapshot.MetadataFile(metadata.ROOT, v) }

// line is what one place has published: its roots, each verified by the one
// before, and the newest set under the last of them.
type line struct {
	roots [][]byte
	root  *rootMeta
	acc   *snapshot.Accepted // nil: roots alone
	files snapshot.Files     // of the set, as a node keeps them
}

// first names the network by its first root, whichever holders signed it.
func (l *line) first() digest.Digest {
	d, err := rootDigest(l.roots[0])
	if err != nil { // it was parsed when the line was read
		return ""
	}
	return d
}

// sameRoot tells whether two roots say the same; their signatures do not count.
func sameRoot(a, b []byte) (bool, error) {
	if bytes.Equal(a, b) {
		return true, nil
	}
	x, err := rootDigest(a)
	if err != nil {
		return false, err
	}
	y, err := rootDigest(b)
	return x == y, err
}

// rootDigest is that of what the holders sign.
func rootDigest(raw []byte) (digest.Digest, error) {
	m, err := parseMeta[metadata.RootType](metadata.ROOT, raw)
	if err != nil {
		return "", err
	}
	return signedDigest(m)
}

func signedDigest[T metadata.Roles](m *metadata.Metadata[T]) (digest.Digest, error) {
	bare := *m
	bare.Signatures = []metadata.Signature{}
	b, err := bare.ToBytes(false)
	return digest.FromBytes(b), err
}

// parseMeta decodes metadata of a role after a node's own bounds.
func parseMeta[T metadata.Roles](role string, b []byte) (*metadata.Metadata[T], error) {
	if err := snapshot.CheckMetadata(role, b); err != nil {
		return nil, err
	}
	var m metadata.Metadata[T]
	if _, err := m.FromBytes(b); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", snapshot.ErrInvalid, role, err)
	}
	return &m, nil
}

// readRoots walks the roots of src from its first. Nil: it has none.
func readRoots(ctx context.Context, src snapshot.Source) (*line, *snapshot.Chain, error) {
	first, err := src.Fetch(ctx, rootFile(1), snapshot.MaxMetadata(metadata.ROOT))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	kept := &keeping{Source: src}
	chain, err := snapshot.NewChain(first)
	if err != nil {
		return nil, nil, err
	}
	if err := chain.Follow(ctx, kept); err != nil {
		return nil, nil, err
	}
	return &line{roots: append([][]byte{first}, kept.files...), root: chain.Root()}, chain, nil
}

// keeping keeps what it fetched.
type keeping struct {
	snapshot.Source
	files [][]byte
}

func (k *keeping) Fetch(ctx context.Context, name string, max int64) ([]byte, error) {
	b, err := k.Source.Fetch(ctx, name, max)
	if err == nil {
		k.files = append(k.files, b)
	}
	return b, err
}

// readLine reads what a place has published, whether or not it has expired
// since: for what comes next that makes no difference. Nil: nothing there. A
// place without a timestamp has published nothing yet, however far a crash let
// the rest of it come.
func readLine(ctx context.Context, src snapshot.Source, network string) (*line, error) {
	_, err := src.Fetch(ctx, snapshot.TimestampFile, snapshot.MaxMetadata(metadata.TIMESTAMP))
	none := errors.Is(err, fs.ErrNotExist)
	if err != nil && !none {
		return nil, err
	}
	l, chain, err := readRoots(ctx, src)
	if err != nil || l == nil {
		if err == nil && !none {
			err = fmt.Errorf("%w: %s is missing", snapshot.ErrInvalid, rootFile(1))
		}
		return nil, err
	}
	if none {
		return l, nil
	}
	l.acc, l.files, err = chain.Accept(ctx, src, network, time.Time{}, snapshot.Seen{})
	return l, err
}

// chain is a fresh one over the line's roots.
func (l *line) chain() (*snapshot.Chain, error) {
	c, err := snapshot.NewChain(l.roots[0])
	if err != nil {
		return nil, err
	}
	for _, b := range l.roots[1:] {
		if err := c.Next(b); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// all are the files that a place needs: every root and the newest set.
func (l *line) all() map[string][]byte {
	files := map[string][]byte{}
	maps.Copy(files, l.files)
	for i, b := range l.roots {
		files[rootFile(int64(i)+1)] = b
	}
	return files
}

// seen is what a node holds that follows this line.
func (l *line) seen() snapshot.Seen {
	if l == nil || l.acc == nil {
		return snapshot.Seen{}
	}
	return snapshot.Seen{
		Files: l.files, RootVersion: l.root.Signed.Version, Sequence: l.acc.Document.Sequence, Digest: l.acc.Digest,
		TargetsKeys: snapshot.RoleKeys(l.root, metadata.TARGETS),
	}
}

// follows refuses ours where a node that holds theirs would refuse it, or where
// it would take the network to another line. history reads what this ceremony
// published earlier.
func follows(ctx context.Context, ours, theirs *line, history snapshot.Source, network string) error {
	if theirs == nil {
		return nil
	}
	if same, err := sameRoot(ours.roots[0], theirs.roots[0]); err != nil || !same {
		return errors.Join(fmt.Errorf("%w: there is %s, here is %s", ErrForeign, theirs.first(), ours.first()), err)
	}
	if n, m := len(theirs.roots), len(ours.roots); n > m {
		return fmt.Errorf("%w: there is root %d, here is root %d", ErrBehind, n, m)
	}
	for i, raw := range theirs.roots {
		if same, err := sameRoot(ours.roots[i], raw); err != nil || !same {
			return errors.Join(fmt.Errorf("%w: root %d", ErrOtherLine, i+1), err)
		}
	}
	if theirs.acc == nil {
		return nil
	}
	if ours.acc == nil {
		return fmt.Errorf("%w: there is snapshot %d, here is none", ErrBehind, theirs.acc.Document.Sequence)
	}
	if err := sameHistory(ctx, ours, theirs, history); err != nil {
		if !errors.Is(err, ErrOtherLine) && !errors.Is(err, errRenewed) {
			return err
		}
		chain, cerr := ours.chain()
		if cerr != nil {
			return cerr
		}
		if _, _, dead := chain.Accept(ctx, theirs.files, network, time.Time{}, snapshot.Seen{}); dead == nil {
			return err
		} // else our newest root replaced the keys that signed it, as after a theft
	}
	chain, err := ours.chain()
	if err != nil {
		return err
	}
	if _, _, err := chain.Accept(ctx, ours.files, network, time.Time{}, theirs.seen()); err != nil {
		return fmt.Errorf("%w: there is snapshot %d with timestamp %d, here is %d with %d: %w", ErrBehind, theirs.acc.Document.Sequence,
			theirs.acc.TimestampVersion, ours.acc.Document.Sequence, ours.acc.TimestampVersion, err)
	}
	return nil
}

// errRenewed: two machines have renewed the same targets under one number.
var errRenewed = fmt.Errorf("%w: the same targets were renewed there; update, then sign again with the online key", ErrBehind)

// sameHistory refuses another text under a number that this ceremony has used.
// Where that is of the online key alone it is a renewal that crossed this one:
// nothing is lost with it, and the next one takes a higher number.
func sameHistory(ctx context.Context, ours, theirs *line, history snapshot.Source) error {
	crossed := ""
	for name, b := range theirs.files {
		mine, ok := ours.files[name]
		if !ok {
			var err error
			mine, err = history.Fetch(ctx, name, int64(len(b)))
			if errors.Is(err, fs.ErrNotExist) {
				continue // this ceremony was restored without its older files
			}
			if err != nil && !errors.Is(err, snapshot.ErrTooLarge) {
				return err
			}
		}
		same := string(mine) == string(b)
		if name == snapshot.TimestampFile {
			same = same || ours.acc.TimestampVersion != theirs.acc.TimestampVersion
		}
		switch {
		case same:
		case name == snapshot.TimestampFile || name == snapshot.MetadataFile(metadata.SNAPSHOT, theirs.acc.SnapshotVersion):
			crossed = name
		default:
			return fmt.Errorf("%w: %s", ErrOtherLine, name)
		}
	}
	if crossed != "" {
		return fmt.Errorf("%w: %s", errRenewed, crossed)
	}
	return nil
}

// renews tells whether l says what old says, renewed as late or later.
func (l *line) renews(old *line) bool {
	return l.acc != nil && old.acc != nil && len(l.roots) == len(old.roots) && l.acc.TargetsVersion == old.acc.TargetsVersion &&
		l.acc.Digest == old.acc.Digest && l.acc.SnapshotVersion >= old.acc.SnapshotVersion && l.acc.TimestampVersion >= old.acc.TimestampVersion
}
