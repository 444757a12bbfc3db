package policy

import (
	"io"

	"github.com/resultity/rmodels/snapshot"
)

// ReaderAtCloser is an open file of an artifact.
type ReaderAtCloser interface {
	io.ReaderAt
	io.Closer
}

// ArtifactFile is one verified file of a model, opened on demand.
type ArtifactFile struct {
	Path      string
	Size      int64
	MediaType string
	Open      func() (ReaderAtCloser, error)
}

// FileClaim is what a manifest says about one layer before it is fetched.
type FileClaim struct {
	Path      string // "" for an archive whose names are known only after unpacking
	Size      int64  // bytes of the layer as stored
	MediaType string
	Archive   bool // the layer is a tar (compressed or not)
}

// AdmitLayout decides from the manifest alone, before the first layer byte.
func AdmitLayout(p snapshot.Policy, m snapshot.Model, format string, files []FileClaim) Decision {
	return Decision{Rule: "default", Reason: "nothing is admitted", Class: ClassLayout}
}

// AdmitContent decides from the files' bytes, before any engine sees them.
func AdmitContent(p snapshot.Policy, m snapshot.Model, files []ArtifactFile) Decision {
	return Decision{Rule: "default", Reason: "nothing is admitted", Class: ClassContent}
}
