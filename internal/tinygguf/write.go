package tinygguf

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
)

// Write writes the model that o describes and reports the first error of w,
// or [ErrOptions].
func Write(w io.Writer, o Options) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	v := newVocabulary(o.Prompt, o.Words)
	s := shape{embedding: 64, heads: 4, kvHeads: 2, forward: 64, vocabulary: len(v.tokens)}
	if o.Mode == Chain {
		// One dimension per token; 64 keeps rows on whole cache lines.
		s.embedding = (len(v.tokens) + 63) / 64 * 64
	}
	all := tensors(o, v, s)
	var size int64
	for _, t := range all {
		size += t.size() + padding(t.size())
	}
	if short := o.MinSize - size; short > 0 {
		// Three matrices per block grow with the feed-forward width.
		perColumn := int64(3 * 4 * blocks * s.embedding)
		s.forward += int(((short+perColumn-1)/perColumn + 31) / 32 * 32)
		all = tensors(o, v, s)
	}

	buf := bufio.NewWriterSize(w, 1<<20)
	if _, err := buf.Write(header(o, v, s, all)); err != nil {
		return err
	}
	for _, t := range all {
		if err := t.write(buf); err != nil {
			return err
		}
	}
	return buf.Flush()
}

// Value types of GGUF metadata (ggml's gguf.md).
const (
	valueUint32  = 4
	valueInt32   = 5
	valueFloat32 = 6
	valueBool    = 7
	valueString  = 8
	valueArray   = 9
)

// encoder appends GGUF's little-endian primitives.
type encoder struct {
	bytes.Buffer
	pairs uint64
}

func (e *encoder) put(v any) {
	// A bytes.Buffer never fails and every v is of a fixed size.
	_ = binary.Write(e, binary.LittleEndian, v)
}

func (e *encoder) text(s string) {
	e.put(uint64(len(s)))
	e.WriteString(s)
}

func (e *encoder) pair(key string, kind uint32, v any) {
	e.pairs++
	e.text(key)
	e.put(kind)
	if s, ok := v.(string); ok {
		e.text(s)
		return
	}
	e.put(v)
}

func (e *encoder) array(key string, kind uint32, n int) {
	e.pairs++
	e.text(key)
	e.put(uint32(valueArray))
	e.put(kind)
	e.put(uint64(n))
}

func header(o Options, v *vocabulary, s shape, all []tensor) []byte {
	var kv encoder
	number := func(key string, n int) { kv.pair(key, valueUint32, uint32(n)) }
	kv.pair("general.architecture", valueString, "llama")
	kv.pair("general.name", valueString, o.Name)
	number("general.file_type", 0) // all F32
	number("general.alignment", alignment)
	number("llama.context_length", 512)
	number("llama.embedding_length", s.embedding)
	number("llama.block_count", blocks)
	number("llama.feed_forward_length", s.forward)
	number("llama.attention.head_count", s.heads)
	number("llama.attention.head_count_kv", s.kvHeads)
	kv.pair("llama.attention.layer_norm_rms_epsilon", valueFloat32, float32(1e-5))
	number("llama.rope.dimension_count", s.headSize())
	kv.pair("llama.rope.freq_base", valueFloat32, float32(10000))
	number("llama.vocab_size", s.vocabulary)
	kv.pair("tokenizer.ggml.model", valueString, "llama")
	kv.pair("tokenizer.ggml.pre", valueString, "default")
	kv.array("tokenizer.ggml.tokens", valueString, len(v.tokens))
	for _, t := range v.tokens {
		kv.text(t)
	}
	kv.array("tokenizer.ggml.scores", valueFloat32, len(v.scores))
	kv.put(v.scores)
	kv.array("tokenizer.ggml.token_type", valueInt32, len(v.types))
	kv.put(v.types)
	number("tokenizer.ggml.unknown_token_id", tokenUnknown)
	number("tokenizer.ggml.bos_token_id", tokenBegin)
	number("tokenizer.ggml.eos_token_id", tokenEnd)
	kv.pair("tokenizer.ggml.add_bos_token", valueBool, true)
	kv.pair("tokenizer.ggml.add_eos_token", valueBool, false)
	kv.pair("tokenizer.ggml.add_space_prefix", valueBool, true)
	kv.pair("tokenizer.chat_template", valueString, ChatTemplate)

	var h encoder
	h.WriteString("GGUF")
	h.put(uint32(3))
	h.put(uint64(len(all)))
	h.put(kv.pairs)
	h.Write(kv.Bytes())
	var offset int64
	for _, t := range all {
		h.text(t.name)
		h.put(uint32(len(t.dims)))
		for _, d := range t.dims {
			h.put(uint64(d))
		}
		h.put(uint32(0)) // F32
		h.put(uint64(offset))
		offset += t.size() + padding(t.size())
	}
	h.Write(make([]byte, padding(int64(h.Len()))))
	return h.Bytes()
}
