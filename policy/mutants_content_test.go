//go:build mutants

package policy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mutant is the gate with one condition switched off. The last place of the
// condition in line is meant, and line stands exactly once in its file.
type mutant struct {
	file, line, condition string
}

// guards are the conditions that keep hostile files out: a mutant finds them
// never true.
var guards = []mutant{
	{"path.go", `case path == "":`, `path == ""`},
	{"path.go", `case len(path) > pathBytesMax:`, `len(path) > pathBytesMax`},
	{"path.go", `case !utf8.ValidString(path):`, `!utf8.ValidString(path)`},
	{"path.go", `case path[0] == '/':`, `path[0] == '/'`},
	{"path.go", "case strings.Contains(path, `\\`):", "strings.Contains(path, `\\`)"},
	{"path.go", `case len(path) > 1 && path[1] == ':':`, `len(path) > 1 && path[1] == ':'`},
	{"path.go", `case unicode.IsControl(r):`, `unicode.IsControl(r)`},
	{"path.go", `case unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp):`, `unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)`},
	{"path.go", `if depth++; depth > pathDepthMax {`, `depth > pathDepthMax`},
	{"path.go", `case part == "":`, `part == ""`},
	{"path.go", `case part == "." || part == "..":`, `part == "."`},
	{"path.go", `case part == "." || part == "..":`, `part == ".."`},
	{"path.go", `case len(part) > pathPartMax:`, `len(part) > pathPartMax`},
	{"path.go", `case strings.HasPrefix(foldPart(part), reservedPrefix):`, `strings.HasPrefix(foldPart(part), reservedPrefix)`},
	{"path.go", `if n.file {`, `n.file`},
	{"path.go", `} else if next.name != part {`, `next.name != part`},
	{"path.go", `case n.file:`, `n.file`},
	{"path.go", `case n.children != nil:`, `n.children != nil`},

	{"layout.go", `case n == 0:`, `n == 0`},
	{"layout.go", `case n > g.limits.Files:`, `n > g.limits.Files`},
	{"layout.go", `case size < 0:`, `size < 0`},
	{"layout.go", `case size > g.limits.FileBytes:`, `size > g.limits.FileBytes`},
	{"layout.go", `case size > g.limits.TotalBytes-total:`, `size > g.limits.TotalBytes-total`},
	{"layout.go", `if stored > g.model.Size {`, `stored > g.model.Size`},
	{"layout.go", `case size != f.Size:`, `size != f.Size`},
	{"layout.go", `case mediaType == "" || len(mediaType) > mediaTypeMax:`, `mediaType == ""`},
	{"layout.go", `case mediaType == "" || len(mediaType) > mediaTypeMax:`, `len(mediaType) > mediaTypeMax`},
	{"layout.go", `case len(allowed) > 0 && !slices.Contains(allowed, mediaType):`, `!slices.Contains(allowed, mediaType)`},
	{"layout.go", `} else if err := SafePath(f.Path); err != nil {`, `err != nil`},
	{"layout.go", `if _, err := g.format(f.Path); err != nil {`, `err != nil`},
	{"layout.go", `if err := SafePaths(paths); err != nil {`, `err != nil`},

	{"content.go", `if l := g.limits; l.Files < 0 || l.FileBytes < 0 || l.TotalBytes < 0 || l.ExpandRatio < 0 {`, `l.Files < 0`},
	{"content.go", `size > 0 && total > 0 && (total-1)/ratio >= size {`, `(total-1)/ratio >= size`},
	{"content.go", `if err := g.sizes(files); err != nil {`, `err != nil`},
	{"content.go", `if err := SafePaths(paths); err != nil {`, `err != nil`},
	{"content.go", `if err := foreign(r, f.Size, kind); err != nil {`, `err != nil`},

	{"content_format.go", `if len(head) >= m.offset && bytes.HasPrefix(head[m.offset:], []byte(m.bytes)) {`, `bytes.HasPrefix(head[m.offset:], []byte(m.bytes))`},
	{"content_format.go", `if len(head) > 257 && bytes.HasPrefix(head[257:], []byte(magicTar)) {`, `bytes.HasPrefix(head[257:], []byte(magicTar))`},
	{"content_format.go", `if ext != "" {`, `ext != ""`},
	{"content_format.go", `if string(b) == magicHDF5 {`, `string(b) == magicHDF5`},
	{"content_format.go", `if string(b) == look.signature {`, `string(b) == look.signature`},

	{"gguf.go", `if _, twice := keys[key]; twice {`, `twice`},
	{"gguf.go", `if key == ggufTemplateKey || strings.HasPrefix(key, ggufTemplateKey+".") {`, `key == ggufTemplateKey`},
	{"gguf.go", `if key == ggufTemplateKey || strings.HasPrefix(key, ggufTemplateKey+".") {`, `strings.HasPrefix(key, ggufTemplateKey+".")`},
	{"gguf.go", "\t\tif kind != ggufString {\n\t\t\treturn ggufBreach(\"a chat template", `kind != ggufString`},
	{"gguf.go", `if !utf8.Valid(text) {`, `!utf8.Valid(text)`},
	{"gguf.go", "if kind >= uint32(len(ggufWidth)) {", `kind >= uint32(len(ggufWidth))`},
	{"gguf.go", `if kind == ggufBool && b[0] > 1 {`, `kind == ggufBool && b[0] > 1`},
	{"gguf.go", `if n < 0 || n > x.left() {`, `n > x.left()`},
	{"gguf.go", `if n > ggufHeaderMax-x.at {`, `n > ggufHeaderMax-x.at`},
	{"gguf.go", `if n < 0 || n > x.left() {`, `n < 0`},
	{"gguf.go", "block, ok := ggmlTypes[kind]\n\tif !ok {", `!ok`},
	{"gguf.go", `if kind != ggufUint32 {`, `kind != ggufUint32`},
	{"gguf.go", `if n < ggufAlignMin || n > ggufAlignMax || n&(n-1) != 0 {`, `n < ggufAlignMin`},
	{"gguf.go", `if n < ggufAlignMin || n > ggufAlignMax || n&(n-1) != 0 {`, `n > ggufAlignMax`},
	{"gguf.go", `if n < ggufAlignMin || n > ggufAlignMax || n&(n-1) != 0 {`, `n&(n-1) != 0`},
	{"gguf.go", "if n > most {\n\t\treturn ggufBreach(fmt.Sprintf(\"at most %d %s\"", `n > most`},
	{"gguf.go", `if n > uint64(x.left()/least) {`, `n > uint64(x.left()/least)`},
	{"gguf.go", "if n > most {\n\t\treturn nil, ggufBreach", `n > most`},
	{"gguf.go", `if s == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {`, `s == ""`},
	{"gguf.go", `if s == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {`, `!utf8.ValidString(s)`},
	{"gguf.go", `if s == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {`, `strings.ContainsFunc(s, unicode.IsControl)`},
	{"gguf.go", `if kind == ggufArray || kind >= uint32(len(ggufWidth)) {`, `kind == ggufArray`},
	{"gguf.go", `if kind == ggufArray || kind >= uint32(len(ggufWidth)) {`, `kind >= uint32(len(ggufWidth))`},
	{"gguf.go", `if x.texts += n; x.texts > ggufTextsMax {`, `x.texts > ggufTextsMax`},
	{"gguf.go", `if string(b) != "GGUF" {`, `string(b) != "GGUF"`},
	{"gguf.go", `if _, twice := names[name]; twice {`, `twice`},
	{"gguf.go", `if offset != next {`, `offset != next`},
	{"gguf.go", `if length > uint64(x.size)-min(next, uint64(x.size)) {`, `length > uint64(x.size)-min(next, uint64(x.size))`},
	{"gguf.go", `have < start+end || have > start+next {`, `have < start+end`},
	{"gguf.go", `have < start+end || have > start+next {`, `have > start+next`},
	{"gguf.go", `if dims > ggufDimsMax {`, `dims > ggufDimsMax`},
	{"gguf.go", `if d == 0 || high != 0 || low > math.MaxInt64 {`, `d == 0`},
	{"gguf.go", `if d == 0 || high != 0 || low > math.MaxInt64 {`, `high != 0`},
	{"gguf.go", `if d == 0 || high != 0 || low > math.MaxInt64 {`, `low > math.MaxInt64`},
	{"gguf.go", `if row%block.elements != 0 {`, `row%block.elements != 0`},
	{"gguf.go", `if high != 0 || length > math.MaxInt64-ggufAlignMax {`, `high != 0`},
	{"gguf.go", `if high != 0 || length > math.MaxInt64-ggufAlignMax {`, `length > math.MaxInt64-ggufAlignMax`},

	{"safetensors.go", `if size < 8 {`, `size < 8`},
	{"safetensors.go", `if length < 2 || length > safetensorsHeaderMax || length > uint64(size-8) {`, `length < 2`},
	{"safetensors.go", `if length < 2 || length > safetensorsHeaderMax || length > uint64(size-8) {`, `length > safetensorsHeaderMax`},
	{"safetensors.go", `if length < 2 || length > safetensorsHeaderMax || length > uint64(size-8) {`, `length > uint64(size-8)`},
	{"safetensors.go", `if first[0] != '{' {`, `first[0] != '{'`},
	{"safetensors.go", `case s.from > at:`, `s.from > at`},
	{"safetensors.go", `case s.from < at:`, `s.from < at`},
	{"safetensors.go", `if at != size {`, `at != size`},
	{"safetensors.go", `if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {`, `!errors.Is(err, io.EOF)`},
	{"safetensors.go", `if kind := d.PeekKind(); kind != '{' {`, `kind != '{'`},
	{"safetensors.go", `len(spans) > safetensorsNamesMax {`, `len(spans) > safetensorsNamesMax`},
	{"safetensors.go", `if texts > 2*safetensorsNamesMax+1 {`, `texts > 2*safetensorsNamesMax+1`},
	{"safetensors.go", `if d.StackDepth() > depth+1 {`, `d.StackDepth() > depth+1`},
	{"safetensors.go", `} else if token.Kind() != '{' {`, `token.Kind() != '{'`},
	{"safetensors.go", `token.Kind() != '"' || width == 0 {`, `width == 0`},
	{"safetensors.go", `if width == 0 || shape == nil || len(offsets) != 2 {`, `width == 0`},
	{"safetensors.go", `if width == 0 || shape == nil || len(offsets) != 2 {`, `shape == nil`},
	{"safetensors.go", `if width == 0 || shape == nil || len(offsets) != 2 {`, `len(offsets) != 2`},
	{"safetensors.go", `if high != 0 {`, `high != 0`},
	{"safetensors.go", `if s.to < s.from {`, `s.to < s.from`},
	{"safetensors.go", `if size%8 != 0 || s.to-s.from != size/8 {`, `size%8 != 0`},
	{"safetensors.go", `if size%8 != 0 || s.to-s.from != size/8 {`, `s.to-s.from != size/8`},
	{"safetensors.go", `if token.Kind() != '[' {`, `token.Kind() != '['`},
	{"safetensors.go", `if len(out) == most {`, `len(out) == most`},

	{"text.go", `c == 0x7f {`, `c == 0x7f`},
	{"text.go", `if c < ' ' && c != '\t'`, `c < ' '`},
	{"text.go", `if size > most {`, `size > most`},
	{"text_json.go", `if _, err := s.ReadToken(); !errors.Is(err, io.EOF) {`, `!errors.Is(err, io.EOF)`},
	{"text_json.go", `if !s.tokens || s.PeekKind() != '0' {`, `!s.tokens`},
	{"text_json.go", `if !s.tokens || s.PeekKind() != '0' {`, `s.PeekKind() != '0'`},
	{"text_json.go", `if s.names++; s.names > jsonNamesMax {`, `s.names > jsonNamesMax`},
	{"text_json.go", `if s.StackDepth() > jsonDepthMax {`, `s.StackDepth() > jsonDepthMax`},
	{"text_json.go", "case is.template != \"\":\n\t\t\treturn s.template", `is.template != ""`},
	{"text_json.go", `case is.shard:`, `is.shard`},
	{"text_json.go", "case is.template != \"\":\n\t\t\tbelow.template", `is.template != ""`},
	{"text_json.go", `case name == "chat_template":`, `name == "chat_template"`},
	{"text_json.go", `if len(below.template) > 1<<10 {`, `len(below.template) > 1<<10`},
	{"text_json.go", `if !s.gate.autoMap {`, `!s.gate.autoMap`},
	{"text_json.go", `if len(text) > chatTemplateMax {`, `len(text) > chatTemplateMax`},

	{"content_protobuf.go", `if depth > protobufDepthMax {`, `depth > protobufDepthMax`},
	{"content_protobuf.go", `if length > uint64(end-p.at) {`, `length > uint64(end-p.at)`},
	{"content_protobuf.go", `if used < 0 {`, `used < 0`},
	{"content_protobuf.go", `if f.kind != protowire.BytesType || f.number > 5 && f.number < 200 {`, `f.kind != protowire.BytesType`},
	{"content_protobuf.go", `if f.kind != protowire.BytesType || f.number > 5 && f.number < 200 {`, `f.number > 5 && f.number < 200`},
	{"content_protobuf.go", `if kind, ok := want[f.number]; ok && kind != f.kind || !ok && f.number < 200 {`, `kind != f.kind`},
	{"content_protobuf.go", `if kind, ok := want[f.number]; ok && kind != f.kind || !ok && f.number < 200 {`, `!ok && f.number < 200`},
	{"content_protobuf.go", `if err == nil && pieces == 0 {`, `pieces == 0`},
	{"content_protobuf.go", `case f.number > 8 && f.number != 14`, `f.number > 8`},
	{"content_protobuf.go", `if message == "tensor" && (f.number == 13 || f.number == 14) {`, `f.number == 13`},
	{"content_protobuf.go", `if message == "tensor" && (f.number == 13 || f.number == 14) {`, `f.number == 14`},
	{"content_protobuf.go", "if f.kind != protowire.BytesType {\n", `f.kind != protowire.BytesType`},
	{"content_protobuf.go", `if version != 1 || graphs != 1 {`, `version != 1`},
	{"content_protobuf.go", `if version != 1 || graphs != 1 {`, `graphs != 1`},
}

