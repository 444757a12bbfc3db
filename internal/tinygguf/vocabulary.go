package tinygguf

import "fmt"

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// Token types of tokenizer.ggml.token_type.
const (
	typeNormal  = 1
	typeUnknown = 2
	typeControl = 3
	typeByte    = 6
)

const (
	tokenUnknown = 0
	tokenBegin   = 1
	tokenEnd     = 2
)

// space is how SentencePiece writes the blank before a word.
const space = "▁"

// vocabulary is a SentencePiece vocabulary with byte fallback. Every prefix
// of every word is a token and the longer one scores higher, so that greedy
// merging reaches whole words and nothing else.
type vocabulary struct {
	tokens []string
	types  []int32
	scores []float32
	words  []int // ids of the prompt and the words, in order
	stop   int   // id of "."
}

func newVocabulary(prompt string, words []string) *vocabulary {
	v := &vocabulary{}
	add := func(s string, typ int32, score float32) int {
		v.tokens = append(v.tokens, s)
		v.types = append(v.types, typ)
		v.scores = append(v.scores, score)
		return len(v.tokens) - 1
	}
	add("<unk>", typeUnknown, 0)
	add("<s>", typeControl, 0)
	add("</s>", typeControl, 0)
	for i := range 256 {
		add(fmt.Sprintf("<0x%02X>", i), typeByte, 0)
	}
	for _, r := range space + letters + ".,!?" {
		id := add(string(r), typeNormal, -1000)
		if r == '.' {
			v.stop = id
		}
	}
	ids := map[string]int{}
	for i, word := range append([]string{prompt}, words...) {
		runes := []rune(space + word)
		for n := 2; n <= len(runes); n++ {
			prefix := string(runes[:n])
			if _, ok := ids[prefix]; !ok {
				ids[prefix] = add(prefix, typeNormal, float32(-100*(i+1)+n))
			}
		}
		v.words = append(v.words, ids[space+word])
	}
	return v
}
