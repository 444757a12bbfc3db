package snapshot_test

import (
	"bytes"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/resultity/rmodels/snapshot"
)

func validSnapshot() *snapshot.Snapshot {
	p := testPolicy()
	p.Authorities = append(p.Authorities,
		snapshot.Authority{
			Name: "bot", SignatureFormat: "bundle",
			Keyless: &snapshot.Keyless{TrustRootRef: "net", Identities: []snapshot.Identity{{Issuer: "https://issuer.example", Subject: "bot@example.org"}}},
			CTLog:   &snapshot.LogRef{TrustRootRef: "net"},
		},
		snapshot.Authority{Name: "old", SignatureFormat: "legacy", Key: &snapshot.Key{Data: testKey}})
	p.Threshold = 2
	p.Attestations = []snapshot.Attestation{{PredicateType: "https://slsa.dev/provenance/v1", Authorities: []string{"bot"}}}
	m := testModel("tiny", "v1")
	m.Compat.RuntimeVersion = ">=1.0 <2"
	m.Mirrors = []string{"mirror.example/acme/tiny"}
	return &snapshot.Snapshot{
		APIVersion: snapshot.APIVersion, Kind: snapshot.Kind, Network: "mainnet", Sequence: 7, Created: start, Expires: start.Add(30 * days),
		OfflineGrace: snapshot.Duration(14 * days), Default: "reject",
		Sources:    snapshot.Sources{Fallback: []string{"oci://mirror.example", "oci://mirror.example/cache"}},
		TrustRoots: map[string]snapshot.TrustRoot{"net": {Target: "trusted_root.json", Digest: testDigest("root")}},
		Policies:   []snapshot.Policy{p}, Runtimes: []snapshot.Runtime{testRuntime()}, Models: []snapshot.Model{m},
		Revocations: []snapshot.Revocation{{Digest: testDigest("bad")}, {Key: testDigest("key")}, {Identity: &snapshot.Identity{Issuer: "i", Subject: "s"}}},
	}
}

func TestParseRoundTrip(t *testing.T) {
	want := mustJSON(t, validSnapshot())
	s, err := snapshot.Parse(want)
	check(t, err)
	if got := mustJSON(t, s); !bytes.Equal(got, want) {
		t.Errorf("read back differently:\n%s\n%s", want, got)
	}
	if m, ok := s.Model("tiny", "v1"); !ok || m.Digest() != testDigest("tinyv1") || m.ID() != "tiny@v1" {
		t.Errorf("model %+v %v", m, ok)
	}
	if _, ok := s.Model("tiny", "v2"); ok {
		t.Error("found a model that is not listed")
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v, json.Deterministic(true))
	check(t, err)
	return b
}

// TestParseBytes: what the decoder itself must refuse.
func TestParseBytes(t *testing.T) {
	valid := string(mustJSON(t, validSnapshot()))
	for name, doc := range map[string]string{
		"empty":           "",
		"null":            "null",
		"array":           "[" + valid + "]",
		"trailing value":  valid + "{}",
		"trailing text":   valid + "x",
		"unknown member":  strings.Replace(valid, `"default"`, `"surprise":1,"default"`, 1),
		"unknown nested":  strings.Replace(valid, `"enabled":true`, `"enabled":true,"extra":{}`, 1),
		"duplicate":       strings.Replace(valid, `"sequence":7`, `"sequence":7,"sequence":8`, 1),
		"duplicate deep":  strings.Replace(valid, `"enabled":true`, `"enabled":true,"enabled":false`, 1),
		"case of a name":  strings.Replace(valid, `"sequence"`, `"Sequence"`, 1),
		"invalid UTF-8":   strings.Replace(valid, "mainnet", "main\xffnet", 1),
		"float sequence":  strings.Replace(valid, `"sequence":7`, `"sequence":7.5`, 1),
		"huge sequence":   strings.Replace(valid, `"sequence":7`, `"sequence":92233720368547758070`, 1),
		"string sequence": strings.Replace(valid, `"sequence":7`, `"sequence":"7"`, 1),
		"bad duration":    strings.Replace(valid, `"offlineGrace":"336h0m0s"`, `"offlineGrace":"14 days"`, 1),
		"comment":         strings.Replace(valid, `{"apiVersion"`, `{/* */"apiVersion"`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if doc == valid {
				t.Fatal("the case changes nothing")
			}
			_, err := snapshot.Parse([]byte(doc))
			wantErr(t, err, snapshot.ErrInvalid)
			wantErr(t, err, snapshot.ErrRejected)
		})
	}
	_, err := snapshot.Parse(bytes.Repeat([]byte(" "), snapshot.MaxDocument+1))
	wantErr(t, err, snapshot.ErrTooLarge)
}

