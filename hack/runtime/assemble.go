package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// epoch is the modification time of every file, so that the same packages
// give the same image.
var epoch = time.Unix(0, 0)

// user is what a sealed container runs as; engines look it up.
const user = 65532

// tree gathers files from unpacked packages into one root filesystem.
type tree struct {
	packages []pkg
	to       string
	used     map[string]bool // by package name
	copied   map[string]bool // by path
	bytes    int64
	libs     []string // default library directories
}

func assemble(unpacked, rootfs string, packages []pkg) (*Runtime, error) {
	t := &tree{packages: packages, to: rootfs, used: map[string]bool{}, copied: map[string]bool{}}
	for _, p := range packages {
		triplets, err := filepath.Glob(filepath.Join(p.root, "usr/lib/*-linux-gnu"))
		if err != nil {
			return nil, err
		}
		for _, d := range triplets {
			t.libs = append(t.libs, strings.TrimPrefix(d, p.root))
		}
	}
	sort.Strings(t.libs)
	if err := t.skeleton(); err != nil {
		return nil, err
	}
	if err := t.binary(engineBinary); err != nil {
		return nil, err
	}
	// Backends are opened by name at run time, so no binary lists them.
	backends, err := t.glob("usr/lib/*-linux-gnu/ggml/backends*/libggml-cpu*.so")
	if err != nil {
		return nil, err
	}
	if len(backends) == 0 {
		return nil, errors.New("no CPU backend in the packages: their layout has changed")
	}
	for _, b := range backends {
		if err := t.binary(b); err != nil {
			return nil, err
		}
	}
	r := &Runtime{RootFS: rootfs, Engine: "llama-server", Entrypoint: []string{engineBinary}}
	for _, p := range packages {
		if p.name == enginePackage {
			r.Version = p.version
		}
		if !t.used[p.name] {
			continue
		}
		r.Packages = append(r.Packages, p.name+"="+p.version)
		if err := t.copyright(p); err != nil {
			return nil, err
		}
	}
	r.Files, r.Bytes = len(t.copied), t.bytes
	return r, t.settle()
}

// skeleton is what base-files would have set up, and no more.
func (t *tree) skeleton() error {
	for _, d := range []string{"usr/bin", "usr/lib", "usr/lib64", "etc", "tmp", "dev", "proc", "sys"} {
		if err := os.MkdirAll(filepath.Join(t.to, d), 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{"bin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+d, filepath.Join(t.to, d)); err != nil {
			return err
		}
	}
	files := map[string]string{
		"etc/passwd":        fmt.Sprintf("root:x:0:0:root:/:/nonexistent\nmodel:x:%d:%d:model:/tmp:/nonexistent\n", user, user),
		"etc/group":         fmt.Sprintf("root:x:0:\nmodel:x:%d:\n", user),
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(t.to, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return os.Chmod(filepath.Join(t.to, "tmp"), 0o777|os.ModeSticky)
}

// lookup finds the package that has name, which may go through the /lib and
// /lib64 links of a merged /usr.
func (t *tree) lookup(name string) (p pkg, real string, err error) {
	for _, d := range []string{"/lib/", "/lib64/", "/bin/"} {
		if strings.HasPrefix(name, d) {
			name = "/usr" + name
		}
	}
	for _, p := range t.packages {
		if _, err := os.Lstat(filepath.Join(p.root, name)); err == nil {
			return p, name, nil
		}
	}
	return pkg{}, "", fmt.Errorf("%s: in no package: %w", name, fs.ErrNotExist)
}

func (t *tree) glob(pattern string) ([]string, error) {
	var all []string
	for _, p := range t.packages {
		found, err := filepath.Glob(filepath.Join(p.root, pattern))
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			all = append(all, strings.TrimPrefix(f, p.root))
		}
	}
	sort.Strings(all)
	return all, nil
}

// binary copies an executable or library with its loader and everything it
// links to.
func (t *tree) binary(name string) error {
	at, err := t.file(name)
	if err != nil || at == "" {
		return err
	}
	f, err := elf.Open(at)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer f.Close()
	for _, s := range f.Progs {
		if s.Type != elf.PT_INTERP {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(s.Open(), 4096))
		if err != nil {
			return fmt.Errorf("%s: interpreter: %w", name, err)
		}
		if _, err := t.file(strings.TrimRight(string(b), "\x00")); err != nil {
			return err
		}
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	dirs, err := f.DynString(elf.DT_RUNPATH)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var search []string
	for _, d := range dirs {
		for _, one := range strings.Split(d, ":") {
			search = append(search, strings.ReplaceAll(one, "$ORIGIN", path.Dir(name)))
		}
	}
	search = append(search, t.libs...)
	for _, lib := range needed {
		if err := t.library(lib, search); err != nil {
			return fmt.Errorf("%s needs %s: %w", name, lib, err)
		}
	}
	return nil
}

func (t *tree) library(lib string, search []string) error {
	for _, d := range search {
		if _, _, err := t.lookup(path.Join(d, lib)); err == nil {
			return t.binary(path.Join(d, lib))
		}
	}
	return fs.ErrNotExist
}

// file copies one file and the links that lead to it. It returns where the
// file's bytes are, or "" when it was copied before.
func (t *tree) file(name string) (string, error) {
	p, name, err := t.lookup(path.Clean(name))
	if err != nil {
		return "", err
	}
	if t.copied[name] {
		return "", nil
	}
	t.copied[name] = true
	t.used[p.name] = true
	from, to := filepath.Join(p.root, name), filepath.Join(t.to, name)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return "", err
	}
	st, err := os.Lstat(from)
	if err != nil {
		return "", err
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		if err != nil {
			return "", err
		}
		if err := os.Symlink(target, to); err != nil {
			return "", err
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(name), target)
		}
		return t.file(target)
	}
	if !st.Mode().IsRegular() {
		return "", fmt.Errorf("%s: neither a file nor a link", name)
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return "", err
	}
	t.bytes += int64(len(b))
	// Setuid bits have no place in a sealed container.
	return from, os.WriteFile(to, b, st.Mode().Perm()&0o755)
}

// copyright keeps the licence of each package whose files are passed on.
func (t *tree) copyright(p pkg) error {
	name := "/usr/share/doc/" + p.name + "/copyright"
	_, err := t.file(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a link to the documentation of a package that was not needed
	}
	return err
}

// settle gives every entry the same time, deepest first because writing an
// entry touches its directory.
func (t *tree) settle() error {
	var all []string
	err := filepath.WalkDir(t.to, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeSymlink == 0 {
			all = append(all, p)
		}
		return err
	})
	if err != nil {
		return err
	}
	for i := len(all) - 1; i >= 0; i-- {
		if err := os.Chtimes(all[i], epoch, epoch); err != nil {
			return err
		}
	}
	return nil
}
