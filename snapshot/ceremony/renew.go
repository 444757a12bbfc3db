package ceremony

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/snapshot"
)

// Renew signs a new snapshot and timestamp over what was published last and
// publishes them at once, whatever waits for signatures meanwhile: it is what
// cron runs on the machine of the online key. It returns the whole set, for
// [WriteFiles] and [snapshot.EncodeBundle].
func (r *Repository) Renew(keyFiles ...string) (map[string][]byte, error) {
	keys, err := r.loadKeys(keyFiles)
	if err != nil {
		return nil, err
	}
	root, err := r.publishedRoot()
	if err != nil {
		return nil, err
	}
	version, err := newestIn(r.path(metadataFolder), metadata.TARGETS)
	if err != nil {
		return nil, err
	}
	if root == nil || version == 0 {
		return nil, fmt.Errorf("%w: nothing was published yet", ErrIncomplete)
	}
	targets, err := os.ReadFile(r.path(metadataFolder, snapshot.MetadataFile(metadata.TARGETS, version)))
	if err != nil {
		return nil, err
	}
	on, err := r.makeOnline(r.now(), root, version, targets, keys)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{snapshot.MetadataFile(metadata.SNAPSHOT, on.version): on.snapshot, snapshot.TimestampFile: on.timestamp}
	if err := r.rehearse(files); err != nil {
		return nil, fmt.Errorf("a node would refuse this: %w", err)
	}
	if err := writeSet(r.path(metadataFolder), files); err != nil {
		return nil, err
	}
	// What was staged with the numbers that are now taken is signed again by
	// the next Sign.
	if err := r.dropStagedOnline(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return r.publishedFiles()
}

// WriteFiles writes a set into a directory that nodes pull from, the timestamp
// last.
func WriteFiles(dir string, files map[string][]byte) error { return writeSet(dir, files) }
