//go:build mutants

package policy_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// change replaces one text in one file of a package.
type change struct{ file, old, new string }

// guardless is a build without one guard (or without both of two guards that
// cover for each other), and the tests that must notice.
type guardless struct {
	guard   string
	pkg     string
	tests   string
	changes []change
}

func one(guard, pkg, tests, file, old, new string) guardless {
	return guardless{guard, pkg, tests, []change{{file, old, new}}}
}

var trustMutants = []guardless{
	// The document.
	one("unknown members are refused", "snapshot", "TestParseBytes", "parse.go", "json.RejectUnknownMembers(true)", "json.RejectUnknownMembers(false)"),
	one("the document is checked", "snapshot", "TestCheck", "parse.go", "if err := s.Check(); err != nil {", "if err := s.Check(); err != nil && false {"),
	one("the document's size is bounded", "snapshot", "TestParseBytes", "parse.go", "if len(b) > MaxDocument {", "if false {"),
	one("default must be reject", "snapshot", "TestCheck", "check.go", `if s.Default != "reject" {`, "if false {"),
	one("names are safe as file names", "snapshot", "TestCheck", "check.go", "if alnum || i > 0 && (c == '.' || c == '_' || c == '-') {", "if alnum || true {"),
	one("references carry no tag", "snapshot", "TestCheck", "reference.go", `case strings.Contains(path, ":"):`, "case false:"),
	one("digests have one spelling", "snapshot", "TestCheck", "reference.go", "(c < '0' || c > '9') && (c < 'a' || c > 'f')", "c == 0"),
	one("a threshold can be met", "snapshot", "TestCheck", "check_policy.go", "if pol.Threshold > len(pol.Authorities) || pol.Threshold > len(signers) {", "if pol.Threshold > len(pol.Authorities) {"),
	one("legacy keyless is refused in the document", "snapshot", "TestCheck", "check_policy.go", "if a.Keyless != nil {\n\t\t\tp.add(path+\".signatureFormat\"", "if false {\n\t\t\tp.add(path+\".signatureFormat\""),
	one("weak keys are refused", "snapshot", "TestCheck", "check_policy.go", "n < 2048 || n > 8192", "n > 8192"),
	one("templates are plain fields", "snapshot", "TestCheck", "check_model.go", `case ".Model", ".ModelDir", ".ModelName", ".Port":`, "case action:"),
	one("no runtime runs as root", "snapshot", "TestCheck", "check_model.go", "if n == 0 {\n\t\t\treturn fmt.Errorf(\"%q: %s 0 is root\"", "if false {\n\t\t\treturn fmt.Errorf(\"%q: %s 0 is root\""),
	one("a validation expects something", "snapshot", "TestCheck", "check_model.go", `if e.Exact == "" && e.Contains == ""`, `if false && e.Exact == "" && e.Contains == ""`),
	one("globs match whole segments", "snapshot", "TestMatchGlob", "check_policy.go", `seg == "*" || seg == part`, `seg == "*" || strings.HasPrefix(part, seg)`),

	// Acceptance.
	one("old timestamps are refused", "snapshot", "TestAttacks/rollback", "set.go", "if oldTimestamp != nil &&", "if false && oldTimestamp != nil &&"),
	one("old targets are refused", "snapshot", "TestAttacks/rollback", "set.go", "if old := s.previousMeta(); old != nil {", "if old := s.previousMeta(); old != nil && false {"),
	one("a lower sequence is refused", "snapshot", "TestAttacks", "floor.go", "if doc.Sequence < f.Sequence {", "if false {"),
	one("one sequence has one digest", "snapshot", "TestAttacks/equivocation", "floor.go", `if doc.Sequence == f.Sequence && f.Digest != "" && d != f.Digest {`, "if false {"),
	one("roots may not be withheld", "snapshot", "TestAttacks/malicious", "accept.go", "v < fl.Root.Version {", "v < 0 {"),
	one("the floor is raised from the cache", "snapshot", "TestFloorApart", "accept.go", "if f.Digest == rec.Digest {", "if true {"),
	one("the floor stays while old keys suffice", "snapshot", "TestFloorStays", "floor.go", "if kept < root.Signed.Roles[metadata.TARGETS].Threshold {", "if true {"),
	one("the floor goes back with new keys", "snapshot", "TestFastForward", "floor.go", "if kept < root.Signed.Roles[metadata.TARGETS].Threshold {", "if false {"),
	one("time does not run backwards", "snapshot", "TestAttacks/freeze", "accept.go", "ref := latest(now, fl.AcceptedAt, rec.AcceptedAt)", "ref := now"),
	one("an expired document is refused", "snapshot", "TestAttacks/freeze", "current.go", "{\"document\", a.Document.Expires},", ""),
	one("networks are apart", "snapshot", "TestAttacks/wrong|TestNetworksApart", "set.go", "if doc.Network != network {", "if false {"),
	one("a source's cap is not trusted", "snapshot", "TestAttacks/endless", "set.go", "if int64(len(b)) > max {", "if false {"),
	one("a target's length is bounded", "snapshot", "TestAttacks/endless", "set.go", "if tf.Length > max {", "if false {"),
	one("new roots are bounded", "snapshot", "TestAttacks/endless", "metadata.go", "maxRootUpdates = 256", "maxRootUpdates = 100000"),
	one("trust roots are pinned by digest", "snapshot", "TestAttacks/a_trust_root", "set.go", "if d := digest.FromBytes(b); d != r.Digest {", "if d := digest.FromBytes(b); d != r.Digest && false {"),
	{"keys have their length (both guards)", "snapshot", "TestAttacks/a_key_of", []change{
		{"metadata.go", "len(k.Value.Public) != 64", "false"},
		{"metadata.go", "if r := recover(); r != nil {", "if r := any(nil); r != nil {"},
	}},
	{"metadata is one JSON value with unique members", "snapshot", "TestAttacks/duplicate", []change{
		{"metadata.go", "if err := json.Unmarshal(b, &m); err != nil {", "if err := json.Unmarshal(b, &m, jsontext.AllowDuplicateNames(true)); err != nil {"},
		{"metadata.go", "\"github.com/go-json-experiment/json\"", "\"github.com/go-json-experiment/json\"\n\t\"github.com/go-json-experiment/json/jsontext\""},
	}},
	one("a panic of the library is a refusal", "snapshot", "TestAttacks/members", "metadata.go", "if r := recover(); r != nil {", "if r := any(nil); r != nil {"),
	one("a closed door is no rejection", "snapshot", "TestSourceAnswers", "source.go", "return nil, fmt.Errorf(\"%w: %s: %s: %w\", ErrSource, req.URL.Redacted(), resp.Status, fs.ErrNotExist)", "return nil, fmt.Errorf(\"%s: %s: %w\", req.URL.Redacted(), resp.Status, fs.ErrNotExist)"),
	one("a page is no file of a repository", "snapshot", "TestSourceAnswers", "source.go", "if err == nil && !beginsJSON(b) {", "if err == nil && !beginsJSON(b) && false {"),
	one("what a source sent is no failed check of the network", "lifecycle", "TestPortalIsNoIncident", "failure.go", "if c.cause.failedCheck() && errors.Is(err, snapshot.ErrSource) {", "if false {"),
	one("push files name plain files", "snapshot", "TestAttacks/a_push", "bundle.go", "if err := checkFileName(name); err != nil {\n\t\t\treturn nil, fmt.Errorf(\"%w: push file", "if err := checkFileName(name); err != nil && false {\n\t\t\treturn nil, fmt.Errorf(\"%w: push file"),
	one("push files are bounded", "snapshot", "TestAttacks/a_push", "bundle.go", "if len(b) > MaxBundle {\n\t\treturn nil, fmt.Errorf(\"%w: push file of %d bytes, at most %d\", ErrTooLarge, len(b), MaxBundle)\n\t}\n\tvar p", "var p"),
	one("links are not followed", "snapshot", "TestReadBundle", "bundle.go", "syscall.O_NOFOLLOW|", ""),
	one("the pin is not replaced", "snapshot", "TestPin", "trust.go", "if old.Network == p.Network && old.Digest == p.Digest {", "if true {"),
	one("a damaged root stops the node", "snapshot", "TestDamagedRoot", "trust.go", "return nil, stopped(path, t.dir, t.pin.Network, err)", "break"),
	one("the pin is whole", "snapshot", "TestDamagedPin", "trust.go", "if d := digest.FromBytes(p.Root); d != p.Digest {", "if d := digest.FromBytes(p.Root); d != p.Digest && false {"),
	one("replaced keys make what they signed stale", "snapshot", "TestSuperseded", "current.go", `case superseded != "":`, "case false:"),
	one("stale is told", "snapshot", "TestFreshness", "current.go", "case now.After(a.StaleAt):\n\t\ta.Freshness", "case false:\n\t\ta.Freshness"),
	one("expired is told", "snapshot", "TestFreshness", "current.go", "case now.After(a.ExpiredAt):", "case false:"),
	// The ceremony.
	one("what a node would refuse is not published", "snapshot/ceremony", "TestRenew$", "publish.go", "st.r.config.Network, st.now, seen); err != nil {", "st.r.config.Network, st.now.AddDate(-1, 0, 0), seen); err != nil {"),
	one("what is not complete is not published", "snapshot/ceremony", "TestCeremony|TestEmergency", "publish.go", "if !role.Complete && (i > 0 || st.published == nil) {", "if !role.Complete && i < 0 {"),
	one("unsigned edits are not published", "snapshot/ceremony", "TestNothingGoesBack", "publish.go", "if st.unsigned() {", "if false {"),
	one("a root is signed when it was asked for", "snapshot/ceremony", "TestStrangersRoot", "sign.go", "if !s.o.Root || s.waiting == nil {", "if s.waiting == nil {"),
	one("a root is confirmed", "snapshot/ceremony", "TestStrangersRoot", "sign.go", "needs := signsRoot ||", "needs :="),
	one("a document is confirmed", "snapshot/ceremony", "TestNothingIsSignedUnnamed|TestChangedOnTheWay|TestLateStick", "sign.go", "needs := signsRoot || targets ||", "needs := signsRoot ||"),
	one("the online key's risks are confirmed", "snapshot/ceremony", "TestNothingIsSignedUnnamed", "sign.go", "online && len(p.Risks) > len(st.rootRisks())", "false"),
	one("a first root is confirmed for the online key", "snapshot/ceremony", "TestFoundingSwap", "sign.go", "unmet := online && st.unmet(o.Keys)", "unmet := online && st.unmet(o.Keys) && false"),
	one("a network that the online key has not met is confirmed", "snapshot/ceremony", "TestFoundingSwap", "sign.go", "return k.memory.First == \"\" &&", "return false &&"),
	one("a renewal is for a network that was met", "snapshot/ceremony", "TestFoundingSwap", "publish.go", "if st.unmet(keys) {", "if false {"),
	one("holders remember what they signed", "snapshot/ceremony", "TestSignedIsRemembered", "signed.go", "case now.Version == m.Version && now.Digest != m.Digest:", "case false:"),
	one("a lower number is refused", "snapshot/ceremony", "TestSignedBelow", "signed.go", "case refuse && now.Version < was(&k.memory).Version:", "case false:"),
	one("a renewal goes back behind nothing", "snapshot/ceremony", "TestSignedIsRemembered", "publish.go", "if err := st.renewed(keys, targets); err != nil {", "if err := st.renewed(nil, targets); err != nil {"),
	one("a key's own risk is in the digest", "snapshot/ceremony", "TestSignedIsRemembered", "signed.go", "p.Digest = digest.FromString(p.Digest.String() + \"\\n\" + why)", "_ = digest.FromString(why)"),
	one("no timestamp has a number twice", "snapshot/ceremony", "TestSignedIsRemembered", "sign.go", "max(on.version, k.memory.SignedSnapshot+1), max(stamp, k.memory.SignedTimestamp+1)", "on.version, stamp"),
	one("what is signed is kept first", "snapshot/ceremony", "TestSignedFirstOnDisk", "signed.go", "if err := k.keep(m); err != nil {", "if err := k.keep(m); err != nil && false {"),
	one("a site is there already", "snapshot/ceremony", "TestSiteIsThere", "publish.go", "!o.NewSite && nothingAt(ctx, s)", "false && nothingAt(ctx, s)"),
	one("somebody's other directory is no lost ceremony", "snapshot/ceremony", "TestRebuild", "repository.go", "return nil, err // somebody's other directory", "continue"),
	one("terms are in the digest", "snapshot/ceremony", "TestTermsAreConfirmed", "pending.go", "Dropped: p.Dropped, Terms: p.Terms, Risks: p.Risks}", "Dropped: p.Dropped}"),
	one("a draft that says what was published is begun from it", "snapshot/ceremony", "TestDraftOfAnEarlierVersion", "draft.go", "if st.document() != nil && sameContent(next, st.document()) {", "if false {"),
	one("the beginning of a digest is of one artifact", "snapshot/ceremony", "TestShortDigest", "revoke.go", "if len(found) != 1 {", "if len(found) == 0 {"),
	one("a folder stays its network's", "snapshot/ceremony", "TestUpdateKeepsTheNetwork", "publish.go", "ours != nil && ours.acc != nil && !o.Replace {", "ours != nil && ours.acc != nil && !o.Replace && false {"),
	one("a renewal keeps to its term", "snapshot/ceremony", "TestRenewKeepsItsTerm", "sign.go", "case term > limit:", "case false:"),
	one("a confirmation is for what was shown", "snapshot/ceremony", "TestStrangersRoot", "sign.go", "case o.Confirmed != \"\" && o.Confirmed != p.Digest:", "case false:"),
	one("the digest is of the root", "snapshot/ceremony", "TestStrangersRoot", "pending.go", "if sum.Root, err = signedDigest(st.waiting.meta); err != nil {", "if _, err = signedDigest(st.waiting.meta); err != nil {"),
	{"what waits follows what was published (both guards)", "snapshot/ceremony", "TestLateStick|TestNothingGoesBack", []change{
		{"state.go", "case tg.Signed.Version != next:", "case false:"},
		{"state.go", "case s.doc.Sequence != st.sequence()+1:", "case false:"},
	}},
	one("a waiting root counts when it is complete", "snapshot/ceremony", "TestStrangersRoot|TestEmergency", "state.go", "if st.waiting != nil && (st.waiting.complete || st.published == nil) {", "if st.waiting != nil {"),
	one("lost revocations are a risk", "snapshot/ceremony", "TestLateStick", "pending.go", "for _, rev := range unrevoked(st.document(), st.draft) {", "for _, rev := range unrevoked(nil, st.draft) {"),
	one("an old draft is a risk", "snapshot/ceremony", "TestLateStick", "pending.go", "c.Begun != c.Against &&", "false &&"),
	one("dropped signatures are told", "snapshot/ceremony", "TestChangedOnTheWay|TestDatedWhenSigned", "pending.go", "len(keys) > 0 {\n\t\t\tp.Dropped", "false {\n\t\t\tp.Dropped"),
	one("an expired document is dated anew", "snapshot/ceremony", "TestDatedWhenSigned", "state.go", "case !st.now.Before(s.doc.Expires) || !st.now.Before(tg.Signed.Expires):", "case false:"),
	one("the site is read first", "snapshot/ceremony", "TestNothingGoesBack", "publish.go", "if err := r.compare(ctx, next, s, o); err != nil {", "if err := r.compare(ctx, next, s, o); err != nil && false {"),
	one("one number has one text", "snapshot/ceremony", "TestNothingGoesBack", "line.go", "default:\n\t\t\treturn fmt.Errorf(\"%w: %s\", ErrOtherLine, name)", "case false:\n\t\t\treturn fmt.Errorf(\"%w: %s\", ErrOtherLine, name)"),
	one("a renewal that crossed is taken over", "snapshot/ceremony", "TestRenewedTwice", "publish.go", "(!errors.Is(err, errRenewed) || !theirs.renews(st.published))", "true"),
	one("a renewal that crossed is no other line", "snapshot/ceremony", "TestRenewedMeanwhile", "line.go", "case name == snapshot.TimestampFile || name == ", "case name == "),
	one("a published revocation stays", "snapshot/ceremony", "TestNothingGoesBack", "publish.go", "if theirs == nil || theirs.acc == nil || o.Unrevoke {", "if true {"),
	one("another network is refused", "snapshot/ceremony", "TestNothingGoesBack|TestUpdate", "line.go", "if same, err := sameRoot(ours.roots[0], theirs.roots[0]); err != nil || !same {", "if same, err := sameRoot(ours.roots[0], theirs.roots[0]); err != nil || !same && false {"),
	one("holders remember the first root", "snapshot/ceremony", "TestHoldersRemember", "key.go", "if first != m.First {", "if false {"),
	one("holders remember what was published", "snapshot/ceremony", "TestHoldersRemember", "key.go", "case st.targetsVersion() < m.Targets || sequence < m.Sequence && root == m.Root:", "case false:"),
	one("links in place of folders are refused", "snapshot/ceremony", "TestLinks", "folder.go", "if !named.IsDir() {", "if false {"),
	one("what others can read is no key", "snapshot/ceremony", "TestKeyFiles", "key.go", "st.Mode().Perm()&0o077 != 0", "false"),
	one("a revocation matches something", "snapshot/ceremony", "TestTypos", "revoke.go", "if !unlisted {", "if false {"),
	one("a withdrawal falls back to what was published", "snapshot/ceremony", "TestEmergency", "draft.go", "if withdraws && st.draftErr != nil && st.document() != nil {", "if false {"),
	one("limits are said when made", "snapshot/ceremony", "TestSaidWhenMade", "draft.go", "n > snapshot.MaxPushFiles {", "false {"),
	one("the timestamp comes last", "snapshot/ceremony", "TestCrashPoints", "publish.go", "case name == snapshot.TimestampFile:\n\t\t\treturn 2", "case name == snapshot.TimestampFile:\n\t\t\treturn -1"),
	one("an ID is that of its key", "snapshot/ceremony", "TestAnotherKeyUnderAKnownID", "root.go", "if own, err := tufID(k); err != nil || own != id {", "if own, err := tufID(k); err != nil || own != id && false {"),
	one("a carrier's dates are not signed", "snapshot/ceremony", "TestDatesOfACarrier", "state.go", "case s.doc.Created.After(st.now.Add(clockSkew)) ||", "case false &&"),
	one("what no holder has signed is not staged", "snapshot/ceremony", "TestStagedByACarrier", "state.go", "if len(snapshot.SignersOf(root, metadata.TARGETS, tg)) == 0 {", "if false {"),
	one("a holder's other term is not signed", "snapshot/ceremony", "TestStagedByAHolder", "state.go", "!= terms.Document.Std():", "!= terms.Document.Std() && false:"),
	one("a holder's other targets are not signed", "snapshot/ceremony", "TestStagedByAHolder", "state.go", "if !sameSigned(own, tg) {", "if !sameSigned(own, tg) && false {"),
	one("no value that is confirmed is cut off", "snapshot/ceremony", "TestValuesAreWhole", "values.go", "string(was), string(is)}}", "string(was), string(is[:min(len(is), 512)])}}"),
	one("much shorter terms are a risk", "snapshot/ceremony", "TestShortTerms", "pending.go", "{ return is < was/3 }", "{ return is < was/3 && false }"),
	one("the online term does not sink unconfirmed", "snapshot/ceremony", "TestShortTerms", "sign.go", `why != "" || s.o.Confirmed != "" {`, `why != "" || true {`),
	one("a root's own risks are told", "snapshot/ceremony", "TestRootOfACarrier", "pending.go", "p.Risks = append(p.Risks, st.rootRisks()...)", ""),
	one("longer terms are a risk", "snapshot/ceremony", "TestDatesOfACarrier", "pending.go", "case is > was:", "case false:"),
	one("what was shown is what is signed", "snapshot/ceremony", "TestChangedMeanwhile", "sign.go", "err != nil || now != s.shown {", "err != nil || now != s.shown && false {"),
	one("a ceremony is locked", "snapshot/ceremony", "TestOneFolder", "folder.go", "err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)", "var err error"),

	// The clock, the roots that were seen, the floor.
	one("what was seen stale stays stale", "snapshot", "TestClockBack", "current.go", "acc.judge(latest(now, rec.AcceptedAt, fl.AcceptedAt, fl.SeenAt), superseded)", "acc.judge(latest(now, rec.AcceptedAt), superseded)"),
	one("what was seen expired stays expired", "snapshot", "TestClockBack", "current.go", "fl.AcceptedAt, fl.SeenAt), superseded)", "fl.AcceptedAt), superseded)"),
	one("a set that was seen stale is not taken again", "snapshot", "TestClockBack|TestLate", "clock.go", "earliest(now, pastEnd(acc.StaleAt))", "earliest(now, acc.StaleAt)"),
	one("the time seen is believed as far as the grace", "snapshot", "TestClockWasAhead", "clock.go", "earliest(now, pastEnd(acc.ExpiredAt))", "now"),
	one("the time of what comes is believed as far as the terms", "snapshot", "TestClockWasAhead|TestClockWalks", "clock.go", "earliest(now, pastEnd(acc.StaleAt))", "now"),
	one("the time seen is written down", "snapshot", "TestClockBack", "clock.go", "raised = raised || fl.advanced(old, acc)", "_ = acc"),
	one("the end of a term is written down", "snapshot", "TestWitnessWritesSeldom", "clock.go", "if f.SeenAt.After(end) && !old.SeenAt.After(end) {", "if f.SeenAt.After(end) && !old.SeenAt.After(end) && false {"),
	one("the time seen is not written on every pass", "snapshot", "TestWitnessWritesSeldom", "clock.go", ">= noticeably {", "> 0 {"),
	one("an acceptance is forgotten with the time", "snapshot", "TestClockWasAhead", "clock.go", "if had && rec.AcceptedAt.After(now) {", "if had && rec.AcceptedAt.After(now) && false {"),
	one("a late set withdraws", "snapshot", "TestLateSetWithdraws", "accept.go", "if late != nil && maps.EqualFunc(s.files, rec.Files, bytes.Equal) {", "if late != nil && (true || maps.EqualFunc(s.files, rec.Files, bytes.Equal)) {"),
	one("a late set is late", "snapshot", "TestAttacks/freeze|TestLate", "accept.go", "return c.acc, c.late\n", "return c.acc, nil\n"),
	one("a late renewal is kept", "snapshot", "TestLateRenewalStaysLate", "accept.go", "if late != nil && maps.EqualFunc(s.files, rec.Files, bytes.Equal) {", "if late != nil && (acc.Digest == rec.Digest || maps.EqualFunc(s.files, rec.Files, bytes.Equal)) {"),
	one("no document of the future", "snapshot", "TestUntimely", "current.go", "c.Sub(now) > maxAhead {", "false {"),
	one("no term for ever", "snapshot", "TestUntimely", "current.go", "if t.at.Sub(now) > maxTerms {", "if false {"),
	one("a root that was seen is remembered", "snapshot", "TestRootSeen", "accept.go", "if version <= fl.Root.Version {", "if true {"),
	one("a root that was seen is missed", "snapshot", "TestRootSeen", "current.go", "v < fl.Root.Version {", "v < 0 {"),
	one("no second root under one number", "snapshot", "TestRootSeen", "accept.go", "if err := seen.check(tm.Root); err != nil {", "if err := seen.check(tm.Root); err != nil && false {"),
	one("no second root on the disk", "snapshot", "TestRootSeen", "trust.go", "err = nextRoot(tm, b)\n\t\t}\n\t\tif err == nil {", "err = nextRoot(tm, b)\n\t\t}\n\t\tif false {"),
	one("no second root is pinned", "snapshot", "TestRootSeen", "trust.go", "if err := fl.Root.check(tm.Root); err != nil {", "if err := fl.Root.check(tm.Root); err != nil && false {"),
	one("a stored root raises the floor", "snapshot", "TestRootSeenLater", "accept.go", "if v := newest.Signed.Version; v > f.Root.Version ||", "if v := newest.Signed.Version; false ||"),
	one("a floor that is gone is told", "snapshot", "TestFloorLost", "clock.go", "if !found {\n\t\treturn fmt.Errorf(\"%w: %s is gone", "if false {\n\t\treturn fmt.Errorf(\"%w: %s is gone"),
	one("a late snapshot that was pushed withdraws", "lifecycle", "TestLateSnapshotWithdraws", "sync.go", "if acc == nil {\n\t\treturn nil, nil, err", "if err != nil {\n\t\treturn nil, nil, err"),
	one("nothing is removed while the snapshot is late", "lifecycle", "TestClockAheadDeletesNothing", "plan.go", "if !fresh {", "if false {"),
	one("no removal is put off by a clock that was ahead", "lifecycle", "TestClockAheadDeletesNothing", "execute.go", "r.Unlisted.IsZero() || r.Unlisted.After(n.now())", "r.Unlisted.IsZero()"),
	one("no attempt is put off by a clock that was ahead", "lifecycle", "TestTimesOfAWrongClock", "plan.go", "return left > 0 && left <= max(longestRetry, in.Accepted.Document.Settings.Retry.Max.Std())", "return left > 0"),
	one("no test is put off by a clock that was ahead", "lifecycle", "TestTimesOfAWrongClock", "plan.go", " || r.Tested.After(now))", ")"),
	one("a pass writes down the time", "lifecycle", "TestClockBackRevivesNothing", "sync.go", "res.SnapshotFailure = AsFailure(n.witness(ctx, t))", "_ = n.witness"),
	one("a floor that is gone is an incident", "lifecycle", "TestLostFloorIsAnIncident", "trust.go", "if !errors.Is(err, snapshot.ErrFloorLost) {", "if true {"),
	one("readers read the floor first", "snapshot", "TestReadersMeanwhile", "current.go", "if !ok {\n\t\tif fl.Sequence > 0 {", "fl, _, _ = t.readFloor()\n\tif !ok {\n\t\tif fl.Sequence > 0 {"),

	// Signatures.
	one("the predicate type is checked", "policy", "TestAttestations|TestAdmissionProperty", "signatures.go", "signature := s.PredicateType == SignaturePredicate", "signature := true"),
	one("who only attests does not sign", "policy", "TestAttestsOnly|TestAdmissionProperty", "signatures.go", "if err == nil && v.authority.AttestsOnly {", "if false {"),
	one("who only attests does not sign in the old format", "policy", "TestAttestsOnly", "signatures.go", "return c.eachSigner(e, func(v *verifier) (Signer, error) { return v.legacy(e.Payload, sig) })", "return c.each(e, &c.signers, func(v *verifier) (Signer, error) { return v.legacy(e.Payload, sig) })"),
	one("a threshold is of those who sign", "snapshot", "TestCheck", "check_policy.go", "if pol.Threshold > signing ||", "if"),
	one("a key does not sign under a second name", "snapshot", "TestCheck", "check_policy.go", "if signers[who] {", "if false {"),
	one("a log proves inside its key's validity", "policy", "TestLogKeysEnd", "logs.go", "if len(valid.RekorLogs()) == len(material.RekorLogs()) && ", "if "),
	one("a CT log counts inside its key's validity", "policy", "TestLogKeysEnd", "logs.go", " && len(valid.CTLogs()) == len(material.CTLogs()) {", " {"),
	one("a log's key ends", "policy", "TestLogKeysEnd", "logs.go", "(l.ValidityPeriodEnd.IsZero() || !t.After(l.ValidityPeriodEnd))", "true"),
	one("a log's key begins", "policy", "TestLogKeysEnd", "logs.go", "!t.Before(l.ValidityPeriodStart) &&", ""),
	one("a log's key has a beginning", "policy", "TestLogKeysEnd", "logs.go", "return !l.ValidityPeriodStart.IsZero() })", "return true })"),
	one("a timestamp authority tells the time before a log does", "policy", "TestLogKeysEnd", "logs.go", "return stamps\n", "return append(stamps, logs...)\n"),
	one("identities are matched by the type of the name", "policy", "TestCertificateNames", "verifier.go", "if want := kindOf(id.Subject); kind != want {", "if want := kindOf(id.Subject); kind != want && false {"),
	one("a certificate has one name", "policy", "TestCertificateNames", "identity.go", "if len(names) > 1 {", "if false {"),
	one("a name is compared as it stands", "policy", "TestCertificateNames", "verifier.go", "if !slices.Contains(v.identities, id) {", "if !slices.Contains(v.identities, id) && false {"),
	one("a certificate has one issuer", "policy", "TestCertificateNames", "identity.go", "case len(found) == 2 && found[0] != found[1]:", "case false:"),
	one("OMS: what is outside is named", "policy", "TestOMS", "signatures.go", "c.outside = append(c.outside, outside...)", "_ = outside"),
	{"the subject is the manifest (both guards)", "policy", "TestKeySignatures|TestKeyless", []change{
		{"signatures.go", "if !s.about(about) {", "if false {"},
		{"verifier.go", `verify.WithArtifactDigest("sha256", sum)`, "verify.WithoutArtifactUnsafe()"},
		{"verifier.go", "sum, err := hex.DecodeString(manifest.Encoded())", "_, err := hex.DecodeString(manifest.Encoded())"},
	}},
	{"the identity is the policy's (both guards)", "policy", "TestKeyless|TestThreshold", []change{
		{"verifier.go", "options = append(options, verify.WithCertificateIdentity(cid))", "_, options = cid, []verify.PolicyOption{verify.WithoutIdentitiesUnsafe()}"},
		{"verifier.go", "if !slices.Contains(v.identities, id) {", "if !slices.Contains(v.identities, id) && false {"},
	}},
	one("a legacy payload is about the manifest", "policy", "TestKeySignatures", "verifier.go", "if p.Critical.Image.DockerManifestDigest != manifest.String() {", "if false {"),
	one("a legacy payload is a signature", "policy", "TestLegacy", "verifier.go", "if p.Critical.Type != legacyType {", "if false {"),
	one("a legacy signature verifies", "policy", "TestKeySignatures|TestLegacy", "verifier.go", "return ver.VerifySignature(bytesReader(sig), bytesReader(message))", "_ = ver\n\t\treturn nil"),
	one("a bare envelope is an attestation", "policy", "TestBareEnvelopes", "statement.go", "if s.PredicateType == SignaturePredicate {", "if false {"),
	one("a bare envelope has one signature", "policy", "TestBareEnvelopes", "statement.go", "if n := len(e.Signatures); n != 1 {", "if n := len(e.Signatures); n < 1 {"),
	one("a bare envelope is of a statement", "policy", "TestBareEnvelopes", "statement.go", "if e.PayloadType != inTotoPayload {", "if false {"),
	one("bare envelopes are bounded", "policy", "TestBareEnvelopes", "statement.go", "if len(payload) > maxBundle {\n\t\treturn nil, nil, fmt.Errorf(\"envelope", "if false {\n\t\treturn nil, nil, fmt.Errorf(\"envelope"),
	one("legacy payloads are bounded", "policy", "TestLegacy", "verifier.go", "if len(e.Payload) > maxPayload {", "if false {"),
	one("an authority has one format (bundle)", "policy", "TestThreshold|TestAdmissionProperty|TestKeySignatures", "verifier.go", "if v.authority.SignatureFormat != snapshot.FormatBundle {", "if false {"),
	one("an authority has one format (legacy)", "policy", "TestAdmissionProperty|TestKeySignatures", "verifier.go", "if v.authority.SignatureFormat != snapshot.FormatLegacy {", "if false {"),
	one("distinct authorities and signers are counted", "policy", "TestThreshold|TestAdmissionProperty", "signatures.go", "counted := match(c.signers)", "counted := c.signers"),
	one("distinct keys are counted", "policy", "TestThreshold|TestAdmissionProperty", "signatures.go", `return "key " + s.Key.String()`, `return "key " + s.Authority`),
	one("the threshold counts", "policy", "TestThreshold", "signatures.go", "if len(counted) < c.policy.Threshold {", "if len(counted) < 1 {"),
	one("a threshold below one admits nothing", "policy", "TestZeroValues", "signatures.go", "if pol.Threshold < 1 || len(pol.Authorities) == 0 {", "if false {"),
	one("images outside the globs are refused", "policy", "TestReference|TestZeroValues", "signatures.go", "err := pol.CheckRepository(repository); err != nil {", "err := pol.CheckRepository(repository); err != nil && false {"),
	one("the manifest is the pinned one", "policy", "TestReference", "signatures.go", "if pin != manifest {", "if false {"),
	one("revoked artifacts are refused", "policy", "TestRevocation", "signatures.go", "if d := AdmitDigests(acc.Document, manifest); !d.Allowed {", "if d := AdmitDigests(acc.Document, manifest); false && !d.Allowed {"),
	one("revoked artifacts are not listed", "policy", "TestListed", "listing.go", "if d := AdmitDigests(doc, m.Digest()); !d.Allowed {", "if d := AdmitDigests(doc, m.Digest()); false && !d.Allowed {"),
	one("what holds something revoked is refused", "policy", "TestRevokedParts", "revocation.go", "if r, ok := revoked[d]; ok {", "if r, ok := revoked[d]; ok && d == digests[0] {"),
	one("revoked keys do not count", "policy", "TestRevocation|TestAdmissionProperty", "revocation.go", `if r.Key != "" && r.Key == d {`, "if false {"),
	one("revoked identities do not count", "policy", "TestRevocation|TestAdmissionProperty", "revocation.go", "if r.Identity != nil && *r.Identity == id {", "if false {"),
	one("keyless needs a log", "policy", "TestKeyless|TestTimes", "verifier.go", "a.TLog = &snapshot.LogRef{TrustRootRef: a.Keyless.TrustRootRef}", "_ = a.Keyless.TrustRootRef"),
	one("a log is required of a key where the policy says so", "policy", "TestTimes", "verifier.go", "if a.TLog == nil && a.Timestamp == nil {", "if true {"),
	one("a timestamp is required where the policy says so", "policy", "TestTimes", "verifier.go", "o = append(o, verify.WithSignedTimestamps(1))", "o = append(o, verify.WithObserverTimestamps(1))"),
	one("an SCT is required where the policy says so", "policy", "TestTimes", "verifier.go", "if a.CTLog != nil {", "if false {"),
	one("legacy keyless is refused in a decision", "policy", "TestKeyless", "verifier.go", "if a.SignatureFormat != snapshot.FormatBundle {", "if false {"),
	one("a trust root that is missing refuses", "policy", "TestKeyless", "signatures.go", "if err != nil {\n\t\t\treturn refuse(ClassPolicy, rule+\".authorities[\"", "if err != nil {\n\t\t\tcontinue\n\t\t}\n\t\tif err != nil {\n\t\t\treturn refuse(ClassPolicy, rule+\".authorities[\""),
	one("attestations are required", "policy", "TestAttestations|TestAdmissionProperty", "signatures.go", "for i, a := range c.policy.Attestations {", "for i, a := range c.policy.Attestations[:0] {"),
	one("an attestation is by an authority of its list", "policy", "TestAttestations|TestAdmissionProperty", "signatures.go", "s.PredicateType == a.PredicateType && slices.Contains(a.Authorities, s.Authority)", "s.PredicateType == a.PredicateType"),
	one("an attestation is of its type", "policy", "TestAttestations|TestOMS", "signatures.go", "if !signature && !slices.ContainsFunc(c.policy.Attestations,", "if false && !slices.ContainsFunc(c.policy.Attestations,"),
	one("the snapshot's evidence comes first and evidence is bounded", "policy", "TestInline", "signatures.go", "if i == maxEvidence ||", "if false &&"),
	one("OMS: every file is listed", "policy", "TestOMS", "oms.go", "return path != omsSignatureFile })", "return false })"),
	one("OMS: every listed file is there", "policy", "TestOMS", "oms.go", "if len(listed) > 0 {", "if false {"),
	one("OMS: digests agree", "policy", "TestOMS", "oms.go", "if want != f.Digest.Encoded() {", "if false {"),
	one("OMS: the files are checked whatever the subject", "policy", "TestOMS", "signatures.go", "if s.PredicateType == OMSPredicate {", "if s.PredicateType == OMSPredicate && !s.about(c.manifest) {"),
	one("OMS: without files nothing is admitted", "policy", "TestOMS", "oms.go", "if len(files) == 0 {", "if false {"),
	one("bundles are bounded", "policy", "TestBundleSize", "statement.go", "if len(payload) > maxBundle {", "if false {"),
}

