// Package version names the build.
package version

import "runtime/debug"

// Version is set by the linker (-X); a plain go build takes the module's.
var Version string

// String is the release, or the revision of a development build.
func String() string {
	if Version != "" {
		return Version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "devel"
}

// UserAgent is what rmodels calls itself to registries.
func UserAgent() string { return "rmodels/" + String() }
