// Package lifecycle owns a model's life on a node: its state, how it moves
// from one state to the next, the evidence kept for each move, and the
// reconcile pass that makes the node equal to the network's snapshot.
//
// # States
//
// A model version is Absent, Pending, Active, Inactive, Failed or Archived
// (see [State]). Only Active may be used. Every move is a [Transition] with
// who, when, why and the snapshot that asked for it.
//
// # Invariants
//
//  1. A record is durable before its effect is visible to anyone: a model is
//     used only through its record, so a crash leaves either the old state or
//     the new one.
//  2. Active is written in one place only ([Node.Validate]), after a verdict that passed for exactly
//     this manifest, runtime definition and test, under the snapshot that lists it; or when a
//     disabled model is enabled again and that verdict still holds.
//  3. A failed check changes the record and leaves its [Incident] in it in one
//     write; the incident is logged after that, once, by this pass or the next.
//  4. A failed hash or signature check keeps no bytes reachable; a failed
//     test inference quarantines the tree: it stays on disk, and nobody can
//     acquire it.
//  5. What the snapshot does not list is never Active, from the moment the
//     snapshot is accepted.
//  6. Planning is pure: [MakePlan] reads values and returns one; only
//     executing it touches the node.
//
// # Layout
//
// Below the node's state directory:
//
//	store/                              the content store (package cas), shared by all networks
//	floor/<network>.json                the rollback floor, kept apart from the cache it guards
//	networks/<network>/trust/           accepted snapshots (package snapshot)
//	networks/<network>/models/          one record a model version: <name>@<version>.json
//	networks/<network>/runtimes/        one record a runtime image
//	networks/<network>/audit.jsonl      admissions, failed checks, snapshots: append-only, chained
//	networks/<network>/runs/            traces of validation runs (package runner)
//	networks/<network>/withdrawn.json   the snapshot under which all records were looked at
//	networks/<network>/*.lock           locks: of the pass, of the snapshot, of the log; mode 0600
//
// # Concurrency
//
// Any number of processes may use one state directory. A record is changed
// under its model's lock and replaced atomically, so readers take no lock.
package lifecycle
