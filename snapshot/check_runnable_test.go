package snapshot_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/snapshot"
)

// unrunnable are documents that a node takes and of which it cannot use a part.
var unrunnable = map[string]struct {
	change func(*snapshot.Snapshot)
	words  string
}{
	"a preloaded library":        {inRuntime(func(r *snapshot.Runtime) { r.Env = map[string]string{"LD_PRELOAD": "/x.so"} }), "LD_PRELOAD"},
	"an auditing library":        {inRuntime(func(r *snapshot.Runtime) { r.Env = map[string]string{"LD_AUDIT": "/x.so"} }), "LD_AUDIT"},
	"a device by variable":       {inRuntime(func(r *snapshot.Runtime) { r.Env = map[string]string{"NVIDIA_VISIBLE_DEVICES": "all"} }), "NVIDIA_"},
	"a line break in a variable": {inRuntime(func(r *snapshot.Runtime) { r.Env = map[string]string{"A": "x\ny"} }), "line break"},
	"a template of other blanks": {inRuntime(func(r *snapshot.Runtime) { r.Args = []string{"{{\u00a0.Model}}"} }), "argument"},
	"a template of the program":  {inRuntime(func(r *snapshot.Runtime) { r.Entrypoint = []string{"{{.Secret}}"} }), "argument"},
	"a program without a name":   {inRuntime(func(r *snapshot.Runtime) { r.Entrypoint = []string{""} }), "entrypoint"},
	"a health path with a break": {inRuntime(func(r *snapshot.Runtime) { r.Health = "/x\r\nHost: y" }), "health"},
	"a health path of no escape": {inRuntime(func(r *snapshot.Runtime) { r.Health = "/%zz" }), "health"},
	"a health path of a host":    {inRuntime(func(r *snapshot.Runtime) { r.Health = "//evil/x" }), "health"},
	"a health path with a tab":   {inRuntime(func(r *snapshot.Runtime) { r.Health = "/a\tb" }), "health"},
	"a health path with DEL":     {inRuntime(func(r *snapshot.Runtime) { r.Health = "/a\x7f" }), "health"},
	"a program without an end":   {inRuntime(func(r *snapshot.Runtime) { r.Entrypoint = []string{"{{range 1000000000000}}{{end}}x"} }), "argument"},
	"an open template":           {inRuntime(func(r *snapshot.Runtime) { r.Entrypoint = []string{"{{.Model"} }), "argument"},
	"scratch over the model":     {inRuntime(func(r *snapshot.Runtime) { r.Scratch = []snapshot.Scratch{{Path: "/models", Size: 1 << 20}} }), "reserved"},
	"scratch over /etc":          {inRuntime(func(r *snapshot.Runtime) { r.Scratch = []snapshot.Scratch{{Path: "/etc", Size: 1 << 20}} }), "reserved"},
	"scratch twice": {inRuntime(func(r *snapshot.Runtime) {
		r.Scratch = []snapshot.Scratch{{Path: "/a", Size: 1 << 20}, {Path: "/a", Size: 1 << 20}}
	}), "twice"},
	"a user beyond the engine's":  {inRuntime(func(r *snapshot.Runtime) { r.User = "4294967294" }), "user"},
	"too little memory":           {inRuntime(func(r *snapshot.Runtime) { r.Memory = 1 << 20 }), "memory"},
	"too many processes":          {inRuntime(func(r *snapshot.Runtime) { r.Pids = 1 << 21 }), "pids"},
	"a port of a program":         {inRuntime(func(r *snapshot.Runtime) { r.Protocol = "exec" }), "port"},
	"a remote schema":             {inSchema(`{"$ref":"file:///etc/passwd"}`), "$ref"},
	"a schema in a circle":        {inSchema(`{"$defs":{"a":{"$ref":"#/$defs/a"}}}`), "itself"},
	"a schema by anchor":          {inSchema(`{"$anchor":"a"}`), "$anchor"},
	"a schema of no type":         {inSchema(`{"type":7}`), "schema"},
	"a schema of an unknown type": {inSchema(`{"type":"strin"}`), "strin"},
	"an unknown type inside":      {inSchema(`{"properties":{"a":{"anyOf":[{"type":["null","strin"]}]}}}`), "strin"},
	"a reference in another case": {inSchema(`{"properties":{"a":{"$REF":"#"}}}`), "$REF"},
	"a schema as a definition":    {inSchema(`{"$defs":{"a":{"items":{"$id":"x"}}}}`), "$id"},
	"a reference below a name":    {inSchema(`{"properties":{"$ref":{"$ref":"#"}}}`), "$ref"},
	"a member in another case": {func(s *snapshot.Snapshot) {
		s.Runtimes[0].Protocol, s.Runtimes[0].Port = "exec", 0
		s.Models[0].Validation.Request = jsontext.Value(`{"Args":["x"]}`)
	}, "Args"},
	"an embedding of a chat": {func(s *snapshot.Snapshot) {
		s.Models[0].Validation.Expect.Cosine = &snapshot.Cosine{Reference: []float64{1}, Min: 0.5}
	}, "cosine"},
	"a text of an embedding": {inRuntime(func(r *snapshot.Runtime) { r.Protocol = "openai-embeddings" }), "cosine"},
	"a forgotten registry":   {inReference("library/model@" + testDigest("m").String()), "full name"},
	"port nought":            {inReference("r.example:0/model@" + testDigest("m").String()), "port"},
	"no port of any host":    {inReference("r.example:99999/model@" + testDigest("m").String()), "port"},
	"no address":             {inReference("[::::]/model@" + testDigest("m").String()), "IPv6"},
	"a path of 256 bytes":    {inReference("r.example/" + strings.Repeat("a", 256) + "@" + testDigest("m").String()), "255"},
	"a mirror without a name": {func(s *snapshot.Snapshot) {
		s.Models[0].Mirrors = []string{"library/model"}
	}, "mirrors[0]"},
	"a fallback without a name": {func(s *snapshot.Snapshot) { s.Sources.Fallback = []string{"oci://library"} }, "fallback[0]"},
	"images without a name": {func(s *snapshot.Snapshot) {
		s.Policies[0].Images = append(s.Policies[0].Images, snapshot.ImageGlob{Glob: "library/**"})
	}, "images["},
}

