#!/bin/bash
# Writes policy/testdata/cosign-* anew with the cosign releases below. Builds
# them from source once (some minutes each) into .cache/cosign.
set -euo pipefail
cd "$(dirname "$0")/../.."

release() { # VERSION MODULE
	local program=$PWD/.cache/cosign/$1/cosign
	if [ ! -x "$program" ]; then
		GOBIN=${program%/*} GOFLAGS='-p=1 -buildvcs=false' CGO_ENABLED=0 nice go install "$2/cmd/cosign@v$1"
	fi
	go run ./hack/signatures -cosign "$program" -out "policy/testdata/cosign-$1"
}

release 2.6.5 github.com/sigstore/cosign/v2
release 3.1.3 github.com/sigstore/cosign/v3
