//go:build mutants

package oci_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutants are builds without one guard, and the tests that must notice.
var mutants = []struct {
	guard, tests, file, old, new string
	also                         []string // a second guard that covers for the first: old, new
}{
	// Paths.
	{"no absolute path (both guards)", "TestCheckPath", "path.go", `strings.HasPrefix(path, "/")`, "false", []string{`part == ""`, "false"}},
	{"no backslash", "TestCheckPath", "path.go", "strings.Contains(path, `\\`)", "false", nil},
	{"no drive letter", "TestCheckPath", "path.go", "len(path) > 1 && path[1] == ':'", "false", nil},
	{"no control character", "TestCheckPath", "path.go", "unicode.IsControl(r)", "false", nil},
	{"no parent directory", "TestCheckPath", "path.go", `part == "." || part == ".."`, "false", nil},
	{"no part of the store's", "TestCheckPath", "path.go", `strings.HasPrefix(strings.ToLower(part), ".rmodels")`, "false", nil},
	{"only UTF-8", "TestCheckPath", "path.go", "!utf8.ValidString(path)", "false && !utf8.ValidString(path)", nil},
	{"entries of archives are guarded", "TestHostileLayers", "tarlayer.go", "if err := CheckPath(name); err != nil {", "if err := CheckPath(name); err != nil && false {", nil},
	{"only files and directories", "TestHostileLayers", "tarlayer.go", "		default:\n			return fmt.Errorf(\"%w: entry %q is no file", "		default:\n			continue\n			return fmt.Errorf(\"%w: entry %q is no file", nil},
	{"no links but in images", "TestHostileLayers", "unpack.go", "			default:\n				return nil, fmt.Errorf(\"%w: layer %s: %q is a link", "			default:\n				continue\n				return nil, fmt.Errorf(\"%w: layer %s: %q is a link", nil},
	{"one file has one path", "TestHostileLayers|TestResolve", "unpack.go", "if _, twice := at[e.Path]; twice {", "if false {", nil},

	// Limits.
	{"entries are counted", "TestHostileLayers", "tarlayer.go", "if n > l.Files {", "if false {", nil},
	{"a file is bounded", "TestHostileLayers", "tarlayer.go", "e.Size < 0 || e.Size > t.FileBytes", "false", nil},
	{"all files are bounded", "TestHostileLayers", "tarlayer.go", "min(l.TotalBytes, max(n, expandFree))", "max(n, expandFree)", nil},
	{"what unfolds is bounded", "TestHostileLayers", "tarlayer.go", "if b.left -= int64(n); b.left < 0 {", "if false {", nil},
	{"a window is bounded", "TestHostileLayers", "tarlayer.go", "zstd.WithDecoderMaxWindow(uint64(c.history(first)))", "zstd.WithDecoderMaxWindow(1<<30+0*uint64(len(first)))", nil},
	{"a later frame has no larger window", "TestHostileLayers", "tarlayer.go", "min(max(h.WindowSize, commonWindow), maxWindow)", "maxWindow", nil},
	{"sparse files are bounded", "TestHostileLayers", "tarlayer.go", "if t.bytes += e.Size; t.bytes > t.most {", "if false {", nil},
	{"names are bounded", "TestHostileLayers", "tarlayer.go", "t.names > maxNames", "false", nil},
	{"the store's copy is suspect when it is wrong", "TestPackedLayerOfTheStore", "unpack.go", "		if kept {\n", "		if false {\n", nil},
	{"documents are bounded", "TestResolveErrorClasses", "source.go", "if int64(len(b)) > max {", "if false {", nil},
	{"sizes are bounded", "TestManifestClaims", "resolve.go", "d.Size < 0 || d.Size > maxArtifact", "false", nil},
	{"one digest has one size", "TestManifestClaims", "resolve.go", "seen && size != l.Size", "seen && false", nil},
	{"evidence is counted (both guards)", "TestEvidenceOfHostile", "referrers.go", "return index.Manifests[:min(max, len(index.Manifests))], nil", "return index.Manifests, nil", []string{" || len(out) >= maxEvidence", ""}},
	{"connections are counted", "TestConnectionBudget", "host.go", "if h.inUse >= h.max {", "if false {", nil},
	{"the rate is kept", "TestLimitRate|TestScheduleChanges", "limit.go", "	if d <= 0 {\n		return nil", "	if true {\n		return nil", nil},

	// Redirects and credentials.
	{"no redirect to plain http", "TestResolveErrorClasses", "host.go", "if !c.plainHTTP(req.URL.Host) {", "if false {", nil},
	{"no redirect to metadata", "TestMetadata|TestResolveErrorClasses", "host.go", "	if isLinkLocalName(hostport) {", "	if false {", nil},
	{"no redirect to a number", "TestMetadata", "host.go", "	if isOddNumber(asciiName(hostport)) {", "	if false {", nil},
	{"names are read as they are sent", "TestMetadata", "host.go", "idna.Lookup.ToASCII(name); err == nil", "idna.Lookup.ToASCII(name); err != nil", nil},
	{"no token service of metadata", "TestTokenServicesOfMetadata", "watch.go", "err == nil && req.URL.Host != t.h.base.Host", "false", nil},
	{"no dial to metadata", "TestMetadata", "host.go", "if isMetadataAddress(ap.Addr()) {", "if false {", nil},
	{"metadata outside of the link-local ranges", "TestMetadata", "host.go", "		if a == m {", "		if a == m && false {", nil},
	{"hosts are named in short", "TestLongRedirects", "host.go", "terminal.Clip(name, 128)", "terminal.Clip(name, len(name))", nil},
	{"headers are bounded", "TestLongRedirects", "host.go", "		MaxResponseHeaderBytes: MaxHeader,\n", "", nil},
	{"authorities are files", "TestSystemRoots", "hostfiles.go", "err == nil && !fi.IsDir() && !fi.Mode().IsRegular()", "err == nil && !fi.IsDir() && false", nil},
	{"authorities are not waited for", "TestSystemRoots", "hostfiles.go", "case errors.Is(err, durable.ErrExposed), errors.Is(err, durable.ErrNotRegular):", "case errors.Is(err, durable.ErrExposed):", nil},
	{"redirects end", "TestResolveErrorClasses", "host.go", "if len(via) >= maxRedirects {", "if len(via) >= 1<<20 {", nil},
	{"no referer", "TestRedirectsCarry", "host.go", `req.Header.Del("Referer")`, "", nil},
	{"credentials stay on their host", "TestRedirectsCarry|TestTokenAuth|TestBasicAuth", "host.go", "Hosts[name]; o.Username", `Hosts["x"]; o.Username`, nil},
	{"certificates stay on their host", "TestClientCertificates", "host.go", "	rt, ok := t.byHost[req.URL.Host]", "	rt, ok := t.byHost[req.URL.Host]\n	for host, other := range t.byHost {\n		if host != req.URL.Host {\n			rt, ok = other, true\n		}\n	}", nil},
	{"uploads stay on their host", "TestPushStays", "upload.go", "to.Host != base.Host || to.Scheme != base.Scheme || to.User != nil", `base.Host == ""`, nil},
	{"skip_verify is refused", "TestHostsFileRefuses", "hostsfile.go", "t.SkipVerify != nil && *t.SkipVerify", "false", nil},

	// Budgets of time.
	{"a document has a deadline", "TestSlowHost|TestBudgetAt|TestModelBudget|TestHonest", "watch.go", "case !reading && took >= document, w.total > 0 && took >= w.total:", "case false:", nil},
	{"a header has a deadline where a body has none", "TestRangesOfAHangingHost", "watch.go", "case !reading && took >= document, w.total", "case w.total", nil},
	{"a body brings the least rate", "TestSlowHost", "watch.go", "		case slow:\n", "		case slow && false:\n", nil},
	{"a host that fails is left out (both guards)", "TestSlowHost", "watch.go", "if h.health.row >= b.host() ||", "if", []string{"wait > left {", "false {"}},
	{"a host that delivers now and then is left out too", "TestUnsteady|TestSlowHost", "watch.go", " || h.health.all >= inAll*b.host()", "", nil},
	{"late documents count", "TestLateHost", "watch.go", "late > 0 {", "false {", nil},
	{"a good answer ends a row of failures", "TestUnsteady", "watch.go", "h.health.row, h.health.good = 0, time.Now()", "h.health.good = time.Now()", nil},
	{"a host that is left out is not asked", "TestSlowHost|TestHangingLayers", "watch.go", "	if err := h.leftOut(); err != nil {\n		return err\n	}\n	began", "	began", nil},
	{"a pause fits the budget", "TestSlowHost", "watch.go", "wait > left {", "false {", nil},
	{"the next pass asks again", "TestSlowHost", "watch.go", "h.health = health{}", "", nil},
	{"a model has a budget", "TestModelBudget", "budget.go", "left := c.o.Budgets.model() - m.used", "left := 1000 * time.Hour", nil},
	{"a model's calls share its budget", "TestModelBudget", "budget.go", "m.used += time.Since(began)", "", nil},
	{"a source leaves the others their part", "TestHonestMirror", "budget.go", "if sources > 1 {", "if false {", nil},
	{"a spent budget is the host's fault", "TestModelBudget", "budget.go", "h.charge(c.o.Budgets, waited, spent)", "_ = waited", nil},
	{"the caller's end is not", "TestCallersDeadline", "watch.go", "case ctx.Err() != nil: // the caller's own end", "case false: //", nil},
	{"layers that never come are paid once", "TestHangingLayers", "transfer.go", "h.lost(p.c.o.Budgets, st.since, time.Now(), err)", "", nil},
	{"layers are not asked of who is left out", "TestHangingLayers", "fetch.go", "sources = usable(sources)", "", nil},
	{"bytes count as they arrive", "TestSlowLineIsNoStall", "segment.go", "io.ReadFull(arrivals{body, s}, b)", "io.ReadFull(body, b)\n		s.received.Add(int64(n))", nil},
	{"silence is said", "TestSlowHost", "watch.go", "case took >= note:", "case false:", nil},

	// Realms.
	{"credentials go to their own realm", "TestCredentialsStayWithTheirRealm", "realm.go", `	if req.Header.Get("Authorization") == "" && (req.Body`, "	if true || (req.Body", nil},
	{"identity tokens too", "TestIdentityToken", "realm.go", " && (req.Body == nil || req.Body == http.NoBody)", "", nil},
	{"the port is part of a realm", "TestCredentialsStayWithTheirRealm", "realm.go", "net.JoinHostPort(strings.ToLower(u.Hostname()), port)", "net.JoinHostPort(strings.ToLower(u.Hostname()), port[:0])", nil},
	{"the scheme is part of a realm", "TestCredentialsStayWithTheirRealm", "realm.go", `if u.Scheme == "https" || t.c.plainHTTP(u.Host) {`, "if true {", nil},
	{"a token service is its registry's", "TestCredentialsStayWithTheirRealm", "realm.go", "tokenServices[t.h.name]", `tokenServices["docker.io"]`, nil},
	{"embedded addresses are read", "TestMetadata", "host.go", "if isMetadataAddress(v4) {", "if isMetadataAddress(v4) && false {", nil},

	// Ranges.
	{"a range starts where it was asked", "TestFetchSurvives|TestRandomFaults|TestWrongRanges|TestFetch", "source.go", "if first != off || last > off+n-1 ||", "if last > off+n-1 ||", nil},
	{"a range is no longer than asked", "TestContentRange|TestFetch|TestRandomFaults", "source.go", "last < first", "false", nil},
	{"no encoded answer", "TestFetch", "source.go", `enc != "" && enc != "identity" &&`, "false &&", nil},

	// Packed layers.
	{"a layer's digest is judged before its format", "TestPackedLayerBlame", "unpack.go", "if err := u.Check(); err != nil {", "if err := u.Check(); err != nil && invalid == nil {", nil},
	{"a layer that is here is held to the limits", "TestPackedLayerIsJudgedAgain", "unpack.go", "err = limits.admitAll(entries, f.Desc.Size)", "_ = entries", nil},
	{"a layer has one reading", "TestPackedLayerIsJudgedAgain", "unpack.go", "		s += \" of /\" + imagePrefix\n	}\n	return s", "		s += \" of /\" + imagePrefix\n	}\n	return \"any\"", nil},
	{"entries stay under their layer's directory", "TestDirectoryOutsideOfItsTitle", "unpack.go", "if f.Under != \"\" && e.Path != f.Under", "if false && e.Path != f.Under", nil},

	// Digests and blame.
	{"manifests hash to their digest", "TestResolveTakes", "resolve.go", "if got := digest.FromBytes(content); got != d {", "if got := digest.FromBytes(content); got != d && false {", nil},
	{"evidence is of its artifact", "TestEvidenceOfHostile", "referrers.go", "m.Subject.Digest != subject", "false", nil},
	{"an index is no manifest", "TestManifestClaims", "resolve.go", "if kind.Manifests != nil || mediaType", "if false && mediaType", nil},
	{"a lying map blames nobody", "TestLyingChunkMap", "blame.go", "t.seeded, t.result.Copied = false, 0\n		if found != \"\" {\n			return nil\n		}", "t.seeded, t.result.Copied = false, 0", nil},
	{"sizes that differ are no row", "TestFetchBlamesOneSize", "transfer.go", "} else if st.missized == 0 || other.size != st.size {", "} else if st.missized == 0 {", nil},
	{"a good answer ends a row of wrong sizes", "TestFetchForgives", "segment.go", "s.from.failures, st.missized = 0, 0", "s.from.failures = 0", nil},
	{"a source is convicted when all came from it", "TestFetchNames|TestWrongRanges|TestRandomFaults", "blame.go", "if len(from) == 1 && t.resumed == 0 {", "if true {", nil},
}

