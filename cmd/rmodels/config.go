package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/lifecycle"
	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/policy"
	"github.com/resultity/rmodels/runner"
	"github.com/resultity/rmodels/snapshot"
)

// config is the configuration file. Every scalar key is also a flag
// (engine.path is --engine-path) and a variable (RMODELS_ENGINE_PATH); flags
// win over variables, variables over the file. A key, a flag or a variable
// that is none of them is refused.
type config struct {
	Network  string          `toml:"network,omitempty"`
	StateDir string          `toml:"state-dir,omitempty"`
	StoreDir string          `toml:"store-dir,omitempty"`
	MinFree  snapshot.Bytes  `toml:"min-free,omitempty"`
	Mirrors  []string        `toml:"mirrors,omitempty"`
	Archive  string          `toml:"archive,omitempty"`
	Snapshot snapshotConfig  `toml:"snapshot,omitempty"`
	Engine   engineConfig    `toml:"engine,omitempty"`
	Registry registryConfig  `toml:"registry,omitempty"`
	Limits   limitsConfig    `toml:"limits,omitempty"`
	Hosts    map[string]host `toml:"hosts,omitempty"`
	Facts    *factsConfig    `toml:"facts,omitempty"`
}

type snapshotConfig struct {
	Source string `toml:"source,omitempty"`
}

type engineConfig struct {
	Name    string   `toml:"name,omitempty"`
	Path    string   `toml:"path,omitempty"`
	Args    []string `toml:"args,omitempty"`
	Devices []string `toml:"devices,omitempty"`
}

type registryConfig struct {
	Connections  int    `toml:"connections,omitempty"`
	DockerConfig string `toml:"docker-config,omitempty"`
	HostsDir     string `toml:"hosts-dir,omitempty"` // containerd's hosts.toml files
}

type limitsConfig struct {
	Rate     snapshot.Bytes `toml:"rate,omitempty"` // a second
	Schedule []hours        `toml:"schedule,omitempty"`

	// Of time, for all that is not a layer: see oci.Budgets.
	DocumentTime snapshot.Duration `toml:"document-time,omitempty"`
	ModelTime    snapshot.Duration `toml:"model-time,omitempty"`
	HostTime     snapshot.Duration `toml:"host-time,omitempty"`
}

type host struct {
	CA           string `toml:"ca,omitempty"`
	Cert         string `toml:"cert,omitempty"`
	Key          string `toml:"key,omitempty"`
	Username     string `toml:"username,omitempty"`
	Password     string `toml:"password,omitempty"`
	PasswordFile string `toml:"password-file,omitempty"`
	PlainHTTP    bool   `toml:"plain-http,omitempty"`
	TokenService string `toml:"token-service,omitempty"`
}

type factsConfig struct {
	Driver string         `toml:"driver,omitempty"`
	Memory snapshot.Bytes `toml:"memory,omitempty"`
	CPUs   int            `toml:"cpus,omitempty"`
	Tasks  []string       `toml:"tasks,omitempty"`
	GPUs   []gpuConfig    `toml:"gpus,omitempty"`
}

type gpuConfig struct {
	Name              string         `toml:"name"`
	UUID              string         `toml:"uuid,omitempty"`
	Memory            snapshot.Bytes `toml:"memory"`
	ComputeCapability string         `toml:"compute-capability,omitempty"`
}

// setting is one key that flags and variables may set.
type setting struct {
	key   string // as in the file; dots become dashes in the flag
	name  string // of the flag, where it is not the key's
	usage string
	list  bool // may be repeated; comma-separated in a variable
	set   func(*config, string) error
	reset func(*config) // of a list: what comes later replaces what stood before
}

func text(p func(*config) *string) func(*config, string) error {
	return func(c *config, s string) error { *p(c) = s; return nil }
}

func size(p func(*config) *snapshot.Bytes) func(*config, string) error {
	return func(c *config, s string) error { return p(c).UnmarshalText([]byte(s)) }
}

func duration(p func(*config) *snapshot.Duration) func(*config, string) error {
	return func(c *config, s string) error { return p(c).UnmarshalText([]byte(s)) }
}

func items(key, usage string, p func(*config) *[]string) setting {
	return setting{
		key: key, usage: usage, list: true,
		set:   func(c *config, s string) error { *p(c) = append(*p(c), s); return nil },
		reset: func(c *config) { *p(c) = nil },
	}
}

func one(key, usage string, set func(*config, string) error) setting {
	return setting{key: key, usage: usage, set: set}
}

