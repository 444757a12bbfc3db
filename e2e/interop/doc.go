// Package interop holds tests against the real clients and registries of the
// field: what oras and crane push is fetched, what is exported or pushed here
// is read by oras, crane and skopeo, on distribution (with the fallback tag
// and with the referrers API), on go-containerregistry's registry (which
// refuses open ranges), and through a pull-through cache.
//
// make test runs them. RMODELS_TEST_PEERS is the directory with oras, crane and
// the development registry; skopeo is found in PATH.
package interop
