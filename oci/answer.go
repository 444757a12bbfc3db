package oci

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/resultity/rmodels/internal/terminal"
)

// statusError is an answer that is not the content.
type statusError struct {
	status     int
	detail     string        // what the registry said, quoted
	retryAfter time.Duration // 0: it did not say
	class      error
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("%v: answers %d %s", e.class, e.status, http.StatusText(e.status))
	if e.detail != "" {
		s += ": " + e.detail
	}
	return s
}

func (e *statusError) Unwrap() error { return e.class }

// answerError reads what a registry says beside a status that is no success.
func answerError(resp *http.Response) error {
	e := &statusError{status: resp.StatusCode, class: statusClass(resp.StatusCode), detail: answerDetail(resp.Body)}
	e.retryAfter = parseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
	return e
}

func statusClass(status int) error {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return ErrUnauthorized
	case http.StatusNotFound, http.StatusGone:
		return ErrNotFound
	}
	return ErrUnavailable
}

// answerDetail reads the error document of the distribution specification.
// Its text is the registry's: quoted, and never long.
func answerDetail(r io.Reader) string {
	b, _ := io.ReadAll(io.LimitReader(r, 8<<10))
	var doc struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(b, &doc) != nil || len(doc.Errors) == 0 {
		return ""
	}
	return fmt.Sprintf("%q", terminal.Clip(strings.TrimSpace(doc.Errors[0].Code+" "+doc.Errors[0].Message), 200))
}

// maxRetryAfter bounds what a server may ask us to wait.
const maxRetryAfter = 2 * time.Minute

func parseRetryAfter(s string, now time.Time) time.Duration {
	var d time.Duration
	if n, ok := parseDecimal(s); ok {
		d = time.Duration(min(n, int64(maxRetryAfter/time.Second))) * time.Second
	} else if t, err := http.ParseTime(s); err == nil {
		d = t.Sub(now)
	}
	return max(0, min(d, maxRetryAfter))
}

// transportError gives a failure below HTTP its class.
func transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil && context.Cause(ctx) != nil {
		return context.Cause(ctx)
	}
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		peer      *net.OpError
		answer    *errcode.ErrorResponse
	)
	// A redirect's URL may be signed: its query is a secret that must not
	// reach a log.
	var at *url.Error
	if errors.As(err, &at) {
		err = at.Err
		if u, perr := url.Parse(at.URL); perr == nil {
			err = fmt.Errorf("%s %s: %w", strings.ToUpper(at.Op), terminal.Clip(u.Host, 128), at.Err)
		}
	}
	switch {
	case errors.Is(err, ErrRedirect):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	case errors.As(err, &authority):
		return fmt.Errorf("%w: %v; if the registry has its own CA, name its file in the host's options", ErrTLS, err)
	case errors.As(err, &name), errors.As(err, &invalid), errors.As(err, &verify):
		return fmt.Errorf("%w: %v", ErrTLS, err)
	case errors.As(err, &peer) && refusesUs(peer):
		return fmt.Errorf("%w: %v; if the registry asks for a client certificate, name it in the host's options", ErrTLS, err)
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%w: %v; if plain http is meant, say so in the host's options", ErrTLS, err)
	case errors.Is(err, ErrUnauthorized):
		return err
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return fmt.Errorf("%w: %v; log in or name a user in the host's options", ErrUnauthorized, err)
	case errors.As(err, &answer): // of a token server
		e := &statusError{status: answer.StatusCode, class: statusClass(answer.StatusCode)}
		if len(answer.Errors) > 0 {
			e.detail = fmt.Sprintf("%q", terminal.Clip(answer.Errors.Error(), 200))
		}
		return e
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// refusesUs says whether the peer ended a TLS handshake for a reason that
// stays. crypto/tls keeps the type of its alerts (RFC 8446, 6.2) to itself.
func refusesUs(e *net.OpError) bool {
	if e.Op != "remote error" {
		return false
	}
	for _, alert := range []string{"certificate", "handshake failure", "protocol version", "access denied", "insufficient security", "unrecognized name"} {
		if strings.Contains(e.Err.Error(), alert) {
			return true
		}
	}
	return false
}

// retryable says whether asking the same source again may help, and how long
// it asked us to wait.
func retryable(err error) (again bool, after time.Duration) {
	var spent *budgetError
	if errors.As(err, &spent) {
		return !spent.final, 0
	}
	var status *statusError
	if errors.As(err, &status) {
		switch status.status {
		case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
			return true, status.retryAfter
		case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
			return false, 0
		}
		return status.status >= 500, status.retryAfter
	}
	for _, final := range []error{ErrRedirect, ErrTLS, ErrUnauthorized, ErrNotFound, ErrTooLarge, ErrDigest, ErrOffline, context.Canceled} {
		if errors.Is(err, final) {
			return false, 0
		}
	}
	return errors.Is(err, ErrUnavailable), 0
}

// sleep waits d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