// settings is the table of keys, in the order in which help shows them.
var settings = []setting{
	one("network", "network to follow; default: the only one that init set up", text(func(c *config) *string { return &c.Network })),
	one("state-dir", "directory of the node's state", text(func(c *config) *string { return &c.StateDir })),
	one("store-dir", "directory of the content store; default: store in the state directory", text(func(c *config) *string { return &c.StoreDir })),
	one("min-free", "space that stays free on the store's file system, like 10GiB", size(func(c *config) *snapshot.Bytes { return &c.MinFree })),
	items("mirrors", "registry[/prefix] to try where the snapshot permits a node's own mirrors", func(c *config) *[]string { return &c.Mirrors }),
	one("archive", "cold storage for outdated versions: a directory, or oci://registry[/prefix]; default: none", text(func(c *config) *string { return &c.Archive })),
	one("snapshot.source", "where snapshots are published: an HTTPS address, oci://registry/repository[:tag] or a directory", text(func(c *config) *string { return &c.Snapshot.Source })),
	one("engine.name", "container engine: nerdctl, docker or podman; default: the first found", text(func(c *config) *string { return &c.Engine.Name })),
	one("engine.path", "path of the container engine's program", text(func(c *config) *string { return &c.Engine.Path })),
	items("engine.args", "global flag for the container engine, like --address=/run/containerd.sock", func(c *config) *[]string { return &c.Engine.Args }),
	items("engine.devices", "CDI device for runtimes that use a GPU; default nvidia.com/gpu=all", func(c *config) *[]string { return &c.Engine.Devices }),
	one("registry.connections", "connections to one registry at most; default 16", func(c *config, s string) (err error) {
		c.Registry.Connections, err = strconv.Atoi(s)
		return err
	}),
	{key: "limits.rate", name: "limit-rate", usage: "bytes per second over all registries, like 100MiB; default: no limit", set: size(func(c *config) *snapshot.Bytes { return &c.Limits.Rate })},
	{
		key: "limits.schedule", name: "limit-schedule", list: true,
		usage: "a limit for a part of the day, like \"08:00-18:00 20MiB\" or \"22:00-06:00 none\", in local time; the first that holds counts",
		set: func(c *config, s string) error {
			var h hours
			err := h.UnmarshalText([]byte(s))
			c.Limits.Schedule = append(c.Limits.Schedule, h)
			return err
		},
		reset: func(c *config) { c.Limits.Schedule = nil },
	},
	{key: "limits.document-time", name: "limit-document-time", usage: "for one manifest, list, bundle or snapshot file, from the request to its last byte; default 30s", set: duration(func(c *config) *snapshot.Duration { return &c.Limits.DocumentTime })},
	{key: "limits.model-time", name: "limit-model-time", usage: "for all manifests, lists and bundles of one model; default 2m", set: duration(func(c *config) *snapshot.Duration { return &c.Limits.ModelTime })},
	{key: "limits.host-time", name: "limit-host-time", usage: "what a host that does not deliver may cost in one pass before it is left out; default 30s", set: duration(func(c *config) *snapshot.Duration { return &c.Limits.HostTime })},
	one("registry.hosts-dir", "containerd's <registry>/hosts.toml files, or none; default: /etc/containerd/certs.d", text(func(c *config) *string { return &c.Registry.HostsDir })),
	one("registry.docker-config", "docker's config.json with registry credentials", text(func(c *config) *string { return &c.Registry.DockerConfig })),
	{key: "host", usage: "a registry's access: ADDRESS[;ca=FILE][;cert=FILE][;key=FILE][;username=NAME][;password-file=FILE][;plain-http=true][;token-service=ADDRESS]", list: true, set: setHost},
}

// setHost reads the one-line form of a hosts table.
func setHost(c *config, s string) error {
	parts := strings.Split(s, ";")
	if parts[0] == "" {
		return errors.New("no registry address before the first semicolon")
	}
	h := c.Hosts[parts[0]]
	for _, p := range parts[1:] {
		k, v, _ := strings.Cut(p, "=")
		switch k {
		case "ca":
			h.CA = v
		case "cert":
			h.Cert = v
		case "key":
			h.Key = v
		case "username":
			h.Username = v
		case "password-file":
			h.PasswordFile = v
		case "token-service":
			h.TokenService = v
		case "plain-http":
			b, err := strconv.ParseBool(v)
			if err != nil {
				return fmt.Errorf("plain-http=%q is neither true nor false", v)
			}
			h.PlainHTTP = b
		default:
			return fmt.Errorf("no such key %q", k)
		}
	}
	if c.Hosts == nil {
		c.Hosts = make(map[string]host)
	}
	c.Hosts[parts[0]] = h
	return nil
}

func (s setting) flag() string { return cmp.Or(s.name, strings.ReplaceAll(s.key, ".", "-")) }

func (s setting) variable() string {
	return variablePrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(s.key))
}