// TestParseExtensions: the one place where unknown members may stand.
func TestParseExtensions(t *testing.T) {
	doc := strings.Replace(string(mustJSON(t, validSnapshot())), `"default"`, `"extensions":{"later":{"any":[1]}},"default"`, 1)
	s, err := snapshot.Parse([]byte(doc))
	check(t, err)
	if string(s.Extensions["later"]) != `{"any":[1]}` {
		t.Errorf("%s", s.Extensions["later"])
	}
}

// TestCheck: every rule of the document, with the path that the error names.
func TestCheck(t *testing.T) {
	long := strings.Repeat("x", 5000)
	cases := []struct {
		name   string
		change func(s *snapshot.Snapshot)
		path   string
	}{
		{"apiVersion", func(s *snapshot.Snapshot) { s.APIVersion = "rmodels/v2" }, "apiVersion"},
		{"kind", func(s *snapshot.Snapshot) { s.Kind = "List" }, "kind"},
		{"no network", func(s *snapshot.Snapshot) { s.Network = "" }, "network"},
		{"network as a path", func(s *snapshot.Snapshot) { s.Network = "../main" }, "network"},
		{"network upper case", func(s *snapshot.Snapshot) { s.Network = "Mainnet" }, "network"},
		{"sequence 0", func(s *snapshot.Snapshot) { s.Sequence = 0 }, "sequence"},
		{"no created", func(s *snapshot.Snapshot) { s.Created = time.Time{} }, "created"},
		{"no expires", func(s *snapshot.Snapshot) { s.Expires = time.Time{} }, "expires"},
		{"expires first", func(s *snapshot.Snapshot) { s.Expires = s.Created }, "expires"},
		{"never expires", func(s *snapshot.Snapshot) { s.Expires = s.Created.AddDate(10, 0, 0) }, "expires"},
		{"grace", func(s *snapshot.Snapshot) { s.OfflineGrace = snapshot.Duration(math.MaxInt64) }, "offlineGrace"},
		{"default accept", func(s *snapshot.Snapshot) { s.Default = "accept" }, "default"},
		{"no default", func(s *snapshot.Snapshot) { s.Default = "" }, "default"},
		{"retry", func(s *snapshot.Snapshot) { s.Settings.Retry = snapshot.Retry{Initial: 10, Max: 5} }, "settings.retry.initial"},
		{"outdated", func(s *snapshot.Snapshot) { s.Settings.Retention.Outdated = "keep" }, "settings.retention.outdated"},
		{"expired", func(s *snapshot.Snapshot) { s.Settings.Expired = "ignore" }, "settings.expired"},
		{"fallback scheme", func(s *snapshot.Snapshot) { s.Sources.Fallback[0] = "https://mirror.example" }, "sources.fallback[0]"},
		{"fallback tag", func(s *snapshot.Snapshot) { s.Sources.Fallback[0] = "oci://mirror.example/x:latest" }, "sources.fallback[0]"},
		{"trust root target", func(s *snapshot.Snapshot) {
			s.TrustRoots["net"] = snapshot.TrustRoot{Target: "../x", Digest: testDigest("root")}
		}, "trustRoots[net].target"},
		{"trust root is the document", func(s *snapshot.Snapshot) {
			s.TrustRoots["net"] = snapshot.TrustRoot{Target: snapshot.TargetName, Digest: testDigest("root")}
		}, "trustRoots[net].target"},
		{"trust root digest", func(s *snapshot.Snapshot) { s.TrustRoots["net"] = snapshot.TrustRoot{Target: "x", Digest: "sha256:1"} }, "trustRoots[net].digest"},

		{"policy twice", func(s *snapshot.Snapshot) { s.Policies = append(s.Policies, s.Policies[0]) }, "policies[1].name"},
		{"no images", func(s *snapshot.Snapshot) { s.Policies[0].Images = nil }, "policies[0].images"},
		{"glob host", func(s *snapshot.Snapshot) { s.Policies[0].Images[0].Glob = "**" }, "policies[0].images[0].glob"},
		{"glob wild host", func(s *snapshot.Snapshot) { s.Policies[0].Images[0].Glob = "*/acme" }, "policies[0].images[0].glob"},
		{"glob part", func(s *snapshot.Snapshot) { s.Policies[0].Images[0].Glob = "registry.example/ac*" }, "policies[0].images[0].glob"},
		{"threshold 0", func(s *snapshot.Snapshot) { s.Policies[0].Threshold = 0 }, "policies[0].threshold"},
		{"threshold -1", func(s *snapshot.Snapshot) { s.Policies[0].Threshold = -1 }, "policies[0].threshold"},
		{"threshold above distinct keys", func(s *snapshot.Snapshot) { s.Policies[0].Threshold = 3 }, "policies[0].threshold"},
		{"authority twice", func(s *snapshot.Snapshot) { s.Policies[0].Authorities[1].Name = "ci" }, "policies[0].authorities[1].name"},
		{"format", func(s *snapshot.Snapshot) { s.Policies[0].Authorities[0].SignatureFormat = "pgp" }, "policies[0].authorities[0].signatureFormat"},
		{"neither key nor keyless", func(s *snapshot.Snapshot) { s.Policies[0].Authorities[0].Key = nil }, "policies[0].authorities[0]"},
		{"both", func(s *snapshot.Snapshot) {
			s.Policies[0].Authorities[0].Keyless = s.Policies[0].Authorities[1].Keyless
		}, "policies[0].authorities[0]"},
		{"key not PEM", func(s *snapshot.Snapshot) { s.Policies[0].Authorities[0].Key = &snapshot.Key{Data: "key"} }, "policies[0].authorities[0].key.data"},
		{"two keys", func(s *snapshot.Snapshot) {
			s.Policies[0].Authorities[0].Key = &snapshot.Key{Data: testKey + testKey}
		}, "policies[0].authorities[0].key.data"},
		{"weak RSA key", func(s *snapshot.Snapshot) { s.Policies[0].Authorities[0].Key = &snapshot.Key{Data: rsa1024} }, "RSA key of 1024 bits"},
		{"trust root unknown", func(s *snapshot.Snapshot) { s.Policies[0].Authorities[1].Keyless.TrustRootRef = "nope" }, "policies[0].authorities[1].keyless.trustRootRef"},
		{"no identities", func(s *snapshot.Snapshot) { s.Policies[0].Authorities[1].Keyless.Identities = nil }, "policies[0].authorities[1].keyless.identities"},
		{"identity without issuer", func(s *snapshot.Snapshot) { s.Policies[0].Authorities[1].Keyless.Identities[0].Issuer = "" }, "identities[0].issuer"},
		{"identity without subject", func(s *snapshot.Snapshot) { s.Policies[0].Authorities[1].Keyless.Identities[0].Subject = "" }, "identities[0].subject"},
		{"ctlog unknown", func(s *snapshot.Snapshot) { s.Policies[0].Authorities[1].CTLog.TrustRootRef = "nope" }, "policies[0].authorities[1].ctlog.trustRootRef"},
		{"ctlog for a key", func(s *snapshot.Snapshot) {
			s.Policies[0].Authorities[0].CTLog = &snapshot.LogRef{TrustRootRef: "net"}
		}, "policies[0].authorities[0].ctlog"},
		{"legacy keyless (CVE-2026-24122)", func(s *snapshot.Snapshot) { s.Policies[0].Authorities[1].SignatureFormat = "legacy" }, "CVE-2026-24122"},
		{"legacy tlog", func(s *snapshot.Snapshot) {
			s.Policies[0].Authorities[2].TLog = &snapshot.LogRef{TrustRootRef: "net"}
		}, "policies[0].authorities[2]"},
		{"attestation without authority", func(s *snapshot.Snapshot) { s.Policies[0].Attestations[0].Authorities = nil }, "policies[0].attestations[0].authorities"},
		{"attestation of a stranger", func(s *snapshot.Snapshot) { s.Policies[0].Attestations[0].Authorities[0] = "who" }, "policies[0].attestations[0].authorities[0]"},
		{"attestation by a stranger", func(s *snapshot.Snapshot) { s.Policies[0].Attestations[0].Authorities[0] = "who" }, "policies[0].attestations[0].authorities[0]"},
		{"attests only, and nothing", func(s *snapshot.Snapshot) {
			s.Policies[0].Authorities[2].AttestsOnly, s.Policies[0].Threshold = true, 1
		}, "policies[0].authorities[2].attestsOnly"},
		{"attests only, and the threshold counts it", func(s *snapshot.Snapshot) {
			p := &s.Policies[0] // one authority signs, with two identities
			p.Authorities[1].Keyless.Identities = append(p.Authorities[1].Keyless.Identities, snapshot.Identity{Issuer: "i", Subject: "s"})
			p.Authorities[0].AttestsOnly, p.Authorities[2].AttestsOnly = true, true
			p.Attestations[0].Authorities = []string{"ci", "old"}
		}, "policies[0].threshold"},
		{"a key that only attests also signs", func(s *snapshot.Snapshot) {
			p := &s.Policies[0]
			p.Threshold = 1
			also := p.Authorities[0]
			also.Name, also.AttestsOnly = "scanner", true
			p.Authorities, p.Attestations[0].Authorities = append(p.Authorities, also), []string{"scanner"}
		}, "only attests and under one that signs"},
		{"attestation type", func(s *snapshot.Snapshot) { s.Policies[0].Attestations[0].PredicateType = "" }, "predicateType"},
		{"attestation is a signature", func(s *snapshot.Snapshot) {
			s.Policies[0].Attestations[0].PredicateType = snapshot.SignaturePredicate
		}, "predicateType"},
		{"content format", func(s *snapshot.Snapshot) { s.Policies[0].Content.Formats = []string{"pickle"} }, "policies[0].content.formats[0]"},
		{"content templates", func(s *snapshot.Snapshot) { s.Policies[0].Content.ChatTemplates = "all" }, "policies[0].content.chatTemplates"},
		{"content limits", func(s *snapshot.Snapshot) { s.Policies[0].Content.Limits.Files = -1 }, "policies[0].content.limits"},

		{"runtime twice", func(s *snapshot.Snapshot) { s.Runtimes = append(s.Runtimes, s.Runtimes[0]) }, "runtimes[1].name"},
		{"runtime policy", func(s *snapshot.Snapshot) { s.Runtimes[0].Policy = "none" }, "runtimes[0].policy"},
		{"runtime version", func(s *snapshot.Snapshot) { s.Runtimes[0].Version = "b4567" }, "runtimes[0].version"},
		{"runtime tag", func(s *snapshot.Snapshot) { s.Runtimes[0].Reference = "registry.example/rt/llama:latest" }, "runtimes[0].reference"},
		{"runtime tag and digest", func(s *snapshot.Snapshot) {
			s.Runtimes[0].Reference = "registry.example/rt/llama:v1@" + testDigest("x").String()
		}, `runtimes[0].reference: "registry.example/rt/llama:v1": a tag does not pin content`},
		{"protocol", func(s *snapshot.Snapshot) { s.Runtimes[0].Protocol = "grpc" }, "runtimes[0].protocol"},
		{"port", func(s *snapshot.Snapshot) { s.Runtimes[0].Port = 70000 }, "runtimes[0].port"},
		{"template field", func(s *snapshot.Snapshot) { s.Runtimes[0].Args[0] = "{{.Secret}}" }, "runtimes[0].args[0]"},
		{"template loop", func(s *snapshot.Snapshot) { s.Runtimes[0].Args[0] = "{{range 9000000000000000000}}{{end}}" }, "runtimes[0].args[0]"},
		{"template open", func(s *snapshot.Snapshot) { s.Runtimes[0].Args[0] = "{{.Model" }, "runtimes[0].args[0]"},
		{"env name", func(s *snapshot.Snapshot) { s.Runtimes[0].Env = map[string]string{"A=B": ""} }, "runtimes[0].env"},
		{"env value", func(s *snapshot.Snapshot) { s.Runtimes[0].Env = map[string]string{"A": long} }, "runtimes[0].env[A]"},
		{"gpu", func(s *snapshot.Snapshot) { s.Runtimes[0].GPU = "" }, "runtimes[0].gpu"},
		{"root user", func(s *snapshot.Snapshot) { s.Runtimes[0].User = "0" }, "runtimes[0].user"},
		{"root group", func(s *snapshot.Snapshot) { s.Runtimes[0].User = "1000:0" }, "runtimes[0].user"},
		{"user name", func(s *snapshot.Snapshot) { s.Runtimes[0].User = "nobody" }, "runtimes[0].user"},
		{"user octal", func(s *snapshot.Snapshot) { s.Runtimes[0].User = "00" }, "runtimes[0].user"},
		{"home", func(s *snapshot.Snapshot) { s.Runtimes[0].Home = "home" }, "runtimes[0].home"},
		{"scratch over proc", func(s *snapshot.Snapshot) {
			s.Runtimes[0].Scratch = []snapshot.Scratch{{Path: "/proc/x", Size: 1}}
		}, "runtimes[0].scratch[0].path"},
		{"scratch options", func(s *snapshot.Snapshot) {
			s.Runtimes[0].Scratch = []snapshot.Scratch{{Path: "/a,exec", Size: 1}}
		}, "runtimes[0].scratch[0].path"},
		{"scratch size", func(s *snapshot.Snapshot) { s.Runtimes[0].Scratch = []snapshot.Scratch{{Path: "/a"}} }, "runtimes[0].scratch[0].size"},
		{"cpus", func(s *snapshot.Snapshot) { s.Runtimes[0].CPUs = -1 }, "runtimes[0].cpus"},
		{"pids", func(s *snapshot.Snapshot) { s.Runtimes[0].Pids = -1 }, "runtimes[0].pids"},

		{"model twice", func(s *snapshot.Snapshot) { s.Models = append(s.Models, s.Models[0]) }, "models[1]"},
		{"model name", func(s *snapshot.Snapshot) { s.Models[0].Name = "a/b" }, "models[0].name"},
		{"model name dots", func(s *snapshot.Snapshot) { s.Models[0].Name = ".." }, "models[0].name"},
		{"model version", func(s *snapshot.Snapshot) { s.Models[0].Version = "v 1" }, "models[0].version"},
		{"model policy", func(s *snapshot.Snapshot) { s.Models[0].Policy = "" }, "models[0].policy"},
		{"model tag", func(s *snapshot.Snapshot) { s.Models[0].Reference = "registry.example/acme/tiny:v1" }, "models[0].reference"},
		{"model digest case", func(s *snapshot.Snapshot) {
			s.Models[0].Reference = "registry.example/acme/tiny@sha256:" + strings.Repeat("A", 64)
		}, "models[0].reference"},
		{"model sha512", func(s *snapshot.Snapshot) {
			s.Models[0].Reference = "registry.example/acme/tiny@sha512:" + strings.Repeat("a", 128)
		}, "models[0].reference"},
		{"model path", func(s *snapshot.Snapshot) {
			s.Models[0].Reference = "registry.example/../tiny@" + testDigest("x").String()
		}, "models[0].reference"},
		{"mirror with a digest", func(s *snapshot.Snapshot) { s.Models[0].Mirrors[0] += "@" + testDigest("x").String() }, "models[0].mirrors[0]"},
		{"size 0", func(s *snapshot.Snapshot) { s.Models[0].Size = 0 }, "models[0].size"},
		{"size", func(s *snapshot.Snapshot) { s.Models[0].Size = math.MaxInt64 }, "models[0].size"},
		{"runtime unknown", func(s *snapshot.Snapshot) { s.Models[0].Compat.Runtime = "x" }, "models[0].compat.runtime"},
		{"range", func(s *snapshot.Snapshot) { s.Models[0].Compat.RuntimeVersion = "newest" }, "models[0].compat.runtimeVersion"},
		{"no request", func(s *snapshot.Snapshot) { s.Models[0].Validation.Request = nil }, "models[0].validation.request"},
		{"request array", func(s *snapshot.Snapshot) { s.Models[0].Validation.Request = []byte("[]") }, "models[0].validation.request"},
		{"expects nothing", func(s *snapshot.Snapshot) { s.Models[0].Validation.Expect = snapshot.Expect{} }, "models[0].validation.expect"},
		{"regexp matches nothing", func(s *snapshot.Snapshot) {
			s.Models[0].Validation.Expect = snapshot.Expect{Regexp: "x*"}
		}, "models[0].validation.expect.regexp"},
		{"regexp", func(s *snapshot.Snapshot) { s.Models[0].Validation.Expect = snapshot.Expect{Regexp: "("} }, "models[0].validation.expect.regexp"},
		{"answer digest", func(s *snapshot.Snapshot) {
			s.Models[0].Validation.Expect = snapshot.Expect{Digest: testDigest("x")}
		}, "models[0].validation.expect.digest"},
		{"cosine", func(s *snapshot.Snapshot) {
			s.Models[0].Validation.Expect = snapshot.Expect{Cosine: &snapshot.Cosine{Reference: []float64{0, 0}, Min: 0.9}}
		}, "models[0].validation.expect.cosine.reference"},
		{"cosine min", func(s *snapshot.Snapshot) {
			s.Models[0].Validation.Expect = snapshot.Expect{Cosine: &snapshot.Cosine{Reference: []float64{1}, Min: -1}}
		}, "models[0].validation.expect.cosine.min"},

		{"revokes nothing", func(s *snapshot.Snapshot) { s.Revocations[0] = snapshot.Revocation{} }, "revocations[0]"},
		{"revokes two", func(s *snapshot.Snapshot) { s.Revocations[0].Key = testDigest("k") }, "revocations[0]"},
		{"revocation action", func(s *snapshot.Snapshot) { s.Revocations[0].Action = "warn" }, "revocations[0].action"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := validSnapshot()
			c.change(s)
			_, err := snapshot.Parse(mustJSON(t, s))
			wantErr(t, err, snapshot.ErrInvalid, c.path)
		})
	}
	check(t, validSnapshot().Check())
}

