package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/resultity/rmodels/internal/terminal"
	"github.com/resultity/rmodels/snapshot"
)

// protocol is how one question is put to an engine and its answer read.
type protocol struct {
	health string // default path; empty: the engine is no server
	path   func(request map[string]jsontext.Value) string
	stream func(request map[string]jsontext.Value) // asks for a streamed answer, unless the request says otherwise
	events format
	read   func(event []byte, into *answer) error // one event, or the whole answer when it was not streamed
	prompt func(prompt string) map[string]any     // the request for one question
	model  bool                                   // the request names the model
}

// format is how a streamed answer is framed.
type format int

const (
	whole  format = iota // not streamed
	sse                  // text/event-stream
	ndjson               // one JSON value per line
)

var protocols = map[string]protocol{
	"openai-chat":        openaiChat,
	"openai-completions": openaiCompletions,
	"openai-embeddings":  openaiEmbeddings,
	"ollama":             ollama,
	"exec":               {},
}

// answer is what an engine said.
type answer struct {
	text      []byte
	embedding []float64
	pieces    int64 // events that carried text
	tokens    int64 // as the engine counts them; 0: it does not say
	ended     bool  // the protocol's own end was seen

	first time.Duration // request to first piece; 0: not streamed
	took  time.Duration // request to the last byte

	onText func([]byte) // called with each piece
	start  time.Time
}

// add appends a piece of text and keeps the bound.
func (a *answer) add(piece string) error {
	if piece == "" {
		return nil
	}
	if len(a.text)+len(piece) > answerLimit {
		return fmt.Errorf("%w: more than %d bytes of text", errTooLong, answerLimit)
	}
	if a.pieces == 0 {
		a.first = time.Since(a.start)
	}
	a.pieces++
	a.text = append(a.text, piece...)
	if a.onText != nil {
		a.onText([]byte(piece))
	}
	return nil
}

// count is the number of tokens that speed is measured with. The engine's own
// number is taken, but no more than one per byte of text.
func (a *answer) count() int64 {
	n := a.pieces
	if a.tokens > 0 {
		n = min(a.tokens, int64(len(a.text)))
	}
	return n
}

// MeasurableSpan is the shortest time over which a speed is one: what comes
// within less was generated before, and only sent then.
const MeasurableSpan = 100 * time.Millisecond

// perSecond is the speed of generation: tokens after the first over the time
// after the first when the answer was streamed, else all over all.
func (a *answer) perSecond() float64 {
	n, d := a.count(), a.took
	if a.first > 0 && n > 1 && a.pieces > 1 && a.took-a.first >= MeasurableSpan {
		n, d = n-1, a.took-a.first
	}
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

// Bounds on what an engine may answer.
const (
	headerLimit = 64 << 10
	bodyLimit   = 16 << 20 // bytes of a whole body; embeddings as JSON text are long
	lineLimit   = 1 << 20  // bytes of one event
)

// errProtocol classes answers that are not what the protocol says.
var errProtocol = errors.New("not the protocol's answer")

// insideClient speaks HTTP to the box's loopback. No proxy, no redirect, no
// compression (an answer that unpacks to more than it is), no kept
// connection: each request dials anew through the checked namespace.
func insideClient(ns *os.File) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
				defer cancel()
				return dialInside(ctx, ns, "tcp4", addr)
			},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: headerLimit,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// healthy asks once.
func (b *box) healthy(ctx context.Context, c *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP status %d", res.StatusCode)
	}
	return nil
}

// buildRequest turns the test's request into the body that is sent.
func (p protocol) buildRequest(raw jsontext.Value, model string) (map[string]jsontext.Value, error) {
	var req map[string]jsontext.Value
	if err := json.Unmarshal(raw, &req); err != nil {
		return nil, fmt.Errorf("%w: the request is not a JSON object: %w", ErrTest, err)
	}
	if req == nil {
		return nil, fmt.Errorf("%w: the request is not a JSON object", ErrTest)
	}
	if _, ok := req["model"]; p.model && !ok {
		req["model"] = jsonString(model)
	}
	if p.stream != nil {
		p.stream(req)
	}
	return req, nil
}

func jsonString(s string) jsontext.Value {
	v, err := jsontext.AppendQuote(nil, s)
	if err != nil {
		return jsontext.Value(`""`) // not UTF-8: no engine knows it
	}
	return v
}

func isFalse(v jsontext.Value) bool { return string(v) == "false" }

// ask sends one request and reads the whole answer within ctx.
func (p protocol) ask(ctx context.Context, c *http.Client, port int, req map[string]jsontext.Value, a *answer) error {
	body, err := json.Marshal(req, json.Deterministic(true))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTest, err)
	}
	target, err := snapshot.InsideURL(port, p.path(req))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRuntime, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, target, newBody(body))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTest, err)
	}
	r.Header.Set("Content-Type", "application/json")
	a.start = time.Now()
	defer func() { a.took = time.Since(a.start) }()
	res, err := c.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 512))
		return fmt.Errorf("%w: HTTP status %d: %s", errProtocol, res.StatusCode, terminal.Clip(oneLine(string(text)), 512))
	}
	framing := p.events
	if framing != whole && isFalse(req["stream"]) {
		framing = whole
	}
	switch framing {
	case sse:
		return readSSE(res.Body, func(event []byte) error { return p.read(event, a) }, a)
	case ndjson:
		return readLines(res.Body, func(event []byte) error { return p.read(event, a) }, a)
	}
	all, err := readBounded(res.Body, bodyLimit)
	if err != nil {
		return err
	}
	if err := p.read(all, a); err != nil {
		return err
	}
	a.first, a.ended = 0, true
	return nil
}
