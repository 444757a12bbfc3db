// Package tinygguf writes tiny llama-architecture GGUF v3 models whose bytes
// and answers are known beforehand, so that the whole path from a registry to
// a real inference engine can be tested without a downloaded model.
//
// # Owns
//
// The vocabulary, the weights and the container layout of two kinds of model:
//
//   - [Chain]: weights set by hand. The embedding is one-hot, attention and
//     feed-forward add nothing, and the output matrix maps each word to the
//     next. Greedy decoding of [Options.Prompt] therefore says
//     [Options.Words], a full stop and the end of sequence ([Answer]),
//     whatever the engine, the thread count or the vector width.
//   - [Random]: pseudo-random weights. The answer is unpredictable but
//     repeats; determinism tests use it.
//
// # Invariants
//
//  1. The same [Options] give the same bytes on every machine and with every
//     Go release: numbers come from bits of a PCG generator, never from a
//     distribution of the standard library.
//  2. Two models that differ in any option that matters differ in SHA-256.
//  3. Memory does not grow with [Options.MinSize]: tensors are streamed.
//
// # Layout
//
// Header, metadata (architecture, a SentencePiece vocabulary with byte
// fallback, a chat template that passes the content through), tensor table,
// then F32 tensors aligned to 32 bytes, without a hole at the end: files pass
// a strict GGUF parser. MinSize is reached by a wider feed-forward block, so
// large files hold nothing but tensors that the engine really loads.
//
// # Never
//
// It never writes a useful model, and product code never imports it.
package tinygguf
