// Package runner makes one validation run: it starts a model's inference
// engine in a container that has no network and nothing of the host but the
// model, proves that this box is closed, asks the model's test question, and
// returns a verdict with its evidence. It knows no store and no policy: it is
// handed a directory, an image by digest and a test.
//
// # What it owns
//
// The table of differences between container engines (traits.go), the flags
// of the box (launch.go, flags.go, seccomp.json), the proof that it is closed
// (outside.go from the host, package probe from within), the images that it
// put into the engine (loaded.go), the way to a server without a network
// (netns.go), the protocols (protocol_*.go), what a right answer is
// (expect.go), and the cleaning up (record.go, box.go).
//
// # Invariants
//
//  1. Nothing is sent to an engine before the outside proof of its live
//     process has passed; a check that cannot be made has failed.
//  2. Requests go through the network namespace that was checked, held by a
//     descriptor, never by a pid or a name that could change hands.
//  3. A container's record exists, locked, before the container does, and goes
//     after it: whatever dies in between, the next run finds the orphan.
//  4. Every path out of a run removes its container with its volumes; the
//     caller's context cannot prevent that.
//  5. Images run by digest, are never pulled, and are loaded only from the
//     archive that the caller gives; only what was loaded so is ever removed.
//  6. A call of the engine's command line succeeded when its exit code is 0;
//     its stderr decides nothing.
//  7. Whatever comes out of the box (answers, logs, image descriptions) is
//     bounded before it is kept, timed, and cleaned before it is shown.
//  8. One run at a time holds the run lock; one with devices holds the GPU
//     lock as well.
//
// # Layout on disk
//
// In the job's StateDir (mode 0700): box-NAME.json and box-NAME.log (record
// and output pipe of a run that is under way), image-ENGINE-DIGEST.json (an
// image that was loaded), seccomp-DIGEST.json, proofs, run.lock and gpu.lock.
// Nothing of a finished run but proofs stays there.
//
// # What it never does
//
// It never resolves a tag, opens a network connection of the host, passes a
// host directory other than the model, gives the box a capability, or decides
// what becomes of a model: that is the caller's, from the verdict.
package runner
