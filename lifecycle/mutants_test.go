//go:build mutants

package lifecycle

import (
	"testing"

	"github.com/resultity/rmodels/internal/mutants"
)

// TestMutants takes some minutes:
//
//	go test -tags mutants -run 'TestMutants$' -timeout 60m ./lifecycle
func TestMutants(t *testing.T) {
	mutants.Run(t, []mutants.Mutant{
		// Roots follow from records.
		mutants.One("Active is pinned", "TestEnabledByANewTest", "root.go", "case r.State == Pending, r.State == Active:", "case r.State == Pending:"),
		mutants.One("Pending is pinned", "TestCutOffMove|TestEnabledByANewTest", "root.go", "case r.State == Pending, r.State == Active:", "case r.State == Active:"),
		mutants.One("quarantined bytes are pinned", "TestQuarantinedBytesStay", "root.go", `r.State == Failed && r.Tree != "" && r.Cause != CauseRevoked`, "false"),
		mutants.One("a record is saved with its pin", "TestEnabledByANewTest|TestCutOffMove", "root.go", "pinErr = n.pin(ctx, r, true)", "pinErr = nil"),
		mutants.One("nothing is Active without its root", "TestActiveNeedsItsRoot", "root.go", "case pinErr != nil && r.State == Active:", "case false:"),
		mutants.One("what is kept for later makes way", "TestQuarantinedBytesStay", "root.go", "return unlessAbsent(n.pin(ctx, r, false))", "return nil"),
		mutants.One("a pass sets pins right", "TestFsckCompares", "root.go", "return unlessAbsent(st.Pin(ctx, ref.Name, w == pinned))", "return nil"),
		mutants.One("a collection asks the records", "TestCollectorCrossChecks", "collect.go", "o.Wanted = wanted(st, networks)\n	res", "res"),
		mutants.One("and leaves other state directories' roots alone", "TestCollectorOfASharedStore", "collect.go", `return strings.HasPrefix(ref.Name, "model/") || strings.HasPrefix(ref.Name, "runtime/"), nil`, "return false, nil"),
		mutants.One("a lost record costs no bytes", "TestLostRecordKeepsBytes", "root.go", "ok && m.Enabled && m.Digest() == ref.Tree", "ok && m.Enabled && false"),
		mutants.One("a stopped activation holds up no snapshot", "TestStoppedActivation", "sync.go", "case errors.Is(err, ErrBusy):", "case false:"),
		mutants.One("nobody uses a model without a snapshot", "TestReadersWithoutASnapshot", "withdraw.go", "if r.State == Active || r.State == Pending {\n				r.State", "if false {\n				r.State"),
		mutants.One("of all networks", "TestCollectorCrossChecks", "collect.go", "all = append(all, newNode(o))", "_ = o"),
		mutants.One("a damaged record wants its root", "TestCollectorCrossChecks", "collect.go", "out = append(out, cas.Want{Ref: n.modelRef(id)})", ""),
		mutants.One("an unpinned root that is wanted is an incident", "TestCollectorCrossChecks", "root.go", "if w == pinned {\n		if err := n.unpinned(id); err != nil {", "if false {\n		if err := n.unpinned(id); err != nil {"),
		mutants.One("a root that keeps another tree is none", "TestFsckCompares", "execute.go", "err == nil && ref.Tree != r.Manifest", "false"),

		mutants.One("init looks before it makes", "TestInitMakesNothing", "node.go", "durable.CheckPlace(d)", `durable.CheckPlace(d[:0] + "/")`),
		mutants.One("records are bounded", "TestRecordsCanBeSaved", "root.go", "	r.bound()\n", ""),
		mutants.One("failures are bounded", "TestLongAnswers|TestRecordsCanBeSaved", "failure.go", "terminal.Clip(terminal.Clean(*s), limit)", "terminal.Clip(terminal.Clean(*s), limit+len(*s))"),

		// Withdrawal.
		mutants.One("withdrawal comes before the source is asked", "TestNothingHoldsUp", "sync.go", "if err := n.withdrawStored(ctx, res); err != nil && !errors.Is(err, snapshot.ErrCache) {", "if err := error(nil); err != nil {"),
		mutants.One("and before the lock of the pass", "TestNothingHoldsUp", "sync.go", "return acc, n.withdraw(ctx, acc, res)", "return acc, nil"),
		mutants.One("verify leaves a quarantine as it is", "TestVerifyOfAQuarantine", "verify.go", "!v.Decision.Allowed && r.State == Failed", "false"),
		mutants.One("verify looks at runtime images", "TestVerifyRepairsRuntimeImages", "verify.go", "if len(o.Only) == 0 {\n		images", "if false {\n		images"),
		mutants.One("signatures of a runtime image are fetched again", "TestVerifyRepairsRuntimeImages", "validate.go", " && sound(st, rec.Blobs)", ""),
		mutants.One("sources are asked when it is out of use", "TestNothingHoldsUp|TestReadersGo", "withdraw.go", `return do(Disable, Inactive, "not admitted under the snapshot in force: "+d.Reason)`, "return refused(d)"),
		mutants.One("readers go by the accepted snapshot", "TestReadersGo", "node.go", "	n.underSnapshot(recs, seen)\n", "	_ = seen\n"),
		mutants.One("what was left is looked at again", "TestReadersGo", "withdraw.go", "delete(done.Seen, a.ID())", "_ = a"),
		mutants.One("a mark is of one file", "TestMarkIsOfFiles", "withdraw.go", "file != \"\" && w.Seen[id] == file", "w.Seen[id] != \"\""),
		mutants.One("what ends after a newer snapshot came is looked at whole", "TestKeyRevokedDuringAnInstall", "execute.go", "n.withdrawals(acc, []*Record{r}, nil)", "[]Action(nil)"),
		mutants.One("a mark is of one snapshot", "TestReadersGo", "withdraw.go", "return w.Snapshot == acc.Digest && ", "return "),
		mutants.One("expiry takes force at once", "TestExpiry", "withdraw.go", `case r.State == Active && acc.Freshness == snapshot.Expired && doc.Settings.Expired == "stop":`, "case false:"),
		mutants.One("nothing new is activated when it became stale", "TestExpiry", "execute.go", "cur.Freshness != snapshot.Fresh && before != Active", "false"),
		mutants.One("admission is cached by snapshot", "TestAdmissionIsMadeOnce", "admit.go", "if c.snapshot != snap {\n		return policy.Decision{}, false", "if false {\n		return policy.Decision{}, false"),
		mutants.One("admission is cached", "TestAdmissionIsMadeOnce", "admit.go", "if d, ok := n.admissions.get(acc.Digest, key); ok {", "if d, ok := n.admissions.get(acc.Digest, key); ok && false {"),
	})
}
