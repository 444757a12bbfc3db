// Package e2e tests rmodels from the outside: its command line alone, against
// a real registry, a real container engine and a real inference engine. It
// asserts the JSON and the exit codes that scripts and agents rely on.
//
// make test sets everything up and runs it; by hand:
//
//	hack/testbed/with.sh .cache/testbed make test-go
//
// Nothing is skipped: without its surroundings the package fails and says
// what is missing. The variables are
//
//	RMODELS_TEST_BED       env.json of hack/testbed: engine and registry
//	RMODELS_TEST_RMODELS   the program under test
//	RMODELS_TEST_RUNTIME   root filesystem of llama-server, from hack/runtime
//
// Each test has its own network (keys, ceremony, published snapshots), its own
// registry process for models, and its own node (state, store, configuration),
// so tests run in any order and side by side. The engine, and the registry that
// holds the runtime image, are shared.
package e2e
