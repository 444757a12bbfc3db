package policy

import (
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// Bounds on the formats that are protocol buffers.
const (
	onnxBytesMax          = 2 << 30 // protobuf's own bound on a message
	sentencePieceBytesMax = 64 << 20
	protobufDepthMax      = 32
	protobufFieldsMax     = 1 << 24 // fields that are looked at, in all
)

// protobuf walks the fields of a message without loading it: what is of no
// interest is skipped, so that tensors inside a graph cost nothing.
type protobuf struct {
	window
	format string
	fields int
}

// field is one field of a message; a length-delimited one spans the bytes up
// to end.
type field struct {
	number protowire.Number
	kind   protowire.Type
	end    int64
}

func (p *protobuf) breach(expected, found string, args ...any) error {
	return malformed(p.format, expected, found, args...)
}

// message calls each for every field up to end. When each returns, the walk
// goes on behind the field, however much of it was read.
func (p *protobuf) message(end int64, depth int, each func(field) error) error {
	if depth > protobufDepthMax {
		return p.breach(fmt.Sprintf("at most %d levels", protobufDepthMax), "more")
	}
	for p.at < end {
		if p.fields++; p.fields > protobufFieldsMax {
			return p.breach(fmt.Sprintf("at most %d fields", protobufFieldsMax), "more")
		}
		tag, err := p.varint(end)
		if err != nil {
			return err
		}
		f := field{number: protowire.Number(tag >> 3), kind: protowire.Type(tag & 7)}
		if tag>>3 < uint64(protowire.MinValidNumber) || tag>>3 > uint64(protowire.MaxValidNumber) {
			return p.breach("a field number that protobuf defines", "%d", tag>>3)
		}
		var length uint64
		switch f.kind {
		case protowire.VarintType:
			_, err = p.varint(end)
		case protowire.Fixed32Type:
			length = 4
		case protowire.Fixed64Type:
			length = 8
		case protowire.BytesType:
			length, err = p.varint(end)
		default: // groups, which protobuf 3 dropped
			err = p.breach("a wire type in use", "%d", f.kind)
		}
		if err != nil {
			return err
		}
		if length > uint64(end-p.at) {
			return p.breach("fields that end inside their message", "%d bytes at offset %d", length, p.at)
		}
		f.end = p.at + int64(length)
		if err := each(f); err != nil {
			return err
		}
		p.at = f.end
	}
	return nil
}

// varint reads a base-128 number that ends before end.
func (p *protobuf) varint(end int64) (uint64, error) {
	n := min(end-p.at, 10)
	b, err := p.take(n)
	if err != nil {
		return 0, err
	}
	v, used := protowire.ConsumeVarint(b)
	if used < 0 {
		return 0, p.breach("numbers of at most 64 bits that end inside their message", "another at offset %d", p.at-n)
	}
	p.at -= n - int64(used)
	return v, nil
}

// sentencePiece checks a tokenizer model (sentencepiece_model.proto): pieces,
// specifications and self-test data; extensions from 200 on.
func (g *gate) sentencePiece(r io.ReaderAt, size int64) error {
	if err := textSize(formatSentencePiece, size, sentencePieceBytesMax); err != nil {
		return err
	}
	p := &protobuf{window: window{src: r, size: size}, format: formatSentencePiece}
	pieces := 0
	err := p.message(size, 0, func(f field) error {
		if f.kind != protowire.BytesType || f.number > 5 && f.number < 200 {
			return p.breach("pieces and specifications", "field %d of wire type %d", f.number, f.kind)
		}
		if f.number != 1 {
			return nil
		}
		pieces++
		return p.message(f.end, 1, func(f field) error {
			want := map[protowire.Number]protowire.Type{1: protowire.BytesType, 2: protowire.Fixed32Type, 3: protowire.VarintType}
			if kind, ok := want[f.number]; ok && kind != f.kind || !ok && f.number < 200 {
				return p.breach("pieces of a text, a score and a type", "field %d of wire type %d", f.number, f.kind)
			}
			return nil
		})
	})
	if err == nil && pieces == 0 {
		err = p.breach("at least one piece", "none")
	}
	return err
}

// onnxMessages are the fields of onnx.proto that lead to tensors, by message.
var onnxMessages = map[string]map[protowire.Number]string{
	"model":     {7: "graph", 20: "training", 25: "function"},
	"training":  {1: "graph", 2: "graph"},
	"function":  {7: "node", 11: "attribute"},
	"graph":     {1: "node", 5: "tensor", 15: "sparse"},
	"node":      {5: "attribute"},
	"attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
	"sparse":    {1: "tensor", 2: "tensor"},
}

// onnx checks the framing of a graph and refuses tensors whose data lies in
// another file: runtimes have opened whatever location such a tensor names
// (CVE-2022-25882, CVE-2024-27318), and raw data files have no format that
// could be checked.
func (g *gate) onnx(r io.ReaderAt, size int64) error {
	if err := textSize(formatONNX, size, onnxBytesMax); err != nil {
		return err
	}
	p := &protobuf{window: window{src: r, size: size}, format: formatONNX}
	var version, graphs int
	var walk func(message string, end int64, depth int) error
	walk = func(message string, end int64, depth int) error {
		return p.message(end, depth, func(f field) error {
			if message == "model" {
				switch {
				case f.number == 1 && f.kind == protowire.VarintType:
					version++
				case f.number == 7:
					graphs++
				case f.number > 8 && f.number != 14 && f.number != 20 && f.number != 25 && f.number != 26:
					return p.breach("fields that onnx.proto defines", "field %d of the model", f.number)
				}
			}
			// TensorProto's external_data and data_location.
			if message == "tensor" && (f.number == 13 || f.number == 14) {
				return &breach{
					rule: "content.formats.onnx", reason: "has a tensor whose data lies in another file",
					expected: "tensors with their data", found: fmt.Sprintf("field %d of a tensor (external data)", f.number),
				}
			}
			next, ok := onnxMessages[message][f.number]
			if !ok {
				return nil
			}
			if f.kind != protowire.BytesType {
				return p.breach("messages where onnx.proto has messages", "field %d of a %s of wire type %d", f.number, message, f.kind)
			}
			return walk(next, f.end, depth+1)
		})
	}
	if err := walk("model", size, 0); err != nil {
		return err
	}
	if version != 1 || graphs != 1 {
		return p.breach("one version and one graph", "%d and %d", version, graphs)
	}
	return nil
}
