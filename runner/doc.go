// Package runner makes one validation run: it starts a model's inference
// engine in a container with no network, proves that the box is closed, asks
// the test question and returns a verdict with its evidence.
package runner