// permits are the conditions that let files in: a mutant finds them always
// true.
var permits = []mutant{
	{"content.go", "g.templates++\n\tif !g.pinned {", `!g.pinned`},
	{"content.go", `if slices.Contains(g.model.ChatTemplateDigests, d) {`, `slices.Contains(g.model.ChatTemplateDigests, d)`},
	{"content_format.go", `if f != "" && slices.Contains(g.formats, admit) {`, `f != ""`},
	{"content_format.go", `if f != "" && slices.Contains(g.formats, admit) {`, `slices.Contains(g.formats, admit)`},
	{"text.go", `if r, n := utf8.DecodeRune(b); r != utf8.RuneError || n > 1 {`, `r != utf8.RuneError || n > 1`},
	{"text.go", `if !last && !utf8.FullRune(b) {`, `!last`},
	{"text_json.go", `case is.listed && name == "name":`, `is.listed`},
	{"text_json.go", `case is.listed && name == "name":`, `name == "name"`},
}

// suite are the tests that must notice.
const suite = `^(TestSafePath|TestLayout|TestUnpacked|TestHostile|TestGGUF|TestSafetensors|TestTexts|TestTemplate|TestProtobuf|TestBytesLike|TestLengthLike|TestTheDemos|TestUnpinned|TestUnreadable)`

