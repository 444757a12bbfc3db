package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"
)

// Options of one registry.
type Options struct {
	Dir, Listen, Upstream                       string
	Memory, Referrers, PlainHTTP, NoAuth, HTTP1 bool
}

// Ready is registry.json: what a client needs.
type Ready struct {
	Address  string `json:"address"` // host:port
	CA       string `json:"ca"`      // file; empty with -plain-http
	Username string `json:"username"`
	Password string `json:"password"`
	Faults   string `json:"control"`  // file to write faults to
	Requests string `json:"requests"` // file with the request log
	PID      int    `json:"pid"`
}

const username = "rmodels"

// Serve runs the registry until ctx is done.
func Serve(ctx context.Context, o Options) error {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.Remove(at("registry.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ready := Ready{Faults: at("faults.json"), Requests: at("requests.jsonl"), PID: os.Getpid()}
	if !o.NoAuth {
		if ready.Password, err = password(dir); err != nil {
			return err
		}
		ready.Username = username
	}

	// distribution logs each request, and each 404 as an error; the front has
	// its own log.
	logrus.SetLevel(logrus.FatalLevel)
	app := handlers.NewApp(ctx, distributionConfig(o, dir))
	requests, err := os.OpenFile(ready.Requests, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer requests.Close()
	f := &front{next: app, faults: &faultFile{path: ready.Faults}, requests: requests}
	if o.Referrers {
		f.next = &referrers{dir: at("referrers"), next: app}
	}

	l, err := listen(o.Listen, at("address"))
	if err != nil {
		return err
	}
	defer l.Close()
	ready.Address = l.Addr().String()
	server := &http.Server{
		Handler:           f,
		ConnContext:       withConn,
		ReadHeaderTimeout: 30 * time.Second,
		// A client that breaks a handshake off is what tests are about.
		ErrorLog: log.New(discard{}, "", 0),
	}
	if o.HTTP1 {
		server.Protocols = new(http.Protocols)
		server.Protocols.SetHTTP1(true)
	}
	serve := func() error { return server.Serve(l) }
	if !o.PlainHTTP {
		c, err := certificate(dir)
		if err != nil {
			return err
		}
		ready.CA = at("ca.pem")
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{c}, MinVersion: tls.VersionTLS12}
		serve = func() error { return server.ServeTLS(l, "", "") }
	}
	done := make(chan error, 1)
	go func() { done <- serve() }()
	b, err := json.MarshalIndent(ready, "", "  ")
	if err != nil {
		return err
	}
	if err := errors.Join(
		writeFile(at("address"), []byte(ready.Address+"\n"), 0o644),
		writeFile(at("registry.json"), append(b, '\n'), 0o600),
	); err != nil {
		return err
	}
	defer os.Remove(at("registry.json"))
	fmt.Fprintln(os.Stderr, "registry: ready on", ready.Address)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if server.Shutdown(grace) != nil {
		return server.Close()
	}
	return nil
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// listen takes the address of the last run again when any port is allowed.
func listen(address, last string) (net.Listener, error) {
	if host, port, err := net.SplitHostPort(address); err == nil && port == "0" {
		if b, err := os.ReadFile(last); err == nil {
			if h, _, err := net.SplitHostPort(strings.TrimSpace(string(b))); err == nil && h == host {
				if l, err := net.Listen("tcp", strings.TrimSpace(string(b))); err == nil {
					return l, nil
				}
			}
		}
	}
	return net.Listen("tcp", address)
}

// password makes the one account, or reads it back.
func password(dir string) (string, error) {
	file := filepath.Join(dir, "password")
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		raw := make([]byte, 18)
		rand.Read(raw)
		b = []byte(base64.RawURLEncoding.EncodeToString(raw))
		err = writeFile(file, b, 0o600)
	}
	if err != nil {
		return "", err
	}
	// The password has 144 random bits, so the cost protects nothing; each
	// request pays it.
	hash, err := bcrypt.GenerateFromPassword(b, bcrypt.MinCost)
	if err != nil {
		return "", err
	}
	return string(b), writeFile(filepath.Join(dir, "htpasswd"), []byte(username+":"+string(hash)+"\n"), 0o600)
}

func distributionConfig(o Options, dir string) *configuration.Configuration {
	c := &configuration.Configuration{
		Version: "0.1",
		Storage: configuration.Storage{
			"filesystem": configuration.Parameters{"rootdirectory": filepath.Join(dir, "data"), "maxthreads": 100},
			"delete":     configuration.Parameters{"enabled": true},
		},
	}
	if o.Memory {
		delete(c.Storage, "filesystem")
		c.Storage["inmemory"] = configuration.Parameters{}
	}
	if !o.NoAuth {
		c.Auth = configuration.Auth{"htpasswd": configuration.Parameters{
			"realm": "development registry", "path": filepath.Join(dir, "htpasswd"),
		}}
	}
	if o.Upstream != "" {
		c.Proxy.RemoteURL = o.Upstream
	}
	c.Log.Level = "fatal"
	c.Log.AccessLog.Disabled = true
	// Upload sessions are signed with it; one process, one secret.
	secret := make([]byte, 16)
	rand.Read(secret)
	c.HTTP.Secret = base64.RawURLEncoding.EncodeToString(secret)
	c.HTTP.RelativeURLs = true
	return c
}
