package lifecycle

import (
	"context"
	"errors"
	"io"

	"github.com/resultity/rmodels/cas"
	"github.com/resultity/rmodels/internal/amount"
	"github.com/resultity/rmodels/oci"
)

// heal mends blobs of an artifact that failed a check, in place: only their
// bad ranges are fetched, and every tree and running reader sees good bytes
// again. A blob that cannot be mended so is given up, and fetched whole by the
// caller. It returns the bytes that came over the wire.
func (n *Node) heal(ctx context.Context, st *cas.Store, c *oci.Client, a *oci.Artifact, mirrors []string, id string) (int64, error) {
	var wire int64
	for _, b := range a.Blobs() {
		stat, err := st.Stat(b.Digest)
		if errors.Is(err, cas.ErrNotFound) || err == nil && !stat.Suspect {
			continue
		}
		if err != nil {
			return wire, err
		}
		step := n.step(id, "repair")
		err = st.Repair(ctx, b.Digest, func(ctx context.Context, off, size int64, w io.WriterAt) error {
			got, err := c.FetchRange(ctx, a.Ref, mirrors, b, off, size, w)
			wire += got
			return err
		})
		step(err, "blob "+shortDigest(b.Digest)+" is good again, "+amount.Bytes(wire)+" fetched")
		if ctx.Err() != nil {
			return wire, context.Cause(ctx)
		}
		if err != nil {
			if err := st.Discard(ctx, b.Digest, "it could not be repaired: "+err.Error()); err != nil && !errors.Is(err, cas.ErrNotFound) {
				return wire, err
			}
		}
	}
	return wire, nil
}
