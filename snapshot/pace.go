package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// What a source may take. Refreshing comes before everything that a snapshot
// may withdraw by, so that silence is not waited for long; and a line of a few
// KiB a second still brings a snapshot.
const (
	silence   = 10 * time.Second // until the header of an answer, and for each paceBytes behind it
	paceBytes = 10 << 10
	fileTime  = 30 * time.Second // for one file, and a second more for each fileBytes that it may have
	fileBytes = 64 << 10
	offerTime = 3 * time.Minute // for all that one acceptance needs
)

// pacer ends the request of a file whose source brings nothing or too little.
type pacer struct {
	cancel context.CancelCauseFunc
	quiet  *time.Timer
	whole  *time.Timer
	left   int // bytes until the silence is counted anew
}

func newPacer(ctx context.Context, max int64) (context.Context, *pacer) {
	ctx, cancel := context.WithCancelCause(ctx)
	d := fileTime + time.Duration(max/fileBytes)*time.Second
	return ctx, &pacer{
		cancel: cancel, left: paceBytes,
		quiet: time.AfterFunc(silence, func() {
			cancel(fmt.Errorf("no answer, or less than %d bytes of one, within %s", paceBytes, silence))
		}),
		whole: time.AfterFunc(d, func() { cancel(fmt.Errorf("the %s for this file are spent", d)) }),
	}
}

func (p *pacer) end() {
	p.quiet.Stop()
	p.whole.Stop()
	p.cancel(nil)
}

// began counts the silence anew, behind the header of an answer.
func (p *pacer) began() { p.quiet.Reset(silence) }

func (p *pacer) pace(r io.Reader) io.Reader { return pacedReader{r, p} }

type pacedReader struct {
	io.Reader
	p *pacer
}

func (r pacedReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if r.p.left -= n; r.p.left <= 0 {
		r.p.left = paceBytes
		r.p.quiet.Reset(silence)
	}
	return n, err
}

// causeOf is why ctx ended, where that is why err came about.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}
