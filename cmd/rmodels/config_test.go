package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/resultity/rmodels/oci"
)

// registryOf reads a configuration file with a command line over it.
func registryOf(t *testing.T, file string, args ...string) (oci.Options, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	addSettings(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	c, _, err := loadConfig(fs, path, false)
	if err != nil {
		return oci.Options{}, err
	}
	return c.registry()
}

func TestLimits(t *testing.T) {
	const mib = 1 << 20
	file := "[limits]\nrate = \"100MiB\"\nschedule = [\"08:00-18:00 20MiB\", \"22:00-06:00 none\"]\n"
	o, err := registryOf(t, file)
	if err != nil {
		t.Fatal(err)
	}
	day := oci.Hours{From: 8 * time.Hour, To: 18 * time.Hour, Rate: 20 * mib}
	if o.LimitRate != 100*mib || len(o.Schedule) != 2 || o.Schedule[0] != day || o.Schedule[1].Rate != 0 {
		t.Errorf("got %d, %v", o.LimitRate, o.Schedule)
	}
	o, err = registryOf(t, file, "--limit-rate", "5MiB", "--limit-schedule", "00:00-24:00 1MiB")
	if err != nil || o.LimitRate != 5*mib || len(o.Schedule) != 1 || o.Schedule[0].Rate != mib {
		t.Errorf("with flags: %v, %d, %v", err, o.LimitRate, o.Schedule)
	}
	t.Setenv("RMODELS_LIMITS_RATE", "7MiB")
	t.Setenv("RMODELS_LIMITS_SCHEDULE", "01:00-02:00 2MiB,03:00-04:00 none")
	o, err = registryOf(t, file)
	if err != nil || o.LimitRate != 7*mib || len(o.Schedule) != 2 || o.Schedule[0].Rate != 2*mib {
		t.Errorf("with variables: %v, %d, %v", err, o.LimitRate, o.Schedule)
	}
}

// TestBudgetsAndTokenService: both reach the registries' client, from the file
// and from flags.
func TestBudgetsAndTokenService(t *testing.T) {
	file := "[limits]\ndocument-time = \"90s\"\nhost-time = \"1m\"\n[hosts.\"r.example\"]\ntoken-service = \"auth.example\"\n"
	o, err := registryOf(t, file)
	if err != nil {
		t.Fatal(err)
	}
	if want := (oci.Budgets{Document: 90 * time.Second, Host: time.Minute}); o.Budgets != want || o.Hosts["r.example"].TokenService != "auth.example" {
		t.Errorf("got %+v, %+v", o.Budgets, o.Hosts)
	}
	o, err = registryOf(t, file, "--limit-model-time", "5m", "--host", "s.example;token-service=auth.example:5001")
	if err != nil || o.Budgets.Model != 5*time.Minute || o.Hosts["s.example"].TokenService != "auth.example:5001" {
		t.Errorf("with flags: %v, %+v, %+v", err, o.Budgets, o.Hosts)
	}
	if _, err := registryOf(t, "[limits]\nhost-time = \"-1s\"\n"); exitCode(err) != exitUsage {
		t.Errorf("a negative time: %v", err)
	}
}

// TestUnknownVariable: a variable that looks like a setting and is none is a
// typing error, as an unknown key is; an empty one, too.
func TestUnknownVariable(t *testing.T) {
	t.Setenv("RMODELS_TEST_ANYTHING", "1")
	if _, err := registryOf(t, ""); err != nil {
		t.Errorf("a variable of the tests: %v", err)
	}
	for _, name := range []string{"RMODELS_LIMIT_RATE", "RMODELS_NETWROK", "RMODELS_"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, "")
			if _, err := registryOf(t, ""); exitCode(err) != exitUsage || !strings.Contains(err.Error(), name+": ") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestLimitsRefused(t *testing.T) {
	for _, s := range []string{
		"[limits]\nrate = \"100\"", "[limits]\nrate = \"1KiB\"", "[limits]\nrate = 5", "[limits]\nhours = []",
		"[limits]\nschedule = \"08:00-18:00 20MiB\"", "[limits]\nschedule = [\"08:00-18:00\"]", "[limits]\nschedule = [\"8:00-18:00 20MiB\"]",
		"[limits]\nschedule = [\"08:00-18:00  20MiB\"]", "[limits]\nschedule = [\"08:00-18:00 0B\"]", "[limits]\nschedule = [\"08:00-18:00 -1MiB\"]",
		"[limits]\nschedule = [\"08:00-18:00 20MiB/s\"]", "[limits]\nschedule = [\"18:00-18:00 20MiB\"]", "[limits]\nschedule = [\"08:00-18:00 1B\"]",
		"[registry]\nlimit-rate = \"100MiB\"", "[registry]\nconnections = -1",
	} {
		if o, err := registryOf(t, s); err == nil {
			t.Errorf("%q: accepted as %d, %v", s, o.LimitRate, o.Schedule)
		} else if exitCode(err) != exitUsage {
			t.Errorf("%q: exit code %d: %v", s, exitCode(err), err)
		}
	}
}

func TestHoursReadBack(t *testing.T) {
	for _, s := range []string{"08:00-18:30 20MiB", "22:00-24:00 none"} {
		var h hours
		if err := h.UnmarshalText([]byte(s)); err != nil {
			t.Fatal(err)
		}
		if b, err := h.MarshalText(); err != nil || string(b) != s {
			t.Errorf("%q came back as %q, %v", s, b, err)
		}
	}
}

func TestHostsDir(t *testing.T) {
	for file, want := range map[string]string{
		"":                                     hostsDir,
		"[registry]\nhosts-dir = \"none\"":     "",
		"[registry]\nhosts-dir = \"/etc/x.d\"": "/etc/x.d",
	} {
		if o, err := registryOf(t, file); err != nil || o.HostsDir != want {
			t.Errorf("%q: %q, %v", strings.TrimSpace(file), o.HostsDir, err)
		}
	}
}
