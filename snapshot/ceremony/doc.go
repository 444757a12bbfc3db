// Package ceremony owns a publisher's ceremony: keys, a draft, what is being
// signed, what was published.
//
// Key holders sign on machines of their own; what travels between them holds
// no secrets. Before anything is published it goes through a node's own steps.
// Imports run one way: package snapshot knows nothing of this one.
package ceremony
