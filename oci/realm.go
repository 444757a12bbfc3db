package oci

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// tokenServices are those that registries are known to have under another
// name. [Host] TokenService names another.
var tokenServices = map[string]string{
	"docker.io":            "auth.docker.io", // https://distribution.github.io/distribution/spec/auth/token/
	"registry-1.docker.io": "auth.docker.io",
	"registry.gitlab.com":  "gitlab.com", // https://docs.gitlab.com/administration/packages/container_registry/
}

// keepsCredentials refuses a request that would carry the host's credentials,
// in a header or in a body, to another place than the host itself and the
// token services that belong to it. A registry names its token service in the
// challenge: without this it could have them sent wherever it likes.
func (t ofHost) keepsCredentials(req *http.Request) error {
	if req.Header.Get("Authorization") == "" && (req.Body == nil || req.Body == http.NoBody) {
		return nil
	}
	u := req.URL
	if u.Scheme == t.h.base.Scheme && endpoint(u) == endpoint(&t.h.base) {
		return nil
	}
	if u.Scheme == "https" || t.c.plainHTTP(u.Host) {
		for _, s := range []string{tokenServices[t.h.name], t.c.o.Hosts[t.h.name].TokenService} {
			if s != "" && endpoint(&url.URL{Scheme: u.Scheme, Host: s}) == endpoint(u) {
				return nil
			}
		}
	}
	return fmt.Errorf("%w: %s wants its credentials sent to %s, which is not its own address; if that is its token service, name it in the host's options",
		ErrUnauthorized, t.h.name, quoted(u.Scheme+"://"+u.Host))
}

// endpoint is host and port, the scheme's own where none is written.
func endpoint(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
