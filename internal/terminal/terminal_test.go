package terminal

import (
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
)

func TestEscapeJSON(t *testing.T) {
	evil := "a\u009b31m\u202e\u2028\u2029\u2066é世\x7fz"
	b, err := json.Marshal(evil)
	if err != nil {
		t.Fatal(err)
	}
	got := string(EscapeJSON(b))
	if strings.ContainsFunc(got, Obeys) || !strings.Contains(got, "é世") {
		t.Errorf("%q", got)
	}
	var back string
	if err := json.Unmarshal([]byte(got), &back); err != nil || back != evil {
		t.Errorf("%q, %v", back, err)
	}
}
