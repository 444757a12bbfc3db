// Package deploy holds the units that are shipped.
package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// isolating are the settings of systemd.exec(5) that give a service a mount
// namespace of its own, and those of systemd.resource-control(5), or that imply
// them, that keep devices from it.
var isolating = regexp.MustCompile(`^(Protect(Home|System|KernelLogs|KernelModules|KernelTunables|ControlGroups|Proc|Clock)|ProcSubset|` +
	`Private(Tmp|Devices|Mounts|Users|IPC|Network)|(ReadWrite|ReadOnly|Inaccessible|Exec|NoExec)Paths|Bind(ReadOnly)?Paths|` +
	`Root(Directory|Image)|Mount(Flags|APIVFS|Images)|ExtensionImages|ExtensionDirectories|TemporaryFileSystem|DynamicUser|` +
	`RestrictNamespaces|LogNamespace|JoinsNamespaceOf|Device(Allow|Policy)|LoadCredential.*|SetCredential.*)$`)

// TestUnits: the units end, see what the host mounts and find root's login.
func TestUnits(t *testing.T) {
	units, err := filepath.Glob("*.service")
	if err != nil || len(units) == 0 {
		t.Fatal(units, err)
	}
	for _, unit := range units {
		b, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		set := map[string]string{}
		for line := range strings.Lines(string(b)) {
			line = strings.TrimSpace(line)
			key, value, ok := strings.Cut(line, "=")
			if line == "" || line[0] == '#' || line[0] == '[' {
				continue
			}
			if !ok || set[key] != "" && key != "Environment" {
				t.Errorf("%s: %q", unit, line)
			}
			if isolating.MatchString(key) {
				t.Errorf("%s: %s hides mounts or devices of the host", unit, line)
			}
			set[key] = value
		}
		if v := set["TimeoutStartSec"]; !regexp.MustCompile(`^[1-9][0-9]*(min|h)$`).MatchString(v) {
			t.Errorf("%s: TimeoutStartSec is %q: a service that hangs keeps its timer from starting it again", unit, v)
		}
		if !strings.Contains(set["ExecStart"], " gc ") && set["Environment"] != "HOME=/root" {
			t.Errorf("%s: no HOME: root's registry login is not found", unit)
		}
	}
}
