package oci

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/resultity/rmodels/internal/durable"
)

// Files that decide who is spoken to and as whom are read only when no other
// user can write or replace them; secrets, when no other user can read them.

// MaxCertificates bounds a file of certificates, and of a private key, in
// bytes; the bundle of a system has some 250 KB.
const MaxCertificates = 4 << 20

// LoadKeyPair reads a client certificate and its private key.
func LoadKeyPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := durable.ReadOwn(certFile, MaxCertificates)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := durable.ReadSecret(keyFile, MaxCertificates)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// maxDockerConfig bounds docker's config.json.
const maxDockerConfig = 4 << 20

// dockerConfigPath is where docker keeps its configuration. A service of systemd
// has no HOME: the user's entry in passwd names the directory then. It is empty
// where there is none.
func dockerConfigPath() string {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			u, err := user.Current()
			if err != nil || u.HomeDir == "" {
				return ""
			}
			home = u.HomeDir
		}
		dir = filepath.Join(home, ".docker")
	}
	return filepath.Join(dir, "config.json")
}

// checkDockerConfig refuses a docker configuration of other users: it names
// programs that are run, and may hold passwords.
func checkDockerConfig(path string) error {
	if path == "" {
		if path = dockerConfigPath(); path == "" {
			return nil
		}
	}
	b, err := durable.ReadOwn(path, maxDockerConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var config struct {
		Auths map[string]struct {
			Auth, Password, IdentityToken, RegistryToken string
		} `json:"auths"`
	}
	if err := json.Unmarshal(b, &config, json.MatchCaseInsensitiveNames(true)); err != nil {
		return nil // what reads it says so
	}
	for _, a := range config.Auths {
		if a.Auth+a.Password+a.IdentityToken+a.RegistryToken != "" {
			_, err = durable.ReadSecret(path, maxDockerConfig)
			return err
		}
	}
	return nil
}

// CheckSystemRoots refuses authorities that the variables of crypto/x509 name
// when they are of other users, or no files: crypto/x509 would wait for a FIFO,
// and read a device, without an end.
func CheckSystemRoots() error {
	if file := os.Getenv("SSL_CERT_FILE"); file != "" {
		f, err := durable.OpenOwn(file)
		switch {
		case err == nil:
			f.Close()
		case errors.Is(err, durable.ErrExposed), errors.Is(err, durable.ErrNotRegular):
			return fmt.Errorf("%w: SSL_CERT_FILE: %w", ErrTLS, err)
		}
	}
	for dir := range strings.SplitSeq(os.Getenv("SSL_CERT_DIR"), ":") {
		if dir == "" {
			continue
		}
		if err := durable.CheckEntries(dir, func(string) bool { return true }); errors.Is(err, durable.ErrExposed) {
			return fmt.Errorf("%w: SSL_CERT_DIR: %w", ErrTLS, err)
		}
		entries, _ := os.ReadDir(dir) // what crypto/x509 cannot read, it leaves out
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if fi, err := os.Stat(path); err == nil && !fi.IsDir() && !fi.Mode().IsRegular() {
				return fmt.Errorf("%w: SSL_CERT_DIR: %s: %w", ErrTLS, path, durable.ErrNotRegular)
			}
		}
	}
	return nil
}
