//go:build tools

// Package lint pins the linters of this repository in a module of its own,
// so that their dependencies stay out of the product's.
package lint

import (
	_ "honnef.co/go/tools/cmd/staticcheck"
	_ "mvdan.cc/gofumpt"
)
