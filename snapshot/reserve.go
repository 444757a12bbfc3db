package snapshot

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/resultity/rmodels/internal/durable"
)

// KeepReserve holds space in the directories of a node's trust, so that a newer
// snapshot can be accepted on a full disk; see [durable.KeepReserve].
func KeepReserve(dir, floorPath string) error {
	size := int64(256 << 10)
	if fi, err := os.Stat(filepath.Join(dir, acceptedFile)); err == nil {
		size = max(size, 2*fi.Size()) // the next one may hold more
	}
	return errors.Join(
		durable.KeepReserve(dir, 2, size),
		durable.KeepReserve(filepath.Join(dir, rootsFolder), 1, 128<<10),
		durable.KeepReserve(filepath.Dir(floorPath), 1, 16<<10),
	)
}
