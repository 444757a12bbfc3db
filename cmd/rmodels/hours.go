package main

import (
	"fmt"
	"strings"

	"github.com/resultity/rmodels/oci"
	"github.com/resultity/rmodels/snapshot"
)

// hours is one line of limits.schedule: "08:00-18:00 20MiB".
type hours oci.Hours

// unlimited is the rate of hours without a limit.
const unlimited = "none"

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *hours) UnmarshalText(b []byte) error {
	span, rate, ok := strings.Cut(string(b), " ")
	if !ok {
		return fmt.Errorf("schedule %q: write hours and a rate, like \"08:00-18:00 20MiB\" or \"22:00-06:00 %s\"", b, unlimited)
	}
	var err error
	if h.From, h.To, err = oci.ParseHours(span); err != nil {
		return err
	}
	if h.Rate = 0; rate == unlimited {
		return nil
	}
	var n snapshot.Bytes
	if err := n.UnmarshalText([]byte(rate)); err != nil {
		return fmt.Errorf("schedule %q: rate: %w", b, err)
	}
	if n == 0 {
		return fmt.Errorf("schedule %q: a rate of nothing would stop every pull; %q lifts the limit", b, unlimited)
	}
	h.Rate = int64(n)
	return nil
}

// MarshalText implements [encoding.TextMarshaler].
func (h hours) MarshalText() ([]byte, error) {
	rate := unlimited
	if h.Rate > 0 {
		rate = snapshot.Bytes(h.Rate).String()
	}
	clock := func(d int64) string { return fmt.Sprintf("%02d:%02d", d/60, d%60) }
	return fmt.Appendf(nil, "%s-%s %s", clock(int64(h.From.Minutes())), clock(int64(h.To.Minutes())), rate), nil
}
