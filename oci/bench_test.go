package oci_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/resultity/rmodels/oci"
)

// BenchmarkFetch pulls raw layers from loopback into a store that does not
// wait for its disk: what the fetch engine itself costs.
func BenchmarkFetch(b *testing.B) {
	for _, bc := range []struct {
		name        string
		files, size int
	}{{"4x16MiB", 4, 16 << 20}, {"1x64MiB", 1, 64 << 20}, {"200x20KB", 200, 20_000}} {
		b.Run(bc.name, func(b *testing.B) {
			r := newRegistry(b)
			var files []file
			for i := range bc.files {
				files = append(files, file{fmt.Sprintf("f%03d", i), noise(uint64(i), bc.size)})
			}
			ref := r.model("m", files...)
			c := newClient(b, oci.Options{}, r)
			a := resolve(b, c, ref)
			b.SetBytes(a.Size())
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				st, l := newStore(b)
				b.StartTimer()
				if _, err := c.Fetch(context.Background(), st, l, a, oci.FetchOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
