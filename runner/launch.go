package runner

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/resultity/rmodels/internal/terminal"
	"github.com/resultity/rmodels/snapshot"
)

// launch is how the box is made: everything the engine is told, besides the
// run's own name. It is a pure function of the job and the image's facts.
type launch struct {
	uid, gid   int
	memory     int64
	shm        int64
	pids       int64
	cpus       float64
	tmpfs      []tmpfs // ascending by path
	env        []string
	entrypoint string
	args       []string
	devices    []string
	modelDir   string
	binds      []bind
	seccomp    string // path of the profile on the host
	port       int
	health     string
	startLimit time.Duration
}

// bind is a file of ours that is mounted into the box, read-only.
type bind struct{ source, target string }

type tmpfs struct {
	path string
	size int64
	exec bool
}

var (
	userPattern   = regexp.MustCompile(`^([0-9]{1,10})(?::([0-9]{1,10}))?$`)
	envPattern    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	devicePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*/[A-Za-z][A-Za-z0-9_-]*=[A-Za-z0-9][A-Za-z0-9_.:-]*$`)
)

// preloaded names variables that make a loader run code of the image inside
// whatever touches the container from outside (CVE-2025-23266).
var preloaded = []string{"LD_PRELOAD", "LD_AUDIT"}

const (
	maxTmpfs   = 32
	maxArgs    = 256
	maxArgLen  = 8 << 10
	volumeSize = 64 << 20 // bytes of the tmpfs that covers an image's VOLUME
)

// newLaunch checks the job and lays down the box. It fails closed: what it
// does not understand is refused.
func newLaunch(j Job, img imageFacts) (*launch, error) {
	r := j.Runtime
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: %s: %s", ErrRuntime, r.Name, fmt.Sprintf(format, a...))
	}
	l := &launch{
		memory: int64(r.Memory), shm: int64(r.Shm), pids: r.Pids, cpus: r.CPUs,
		port: r.Port, modelDir: j.ModelDir, devices: j.Devices, health: r.Health,
		startLimit: r.StartTimeout.Std(),
	}
	if l.memory == 0 {
		l.memory = defaultMemory
	}
	if l.shm == 0 {
		l.shm = defaultShm
	}
	if l.pids == 0 {
		l.pids = defaultPids
	}
	if l.startLimit == 0 {
		l.startLimit = defaultStartTimeout
	}
	if l.memory < 16<<20 || l.shm < 0 || l.pids < 1 || l.pids > 1<<20 || l.startLimit < 0 {
		return nil, bad("memory %d, shm %d, pids %d, startTimeout %s: out of range", l.memory, l.shm, l.pids, l.startLimit)
	}
	if math.IsNaN(l.cpus) || l.cpus < 0 || l.cpus > 4096 {
		return nil, bad("cpus %v: out of range", l.cpus)
	}
	var err error
	if l.uid, l.gid, err = parseUser(r.User); err != nil {
		return nil, bad("%v", err)
	}
	p, ok := protocols[r.Protocol]
	if !ok {
		return nil, bad("protocol %q is not known", r.Protocol)
	}
	if p.health == "" {
		if r.Port != 0 || r.Health != "" {
			return nil, bad("protocol %s takes no port and no health path", r.Protocol)
		}
	} else {
		if r.Port < 1 || r.Port > 65535 {
			return nil, bad("port %d: out of range", r.Port)
		}
		if l.health == "" {
			l.health = p.health
		}
		if !strings.HasPrefix(l.health, "/") || strings.ContainsAny(l.health, " \r\n#") || len(l.health) > 256 {
			return nil, bad("health %q: not a path", l.health)
		}
	}
	if err := checkModelDir(j.ModelDir); err != nil {
		return nil, err
	}
	if err := l.setTmpfs(r, img); err != nil {
		return nil, err
	}
	vars, err := launchVars(j)
	if err != nil {
		return nil, err
	}
	if err := l.setCommand(r, vars); err != nil {
		return nil, err
	}
	if err := l.setEnv(r, vars, img); err != nil {
		return nil, err
	}
	for _, d := range j.Devices {
		if !devicePattern.MatchString(d) || len(d) > 256 {
			return nil, fmt.Errorf("%w: %q is not a CDI name like nvidia.com/gpu=all", ErrDevice, d)
		}
	}
	switch {
	case r.GPU == "required" && len(j.Devices) == 0:
		return nil, fmt.Errorf("%w: runtime %s requires a gpu and the run was given none", ErrDevice, r.Name)
	case (r.GPU == "none" || r.GPU == "") && len(j.Devices) > 0:
		return nil, fmt.Errorf("%w: runtime %s uses no gpu, yet the run was given %s", ErrDevice, r.Name, strings.Join(j.Devices, ", "))
	case !slices.Contains([]string{"", "none", "optional", "required"}, r.GPU):
		return nil, bad("gpu %q is not required, optional or none", r.GPU)
	}
	return l, nil
}

func parseUser(s string) (uid, gid int, err error) {
	if s == "" {
		s = defaultUser
	}
	m := userPattern.FindStringSubmatch(s)
	if m == nil {
		return 0, 0, fmt.Errorf("user %q: write it as uid or uid:gid", s)
	}
	u, err := strconv.ParseInt(m[1], 10, 32)
	if err != nil || u == 0 {
		return 0, 0, fmt.Errorf("user %q: a uid above 0 is needed", s)
	}
	g := u
	if m[2] != "" {
		if g, err = strconv.ParseInt(m[2], 10, 32); err != nil || g == 0 {
			return 0, 0, fmt.Errorf("user %q: a gid above 0 is needed", s)
		}
	}
	return int(u), int(g), nil
}

// checkModelDir refuses what --mount cannot express and what the box's user
// could not read.
func checkModelDir(dir string) error {
	if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || dir == "/" {
		return fmt.Errorf("%w: %q is not a clean absolute path", ErrModelDir, dir)
	}
	if strings.ContainsAny(dir, ",\"\n\r\x00") {
		return fmt.Errorf("%w: %q: a comma, quote or line break cannot be given to a container engine; choose another store root", ErrModelDir, dir)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrModelDir, err)
	}
	fi, err := os.Lstat(real)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrModelDir, err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("%w: %s is not a directory", ErrModelDir, dir)
	}
	if fi.Mode().Perm()&0o005 != 0o005 {
		return fmt.Errorf("%w: %s has mode %04o; the container's user must be able to read it (chmod 0755)", ErrModelDir, dir, fi.Mode().Perm())
	}
	return nil
}

// reserved are places where no tmpfs may be laid by a runtime or an image.
var reserved = []string{"/", "/proc", "/sys", "/dev", "/tmp", "/etc", modelTarget}

func safeTarget(p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p || len(p) > 255 || strings.ContainsAny(p, ",:\"\n\r\x00 ") {
		return fmt.Errorf("%q is not a clean absolute path", p)
	}
	if slices.Contains(reserved, p) || within(p, "/proc") || within(p, "/sys") || within(p, "/dev") ||
		within(p, modelTarget) || within(modelTarget, p) {
		return fmt.Errorf("%q is reserved", p)
	}
	return nil
}

// within says whether p lies below dir.
func within(p, dir string) bool {
	return strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

func (l *launch) setTmpfs(r snapshot.Runtime, img imageFacts) error {
	l.tmpfs = []tmpfs{{path: "/tmp", size: defaultTmp}}
	for _, s := range r.Scratch {
		if s.Path == "/tmp" && s.Size > 0 {
			l.tmpfs[0].size, l.tmpfs[0].exec = int64(s.Size), s.Exec
			continue
		}
		if err := safeTarget(s.Path); err != nil {
			return fmt.Errorf("%w: %s: scratch %w", ErrRuntime, r.Name, err)
		}
		if s.Size <= 0 {
			return fmt.Errorf("%w: %s: scratch %s has no size", ErrRuntime, r.Name, s.Path)
		}
		l.tmpfs = append(l.tmpfs, tmpfs{path: s.Path, size: int64(s.Size), exec: s.Exec})
	}
	has := func(p string) bool {
		return slices.ContainsFunc(l.tmpfs, func(t tmpfs) bool { return t.path == p })
	}
	for _, v := range img.volumes {
		p := path.Clean(v)
		if has(p) {
			continue
		}
		if err := safeTarget(p); err != nil {
			return fmt.Errorf("%w: VOLUME %w", ErrImage, err)
		}
		l.tmpfs = append(l.tmpfs, tmpfs{path: p, size: volumeSize})
	}
	if len(l.tmpfs) > maxTmpfs {
		return fmt.Errorf("%w: %d scratch directories and volumes, at most %d", ErrRuntime, len(l.tmpfs), maxTmpfs)
	}
	slices.SortFunc(l.tmpfs, func(a, b tmpfs) int { return strings.Compare(a.path, b.path) })
	for i := 1; i < len(l.tmpfs); i++ {
		if l.tmpfs[i].path == l.tmpfs[i-1].path {
			return fmt.Errorf("%w: %s: scratch %s is named twice", ErrRuntime, r.Name, l.tmpfs[i].path)
		}
	}
	return nil
}

// launchVars finds the model's single GGUF file, if there is exactly one.
func launchVars(j Job) (snapshot.LaunchVars, error) {
	v := snapshot.LaunchVars{Model: modelTarget, ModelDir: modelTarget, ModelName: j.Name, Port: j.Runtime.Port}
	var ggufs []string
	seen := 0
	err := filepath.WalkDir(j.ModelDir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if seen++; seen > 100_000 {
			return errors.New("more than 100000 files")
		}
		if d.Type().IsRegular() && strings.EqualFold(path.Ext(p), ".gguf") {
			ggufs = append(ggufs, p)
		}
		return nil
	})
	if err != nil {
		return v, fmt.Errorf("%w: %w", ErrModelDir, err)
	}
	if len(ggufs) == 1 {
		rel, err := filepath.Rel(j.ModelDir, ggufs[0])
		if err != nil {
			return v, fmt.Errorf("%w: %w", ErrModelDir, err)
		}
		v.Model = path.Join(modelTarget, rel)
	}
	return v, nil
}

func render(text string, vars snapshot.LaunchVars) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	t, err := template.New("").Option("missingkey=error").Parse(text)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&boundedWriter{w: &b, left: maxArgLen}, vars); err != nil {
		return "", err
	}
	return b.String(), nil
}

func (l *launch) setCommand(r snapshot.Runtime, vars snapshot.LaunchVars) error {
	words := append(append([]string(nil), r.Entrypoint...), r.Args...)
	if len(words) > maxArgs {
		return fmt.Errorf("%w: %s: more than %d arguments", ErrRuntime, r.Name, maxArgs)
	}
	for i, w := range words {
		s, err := render(w, vars)
		if err != nil {
			return fmt.Errorf("%w: %s: argument %q: %w", ErrRuntime, r.Name, w, err)
		}
		if len(s) > maxArgLen || strings.ContainsRune(s, 0) {
			return fmt.Errorf("%w: %s: argument %d is too long or holds a NUL", ErrRuntime, r.Name, i+1)
		}
		words[i] = s
	}
	if len(r.Entrypoint) > 0 {
		if words[0] == "" {
			return fmt.Errorf("%w: %s: the entrypoint is empty", ErrRuntime, r.Name)
		}
		l.entrypoint, words = words[0], words[1:]
	}
	l.args = words
	return nil
}

func (l *launch) setEnv(r snapshot.Runtime, vars snapshot.LaunchVars, img imageFacts) error {
	for _, name := range preloaded {
		if v, ok := img.env[name]; ok && v != "" {
			return fmt.Errorf("%w: it sets %s=%s (CVE-2025-23266)", ErrImage, name, terminal.Clip(oneLine(v), 128))
		}
	}
	env := map[string]string{}
	// Devices come by CDI alone: whatever the image asks of NVIDIA's hooks is
	// blanked, and "void" tells the legacy hook to do nothing.
	for name := range img.env {
		if strings.HasPrefix(name, "NVIDIA_") && envPattern.MatchString(name) {
			env[name] = ""
		}
	}
	if r.Home != "" {
		if !path.IsAbs(r.Home) || path.Clean(r.Home) != r.Home {
			return fmt.Errorf("%w: %s: home %q is not a clean absolute path", ErrRuntime, r.Name, r.Home)
		}
		env["HOME"] = r.Home
	}
	for name, text := range r.Env {
		if !envPattern.MatchString(name) || slices.Contains(preloaded, name) || strings.HasPrefix(name, "NVIDIA_") {
			return fmt.Errorf("%w: %s: the variable %q may not be set", ErrRuntime, r.Name, name)
		}
		v, err := render(text, vars)
		if err != nil {
			return fmt.Errorf("%w: %s: variable %s: %w", ErrRuntime, r.Name, name, err)
		}
		if len(v) > maxArgLen || strings.ContainsAny(v, "\x00\n\r") {
			return fmt.Errorf("%w: %s: variable %s is too long or holds a line break", ErrRuntime, r.Name, name)
		}
		env[name] = v
	}
	env["NVIDIA_VISIBLE_DEVICES"] = "void"
	for name, v := range env {
		l.env = append(l.env, name+"="+v)
	}
	slices.Sort(l.env)
	return nil
}
