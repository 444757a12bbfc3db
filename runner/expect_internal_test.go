package runner

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"

	"github.com/resultity/rmodels/internal/terminal"
	"github.com/resultity/rmodels/snapshot"
)

func TestTestsThatAnythingPasses(t *testing.T) {
	nan := snapshot.Validation{Expect: snapshot.Expect{Exact: "x"}}
	for name, c := range map[string]struct {
		v        snapshot.Validation
		protocol string
	}{
		"nothing expected":          {snapshot.Validation{}, "openai-chat"},
		"empty regexp":              {snapshot.Validation{Expect: snapshot.Expect{Regexp: ".*"}}, "openai-chat"},
		"broken regexp":             {snapshot.Validation{Expect: snapshot.Expect{Regexp: "("}}, "openai-chat"},
		"digest, not deterministic": {snapshot.Validation{Expect: snapshot.Expect{Digest: digest.FromString("x")}}, "openai-chat"},
		"cosine of a chat":          {snapshot.Validation{Expect: snapshot.Expect{Cosine: &snapshot.Cosine{Reference: []float64{1}, Min: 0.5}}}, "openai-chat"},
		"text of an embedding":      {nan, "openai-embeddings"},
		"zero reference":            {snapshot.Validation{Expect: snapshot.Expect{Cosine: &snapshot.Cosine{Reference: []float64{0, 0}, Min: 0.5}}}, "openai-embeddings"},
		"cosine of minus one":       {snapshot.Validation{Expect: snapshot.Expect{Cosine: &snapshot.Cosine{Reference: []float64{1}, Min: -1}}}, "openai-embeddings"},
		"remote schema":             {snapshot.Validation{Expect: snapshot.Expect{Schema: jsontext.Value(`{"$ref":"file:///etc/passwd"}`)}}, "openai-chat"},
		"schema without an end":     {snapshot.Validation{Expect: snapshot.Expect{Schema: jsontext.Value(`{"$ref":"#"}`)}}, "openai-chat"},
		"schema in a circle":        {snapshot.Validation{Expect: snapshot.Expect{Schema: jsontext.Value(`{"$ref":"#/$defs/a","$defs":{"a":{"not":{"$ref":"#/$defs/b"}},"b":{"$ref":"#/$defs/a"}}}`)}}, "openai-chat"},
		"unused circle":             {snapshot.Validation{Expect: snapshot.Expect{Schema: jsontext.Value(`{"$defs":{"a":{"$ref":"#/$defs/a"}}}`)}}, "openai-chat"},
		"schema by anchor":          {snapshot.Validation{Expect: snapshot.Expect{Schema: jsontext.Value(`{"$anchor":"a","not":{"$ref":"#a"}}`)}}, "openai-chat"},
		"schema that doubles":       {snapshot.Validation{Expect: snapshot.Expect{Schema: doubling(40)}}, "openai-chat"},
		"schema named twice":        {snapshot.Validation{Expect: snapshot.Expect{Schema: jsontext.Value(`{"const":1,"const":2}`)}}, "openai-chat"},
	} {
		if _, err := newExpectation(c.v, c.protocol); !errors.Is(err, ErrTest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// doubling has n definitions, each of which names the next one twice.
func doubling(n int) jsontext.Value {
	s := `{"$ref":"#/$defs/d0","$defs":{`
	for i := range n {
		s += fmt.Sprintf(`"d%d":{"allOf":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]},`, i, i+1, i+1)
	}
	return jsontext.Value(s + fmt.Sprintf(`"d%d":true}}`, n))
}

func TestExpectations(t *testing.T) {
	schema := jsontext.Value(`{"type":"object","required":["city"],"properties":{"city":{"const":"Paris"}}}`)
	named := jsontext.Value(`{"properties":{"at":{"$ref":"#/$defs/place"}},"$defs":{"place":` + string(schema) + `}}`)
	for name, c := range map[string]struct {
		e      snapshot.Expect
		answer string
		ok     bool
	}{
		"exact":               {snapshot.Expect{Exact: " a b"}, " a b", true},
		"exact, not trimmed":  {snapshot.Expect{Exact: " a b"}, "a b", false},
		"contains":            {snapshot.Expect{Contains: "b"}, "a b", true},
		"contains not":        {snapshot.Expect{Contains: "c"}, "a b", false},
		"regexp":              {snapshot.Expect{Regexp: `^\d+$`}, "42", true},
		"regexp not":          {snapshot.Expect{Regexp: `^\d+$`}, "42\n", false},
		"digest":              {snapshot.Expect{Digest: digest.FromString("a")}, "a", true},
		"digest not":          {snapshot.Expect{Digest: digest.FromString("a")}, "b", false},
		"schema":              {snapshot.Expect{Schema: schema}, `{"city":"Paris"}`, true},
		"schema not":          {snapshot.Expect{Schema: schema}, `{"city":"Rome"}`, false},
		"schema, no JSON":     {snapshot.Expect{Schema: schema}, `Paris`, false},
		"schema, more behind": {snapshot.Expect{Schema: schema}, `{"city":"Paris"} {}`, false},
		"schema, by name":     {snapshot.Expect{Schema: named}, `{"at":{"city":"Paris"}}`, true},
		"schema, by name not": {snapshot.Expect{Schema: named}, `{"at":{"city":"Rome"}}`, false},
		"schema, named twice": {snapshot.Expect{Schema: schema}, `{"city":"Rome","city":"Paris"}`, false},
		"all must hold":       {snapshot.Expect{Contains: "a", Regexp: "b"}, "a", false},
		"empty":               {snapshot.Expect{Schema: jsontext.Value(`true`)}, "", false},
	} {
		x, err := newExpectation(snapshot.Validation{Expect: c.e, Deterministic: true}, "openai-chat")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		no := x.check(&answer{text: []byte(c.answer)})
		if (no == nil) != c.ok {
			t.Errorf("%s: %+v", name, no)
		}
		if no != nil && (no.cause != CauseAnswer || no.expected == "" || no.reason == "") {
			t.Errorf("%s: unexplained: %+v", name, no)
		}
	}
}

func TestCosine(t *testing.T) {
	x, err := newExpectation(snapshot.Validation{Expect: snapshot.Expect{Cosine: &snapshot.Cosine{Reference: []float64{1, 0}, Min: 0.9}}}, "openai-embeddings")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		v  []float64
		ok bool
	}{
		{[]float64{2, 0.1}, true}, {[]float64{0, 1}, false}, {[]float64{-1, 0}, false}, {[]float64{0, 0}, false}, {[]float64{1}, false}, {[]float64{1, 0, 0}, false},
	} {
		if no := x.check(&answer{embedding: c.v}); (no == nil) != c.ok {
			t.Errorf("%v: %+v", c.v, no)
		}
	}
}

// TestSpeedCannotBeClaimed: an engine's own count is bounded by what it said.
func TestSpeedCannotBeClaimed(t *testing.T) {
	a := &answer{start: time.Now().Add(-time.Second)}
	if err := readOpenAI([]byte(`{"choices":[{"index":0,"delta":{"content":"hi"}}],"usage":{"completion_tokens":1000000}}`), a); err != nil {
		t.Fatal(err)
	}
	a.took = 2 * time.Second
	if a.count() != 2 || a.perSecond() != 1 {
		t.Errorf("%d tokens, %v per second", a.count(), a.perSecond())
	}
}

// A speed is of the time in which it was generated, not of a burst at its end.
func TestSpeed(t *testing.T) {
	for name, c := range map[string]struct {
		first, took time.Duration
		want        float64
	}{
		"streamed":             {time.Second, 2 * time.Second, 10},
		"held back to the end": {1999 * time.Millisecond, 2 * time.Second, 5.5},
		"not streamed":         {0, 2 * time.Second, 5.5},
	} {
		a := &answer{pieces: 11, first: c.first, took: c.took}
		if got := a.perSecond(); got != c.want {
			t.Errorf("%s: %v a second, want %v", name, got, c.want)
		}
	}
}

func TestStreams(t *testing.T) {
	piece := func(s string) string { return fmt.Sprintf(`{"choices":[{"index":0,"delta":{"content":%q}}]}`, s) }
	for name, c := range map[string]struct {
		body, want string
		err        error
	}{
		"two pieces":        {"data: " + piece("a") + "\n\ndata: " + piece("b") + "\n\ndata: [DONE]\n\n", "ab", nil},
		"carriage returns":  {"data: " + piece("a") + "\r\n\r\ndata: [DONE]\r\n\r\n", "a", nil},
		"comments, ids":     {": ping\nid: 7\nevent: x\ndata:" + piece("a") + "\n\ndata: [DONE]", "a", nil},
		"data in two lines": {"data: {\"choices\":\ndata: [{\"index\":0,\"text\":\"a\"}]}\n\ndata: [DONE]\n\n", "a", nil},
		"after the end":     {"data: [DONE]\n\ndata: " + piece("a") + "\n\n", "", nil},
		"finish reason":     {`data: {"choices":[{"index":0,"text":"a","finish_reason":"stop"}]}` + "\n\n", "a", nil},
		"broken off":        {"data: " + piece("a") + "\n\n", "a", errProtocol},
		"no stream at all":  {piece("a"), "", errProtocol},
		"duplicate keys":    {`data: {"choices":[],"choices":[]}` + "\n\n", "", errProtocol},
		"error event":       {`data: {"error":{"message":"no"}}` + "\n\n", "", errProtocol},
		"another choice":    {`data: {"choices":[{"index":1,"text":"a"}]}` + "\n\ndata: [DONE]\n\n", "", nil},
		"too much text":     {strings.Repeat("data: "+piece(strings.Repeat("a", 1<<16))+"\n\n", 20), strings.Repeat("a", 1<<20), errTooLong},
	} {
		a := &answer{start: time.Now()}
		err := readSSE(strings.NewReader(c.body), func(b []byte) error { return readOpenAI(b, a) }, a)
		if !errors.Is(err, c.err) || string(a.text) != c.want {
			t.Errorf("%s: %q, %v", name, terminal.Clip(string(a.text), 64), err)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext\n":          "plain\ttext\n",
		"\x1b[31mred\x07":        "\ufffd[31mred\ufffd",
		"a\u202eb\u2066c\u200bd": "a\ufffdb\ufffdc\ufffdd",
		"bad \xff utf8 \xc2":     "bad \ufffd utf8 \ufffd",
		"\u0085\u009b31m\u2028":  "\ufffd\ufffd31m\ufffd",
		"größe 大きさ 👍":            "größe 大きさ 👍",
	} {
		if got := terminal.Clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := terminal.Clip("größe", 5); got != "g…" && got != "gr…" {
		t.Errorf("clip: %q", got)
	}
	var out strings.Builder
	w := newTerminalWriter(&out)
	for _, b := range []byte("größe\x1b 👍\xf0") {
		w.write([]byte{b})
	}
	if err := w.flush(); err != nil || out.String() != "größe\ufffd 👍\ufffd" {
		t.Errorf("streamed: %q, %v", out.String(), err)
	}
}
