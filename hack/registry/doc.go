// Registry is the development registry: the real code of distribution v3
// behind TLS under an authority of its own and password authentication, with
// a front that records every request and injects faults on demand. Tests,
// the demo and benchmarks use it; nothing of it is part of the product.
//
//	registry serve -dir D
//
// # Owns
//
// One directory D, and nothing else:
//
//	registry.json   written when the registry answers, removed when it stops:
//	                address, ca, username, password, faults, requests, pid
//	ca.pem          the authority that clients must trust
//	server.pem/.key the certificate for 127.0.0.1, ::1 and localhost
//	htpasswd, password
//	address         the last address, taken again after a restart, because
//	                signed documents name it
//	data/           distribution's storage (not with -memory)
//	referrers/      indexes of the OCI 1.1 referrers API (with -referrers)
//	faults.json     what to do wrong: see [Fault]; read for every request
//	requests.jsonl  one [Request] per line, appended when the request ends
//
// # Invariants
//
//  1. Without faults.json, or with an empty one, every byte is distribution's.
//  2. A faults.json that does not parse fails every request with its error: a
//     test must not pass because its fault was misspelt.
//  3. A request is in requests.jsonl before its connection takes the next.
//
// distribution 3.1 has no referrers API, so clients fall back to the tag
// scheme; -referrers adds the API, for clients that must use it.
package main
