package tinygguf

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
)

const (
	alignment = 32
	blocks    = 2
)

// shape holds the hyper-parameters of the llama architecture.
type shape struct {
	embedding, heads, kvHeads, forward, vocabulary int
}

func (s shape) headSize() int { return s.embedding / s.heads }

// tensor is one F32 tensor; row fills one row of dims[0] values.
type tensor struct {
	name string
	dims []int // fastest first, as GGUF has them
	row  func(i int, to []float32)
}

func (t tensor) rows() int {
	if len(t.dims) == 1 {
		return 1
	}
	return t.dims[1]
}

func (t tensor) size() int64 { return 4 * int64(t.dims[0]) * int64(t.rows()) }

// write streams the values row by row and pads to the alignment.
func (t tensor) write(w io.Writer) error {
	row := make([]float32, t.dims[0])
	raw := make([]byte, 4*len(row))
	for i := range t.rows() {
		t.row(i, row)
		for j, v := range row {
			binary.LittleEndian.PutUint32(raw[4*j:], math.Float32bits(v))
		}
		if _, err := w.Write(raw); err != nil {
			return err
		}
	}
	_, err := w.Write(make([]byte, padding(t.size())))
	return err
}

// padding is the number of bytes from n up to the next aligned offset.
func padding(n int64) int64 { return (alignment - n%alignment) % alignment }

func constant(v float32) func(int, []float32) {
	return func(_ int, to []float32) {
		for i := range to {
			to[i] = v
		}
	}
}

// noise yields values in [-scale, scale) that depend on the seed and the
// tensor's place alone. Rows are drawn in order.
func noise(seed, place uint64, scale float32) func(int, []float32) {
	source := rand.NewPCG(seed, place)
	return func(_ int, to []float32) {
		for i := range to {
			// 24 bits are exact in a float32, so no rounding mode matters.
			to[i] = float32(int32(source.Uint64()>>40)-1<<23) / (1 << 23) * scale
		}
	}
}

// oneHot sets column column(i) of row i; a negative column leaves zeros.
func oneHot(column func(row int) int) func(int, []float32) {
	return func(i int, to []float32) {
		clear(to)
		if c := column(i); c >= 0 {
			to[c] = 1
		}
	}
}

func tensors(o Options, v *vocabulary, s shape) []tensor {
	var all []tensor
	add := func(name string, row func(int, []float32), dims ...int) {
		all = append(all, tensor{name: name, dims: dims, row: row})
	}
	random := func(width int) func(int, []float32) {
		return noise(o.Seed, uint64(len(all)), 1/float32(math.Sqrt(float64(width))))
	}
	// In a chain model attention and feed-forward add exactly nothing to the
	// residual stream, because their last matrices are zero.
	last := random
	embedding, output := noise(o.Seed, 1<<32, 1), noise(o.Seed, 1<<32+1, 1)
	if o.Mode == Chain {
		last = func(int) func(int, []float32) { return constant(0) }
		embedding = oneHot(func(token int) int { return token })
		before := map[int]int{tokenEnd: v.stop, v.stop: v.words[len(v.words)-1]}
		for i := 1; i < len(v.words); i++ {
			before[v.words[i]] = v.words[i-1]
		}
		output = oneHot(func(token int) int {
			if from, ok := before[token]; ok {
				return from
			}
			return -1
		})
	}

	e, f, kv := s.embedding, s.forward, s.kvHeads*s.headSize()
	add("token_embd.weight", embedding, e, s.vocabulary)
	for b := range blocks {
		p := fmt.Sprintf("blk.%d.", b)
		add(p+"attn_norm.weight", constant(1), e)
		add(p+"attn_q.weight", random(e), e, e)
		add(p+"attn_k.weight", random(e), e, kv)
		add(p+"attn_v.weight", random(e), e, kv)
		add(p+"attn_output.weight", last(e), e, e)
		add(p+"ffn_norm.weight", constant(1), e)
		add(p+"ffn_gate.weight", random(e), e, f)
		add(p+"ffn_up.weight", random(e), e, f)
		add(p+"ffn_down.weight", last(f), f, e)
	}
	add("output_norm.weight", constant(1), e)
	add("output.weight", output, e, s.vocabulary)
	return all
}