// TestCheckReportsAll: a publisher sees every problem at once, a hostile
// document can not flood the log.
func TestCheckReportsAll(t *testing.T) {
	s := validSnapshot()
	s.Kind, s.Default, s.Network = "x", "y", "Z"
	err := s.Check()
	wantErr(t, err, snapshot.ErrInvalid, "kind", "default", "network")
	for range 1000 {
		s.Models = append(s.Models, snapshot.Model{Name: strings.Repeat("!", 10000)})
	}
	if n := len(s.Check().Error()); n > 8000 {
		t.Errorf("message of %d bytes", n)
	}
}

const rsa1024 = `-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCAAAAAAAAAAAAAAAAAAAAAAAAA
AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
AAAAIAAAAAAAAAAAAQIDAQAB
-----END PUBLIC KEY-----
`

func TestMatchGlob(t *testing.T) {
	for _, c := range []struct {
		glob, repository string
		want             bool
	}{
		{"r.example/acme/*", "r.example/acme/tiny", true},
		{"r.example/acme/*", "r.example/acme/a/b", false},
		{"r.example/acme/*", "r.example/acme", false},
		{"r.example/acme/*", "r.example/acme-evil/tiny", false},
		{"r.example/acme/*", "r.example.evil/acme/tiny", false},
		{"r.example/acme/*", "evil/r.example/acme/tiny", false},
		{"r.example/**", "r.example/a/b/c", true},
		{"r.example/**", "r.example:5000/a", false},
		{"r.example/**/tiny", "r.example/tiny", true},
		{"r.example/**/tiny", "r.example/a/b/tiny", true},
		{"r.example/**/tiny", "r.example/a/b/tiny2", false},
		{"r.example/*/x/**", "r.example/a/x", true},
		{"r.example/acme", "r.example/acme", true},
		{"", "r.example/acme", false},
	} {
		if got := snapshot.MatchGlob(c.glob, c.repository); got != c.want {
			t.Errorf("MatchGlob(%q, %q) = %v", c.glob, c.repository, got)
		}
	}
	// Nested ** must not cost more than pattern × name.
	glob := "h/" + strings.Repeat("**/", 150) + "end"
	if snapshot.MatchGlob(glob, "h/"+strings.Repeat("a/", 200)+"x") {
		t.Error("matched")
	}
}

func TestReadBundle(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(dir+"/b", []byte("{}"), 0o644))
	if b, err := snapshot.ReadBundle(dir + "/b"); err != nil || string(b) != "{}" {
		t.Error(b, err)
	}
	check(t, os.Symlink(dir+"/b", dir+"/link"))
	if _, err := snapshot.ReadBundle(dir + "/link"); err == nil {
		t.Error("followed a link")
	}
	if _, err := snapshot.ReadBundle(dir); err == nil {
		t.Error("read a directory")
	}
	check(t, os.Truncate(dir+"/b", snapshot.MaxBundle+1))
	_, err := snapshot.ReadBundle(dir + "/b")
	wantErr(t, err, snapshot.ErrTooLarge)
}
