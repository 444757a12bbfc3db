package oci

import (
	"os/user"
	"path/filepath"
	"testing"
)

// TestDockerConfigWithoutHome: a service of systemd has no HOME, and finds the
// login that a person made all the same.
func TestDockerConfigWithoutHome(t *testing.T) {
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", "")
	for home, want := range map[string]string{"": u.HomeDir, "/home/other": "/home/other"} {
		t.Setenv("HOME", home)
		if got := dockerConfigPath(); got != filepath.Join(want, ".docker", "config.json") {
			t.Errorf("HOME %q: %s", home, got)
		}
	}
	t.Setenv("DOCKER_CONFIG", "/etc/docker")
	if got := dockerConfigPath(); got != "/etc/docker/config.json" {
		t.Errorf("DOCKER_CONFIG: %s", got)
	}
}