// Here the text alone says that every node refuses a part.
func init() {
	inCompat := func(change func(*snapshot.Compat)) func(*snapshot.Snapshot) {
		return func(s *snapshot.Snapshot) { change(&s.Models[0].Compat) }
	}
	inExpect := func(e snapshot.Expect) func(*snapshot.Snapshot) {
		return func(s *snapshot.Snapshot) {
			s.Models[0].Validation.Expect, s.Models[0].Validation.Deterministic = e, true
		}
	}
	for name, c := range map[string]struct {
		change func(*snapshot.Snapshot)
		words  string
	}{
		"a model outside its policy": {inReference("other.example/model@" + testDigest("m").String()), "models[0].reference"},
		"a runtime outside its policy": {inRuntime(func(r *snapshot.Runtime) {
			r.Reference = "other.example/rt@" + testDigest("r").String()
		}), "runtimes[0].reference"},
		"a policy for nothing listed": {func(s *snapshot.Snapshot) {
			s.Policies[0].Images = []snapshot.ImageGlob{{Glob: "registry.example/*"}}
		}, "outside what the policy is for"},
		"another runtime's version": {inCompat(func(c *snapshot.Compat) { c.RuntimeVersion = ">=9.0" }), "the snapshot has 1.2.3"},
		"no runtime's version":      {inCompat(func(c *snapshot.Compat) { c.RuntimeVersion = ">=9.0 <1.0" }), "runtimeVersion"},
		"no driver":                 {inCompat(func(c *snapshot.Compat) { c.Driver = ">=9.0 <1.0" }), "driver"},
		"no compute capability":     {inCompat(func(c *snapshot.Compat) { c.ComputeCapability = "8.0 9.0" }), "computeCapability"},
		"more than the policy takes": {func(s *snapshot.Snapshot) {
			s.Policies[0].Content.Limits.TotalBytes = s.Models[0].Size - 1
		}, "models[0].size"},
		"exact without contains": {inExpect(snapshot.Expect{Exact: "yes", Contains: "no"}), "contains"},
		"exact without regexp":   {inExpect(snapshot.Expect{Exact: "yes", Regexp: "no"}), "regexp"},
		"exact of no digest":     {inExpect(snapshot.Expect{Exact: "yes", Digest: testDigest("no")}), "digest"},
		"exact of no schema":     {inExpect(snapshot.Expect{Exact: "yes", Schema: jsontext.Value(`{"type":"string"}`)}), "schema"},
	} {
		unrunnable[name] = c
	}
}

