package crashfs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Loss is what a crash takes.
type Loss int

const (
	// Nothing is lost: the process died, the machine did not.
	Nothing Loss = iota
	// Everything that was not synced is lost.
	Everything
	// Data is lost and names are kept, the lost bytes missing: what ext4 does
	// to a file that was renamed before it was written back.
	Data
	// Zeroed data: as Data, but the files have their size, and zeros.
	Zeroed
	// Names are lost and data is kept.
	Names
	// Journal: names after a random moment are lost, and random pages.
	Journal
	// Random names and random pages are lost.
	Random
	losses
)

// Losses lists every kind.
func Losses() []Loss {
	all := make([]Loss, losses)
	for n := range all {
		all[n] = Loss(n)
	}
	return all
}

func (l Loss) String() string {
	return [...]string{"nothing", "everything", "data", "zeroed data", "names", "journal", "random"}[l]
}

// Replay goes through a recording.
type Replay struct {
	steps []step
	at    int
	m     *model
}

// Replay starts at the beginning of what was recorded so far.
func (r *Recorder) Replay() *Replay {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &Replay{steps: append([]step(nil), r.steps...), m: newModel()}
}

// Next goes on by one operation and says which; false at the end. The mark is
// what a test put there, or nil.
func (p *Replay) Next() (label string, mark any, ok bool) {
	if p.at == len(p.steps) {
		return "", nil, false
	}
	s := p.steps[p.at]
	s.apply(p.m)
	p.at++
	return fmt.Sprintf("%d: %s", p.at, s.label), s.mark, true
}

// Rebuild makes dir, which has to be empty, what a crash right now may leave.
// The seed chooses among the random ones.
func (p *Replay) Rebuild(dir string, loss Loss, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, uint64(p.at)))
	cut := len(p.m.pending)
	if loss == Journal {
		cut = rng.IntN(cut + 1)
	}
	names := p.m.loseNames(func(n int) bool {
		switch loss {
		case Everything, Names:
			return false
		case Journal:
			return n < cut
		case Random:
			return rng.IntN(2) == 0
		}
		return true
	})
	made := map[int]string{} // first path of an inode with several names
	return p.rebuild(dir, root, names, made, func(i *inode) content { return i.after(loss, rng) })
}

func (p *Replay) rebuild(path string, dir int, names []map[string]int, made map[int]string, after func(*inode) content) error {
	for name, n := range names[dir] {
		child := filepath.Join(path, name)
		i := p.m.inodes[n]
		if i.dir {
			if err := os.Mkdir(child, 0o755); err != nil {
				return err
			}
			if err := p.rebuild(child, n, names, made, after); err != nil {
				return err
			}
			if err := os.Chmod(child, i.now.mode); err != nil {
				return err
			}
			continue
		}
		if first, ok := made[n]; ok {
			if err := os.Link(first, child); err != nil {
				return err
			}
			continue
		}
		made[n] = child
		c := after(i)
		if err := os.WriteFile(child, c.data, 0o600); err != nil {
			return err
		}
		if err := os.Chmod(child, c.mode); err != nil {
			return err
		}
		if !c.mod.IsZero() {
			if err := os.Chtimes(child, c.mod, c.mod); err != nil {
				return err
			}
		}
	}
	return nil
}

// page is the unit in which data is lost.
const page = 4096

// after is what a crash leaves of a file.
func (i *inode) after(loss Loss, rng *rand.Rand) content {
	switch loss {
	case Nothing, Names:
		return i.now
	case Everything, Data:
		return i.disk
	case Zeroed:
		c := i.disk
		c.data = append(bytes.Clone(c.data), make([]byte, max(0, len(i.now.data)-len(c.data)))...)
		return c
	}
	if bytes.Equal(i.now.data, i.disk.data) {
		if rng.IntN(2) == 0 {
			return i.disk
		}
		return i.now
	}
	// Each page is the new one, the old one, or zeros where there was none;
	// the size is the old one or the new one.
	c := i.disk
	size := len(i.now.data)
	if rng.IntN(2) == 0 {
		size = len(i.disk.data)
	}
	c.data = make([]byte, size)
	copy(c.data, i.disk.data)
	for off := 0; off < size && off < len(i.now.data); off += page {
		if rng.IntN(2) == 0 {
			copy(c.data[off:min(off+page, size)], i.now.data[off:min(off+page, len(i.now.data))])
		}
	}
	return c
}