// What begins with variablePrefix is a setting or configVariable, or with
// testPrefix and set for this program's tests and what they start.
const (
	variablePrefix = "RMODELS_"
	configVariable = variablePrefix + "CONFIG"
	testPrefix     = variablePrefix + "TEST_"
)

// unknownVariable is a variable that looks like a setting and is none: a
// typing error, which must not be passed over in silence. So is one that is
// not UTF-8.
func unknownVariable() error {
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, variablePrefix) && !utf8.ValidString(v) {
			return usageError{fmt.Errorf("the variable %q is not UTF-8", v)}
		}
		if !strings.HasPrefix(name, variablePrefix) || strings.HasPrefix(name, testPrefix) || name == configVariable ||
			slices.ContainsFunc(settings, func(s setting) bool { return s.variable() == name }) {
			continue
		}
		return usageError{fmt.Errorf("%s: no key of the configuration has this variable; see: rmodels --help", name)}
	}
	return nil
}

// addSettings declares the flags. Their values are read in [loadConfig].
func addSettings(fs *pflag.FlagSet) {
	for _, s := range settings {
		if s.list {
			fs.StringArray(s.flag(), nil, s.usage)
		} else {
			fs.String(s.flag(), "", s.usage)
		}
	}
}

// defaultPaths are those of the system for root, those of the XDG base
// directory specification for anyone else.
func defaultPaths() (configFile, stateDir string) {
	if os.Geteuid() == 0 {
		return "/etc/rmodels/config.toml", "/var/lib/rmodels"
	}
	home, _ := os.UserHomeDir()
	xdg := func(name, fallback string) string {
		if v := os.Getenv(name); filepath.IsAbs(v) {
			return v
		}
		return filepath.Join(home, fallback)
	}
	return filepath.Join(xdg("XDG_CONFIG_HOME", ".config"), "rmodels", "config.toml"),
		filepath.Join(xdg("XDG_STATE_HOME", ".local/state"), "rmodels")
}

// loadConfig merges file, variables and flags. file "" is the variable's, then
// the default one, which alone may be missing, unless it is going to be
// written: a command must not act on another node because of a typing error.
func loadConfig(fset *pflag.FlagSet, file string, mayMiss bool) (*config, string, error) {
	c := new(config)
	if err := unknownVariable(); err != nil {
		return nil, file, err
	}
	file = cmp.Or(file, os.Getenv(configVariable))
	named := file != ""
	defaultFile, stateDir := defaultPaths()
	file = cmp.Or(file, defaultFile)
	b, err := durable.ReadOwn(file, configMax)
	switch {
	case errors.Is(err, fs.ErrNotExist) && named && !mayMiss:
		return nil, file, usageError{fmt.Errorf("configuration %s does not exist", file)}
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, durable.ErrExposed):
		return nil, file, untrusted("the configuration", err)
	case errors.Is(err, durable.ErrNotRegular), errors.Is(err, durable.ErrTooLong):
		return nil, file, usageError{fmt.Errorf("configuration %s: %w", file, err)}
	case err != nil:
		return nil, file, fmt.Errorf("read configuration: %w", err)
	default:
		d := toml.NewDecoder(strings.NewReader(string(b)))
		d.DisallowUnknownFields()
		if err := d.Decode(c); err != nil {
			msg := err.Error()
			if e, ok := errors.AsType[*toml.StrictMissingError](err); ok {
				msg = "unknown key:\n" + e.String()
			} else if e, ok := errors.AsType[*toml.DecodeError](err); ok {
				row, col := e.Position()
				msg = fmt.Sprintf("line %d, column %d: %v", row, col, err)
			}
			return nil, file, usageError{fmt.Errorf("configuration %s: %s", file, msg)}
		}
		for name, h := range c.Hosts {
			if h.Password == "" {
				continue
			}
			if _, err := durable.ReadSecret(file, configMax); err != nil {
				return nil, file, untrusted("the configuration, which holds the password of "+name+",", err)
			}
		}
	}
	for _, s := range settings {
		values, from := []string(nil), ""
		if v, ok := os.LookupEnv(s.variable()); ok && v != "" {
			values, from = []string{v}, s.variable()
			if s.list {
				values = strings.Split(v, ",")
			}
		}
		if f := fset.Lookup(s.flag()); f != nil && f.Changed {
			from = "--" + s.flag()
			if s.list {
				values, _ = fset.GetStringArray(s.flag())
			} else {
				values = []string{f.Value.String()}
			}
		}
		if s.list && values != nil && s.reset != nil {
			s.reset(c)
		}
		for _, v := range values {
			if err := s.set(c, v); err != nil {
				return nil, file, usageError{fmt.Errorf("%s: %w", from, err)}
			}
		}
	}
	if c.StateDir == "" {
		c.StateDir = stateDir
	}
	for _, p := range []*string{&c.StateDir, &c.StoreDir, &c.Archive, &c.Snapshot.Source} {
		if *p == "" || strings.Contains(*p, "://") {
			continue
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return nil, file, err
		}
	}
	return c, file, nil
}

