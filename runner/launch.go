package runner

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
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
	envPattern    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	devicePattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*/[A-Za-z][A-Za-z0-9_-]*=[A-Za-z0-9][A-Za-z0-9_.:-]*$`)
)

const (
	maxTmpfs   = 32
	maxArgs    = 256
	volumeSize = 64 << 20 // bytes of the tmpfs that covers an image's VOLUME
)

// newLaunch checks the job and lays down the box. It fails closed: what it
// does not understand is refused.
func newLaunch(j Job, img imageFacts) (*launch, error) {
	r := j.Runtime
	if err := r.CheckRunnable(); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrRuntime, r.Name, err)
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
	if l.health == "" {
		l.health = protocols[r.Protocol].health
	}
	var err error
	if l.uid, l.gid, err = snapshot.ParseUser(cmp.Or(r.User, defaultUser)); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrRuntime, r.Name, err)
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
	}
	return l, nil
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

func (l *launch) setTmpfs(r snapshot.Runtime, img imageFacts) error {
	l.tmpfs = []tmpfs{{path: "/tmp", size: defaultTmp}}
	for _, s := range r.Scratch {
		if s.Path == "/tmp" {
			l.tmpfs[0].size, l.tmpfs[0].exec = int64(s.Size), s.Exec
			continue
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
		if err := snapshot.CheckScratch(p); err != nil {
			return fmt.Errorf("%w: VOLUME %w", ErrImage, err)
		}
		l.tmpfs = append(l.tmpfs, tmpfs{path: p, size: volumeSize})
	}
	if len(l.tmpfs) > maxTmpfs {
		return fmt.Errorf("%w: %d scratch directories and volumes, at most %d", ErrRuntime, len(l.tmpfs), maxTmpfs)
	}
	slices.SortFunc(l.tmpfs, func(a, b tmpfs) int { return strings.Compare(a.path, b.path) })
	return nil
}

// launchVars finds the model's single GGUF file, if there is exactly one.
func launchVars(j Job) (snapshot.LaunchVars, error) {
	v := snapshot.LaunchVars{Model: snapshot.ModelTarget, ModelDir: snapshot.ModelTarget, ModelName: j.Name, Port: j.Runtime.Port}
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
		v.Model = path.Join(snapshot.ModelTarget, rel)
	}
	return v, nil
}

func (l *launch) setCommand(r snapshot.Runtime, vars snapshot.LaunchVars) error {
	words, err := r.Command(vars)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrRuntime, r.Name, err)
	}
	if len(r.Entrypoint) > 0 {
		l.entrypoint, words = words[0], words[1:]
	}
	l.args = words
	return nil
}

func (l *launch) setEnv(r snapshot.Runtime, vars snapshot.LaunchVars, img imageFacts) error {
	for _, name := range snapshot.Preloaded {
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
	own, err := r.Variables(vars)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrRuntime, r.Name, err)
	}
	maps.Copy(env, own)
	env["NVIDIA_VISIBLE_DEVICES"] = "void"
	for name, v := range env {
		l.env = append(l.env, name+"="+v)
	}
	slices.Sort(l.env)
	return nil
}
