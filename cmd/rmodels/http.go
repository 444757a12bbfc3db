package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/oci"
)

// httpClient speaks to a snapshot source with the host's own authorities and
// client certificate. It follows no redirect to another host.
func httpClient(h host) (*http.Client, error) {
	if err := oci.CheckSystemRoots(); err != nil {
		return nil, err
	}
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.MaxResponseHeaderBytes = oci.MaxHeader
	tr.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if h.CA != "" {
		pem, err := durable.ReadOwn(h.CA, oci.MaxCertificates)
		if err != nil {
			return nil, fmt.Errorf("certificate authority: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, usageError{fmt.Errorf("%s holds no certificate in PEM", h.CA)}
		}
		tr.TLSClientConfig.RootCAs = pool
	}
	if h.Cert != "" {
		cert, err := oci.LoadKeyPair(h.Cert, h.Key)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		tr.TLSClientConfig.Certificates = []tls.Certificate{cert}
	}
	return &http.Client{
		Transport: agent{tr}, // the source bounds each file
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) >= 5 || r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme {
				return errors.New("redirect to another host refused")
			}
			return nil
		},
	}, nil
}
