package cas

import (
	"path/filepath"
	"slices"
	"time"

	"github.com/resultity/rmodels/internal/durable"
)

// A checkpoint costs some fsyncs, which hold up everyone's writes, and is what
// a power loss leaves; a process that is killed leaves its note. So checkpoints
// need not be close: what a line loses in a second it fetches again in one. And
// they wait for the disk a quarter of the time at most.
const (
	checkpointSoon = time.Second
	checkpointLate = 10 * time.Second
	checkpointRest = 4 // times as long as the last one took, from its beginning
)

// Checkpoint makes what was written so far survive a crash; the next ingest of
// the blob will not ask for it again. Checkpoints also happen by themselves.
func (i *Ingest) Checkpoint() error {
	i.mu.Lock()
	err := i.usable()
	i.mu.Unlock()
	if err != nil {
		return err
	}
	if err := i.checkpoint(); err != nil {
		return i.lose(err)
	}
	return nil
}

// checkpointDue is called with mu held.
func (i *Ingest) checkpointDue() bool {
	if i.closed || i.lost != nil || i.unsynced == 0 {
		return false
	}
	if i.every > 0 {
		return i.unsynced >= i.every
	}
	return time.Since(i.since) >= i.pause
}

// follow makes checkpoints until none is due.
func (i *Ingest) follow() {
	for {
		err := i.checkpoint()
		i.report(err)
		i.mu.Lock()
		if err != nil || !i.checkpointDue() {
			i.following = false
			i.mu.Unlock()
			return
		}
		i.mu.Unlock()
	}
}

func (i *Ingest) checkpoint() error {
	i.checkpointing.Lock()
	defer i.checkpointing.Unlock()
	return i.recordProgress()
}

// recordProgress writes what is known now: first the bytes, then the record
// that vouches for them (invariant 3). The caller holds checkpointing.
func (i *Ingest) recordProgress() error {
	i.mu.Lock()
	p := i.snapshot()
	i.unsynced = 0
	began := time.Now()
	i.since = began
	i.mu.Unlock()
	if err := i.f.Datasync(); err != nil {
		return err
	}
	path := filepath.Join(i.dir, "progress")
	if err := durable.WriteFileFS(i.s.fs, path, p.encode(), 0o644); err != nil {
		return err
	}
	if !i.dirSynced {
		if err := i.s.fs.SyncDir(filepath.Dir(i.dir)); err != nil {
			return err
		}
		i.dirSynced = true
	}
	i.mu.Lock()
	i.recorded = p.offset
	i.pause = min(max(checkpointSoon, checkpointRest*time.Since(began)), checkpointLate)
	i.mu.Unlock()
	return nil
}

// snapshot is the progress at this moment; mu is held. It ends at a chunk
// boundary whose hash state is known; bytes behind that are extents and will
// be hashed from the file.
func (i *Ingest) snapshot() progress {
	n := min(len(i.hashed.sums), len(i.hashed.states)-1)
	for n > 0 && i.hashed.states[n] == nil {
		n--
	}
	p := progress{
		size:   i.size,
		offset: int64(n) * ChunkSize,
		state:  i.hashed.states[n],
		sums:   slices.Clone(i.hashed.sums[:n]),
	}
	p.extents = i.present.remove(Range{0, p.offset})
	return p
}
