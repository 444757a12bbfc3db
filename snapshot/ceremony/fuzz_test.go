package ceremony

import (
	"maps"
	"slices"
	"testing"
)

// FuzzFolder: no bytes in any one file of the folder make a holder sign
// unseen, change what is published, or end the program.
func FuzzFolder(f *testing.F) {
	start := waits(f)
	names := slices.Sorted(maps.Keys(start.folder.files))
	for i, name := range names {
		f.Add(uint8(i), start.folder.files[name])
		f.Add(uint8(i), start.evil.files[name])
	}
	for _, seed := range []string{"", "{}", "null", `{"signed":{"_type":"targets","version":2}}`, `{"network":"../x"}`, `{"signed":{"_type":"root","version":2,"roles":{},"keys":{}},"signatures":[]}`} {
		for i := range names {
			f.Add(uint8(i), []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, i uint8, b []byte) {
		w := start.fork(1)
		w.t = t
		w.folder.files[names[int(i)%len(names)]] = b
		w.roundTrip()
	})
}
