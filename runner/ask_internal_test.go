package runner

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/resultity/rmodels/snapshot"
)

// TestQuestionsNameTheModelAsTheTestDoes: an Ollama store has names of its own.
func TestQuestionsNameTheModelAsTheTestDoes(t *testing.T) {
	for name, c := range map[string]struct{ protocol, test, want string }{
		"named by the test": {"ollama", `{"model":"qwen3:0.6b","messages":[]}`, `"qwen3:0.6b"`},
		"not named":         {"ollama", `{"messages":[]}`, `"tiny"`},
		"no test":           {"openai-chat", ``, `"tiny"`},
	} {
		r := &run{prompt: "what?", job: Job{Name: "tiny", Runtime: snapshot.Runtime{Protocol: c.protocol}, Validation: snapshot.Validation{Request: jsontext.Value(c.test)}}}
		raw, err := r.buildRequest()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		req, err := protocols[c.protocol].buildRequest(raw, "tiny")
		if err != nil || string(req["model"]) != c.want {
			t.Errorf("%s: model %s, %v; want %s", name, req["model"], err, c.want)
		}
	}
}
