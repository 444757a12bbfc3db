// Rmodels-probe is the probe as a program of its own, for an rmodels binary
// that is not static and so cannot run inside an image. It is found beside
// the rmodels binary. Build it with CGO_ENABLED=0.
package main

import (
	"os"

	"github.com/resultity/rmodels/runner/probe"
)

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == probe.Arg {
		args = args[1:]
	}
	os.Exit(probe.Main(args, os.Stdout))
}
