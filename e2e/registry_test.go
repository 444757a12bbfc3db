package e2e

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// registry is one process of hack/registry that a test may torment.
type registry struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd

	Address  string `json:"address"`
	CA       string `json:"ca"`
	Username string `json:"username"`
	Password string `json:"password"`
	Control  string `json:"control"`
	Requests string `json:"requests"`
}

func startRegistry(t *testing.T, flags ...string) *registry {
	t.Helper()
	r := &registry{t: t, dir: t.TempDir()}
	r.start(flags...)
	t.Cleanup(r.stop)
	return r
}

func (r *registry) start(flags ...string) {
	r.t.Helper()
	r.cmd = exec.Command(bed.Registry.Binary, append([]string{"serve", "-dir", r.dir}, flags...)...)
	var stderr bytes.Buffer
	r.cmd.Stderr = &stderr
	// It must not outlive a test binary that is killed.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, "the registry is ready", func() bool {
		b, err := os.ReadFile(filepath.Join(r.dir, "registry.json"))
		return err == nil && json.Unmarshal(b, r) == nil
	})
}

func (r *registry) stop() {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	_ = r.cmd.Wait()
	r.cmd = nil
}

// hosts is the part of a configuration that reaches this registry.
func (r *registry) hosts() string {
	return hosts(r.Address, r.CA, r.Username, r.Password)
}

func hosts(address, ca, username, password string) string {
	return fmt.Sprintf("[hosts.%q]\nca = %q\nusername = %q\npassword = %q\n\n", address, ca, username, password)
}

// fault replaces the faults; none ends them.
func (r *registry) fault(faults ...string) {
	r.t.Helper()
	part := r.Control + ".part"
	if err := os.WriteFile(part, []byte(`{"faults":[`+strings.Join(faults, ",")+`]}`), 0o644); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(part, r.Control); err != nil {
		r.t.Fatal(err)
	}
}

// request is a line of the request log.
type request struct {
	Time       time.Time `json:"time"` // when it began
	Method     string    `json:"method"`
	Kind       string    `json:"kind"`
	Repository string    `json:"repository"`
	Reference  string    `json:"reference"`
	Range      string    `json:"range"`
	Status     int       `json:"status"`
	Bytes      int64     `json:"bytes"`
	Faults     []string  `json:"faults"`
}

// log is the requests so far.
func (r *registry) log() []request {
	r.t.Helper()
	b, err := os.ReadFile(r.Requests)
	if err != nil {
		r.t.Fatal(err)
	}
	var all []request
	for line := range bytes.Lines(b) {
		var q request
		if json.Unmarshal(line, &q) == nil { // the last line may be half written
			all = append(all, q)
		}
	}
	return all
}

// blobBytes adds up what was sent of a blob since the log had n lines.
func (r *registry) blobBytes(n int, digest string) int64 {
	var sum int64
	for _, q := range r.log()[n:] {
		if q.Method == http.MethodGet && q.Kind == "blob" && (digest == "" || q.Reference == digest) {
			sum += q.Bytes
		}
	}
	return sum
}

// do speaks to the registry without rmodels, for artifacts that no honest
// publisher makes.
func (r *registry) do(method, path, mediaType string, body []byte) (*http.Response, []byte) {
	r.t.Helper()
	pem, err := os.ReadFile(r.CA)
	if err != nil {
		r.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	u := path
	if strings.HasPrefix(u, "/") {
		u = "https://" + r.Address + path
	}
	q, err := http.NewRequestWithContext(r.t.Context(), method, u, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	q.SetBasicAuth(r.Username, r.Password)
	q.Header.Set("Content-Type", mediaType)
	q.Header.Set("Accept", manifestType+", "+indexType) // distribution takes no wildcard
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res, b
}

func (r *registry) pushBlob(repository string, b []byte) string {
	r.t.Helper()
	res, _ := r.do(http.MethodPost, "/v2/"+repository+"/blobs/uploads/", "", nil)
	to, err := res.Location()
	if err != nil {
		r.t.Fatalf("upload: %s: %v", res.Status, err)
	}
	q := to.Query()
	q.Set("digest", sha(b))
	to.RawQuery = q.Encode()
	if res, body := r.do(http.MethodPut, to.String(), "application/octet-stream", b); res.StatusCode != http.StatusCreated {
		r.t.Fatalf("upload: %s %s", res.Status, body)
	}
	return sha(b)
}

func (r *registry) pushManifest(repository, reference, mediaType string, b []byte) {
	r.t.Helper()
	if res, body := r.do(http.MethodPut, "/v2/"+repository+"/manifests/"+reference, mediaType, b); res.StatusCode != http.StatusCreated {
		r.t.Fatalf("push manifest: %s %s", res.Status, body)
	}
}

func (r *registry) manifest(repository, reference string) []byte {
	r.t.Helper()
	res, body := r.do(http.MethodGet, "/v2/"+repository+"/manifests/"+reference, "", nil)
	if res.StatusCode != http.StatusOK {
		r.t.Fatalf("manifest %s@%s: %s %s", repository, reference, res.Status, body)
	}
	return body
}

func sha(b []byte) string {
	s := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(s[:])
}
