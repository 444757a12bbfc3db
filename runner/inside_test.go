package runner_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/runner/probe"
)

// TestProbeSeesAnOpenBox runs the probe in a container that is open in every
// way that does the machine no harm. Each way must be seen.
func TestProbeSeesAnOpenBox(t *testing.T) {
	e := testEngine(t)
	j := fixtureJob(t, "serve", "the right words")
	if v := validate(t, e, j); !v.Passed { // puts the image there
		t.Fatal(v.Reason, v.Found)
	}
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	abstract, err := net.Listen("unix", "@rmodels-test-open-box")
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	plan, err := json.Marshal(probe.Plan{
		Model: "/models/model", TCP: []string{tcp.Addr().String()}, Nowhere: []string{"127.0.0.1:1"}, Socket: "rmodels-test-open-box",
		Files: []string{secret}, Env: []string{"PATH", "HOME", "HOSTNAME"}, Pids: 64, Memory: 32 << 20,
		Tmpfs: []probe.Tmpfs{{Path: "/tmp", Size: 1 << 20}},
	})
	if err != nil {
		t.Fatal(err)
	}
	out := engineCLI(t, "run", "--rm", "--pull", "never", "--network", "host", "--user", "0", "--cap-add", "NET_RAW", "--cap-add", "SYS_ADMIN",
		"--security-opt", "seccomp=unconfined", "--pid", "host", "--env", "SECRET=1", "--tmpfs", "/tmp:exec,size=8m",
		"--mount", "type=bind,source="+j.ModelDir+",target=/models/model", "--mount", "type=bind,source="+filepath.Dir(secret)+",target="+filepath.Dir(secret),
		"--mount", "type=bind,source="+buildStatic(t, "./probe/rmodels-probe")+",target=/rmodels-probe,readonly", "--entrypoint", "/rmodels-probe",
		j.Image.Manifest.String(), probe.Arg, "try", string(plan))
	r, err := probe.ReadReport([]byte(out))
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	open := map[string]bool{}
	for _, try := range r.Tries {
		if !try.Closed {
			open[try.Name] = true
		}
	}
	for _, want := range []string{
		"create a file in the model", "open the model's files for writing", "change the model's mode", "create a file in /", "create a file in /dev",
		"see the host's " + secret, "see the host's environment", "write without bound to /tmp", "run a program from /tmp",
		"connect to " + tcp.Addr().String(), "connect to 127.0.0.1:1", "connect to the host's abstract socket",
		"open a socket of AF_PACKET", "open a raw socket of protocol 1", "call keyctl", "call unshare", "call mount", "call ptrace",
		"be root", "set the user to root", "make a mount namespace", "make a network namespace", "hold a capability", "see the host's processes",
		"fork past the limit", "allocate past the limit",
	} {
		if !open[want] {
			t.Errorf("the probe did not see that it can %s", want)
		}
	}
	t.Logf("%d of %d attempts succeeded in the open box", len(open), len(r.Tries))
}

// TestProofIsKept: the second run of the same box needs no probe; another
// box, or a proof that was tampered with, does.
func TestProofIsKept(t *testing.T) {
	e := testEngine(t)
	j := fixtureJob(t, "serve", "the right words")
	j.StateDir = filepath.Join(t.TempDir(), "runs")
	from := func(want string) *runner.Verdict {
		t.Helper()
		v := validate(t, e, j)
		if !v.Passed || v.ProofFrom != want {
			t.Errorf("passed %v, proof from %s, want %s", v.Passed, v.ProofFrom, want)
		}
		inside := 0
		for _, c := range v.Isolation {
			if c.Where == "inside" {
				inside++
			}
		}
		if inside < 60 {
			t.Errorf("%d inside checks in the verdict", inside)
		}
		return v
	}
	first := from("run")
	if second := from("cache"); second.Key != first.Key {
		t.Error("the same run has another key")
	}
	j.Runtime.Args = []string{"serve", "the", "right", "words"} // the same box, another program
	if v := from("cache"); v.Key == first.Key {
		t.Error("another program has the same key")
	}
	j.Runtime.Pids = 65
	from("run")
	proofs, err := filepath.Glob(filepath.Join(j.StateDir, "proof-*.json"))
	if err != nil || len(proofs) != 2 {
		t.Fatalf("%v, %v", proofs, err)
	}
	for _, p := range proofs {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(strings.Replace(string(b), `"passed":true`, `"passed":false`, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	from("run")
}

func TestNoProbe(t *testing.T) {
	o := engineOptions(t)
	o.Probe = "/bin/true" // no static program, or none at all
	e, err := runner.FindEngine(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	j := fixtureJob(t, "serve", "the right words")
	if _, err := e.Validate(t.Context(), j); err == nil || !strings.Contains(err.Error(), "rmodels-probe") {
		t.Errorf("without a probe: %v", err)
	}
	nothingLeft(t, j)
}
