// Package probe looks at the box from within: it runs as the box's only
// program, under the flags that an engine will get, and tries to get out. It
// is built into a static binary that needs nothing of the image it runs in.
//
// The host side prepares bait (listeners, a file, an abstract socket) and
// tells the probe where to look. The probe prints its [Report] and ends with
// exit code 0 when it could try everything; whether the box is closed is for
// the reader of the report to say.
//
// The package imports the standard library and golang.org/x/sys alone, and
// never writes anything it could not create anew in an empty box.
package probe
