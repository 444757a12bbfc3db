package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Offer is what a source holds for this node, in memory: the files of one
// acceptance, and where the source failed. Nothing of it is believed before
// [Trust.Accept] has verified it again.
type Offer struct {
	files  Files
	failed map[string]error
	good   bool   // every step verified, by the state of the node at that time
	after  record // the acceptance that it would follow
}

// maxOffer bounds the files of one offer together. It is more than the caps of
// all files of one acceptance; a longer chain of roots is taken in parts.
const maxOffer = 16 << 20

// Fetch brings what an acceptance needs from src, without a lock: whoever
// accepts, activates or withdraws meanwhile does not wait for the network. It
// walks the steps of the acceptance itself, since each file names the next,
// and changes nothing on the node. The offer of a source that failed, or whose
// word did not verify, is returned where it holds a new root, which
// [Trust.Accept] keeps before it returns that error; else the error is
// returned here.
func (t *Trust) Fetch(ctx context.Context, src Source, now time.Time) (*Offer, error) {
	o := &Offer{files: Files{}, failed: map[string]error{}}
	var err error
	if o.after, _, err = t.readRecord(); err != nil && !errors.Is(err, ErrCache) {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, offerTime, fmt.Errorf("%w: the %s for one snapshot are spent", ErrSource, offerTime))
	defer cancel()
	roots := false
	_, err = t.verify(ctx, &collector{o, src, maxOffer}, now, func(*metadata.Metadata[metadata.RootType], []byte) error {
		roots = true
		return nil
	})
	if err != nil && !roots {
		return nil, err
	}
	o.good = err == nil
	return o, nil
}

// Preview is what [Trust.Accept] would accept now; nothing on the node changes.
func (t *Trust) Preview(ctx context.Context, o *Offer, now time.Time) (*Accepted, error) {
	c, err := t.verify(ctx, o, now, func(*metadata.Metadata[metadata.RootType], []byte) error { return nil })
	if err != nil {
		return nil, err
	}
	return c.acc, c.late
}

// Fetch makes an offer the source of its own acceptance.
func (o *Offer) Fetch(ctx context.Context, name string, max int64) ([]byte, error) {
	if err := o.failed[name]; err != nil {
		return nil, err
	}
	return o.files.Fetch(ctx, name, max)
}

// collector keeps what a source brings.
type collector struct {
	*Offer
	src  Source
	left int64
}

func (c *collector) Fetch(ctx context.Context, name string, max int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx) // also where src does not look
	}
	b, err := c.src.Fetch(ctx, name, max)
	if err == nil && int64(len(b)) > min(max, c.left) {
		err = fmt.Errorf("%w: %s is longer than %d bytes", ErrTooLarge, name, min(max, c.left))
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.failed[name] = err
		}
		return nil, err
	}
	c.left -= int64(len(b))
	c.files[name] = b
	return b, nil
}
