package cas

import (
	"cmp"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// layer marks the record of a packed layer, whether it is there already or
// not. What it names is marked by openLayers.
func (m *marks) layer(k key, why uint32) {
	if _, known := m.layers[k]; !known {
		m.layers[k] = why
	}
}

func (m *marks) whyLayer(k key) (string, bool) {
	n, ok := m.layers[k]
	if !ok {
		return "", false
	}
	return m.reasons[n], true
}

// openLayers marks the files of the marked layers that are there, as openTrees
// does for trees and for its reasons: whoever publishes a record announces its
// files until then.
func (m *marks) openLayers(trash []trashed) error {
	there := map[key]string{}
	for _, t := range trash {
		if t.kind == 'l' {
			there[t.k] = t.path
		}
	}
	names, err := m.s.layerNames()
	if err != nil {
		return err
	}
	for _, k := range names {
		there[k] = m.s.layerPath(k)
	}
	for k, why := range m.layers {
		path, present := there[k]
		if !present && !m.refLayers[k] { // it is not unpacked yet
			continue
		}
		if err := m.openLayer(k, cmp.Or(path, m.s.layerPath(k)), why); err != nil {
			m.damage("layer", k, err)
		}
	}
	return nil
}

func (m *marks) openLayer(k key, path string, why uint32) error {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, unix.ENOENT) {
		path = m.s.layerPath(k) // put back from the trash since it was listed
		err = unix.Lstat(path, &st)
	}
	if errors.Is(err, unix.ENOENT) {
		if m.refLayers[k] {
			return absent("layer", k)
		}
		return nil // deleted meanwhile
	}
	if err != nil {
		return &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	if m.unfolded[k] == identify(&st) {
		return nil
	}
	rec, err := m.s.readLayer(path, k)
	if errors.Is(err, ErrNotFound) {
		rec, err = m.s.readLayer(m.s.layerPath(k), k)
	}
	if errors.Is(err, ErrNotFound) && !m.refLayers[k] {
		return nil
	}
	if err != nil {
		return err
	}
	m.unfolded[k] = identify(&st)
	for _, b := range rec.blobs() {
		m.blob(b, why)
	}
	return nil
}

func (c *collection) planLayers() error {
	names, err := c.s.layerNames()
	if err != nil {
		return err
	}
	for _, k := range names {
		name := string(k.digest())
		if why, kept := c.marks.whyLayer(k); kept {
			c.keep("layer", name, 0, why)
			continue
		}
		if c.foreseeOpen(c.s.layerPath(k), unix.S_IFREG) {
			c.keep("layer", name, 0, heldOpen)
			c.marks.layer(k, c.marks.reason(ofUsed))
			continue
		}
		item := c.drop("layer", name, 0, "nothing references it")
		c.layers = append(c.layers, candidate{k: k, path: c.s.layerPath(k), item: item})
	}
	return nil
}
