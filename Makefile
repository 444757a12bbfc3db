# make help lists the targets. Everything that is built goes to bin/, what is
# downloaded to .cache/, the demo to .demo/; make clean removes all three.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The version is stamped below; git need not trust the directory's owner.
export GOFLAGS += -buildvcs=false

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS  := -s -w -X github.com/resultity/rmodels/internal/version.Version=$(VERSION)
# Where tests and the demo keep their testbed.
TESTBED  ?= .cache/testbed
DEMO     ?= .demo
PKG      ?= ./...
FUZZTIME ?= 20s
BENCH    ?= .

# Not $(MAKE) in the recipe itself: make -n would run it.
again := $(MAKE) --no-print-directory

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- the product ---------------------------------------------------------

.PHONY: build
build: bin/rmodels bin/rmodels-probe ## build bin/rmodels and the probe that belongs beside it

# go build knows best whether something changed.
.PHONY: bin/rmodels bin/rmodels-probe bin/rmodels-race bin/tinygguf
bin/rmodels:
	go build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/rmodels
# The probe runs inside other people's images, so it brings all that it needs.
bin/rmodels-probe:
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o $@ ./runner/probe/rmodels-probe
bin/rmodels-race:
	go build -race -ldflags '-X github.com/resultity/rmodels/internal/version.Version=$(VERSION)' -o $@ ./cmd/rmodels
bin/tinygguf:
	go build -trimpath -o $@ ./hack/tinygguf

# --- tools, each pinned in a module of its own ---------------------------

.PHONY: deps
deps: ## install the Debian packages that are missing (containerd, runc, gcc, …)
	@hack/testbed/deps.sh

.PHONY: tools
tools: bin/nerdctl bin/registry bin/crane bin/oras bin/staticcheck bin/gofumpt ## build nerdctl, the development registry, other OCI clients and the linters

bin/nerdctl: hack/nerdctl/go.mod hack/nerdctl/go.sum
	cd hack/nerdctl && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o ../../bin/ github.com/containerd/nerdctl/v2/cmd/nerdctl
	@touch $@

