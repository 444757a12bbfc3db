package runner

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/resultity/rmodels/internal/terminal"
)

// The OpenAI protocol as llama-server, vLLM, SGLang and TGI speak it.
var (
	openaiChat = protocol{
		health: "/health",
		path:   func(map[string]jsontext.Value) string { return "/v1/chat/completions" },
		stream: openaiStream,
		events: sse,
		read:   readOpenAI,
		prompt: func(prompt string) map[string]any {
			return map[string]any{"messages": []map[string]string{{"role": "user", "content": prompt}}}
		},
		model: true,
	}
	openaiCompletions = protocol{
		health: "/health",
		path:   func(map[string]jsontext.Value) string { return "/v1/completions" },
		stream: openaiStream,
		events: sse,
		read:   readOpenAI,
		prompt: func(prompt string) map[string]any { return map[string]any{"prompt": prompt, "max_tokens": 512} },
		model:  true,
	}
	openaiEmbeddings = protocol{
		health: "/health",
		path:   func(map[string]jsontext.Value) string { return "/v1/embeddings" },
		read:   readEmbedding,
		prompt: func(prompt string) map[string]any { return map[string]any{"input": prompt} },
		model:  true,
	}
)

func openaiStream(req map[string]jsontext.Value) {
	if _, ok := req["stream"]; !ok {
		req["stream"] = jsontext.Value("true")
	}
	if _, ok := req["stream_options"]; !ok && !isFalse(req["stream"]) {
		req["stream_options"] = jsontext.Value(`{"include_usage":true}`)
	}
}

// readOpenAI reads a chat or completion answer, whole or one chunk of it.
func readOpenAI(event []byte, a *answer) error {
	var v struct {
		Choices []struct {
			Index        int            `json:"index"`
			Text         *string        `json:"text"`
			Delta        *openaiMessage `json:"delta"`
			Message      *openaiMessage `json:"message"`
			FinishReason *string        `json:"finish_reason"`
		} `json:"choices"`
		Usage *struct {
			CompletionTokens int64 `json:"completion_tokens"`
		} `json:"usage"`
		Error jsontext.Value `json:"error"`
	}
	if err := json.Unmarshal(event, &v); err != nil {
		return fmt.Errorf("%w: %s", errProtocol, terminal.Clip(oneLine(err.Error()), 256))
	}
	if len(v.Error) > 0 && string(v.Error) != "null" {
		return fmt.Errorf("%w: the engine reports an error: %s", errProtocol, terminal.Clip(oneLine(string(v.Error)), 512))
	}
	if v.Usage != nil && v.Usage.CompletionTokens > 0 {
		a.tokens = v.Usage.CompletionTokens
	}
	for _, c := range v.Choices {
		if c.Index != 0 {
			continue
		}
		// A stream may end after this without [DONE]; the usage may follow.
		a.ended = a.ended || (c.FinishReason != nil && *c.FinishReason != "")
		for _, s := range []*string{c.Text, c.Delta.content(), c.Message.content()} {
			if s != nil {
				if err := a.add(*s); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// openaiMessage is a whole message or a piece of one.
type openaiMessage struct {
	Content *string `json:"content"`
}

func (m *openaiMessage) content() *string {
	if m == nil {
		return nil
	}
	return m.Content
}

const maxEmbedding = 1 << 16 // dimensions

// readEmbedding reads the first vector of an embeddings answer, as numbers or
// as base64 of little-endian float32.
func readEmbedding(event []byte, a *answer) error {
	var v struct {
		Data []struct {
			Embedding jsontext.Value `json:"embedding"`
		} `json:"data"`
		Error jsontext.Value `json:"error"`
	}
	if err := json.Unmarshal(event, &v); err != nil {
		return fmt.Errorf("%w: %s", errProtocol, terminal.Clip(oneLine(err.Error()), 256))
	}
	if len(v.Error) > 0 && string(v.Error) != "null" {
		return fmt.Errorf("%w: the engine reports an error: %s", errProtocol, terminal.Clip(oneLine(string(v.Error)), 512))
	}
	if len(v.Data) == 0 {
		return fmt.Errorf("%w: no embedding in it", errProtocol)
	}
	raw := v.Data[0].Embedding
	if raw.Kind() == '"' {
		var b []byte
		text := ""
		err := json.Unmarshal(raw, &text)
		if err == nil {
			b, err = base64.StdEncoding.DecodeString(text)
		}
		if err != nil || len(b)%4 != 0 {
			return fmt.Errorf("%w: its embedding is not base64 of float32", errProtocol)
		}
		for i := 0; i < len(b); i += 4 {
			a.embedding = append(a.embedding, float64(math.Float32frombits(binary.LittleEndian.Uint32(b[i:]))))
		}
	} else if err := json.Unmarshal(raw, &a.embedding); err != nil {
		return fmt.Errorf("%w: its embedding is not a list of numbers", errProtocol)
	}
	if len(a.embedding) == 0 || len(a.embedding) > maxEmbedding {
		return fmt.Errorf("%w: an embedding of %d dimensions", errProtocol, len(a.embedding))
	}
	for _, x := range a.embedding {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return fmt.Errorf("%w: its embedding holds %v", errProtocol, x)
		}
	}
	if a.onText != nil {
		shown := a.embedding[:min(len(a.embedding), 8)]
		a.onText(fmt.Appendf(nil, "%d dimensions, beginning with %.4g", len(a.embedding), shown))
	}
	return nil
}