// overlayOf writes the mutant's sources to dir and returns the overlay file.
func overlayOf(t *testing.T, root, dir string, m guardless) string {
	t.Helper()
	sources := map[string]string{}
	for _, c := range m.changes {
		file := filepath.Join(root, m.pkg, c.file)
		text, ok := sources[file]
		if !ok {
			b, err := os.ReadFile(file)
			check(t, err)
			text = string(b)
		}
		if !strings.Contains(text, c.old) {
			t.Fatalf("%s does not hold %q", c.file, c.old)
		}
		sources[file] = strings.Replace(text, c.old, c.new, 1)
	}
	replace := map[string]string{}
	for file, text := range sources {
		mutated := filepath.Join(dir, filepath.Base(file))
		check(t, os.WriteFile(mutated, []byte(text), 0o600))
		replace[file] = mutated
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	check(t, err)
	overlay := filepath.Join(dir, "overlay.json")
	check(t, os.WriteFile(overlay, b, 0o600))
	return overlay
}

// TestTrustMutants builds each mutant and demands that its tests turn red. It
// needs the go command and takes some minutes:
//
//	go test -tags mutants -run 'TestTrustMutants$' -timeout 60m ./policy
func TestTrustMutants(t *testing.T) {
	root, err := filepath.Abs("..")
	check(t, err)
	for _, m := range trustMutants {
		t.Run(m.guard, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-ldflags=-s -w", "-count=1", "-timeout", "5m",
				"-overlay", overlayOf(t, root, t.TempDir(), m), "-run", m.tests, "./"+m.pkg)
			cmd.Dir = root
			out, err := cmd.CombinedOutput()
			switch {
			case err == nil:
				t.Errorf("survives: %s passes without the guard", m.tests)
			case strings.Contains(string(out), "[build failed]"):
				t.Errorf("does not build:\n%s", out)
			case strings.Contains(string(out), "no tests to run"):
				t.Errorf("no test is named %s", m.tests)
			}
		})
	}
}
