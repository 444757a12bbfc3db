// Package testbed holds the scripts that start and end the surroundings of
// tests and of the demo: up.sh, down.sh, with.sh and deps.sh. Its own tests
// are the only Go in it.
package testbed
