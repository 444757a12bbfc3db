package policy

import (
	"fmt"
	"io"
	"path"

	"google.golang.org/protobuf/encoding/protowire"
)

// maxProtobuf bounds what is read whole: ONNX graphs keep large weights in
// files of their own, tokenizers have a few megabytes.
const (
	maxONNXGraph     = 256 << 20
	maxTokenizer     = 64 << 20
	maxProtobufDepth = 32
)

// checkSentencepiece walks a tokenizer's top level: pieces, trainer and
// normaliser specifications and self-test data (sentencepiece_model.proto),
// extensions from 200 on, and nothing else.
func checkSentencepiece(r io.ReaderAt, size int64) error {
	if size > maxTokenizer {
		return fmt.Errorf("%d bytes, at most %d", size, maxTokenizer)
	}
	b := make([]byte, size)
	if err := readFull(r, b, 0); err != nil {
		return err
	}
	pieces := 0
	err := protobufFields(b, func(n protowire.Number, t protowire.Type, v []byte) error {
		if t != protowire.BytesType || n > 5 && n < 200 {
			return fmt.Errorf("field %d of wire type %d does not belong there", n, t)
		}
		if n == 1 {
			pieces++
		}
		return nil
	})
	if err == nil && pieces == 0 {
		err = fmt.Errorf("no pieces")
	}
	return err
}

// protobufFields calls each for every field of a message; v is the content of
// a length-delimited one, else nil.
func protobufFields(b []byte, each func(n protowire.Number, t protowire.Type, v []byte) error) error {
	for len(b) > 0 {
		n, t, used := protowire.ConsumeTag(b)
		if used < 0 {
			return fmt.Errorf("protobuf: %w", protowire.ParseError(used))
		}
		b = b[used:]
		var v []byte
		if t == protowire.BytesType {
			v, used = protowire.ConsumeBytes(b)
		} else {
			used = protowire.ConsumeFieldValue(n, t, b)
		}
		if used < 0 {
			return fmt.Errorf("protobuf: %w", protowire.ParseError(used))
		}
		if err := each(n, t, v); err != nil {
			return err
		}
		b = b[used:]
	}
	return nil
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
	"tensor":    {13: "external"},
}

// checkONNX walks a graph and refuses tensors whose data lies outside the
// artifact: a runtime opens whatever location they name.
func checkONNX(r io.ReaderAt, size int64, dir string, files map[string]bool) error {
	if size > maxONNXGraph {
		return fmt.Errorf("%d bytes, at most %d: keep weights in files of their own", size, maxONNXGraph)
	}
	b := make([]byte, size)
	if err := readFull(r, b, 0); err != nil {
		return err
	}
	graph := false
	err := protobufFields(b, func(n protowire.Number, _ protowire.Type, _ []byte) error {
		graph = graph || n == 7
		return nil
	})
	if err != nil {
		return err
	}
	if !graph {
		return fmt.Errorf("no graph")
	}
	return walkONNX("model", b, 0, dir, files)
}

func walkONNX(message string, b []byte, depth int, dir string, files map[string]bool) error {
	if depth > maxProtobufDepth {
		return fmt.Errorf("nested deeper than %d", maxProtobufDepth)
	}
	return protobufFields(b, func(n protowire.Number, t protowire.Type, v []byte) error {
		next, ok := onnxMessages[message][n]
		if !ok {
			return nil
		}
		if t != protowire.BytesType {
			return fmt.Errorf("%s: field %d of wire type %d", message, n, t)
		}
		if next != "external" {
			return walkONNX(next, v, depth+1, dir, files)
		}
		return checkONNXLocation(v, dir, files)
	})
}

func checkONNXLocation(entry []byte, dir string, files map[string]bool) error {
	var key, value string
	err := protobufFields(entry, func(n protowire.Number, _ protowire.Type, v []byte) error {
		switch n {
		case 1:
			key = string(v)
		case 2:
			value = string(v)
		}
		return nil
	})
	if err != nil || key != "location" {
		return err
	}
	if err := SafePath(value); err != nil {
		return fmt.Errorf("external data: %w", err)
	}
	if !files[path.Join(dir, value)] {
		return fmt.Errorf("external data in %q, which the artifact lacks", clip(value))
	}
	return nil
}