// TestMutants builds each mutant and demands that its tests turn red. It
// needs the go command and takes some minutes:
//
//	go test -tags mutants -run 'TestMutants$' -timeout 60m ./oci
func TestMutants(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.guard, func(t *testing.T) {
			file, err := filepath.Abs(m.file)
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(text), m.old) {
				t.Fatalf("%s does not hold %q", m.file, m.old)
			}
			mutated, overlay := filepath.Join(t.TempDir(), m.file), filepath.Join(t.TempDir(), "overlay.json")
			replace, err := json.Marshal(map[string]any{"Replace": map[string]string{file: mutated}})
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(string(text), m.old, m.new, 1)
			if m.also != nil {
				changed = strings.Replace(changed, m.also[0], m.also[1], 1)
			}
			for name, b := range map[string][]byte{mutated: []byte(changed), overlay: replace} {
				if err := os.WriteFile(name, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			out, err := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-ldflags=-s -w", "-count=1", "-failfast", "-timeout", "2m", "-overlay", overlay, "-run", m.tests, ".").CombinedOutput()
			switch {
			case err == nil && strings.Contains(string(out), "no tests to run"):
				t.Errorf("no test is named %s", m.tests)
			case err == nil:
				t.Errorf("survives: %s passes without the guard", m.tests)
			case strings.Contains(string(out), "[build failed]"):
				t.Errorf("does not build:\n%s", out)
			}
		})
	}
}
