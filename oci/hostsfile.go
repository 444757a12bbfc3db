package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/resultity/rmodels/internal/durable"
)

// mirrorHost is one place that a hosts.toml names for a registry.
type mirrorHost struct {
	addr string // host[:port]
	root string // path of its API
	host Host
}

// hostsTOML is the part of containerd's hosts.toml that concerns pulling.
// Keys that are not named here do not change what is fetched.
type hostsTOML struct {
	Server string `toml:"server"`
	hostTOML
	Host map[string]hostTOML `toml:"host"`
}

type hostTOML struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   *bool          `toml:"skip_verify"`
	OverridePath bool           `toml:"override_path"`
	Header       map[string]any `toml:"header"`
}

// maxHostsFile bounds a hosts.toml.
const maxHostsFile = 1 << 20

// readHosts reads <dir>/<registry>/hosts.toml: the hosts to ask in order, the
// registry itself or its replacement last. Nil when there is no file.
func readHosts(dir, registry string) ([]mirrorHost, error) {
	names := []string{registry, "_default"}
	if host, port, ok := strings.Cut(registry, ":"); ok {
		names = slices.Insert(names, 0, host+"_"+port+"_")
	}
	for _, name := range names {
		path := filepath.Join(dir, name, "hosts.toml")
		b, err := durable.ReadOwn(path, maxHostsFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if errors.Is(err, durable.ErrTooLong) {
			return nil, fmt.Errorf("%w: %w", ErrTooLarge, err)
		}
		if err != nil {
			return nil, err
		}
		hosts, err := parseHosts(b, filepath.Dir(path), registry)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return hosts, nil
	}
	return nil, nil
}

// hostTable finds the order of host tables, which a decoded map has lost.
var hostTable = regexp.MustCompile(`(?m)^\s*\[\s*host\s*\.\s*(?:"([^"\n]*)"|'([^'\n]*)')\s*\]`)

func parseHosts(b []byte, dir, registry string) ([]mirrorHost, error) {
	var doc hostsTOML
	if err := toml.Unmarshal(b, &doc); err != nil {
		return nil, err
	}
	var out []mirrorHost
	for _, m := range hostTable.FindAllSubmatch(b, -1) {
		name := string(m[1]) + string(m[2])
		t, ok := doc.Host[name]
		if !ok || len(t.Capabilities) > 0 && !slices.Contains(t.Capabilities, "pull") {
			continue
		}
		h, err := t.mirror(name, dir)
		if err != nil {
			return nil, fmt.Errorf("host %q: %w", name, err)
		}
		out = append(out, h)
	}
	server := doc.Server
	if server == "" {
		server = "https://" + registryAddress(registry)
	}
	own, err := doc.mirror(server, dir)
	if err != nil {
		return nil, fmt.Errorf("server %q: %w", server, err)
	}
	return append(out, own), nil
}

// mirror reads one host table. What would weaken TLS, or send what this
// package does not send, is refused rather than passed over in silence.
func (t hostTOML) mirror(name, dir string) (mirrorHost, error) {
	if !strings.Contains(name, "://") {
		name = "https://" + name
	}
	u, err := url.Parse(name)
	if err != nil {
		return mirrorHost{}, err
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return mirrorHost{}, errors.New("want http(s)://host[:port][/path]")
	}
	if t.SkipVerify != nil && *t.SkipVerify {
		return mirrorHost{}, errors.New("skip_verify is not supported: name the authority with ca, or read no hosts.toml")
	}
	if len(t.Header) > 0 {
		return mirrorHost{}, errors.New("extra headers are not sent: remove them, or read no hosts.toml")
	}
	m := mirrorHost{addr: u.Host, root: strings.TrimSuffix(u.Path, "/")}
	if !t.OverridePath && !strings.HasSuffix(m.root, "/v2") {
		m.root += "/v2"
	}
	ca, err := paths(t.CA, dir)
	if err != nil || len(ca) > 1 {
		return m, errors.New("ca: want one file")
	}
	if len(ca) == 1 {
		m.host.CAFile = ca[0]
	}
	client, err := paths(t.Client, dir)
	switch {
	case err != nil || len(client) > 2:
		return m, errors.New("client: want one certificate and its key")
	case len(client) > 0:
		m.host.CertFile, m.host.KeyFile = client[0], client[len(client)-1]
	}
	m.host.PlainHTTP = u.Scheme == "http"
	return m, nil
}

// paths reads a string, a list of strings, or a list of one such list, as
// containerd does; relative ones start at the file's directory.
func paths(v any, dir string) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		if !filepath.IsAbs(v) {
			v = filepath.Join(dir, v)
		}
		return []string{v}, nil
	case []any:
		var out []string
		for _, e := range v {
			p, err := paths(e, dir)
			if err != nil {
				return nil, err
			}
			out = append(out, p...)
		}
		return out, nil
	}
	return nil, errors.New("want a path")
}

// registryAddress is where a registry listens.
func registryAddress(registry string) string {
	if registry == "docker.io" {
		return "registry-1.docker.io"
	}
	return registry
}