// TestContentMutants shows that each guard is needed: without it the suite is
// red. One binary holds all mutants and RMODELS_MUTANT chooses. It takes
// minutes:
//
//	go test -tags mutants -run TestContentMutants -timeout 60m ./policy
func TestContentMutants(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "mutants.test")
	build := exec.Command("go", "test", "-c", "-vet=off", "-overlay", mutate(t, dir), "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the mutants: %v\n%s", err, out)
	}
	run := func(id string) (string, error) {
		// The limit is on address space: a mutant may allocate what a file claims.
		c := exec.Command("sh", "-c", `ulimit -v 8388608; exec "$@"`, "sh", binary, "-test.run", suite, "-test.failfast", "-test.timeout", "5m")
		c.Env = append(os.Environ(), "RMODELS_MUTANT="+id)
		out, err := c.CombinedOutput()
		return string(out), err
	}
	if out, err := run(""); err != nil {
		t.Fatalf("the suite is red without a mutant: %v\n%s", err, out)
	}
	alive := 0
	for i, m := range slices.Concat(guards, permits) {
		out, err := run(fmt.Sprint(i))
		var exit *exec.ExitError
		verdict := "killed by " + failed(out)
		switch {
		case err == nil:
			verdict = "ALIVE"
			alive++
			t.Errorf("%s: no test fails without %s", m.file, m.condition)
		case !errors.As(err, &exit):
			t.Fatal(err)
		}
		fmt.Printf("%-20s %-56s %s\n", m.file, m.condition, verdict)
	}
	fmt.Printf("%d mutants, %d alive\n", len(guards)+len(permits), alive)
}

