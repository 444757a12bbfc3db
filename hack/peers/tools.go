//go:build tools

// Package peers pins the other OCI clients that tests and benchmarks compare
// with, in a module of its own, so that their dependencies stay out of the
// product's.
package peers

import (
	_ "github.com/google/go-containerregistry/cmd/crane"
	_ "oras.land/oras/cmd/oras"
)
