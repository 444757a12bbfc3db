package oci

import (
	"github.com/resultity/rmodels/internal/ociref"
)

// Reference names one artifact for ever: where it was published and the
// digest of its manifest.
type Reference = ociref.Reference

// ParseReference reads registry/repository@sha256:<hex>. A reference with a
// tag, alone or beside a digest, is an [ErrTag]; everything else that is not
// in this form is an [ErrReference]. There are no defaults: docker.io must be
// written out.
func ParseReference(s string) (Reference, error) {
	ref, err := ociref.Parse(s)
	if err != nil {
		return Reference{}, err
	}
	return ref, nil
}