// What is only odd is signed.
func TestCheckRunnableTakesWhatIsOdd(t *testing.T) {
	for name, change := range map[string]func(*snapshot.Snapshot){
		"a policy that nothing uses": func(s *snapshot.Snapshot) {
			pol := testPolicy()
			pol.Name, pol.Images = "later", []snapshot.ImageGlob{{Glob: "later.example/**"}}
			s.Policies = append(s.Policies, pol)
		},
		"as large as the policy takes": func(s *snapshot.Snapshot) {
			s.Policies[0].Content.Limits.TotalBytes = s.Models[0].Size
		},
		"the runtime's version": func(s *snapshot.Snapshot) { s.Models[0].Compat.RuntimeVersion = ">=1.2 <1.3 || >=9 <1" },
		"members named as keywords": inSchema(`{"type":"object","properties":{"$id":{"type":"string"},"$ref":{"const":{"$ref":"#"}},
			"type":{"enum":["strin",{"$anchor":"a"}]},"TYPE":true,"examples":{"default":{"$id":7}}},"required":["$id"]}`),
		"one driver": func(s *snapshot.Snapshot) { s.Models[0].Compat.Driver = ">550.54.14 <=550.54.15" },
		"all expectations at once": func(s *snapshot.Snapshot) {
			s.Models[0].Validation.Deterministic = true
			s.Models[0].Validation.Expect = snapshot.Expect{
				Exact: `{"a":1}`, Contains: "a", Regexp: "a.*1", Digest: testDigest(`{"a":1}`), Schema: jsontext.Value(`{"type":"object"}`),
			}
		},
	} {
		s := validSnapshot()
		change(s)
		if err := s.CheckRunnable(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A range is called empty only if no version lies in it.
func TestRangeEmpty(t *testing.T) {
	var versions []snapshot.Version
	for _, a := range "0123" {
		for _, b := range "0123" {
			for _, c := range "0123" {
				v, err := snapshot.ParseVersion(string(a) + "." + string(b) + "." + string(c))
				if err != nil {
					t.Fatal(err)
				}
				versions = append(versions, v)
			}
		}
	}
	operators := []string{">=", "<=", "!=", ">", "<", "=", "^", "~"}
	bounds := []string{"0", "1", "0.0", "0.1", "1.0", "1.1", "0.0.0", "0.0.1", "0.1.0", "1.0.1", "1.1.1"}
	for _, o1 := range operators {
		for _, b1 := range bounds {
			for _, o2 := range operators {
				for _, b2 := range bounds {
					text := o1 + b1 + " " + o2 + b2
					r, err := snapshot.ParseRange(text)
					if err != nil {
						t.Fatal(err)
					}
					if some := slices.ContainsFunc(versions, r.Holds); r.Empty() == some {
						t.Fatalf("%s: empty %t, holds one %t", text, r.Empty(), some)
					}
				}
			}
		}
	}
	if r, _ := snapshot.ParseRange(">1.0.0-rc.1 <1.0.0-rc.3"); r.Empty() {
		t.Error("a range of pre-releases is called empty")
	}
}

func inRuntime(change func(*snapshot.Runtime)) func(*snapshot.Snapshot) {
	return func(s *snapshot.Snapshot) { change(&s.Runtimes[0]) }
}

func inSchema(text string) func(*snapshot.Snapshot) {
	return func(s *snapshot.Snapshot) { s.Models[0].Validation.Expect.Schema = jsontext.Value(text) }
}

func inReference(ref string) func(*snapshot.Snapshot) {
	return func(s *snapshot.Snapshot) { s.Models[0].Reference = ref }
}

// A publisher is told what every node would refuse; a node that meets it keeps
// the rest of the document.
func TestCheckRunnable(t *testing.T) {
	if err := validSnapshot().CheckRunnable(); err != nil {
		t.Fatal(err)
	}
	for name, c := range unrunnable {
		s := validSnapshot()
		c.change(s)
		wantErr(t, s.CheckRunnable(), snapshot.ErrInvalid, c.words)
		if _, err := snapshot.Parse(mustJSON(t, s)); err != nil {
			t.Errorf("%s: a node refuses the whole document: %v", name, err)
		}
		if s.Models[0].Digest() == "" {
			t.Errorf("%s: it cannot be revoked by its digest", name)
		}
	}
}

// FuzzReference: what a publisher may sign, the client of every node can ask
// for, by the same digest; what a node takes besides, it can at least revoke.
func FuzzReference(f *testing.F) {
	d := testDigest("x").String()
	for _, s := range []string{"r.example/a@" + d, "r.example:5000/a/b__c@" + d, "[::1]:5000/a@" + d, "a@" + d, "r/../a@" + d, "r/a:tag@" + d, "r/a-@" + d, "r.example:0/a@" + d} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		repo, dg, err := snapshot.SplitReference(text)
		ref, cerr := oci.ParseReference(text)
		if cerr == nil && (err != nil || ref.Name() != repo || ref.Digest != dg) {
			t.Fatalf("%q: %q and %q (%v), the client has %q", text, repo, dg, err, ref)
		}
		if err != nil {
			return
		}
		if repo+"@"+dg.String() != text || strings.Contains(repo, "..") || strings.ContainsAny(repo, " \\\x00") {
			t.Fatalf("%q became %q and %q", text, repo, dg)
		}
		s := validSnapshot()
		s.Models[0].Reference = text
		s.Models[0].Mirrors = []string{repo}
		s.Policies[0].Images = append(s.Policies[0].Images, snapshot.ImageGlob{Glob: repo})
		if signable := s.CheckRunnable() == nil; signable != (cerr == nil) || cerr != nil && !errors.Is(cerr, oci.ErrReference) {
			t.Fatalf("%q: signable %t, the client says %v", text, signable, cerr)
		}
	})
}
