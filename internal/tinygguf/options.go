package tinygguf

import (
	"errors"
	"fmt"
	"strings"
)

// Mode says where the weights come from.
type Mode int

const (
	Chain  Mode = iota // hand-set weights: the answer is Options.Words
	Random             // pseudo-random weights from Options.Seed
)

// ErrOptions marks options that no model can be made from.
var ErrOptions = errors.New("tiny gguf options")

// Options describe one model. The zero value is the chain model that answers
// "ping" with " the model files answer from a sealed box.".
type Options struct {
	Mode    Mode
	Name    string   // general.name; default "tiny-chain" or "tiny-random"
	Prompt  string   // the one word that starts the chain; default "ping"
	Words   []string // the answer of a chain model, each word once, letters only
	Seed    uint64   // of all weights that are not set by hand
	MinSize int64    // bytes that the file has at least
}

// ChatTemplate is the Jinja template in every model's metadata: it hands the
// content through unchanged, so that the prompt reaches the model as it is.
const ChatTemplate = "{% for m in messages %}{{ m['content'] }}{% endfor %}"

// maxSize keeps a mistyped MinSize from filling a disk.
const maxSize = 64 << 30

func (o Options) withDefaults() (Options, error) {
	if o.Name == "" {
		o.Name = [...]string{Chain: "tiny-chain", Random: "tiny-random"}[o.Mode&1]
	}
	if o.Prompt == "" {
		o.Prompt = "ping"
	}
	if len(o.Words) == 0 {
		o.Words = []string{"the", "model", "files", "answer", "from", "a", "sealed", "box"}
	}
	if o.Mode != Chain && o.Mode != Random {
		return o, fmt.Errorf("%w: mode %d: use Chain or Random", ErrOptions, o.Mode)
	}
	if o.MinSize < 0 || o.MinSize > maxSize {
		return o, fmt.Errorf("%w: size %d: must be between 0 and %d bytes", ErrOptions, o.MinSize, int64(maxSize))
	}
	seen := map[string]bool{}
	for _, w := range append([]string{o.Prompt}, o.Words...) {
		if w == "" || strings.Trim(w, letters) != "" {
			return o, fmt.Errorf("%w: word %q: use the letters a to z and A to Z", ErrOptions, w)
		}
		// A one-hot chain has one successor per token.
		if seen[w] {
			return o, fmt.Errorf("%w: word %q: each word may stand once, the prompt included", ErrOptions, w)
		}
		seen[w] = true
	}
	return o, nil
}

// Answer is what greedy decoding of the prompt yields for a chain model,
// leading space included.
func Answer(o Options) (string, error) {
	o, err := o.withDefaults()
	if err != nil {
		return "", err
	}
	if o.Mode != Chain {
		return "", fmt.Errorf("%w: only a chain model has an answer that is known beforehand", ErrOptions)
	}
	return " " + strings.Join(o.Words, " ") + ".", nil
}