// configMax bounds the configuration, and passwordMax a password, in bytes.
const (
	configMax   = 1 << 20
	passwordMax = 64 << 10
)

// untrusted is a file that is obeyed and that other users decide upon.
func untrusted(what string, err error) error {
	return &lifecycle.Failure{
		Cause: lifecycle.CauseState, Err: err, Reason: what + " cannot be trusted: " + err.Error(),
		Hint: "then check what is in it; see docs/operator.md",
	}
}

// onlyNetwork is the network to follow when none is named.
func (c *config) onlyNetwork() (string, error) {
	if c.Network != "" {
		return c.Network, nil
	}
	es, err := os.ReadDir(filepath.Join(c.StateDir, "networks"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var names []string
	for _, e := range es {
		names = append(names, e.Name())
	}
	switch len(names) {
	case 1:
		return names[0], nil
	case 0:
		return "", &lifecycle.Failure{
			Cause: lifecycle.CauseState, Err: lifecycle.ErrNoNode, Reason: "no network is set up in " + c.StateDir,
			Hint: "set one up with: rmodels init --network NAME --root ROOT.json",
		}
	}
	return "", usageError{fmt.Errorf("several networks are set up (%s): choose one with --network", strings.Join(names, ", "))}
}

// hostsDir is where containerd and nerdctl look for hosts.toml files; noHosts
// reads none.
const (
	hostsDir = "/etc/containerd/certs.d"
	noHosts  = "none"
)

// registry is the part of the configuration that reaches registries.
func (c *config) registry() (oci.Options, error) {
	o := oci.Options{
		Hosts: make(map[string]oci.Host), DockerConfig: c.Registry.DockerConfig, HostsDir: cmp.Or(c.Registry.HostsDir, hostsDir),
		Connections: c.Registry.Connections, LimitRate: int64(c.Limits.Rate),
		Budgets: oci.Budgets{Document: c.Limits.DocumentTime.Std(), Model: c.Limits.ModelTime.Std(), Host: c.Limits.HostTime.Std()},
	}
	if o.HostsDir == noHosts {
		o.HostsDir = ""
	}
	for _, h := range c.Limits.Schedule {
		o.Schedule = append(o.Schedule, oci.Hours(h))
	}
	if err := o.Check(); err != nil {
		return o, usageError{fmt.Errorf("configuration: %w", err)}
	}
	for name, h := range c.Hosts {
		pw := h.Password
		if h.PasswordFile != "" {
			b, err := durable.ReadSecret(h.PasswordFile, passwordMax)
			if errors.Is(err, durable.ErrExposed) {
				return o, untrusted("the password of "+name, err)
			}
			if err != nil {
				return o, fmt.Errorf("password of %s: %w", name, err)
			}
			pw = strings.TrimRight(string(b), "\r\n")
		}
		o.Hosts[name] = oci.Host{PlainHTTP: h.PlainHTTP, CAFile: h.CA, CertFile: h.Cert, KeyFile: h.Key, Username: h.Username, Password: pw, TokenService: h.TokenService}
	}
	return o, nil
}

// node is the part of the configuration that package lifecycle wants.
func (c *config) node() (lifecycle.Options, error) {
	reg, err := c.registry()
	if err != nil {
		return lifecycle.Options{}, err
	}
	if base := filepath.Base(c.Engine.Path); c.Engine.Name != "" && base != c.Engine.Name && slices.Contains([]string{"nerdctl", "docker", "podman"}, base) {
		return lifecycle.Options{}, usageError{fmt.Errorf("engine.name is %s, but engine.path is %s: set both", c.Engine.Name, c.Engine.Path)}
	}
	o := lifecycle.Options{
		StateDir: c.StateDir, StoreDir: c.StoreDir, Network: c.Network, MinFree: int64(c.MinFree),
		Mirrors: c.Mirrors, Archive: c.Archive,
		OCI: reg, Devices: c.Engine.Devices,
		Engine: runner.EngineOptions{Name: c.Engine.Name, Path: c.Engine.Path, Args: c.Engine.Args},
	}
	if f := c.Facts; f != nil {
		o.Facts = &policy.Facts{Driver: f.Driver, Memory: int64(f.Memory), CPUs: f.CPUs, Tasks: f.Tasks}
		for _, g := range f.GPUs {
			o.Facts.GPUs = append(o.Facts.GPUs, policy.GPU{Name: g.Name, UUID: g.UUID, Memory: int64(g.Memory), ComputeCapability: g.ComputeCapability})
		}
	}
	return o, nil
}
