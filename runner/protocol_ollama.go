package runner

import (
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/resultity/rmodels/internal/terminal"
)

// Ollama's own protocol: /api/chat for a request with messages, else
// /api/generate; an answer is one JSON object per line, the last one "done".
var ollama = protocol{
	health: "/api/version",
	path: func(req map[string]jsontext.Value) string {
		if _, ok := req["messages"]; ok {
			return "/api/chat"
		}
		return "/api/generate"
	},
	stream: func(req map[string]jsontext.Value) {
		if _, ok := req["stream"]; !ok {
			req["stream"] = jsontext.Value("true")
		}
	},
	events: ndjson,
	read:   readOllama,
	prompt: func(prompt string) map[string]any { return map[string]any{"prompt": prompt} },
	model:  true,
}

func readOllama(event []byte, a *answer) error {
	var v struct {
		Response string `json:"response"`
		Message  *struct {
			Content string `json:"content"`
		} `json:"message"`
		Done      bool   `json:"done"`
		EvalCount int64  `json:"eval_count"`
		Error     string `json:"error"`
	}
	if err := json.Unmarshal(event, &v); err != nil {
		return fmt.Errorf("%w: %s", errProtocol, terminal.Clip(oneLine(err.Error()), 256))
	}
	if v.Error != "" {
		return fmt.Errorf("%w: the engine reports an error: %s", errProtocol, terminal.Clip(oneLine(v.Error), 512))
	}
	if v.EvalCount > 0 {
		a.tokens = v.EvalCount
	}
	if err := a.add(v.Response); err != nil {
		return err
	}
	if v.Message != nil {
		if err := a.add(v.Message.Content); err != nil {
			return err
		}
	}
	a.ended = a.ended || v.Done
	return nil
}
