package probe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Arg is the first argument by which a binary that serves other ends as well
// knows that it is the probe.
const Arg = "__rmodels-probe"

// Plan tells the probe what to try. It is given as JSON in the argument
// after [Arg] and "try".
type Plan struct {
	Model   string   `json:"model"`   // directory that must be read-only
	TCP     []string `json:"tcp"`     // host addresses, host:port, that must not be reached
	Nowhere []string `json:"nowhere"` // addresses to which there must be no way: a refusal would come from the other side
	Socket  string   `json:"socket"`  // abstract Unix socket of the host, without its NUL
	VSock   uint32   `json:"vsock"`   // port of a host listener, 0: none
	Files   []string `json:"files"`   // host paths that must not exist
	Env     []string `json:"env"`     // names of variables that may be set
	Devices bool     `json:"devices"` // device nodes beyond the standard ones are expected
	Pids    int64    `json:"pids"`
	Memory  int64    `json:"memory"`
	Tmpfs   []Tmpfs  `json:"tmpfs"`
}

// Tmpfs is a writable mount and its bound.
type Tmpfs struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
	Exec bool   `json:"exec"`
}

// Report is what the probe found. It is printed as lines, one per attempt and
// a last one that counts them: container engines break long lines.
type Report struct {
	Tries []Try
}

// last is the report's last line.
type last struct {
	End int `json:"end"` // how many attempts were made
}

// maxTries bounds a report that is read.
const maxTries = 1024

// Whole says whether b holds a report's last line.
func Whole(b []byte) bool {
	b, ok := bytes.CutSuffix(b, []byte("}\n"))
	i := bytes.LastIndexByte(b, '\n')
	return ok && bytes.HasPrefix(b[i+1:], []byte(`{"end":`))
}

// ReadReport reads what the probe printed. Anything less than a whole report
// is an error.
func ReadReport(b []byte) (*Report, error) {
	if !Whole(b) {
		return nil, errors.New("its report has no end")
	}
	r := &Report{}
	lines := bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
	strict := func(line []byte, v any) error {
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(v); err != nil {
			return err
		}
		if d.More() {
			return errors.New("more than one value on a line")
		}
		return nil
	}
	for _, line := range lines[:len(lines)-1] {
		var t Try
		if err := strict(line, &t); err != nil {
			return nil, err
		}
		if r.Tries = append(r.Tries, t); len(r.Tries) > maxTries {
			return nil, fmt.Errorf("more than %d attempts", maxTries)
		}
	}
	var end last
	if err := strict(lines[len(lines)-1], &end); err != nil {
		return nil, err
	}
	if end.End != len(r.Tries) {
		return nil, fmt.Errorf("%d attempts of %d in its report", len(r.Tries), end.End)
	}
	return r, nil
}

// Try is one attempt to get out.
type Try struct {
	Name   string `json:"name"`
	Closed bool   `json:"closed"` // the attempt failed, as it should
	Found  string `json:"found"`
}

// Main is the probe's program; args are what follows [Arg].
func Main(args []string, out io.Writer) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "rmodels-probe: this program looks at a box from within; rmodels starts it")
		return 2
	}
	switch args[0] {
	case "try":
		return try(args[1:], out)
	case "hold":
		return hold(args[1:], out)
	case "fill": // child of try: takes memory past the limit
		return fill(args[1:])
	case "fork": // child of try: makes processes past the limit
		return fork(args[1:], out)
	}
	fmt.Fprintf(os.Stderr, "rmodels-probe: unknown part %q\n", args[0])
	return 2
}

func try(args []string, out io.Writer) int {
	var plan Plan
	if len(args) != 1 || json.Unmarshal([]byte(args[0]), &plan) != nil {
		fmt.Fprintln(os.Stderr, "rmodels-probe: no plan")
		return 2
	}
	var r Report
	for _, part := range []func(*Report, Plan){files, environment, devices, scratch, network, families, syscalls, privileges, processes, memory} {
		part(&r, plan)
	}
	if err := r.write(out); err != nil {
		fmt.Fprintln(os.Stderr, "rmodels-probe:", err)
		return 1
	}
	return 0
}

func (r *Report) write(out io.Writer) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, t := range r.Tries {
		if err := enc.Encode(t); err != nil {
			return err
		}
	}
	if err := enc.Encode(last{End: len(r.Tries)}); err != nil {
		return err
	}
	_, err := out.Write(b.Bytes())
	return err
}

// add records an attempt and what came of it, in words for a reader who knows
// no Go.
func (r *Report) add(name string, closed bool, format string, a ...any) {
	found := fmt.Sprintf(format, a...)
	if len(found) > 512 {
		found = found[:512]
	}
	r.Tries = append(r.Tries, Try{name, closed, strings.ToValidUTF8(found, "?")})
}

// mustFail records an attempt that is closed when it returned an error.
func (r *Report) mustFail(name string, err error) {
	r.add(name, err != nil, "%s", said(err))
}

// said is what an attempt met.
func said(err error) string {
	if err == nil {
		return "it succeeded"
	}
	return err.Error()
}

// listed names what an attempt saw.
func listed(seen []string) string {
	if len(seen) == 0 {
		return "none"
	}
	return strings.Join(seen, " ")
}

// hold waits for SIGUSR1 and then runs a program, whose stdout and stderr it
// writes as frames (see [Frame]); it ends with the program's exit code. While
// it waits, the host looks at the box.
func hold(args []string, out io.Writer) int {
	if len(args) == 0 {
		return 2
	}
	released := make(chan os.Signal, 1)
	signal.Notify(released, syscall.SIGUSR1)
	if _, err := out.Write(Frame(Ready, nil)); err != nil {
		return 2
	}
	<-released
	return runFramed(args, out)
}

var errShort = errors.New("short frame")
