// Tinygguf writes a tiny GGUF model with a known answer; see package
// internal/tinygguf.
//
//	tinygguf -o model.gguf -words "the model files answer from a sealed box"
//	tinygguf -o random.gguf -mode random -seed 7 -min-size 268435456
//
// It prints size, SHA-256 and, for a chain model, the answer, as JSON.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/resultity/rmodels/internal/tinygguf"
)

type result struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	Digest string `json:"digest"`
	Prompt string `json:"prompt"`
	Answer string `json:"answer,omitempty"`
	// ChatTemplate is the digest that a policy pins.
	ChatTemplate string `json:"chatTemplateDigest"`
}

func main() {
	out := flag.String("o", "model.gguf", "`file` to write")
	mode := flag.String("mode", "chain", "chain: known answer; random: random weights")
	name := flag.String("name", "", "general.name in the metadata")
	prompt := flag.String("prompt", "ping", "the word that starts the answer of a chain model")
	words := flag.String("words", "", "the answer of a chain model: distinct words of letters")
	seed := flag.Uint64("seed", 0, "seed of the weights that are not set by hand")
	size := flag.Int64("min-size", 0, "`bytes` that the file has at least")
	flag.Parse()
	o := tinygguf.Options{Name: *name, Prompt: *prompt, Words: strings.Fields(*words), Seed: *seed, MinSize: *size}
	switch *mode {
	case "chain":
	case "random":
		o.Mode = tinygguf.Random
	default:
		fail(fmt.Errorf("mode %q: use chain or random", *mode))
	}
	r, err := write(*out, o)
	if err != nil {
		fail(err)
	}
	e := json.NewEncoder(os.Stdout)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "tinygguf:", err)
	os.Exit(1)
}

// write leaves no half-written model behind: the file gets its name last.
func write(path string, o tinygguf.Options) (result, error) {
	r := result{Path: path, Prompt: o.Prompt}
	part := path + ".part"
	f, err := os.Create(part)
	if err != nil {
		return r, err
	}
	defer os.Remove(part)
	defer f.Close()
	h := sha256.New()
	if err := tinygguf.Write(io.MultiWriter(f, h), o); err != nil {
		return r, err
	}
	if r.Size, err = f.Seek(0, io.SeekCurrent); err != nil {
		return r, err
	}
	if err := f.Close(); err != nil {
		return r, err
	}
	if o.Mode == tinygguf.Chain {
		if r.Answer, err = tinygguf.Answer(o); err != nil {
			return r, err
		}
	}
	r.Digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	template := sha256.Sum256([]byte(tinygguf.ChatTemplate))
	r.ChatTemplate = "sha256:" + hex.EncodeToString(template[:])
	return r, os.Rename(part, path)
}