// failed names the first test that failed, or the panic.
func failed(out string) string {
	name := ""
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "--- FAIL: "); ok {
			name, _, _ = strings.Cut(rest, " ") // the innermost comes last
		} else if name != "" {
			break
		} else if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			return line
		}
	}
	return name
}

// mutate writes the files with a switch in every guard, and the overlay that
// puts them in place of the package's.
func mutate(t *testing.T, dir string) string {
	t.Helper()
	type edit struct{ id, at int }
	sources, edits := map[string]string{}, map[string][]edit{}
	for i, m := range slices.Concat(guards, permits) {
		if _, ok := sources[m.file]; !ok {
			b, err := os.ReadFile(m.file)
			if err != nil {
				t.Fatal(err)
			}
			sources[m.file] = string(b)
		}
		in := strings.LastIndex(m.line, m.condition)
		if n := strings.Count(sources[m.file], m.line); n != 1 || in < 0 {
			t.Fatalf("%s: %q with %q stands there %d times, want once: mend the list of mutants", m.file, m.line, m.condition, n)
		}
		edits[m.file] = append(edits[m.file], edit{i, strings.Index(sources[m.file], m.line) + in})
	}
	replace := map[string]string{}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	put := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[filepath.Join(here, name)] = path
	}
	for name, text := range sources {
		slices.SortFunc(edits[name], func(a, b edit) int { return b.at - a.at })
		for _, e := range edits[name] {
			form, m := "%s(live(%d) && (%s))%s", mutant{}
			if e.id < len(guards) {
				m = guards[e.id]
			} else {
				form, m = "%s(!live(%d) || (%s))%s", permits[e.id-len(guards)]
			}
			text = fmt.Sprintf(form, text[:e.at], e.id, m.condition, text[e.at+len(m.condition):])
		}
		put(name, text)
	}
	put("mutant_switch.go", `package policy

import (
	"os"
	"strconv"
)

var dead = os.Getenv("RMODELS_MUTANT")

func live(guard int) bool { return dead != strconv.Itoa(guard) }
`)
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return overlay
}
