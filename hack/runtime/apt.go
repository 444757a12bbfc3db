package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// keyring is in Debian's essential set; apt verifies every index and so every
// package with it.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// apt is an apt-get whose whole state lies in one directory: it knows neither
// the packages nor the sources nor the hooks of this machine.
type apt struct {
	dir    string
	mirror string
}

func newAPT(ctx context.Context, dir, suite, mirror string) (*apt, error) {
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is not here: the engine is taken from Debian's packages, so run this on Debian or a derivative", tool)
		}
	}
	if _, err := os.Stat(keyring); err != nil {
		return nil, fmt.Errorf("debian's keyring is missing: install the package debian-archive-keyring: %w", err)
	}
	if mirror == "" {
		var err error
		if mirror, err = machineMirror(ctx); err != nil {
			return nil, err
		}
	}
	a := &apt{dir: dir, mirror: mirror}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "etc/preferences.d"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	network, err := networkSettings(ctx)
	if err != nil {
		return nil, err
	}
	// apt reads this file before the machine's own; the Dir::Etc lines make
	// the machine's vanish, hooks included.
	config := fmt.Sprintf(`Dir::State %q;
Dir::State::status %q;
Dir::Cache %q;
Dir::Etc %q;
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist %q;
Dir::Etc::sourceparts "/dev/null";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "root";
APT::Get::Assume-Yes "true";
APT::Install-Recommends "false";
%s`, a.path("state"), a.path("status"), a.path("cache"), a.path("etc"), a.path("sources.list"), network)
	sources := fmt.Sprintf("deb [signed-by=%s] %s %s main\n", keyring, mirror, suite)
	return a, errors.Join(
		os.WriteFile(a.path("apt.conf"), []byte(config), 0o644),
		os.WriteFile(a.path("sources.list"), []byte(sources), 0o644),
		os.WriteFile(a.path("status"), nil, 0o644),
	)
}

func (a *apt) path(name string) string { return filepath.Join(a.dir, name) }

// machineMirror is where this machine gets its own Debian packages.
func machineMirror(ctx context.Context) (string, error) {
	list := func() string {
		out, err := exec.CommandContext(ctx, "apt-get", "indextargets",
			"--format", "$(REPO_URI) $(COMPONENT) $(ORIGIN)", "Created-By: Packages").Output()
		if err != nil {
			return ""
		}
		for line := range strings.Lines(string(out)) {
			f := strings.Fields(line)
			if len(f) == 3 && f[1] == "main" && f[2] == "Debian" && !strings.Contains(f[0], "security") {
				return f[0]
			}
		}
		return ""
	}
	if m := list(); m != "" {
		return m, nil
	}
	// A fresh image has sources but no lists, and the origin stands there.
	step("reading this machine's package lists to find its Debian mirror")
	if out, err := exec.CommandContext(ctx, "apt-get", "update", "-q").CombinedOutput(); err != nil {
		return "", fmt.Errorf("apt-get update: %w\n%s", err, out)
	}
	if m := list(); m != "" {
		return m, nil
	}
	return "", errors.New("this machine's apt has no Debian mirror: name one with -mirror")
}

// networkSettings copies how this machine reaches its mirrors: proxies,
// timeouts, client certificates, and whether it takes a mirror that lags
// behind (Check-Valid-Until, Check-Date). What would admit unsigned packages
// is not copied.
func networkSettings(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-config", "dump", "--format", `%F "%v";%n`).Output()
	if err != nil {
		return "", fmt.Errorf("apt-config dump: %w", err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(out)) {
		for _, setting := range []string{"Acquire::http", "Acquire::https", "Acquire::Check-"} {
			if strings.HasPrefix(line, setting) {
				b.WriteString(line)
				break
			}
		}
	}
	return b.String(), nil
}

func (a *apt) run(ctx context.Context, args ...string) error {
	// A mirror that stalls must not hold a build for ever.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q"}, args...)...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.path("apt.conf"), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out.Bytes())
	}
	return nil
}

// download fetches name and everything it depends on, and lists the files.
func (a *apt) download(ctx context.Context, name string) ([]string, error) {
	if err := a.run(ctx, "update"); err != nil {
		return nil, err
	}
	if err := a.run(ctx, "install", "--download-only", name); err != nil {
		return nil, err
	}
	debs, err := filepath.Glob(a.path("cache/archives/*.deb"))
	if err != nil {
		return nil, err
	}
	if len(debs) == 0 {
		return nil, fmt.Errorf("apt-get downloaded nothing for %s: %w", name, fs.ErrNotExist)
	}
	sort.Strings(debs)
	return debs, nil
}

// pkg is an unpacked package.
type pkg struct {
	name, version, root string
}

// unpack puts each package in a directory of its own under dir, so that each
// file's package is known.
func unpack(ctx context.Context, debs []string, dir string) ([]pkg, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	var all []pkg
	for _, deb := range debs {
		out, err := exec.CommandContext(ctx, "dpkg-deb", "--show", "--showformat=${Package} ${Version}", deb).Output()
		f := strings.Fields(string(out))
		if err != nil || len(f) != 2 {
			return nil, fmt.Errorf("dpkg-deb cannot read %s: %v", deb, err)
		}
		p := pkg{name: f[0], version: f[1], root: filepath.Join(dir, f[0])}
		if err := os.MkdirAll(p.root, 0o755); err != nil {
			return nil, err
		}
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "--extract", deb, p.root).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("dpkg-deb cannot unpack %s: %w\n%s", deb, err, out)
		}
		all = append(all, p)
	}
	return all, nil
}