bin/registry: $(wildcard hack/registry/*.go) hack/registry/go.mod hack/registry/go.sum
	cd hack/registry && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o ../../bin/registry .
	@touch $@

bin/crane bin/oras &: hack/peers/go.mod hack/peers/go.sum
	cd hack/peers && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o ../../bin/ github.com/google/go-containerregistry/cmd/crane oras.land/oras/cmd/oras
	@touch bin/crane bin/oras

bin/staticcheck bin/gofumpt &: hack/lint/go.mod hack/lint/go.sum
	cd hack/lint && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o ../../bin/ honnef.co/go/tools/cmd/staticcheck mvdan.cc/gofumpt
	@touch bin/staticcheck bin/gofumpt

.PHONY: runtime
runtime: .cache/runtime/runtime.json ## fetch a real inference engine from Debian's packages
.cache/runtime/runtime.json: $(wildcard hack/runtime/*.go)
	go run ./hack/runtime -cache .cache/runtime -refresh > /dev/null

# --- the demo ------------------------------------------------------------

.PHONY: demo demo-down
demo: ## from nothing to an Active model, with a real registry and engine
	@hack/demo/demo.sh $(DEMO)
demo-down: ## end and remove everything that the demo started or wrote
	@hack/demo/down.sh $(DEMO)

# --- checks --------------------------------------------------------------

.PHONY: test
test: deps tools runtime lint build bin/rmodels-race ## everything: linters, unit, integration and end-to-end tests
	$(again) test-demo
	$(again) test-offline
	hack/testbed/with.sh $(TESTBED) $(again) test-go

# The demo as a user runs it; it checks every state and exit code itself.
.PHONY: test-demo
test-demo: build bin/tinygguf bin/nerdctl bin/registry runtime
	@echo 'hack/demo/demo.sh .cache/demo'
	@rc=0; hack/demo/demo.sh .cache/demo > .cache/demo.log 2>&1 || rc=$$?; \
	  hack/demo/down.sh .cache/demo >> .cache/demo.log 2>&1 || rc=1; \
	  [ $$rc = 0 ] && tail -n 20 .cache/demo.log || { cat .cache/demo.log; exit $$rc; }

# Verification never asks a network: in a namespace of its own only loopback answers.
.PHONY: test-offline
test-offline: ## the suites of snapshot and policy with no network but loopback
	unshare --net sh -c 'ip link set lo up && GOPROXY=off go test -count=1 ./snapshot/... ./policy'

# Where nothing runs at once the race detector costs minutes and finds nothing:
# snapshot and policy run whole in test-offline, and tests whose work is done by
# processes of their own run without it.
alone   := ^(TestWalks|TestChaos|TestCutOffMoveKeepsBytes|TestFullDisk)$$
threads := Meanwhile|Beside|AtOnce|OneFolder|Deadline

# The environment comes from with.sh.
.PHONY: test-go
test-go:
	cd hack/registry && go test -race ./...
	go test -race -timeout 20m -skip '$(alone)' $$(go list ./... | grep -v -e /e2e -e /snapshot -e /policy)
	go test -race -timeout 20m -run '$(threads)' ./snapshot/...
	go test -timeout 20m -run '$(alone)' ./lifecycle
	RMODELS_TEST_RMODELS=$(CURDIR)/bin/rmodels-race \
	RMODELS_TEST_RUNTIME=$(CURDIR)/.cache/runtime/rootfs \
	RMODELS_TEST_PEERS=$(CURDIR)/bin \
	go test -race -timeout 20m -count=1 ./e2e/...

.PHONY: lint
lint: bin/staticcheck bin/gofumpt ## gofumpt, go vet, staticcheck
	@files=$$(git ls-files --cached --others --exclude-standard '*.go' | xargs -r ls -d 2>/dev/null | xargs -r bin/gofumpt -l); \
	  [ -z "$$files" ] || { echo "not formatted, run make fmt:"; echo "$$files"; exit 1; }
	go vet ./...
	go vet -tags mutants ./...
	cd hack/registry && go vet ./...
	bin/staticcheck ./...
	cd hack/registry && ../../bin/staticcheck ./...

.PHONY: man
man: ## write the man pages to dist/man
	go test -count=1 -run TestManPages ./cmd/rmodels -args -man $(CURDIR)/dist/man

.PHONY: fmt
fmt: bin/gofumpt ## format the code
	git ls-files --cached --others --exclude-standard '*.go' | xargs -r ls -d 2>/dev/null | xargs -r bin/gofumpt -w

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (20s)
	@for p in $$(go list $(PKG)); do \
	  for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
	    echo "== $$p $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$p; \
	  done; \
	done

# Each file of mutants lists guards; a build without one must turn tests red.
.PHONY: mutants
mutants: ## build without each guard in turn; the tests must notice
	go run ./cas/mutants
	go test -tags mutants -run Mutants -count=1 -timeout 60m -v $$(grep -rl --include='*_test.go' '^//go:build mutants' . | xargs -n1 dirname | sort -u)

.PHONY: walks
walks: ## 10,000 walks over a ceremony's verbs, carriers' tricks and crashes
	RMODELS_WALKS=10000 go test -run TestWalks -count=1 -timeout 60m -v ./snapshot/ceremony

CHAOS ?= 200
.PHONY: chaos
chaos: ## CHAOS (200) rounds: a revocation beside all that could hold it up; 2,500 steps of walks over the life cycle
	RMODELS_CHAOS=$(CHAOS) RMODELS_SOAK=2500 go test -run 'TestChaos|TestWalks' -count=1 -timeout 60m -v ./lifecycle

SOAK ?= 5000
.PHONY: soak
soak: ## long races and crash tests of the store: SOAK pulls (5000)
	RMODELS_SOAK=$(SOAK) go test -race -run 'TestRace|TestCrash' -count=1 -timeout 60m -v ./cas

# One JSON object a line: {"bench", "vs", "ratio", "value", "unit"}. A ratio is
# taken against a peer, or a budget, in the same run.
.PHONY: bench
bench: tools runtime build bin/bench-cas bin/bench-oci ## measure beside peers and budgets, as JSON lines (BENCH selects)
	bin/bench-cas -run '$(BENCH)'
	bin/bench-oci -run '$(BENCH)'
	hack/testbed/with.sh $(TESTBED) $(again) bench-go
.PHONY: bench-go bin/bench-cas bin/bench-oci
bench-go:
	RMODELS_TEST_RUNTIME=$(CURDIR)/.cache/runtime/rootfs RMODELS_TEST_RMODELS=$(CURDIR)/bin/rmodels \
	go test -run '^$$' -bench '$(BENCH)' ./snapshot ./policy ./runner ./cmd/rmodels | grep '^{'
bin/bench-cas:
	go build -o $@ ./cas/bench
bin/bench-oci:
	go build -o $@ ./oci/bench

.PHONY: clean
clean: ## remove what was built, downloaded and started here
	hack/testbed/down.sh $(TESTBED)
	hack/demo/down.sh .cache/demo
	hack/demo/down.sh $(DEMO)
	rm -rf bin .cache
