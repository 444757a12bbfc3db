package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/resultity/rmodels/snapshot"
)

// FileClaim is what a manifest says about one layer before it is fetched.
type FileClaim struct {
	Path      string // "" for an archive whose names are known only after unpacking
	Size      int64  // bytes of the layer as stored
	MediaType string
	Archive   bool // the layer is a tar, compressed or not
}

// AdmitLayout decides from the manifest alone, before the first layer byte:
// counts, sizes, media types, paths, and formats as far as the names tell
// them. format is the artifact format that was detected; "" is refused.
func AdmitLayout(p snapshot.Policy, m snapshot.Model, format string, files []FileClaim) Decision {
	rule := "policies[" + p.Name + "].content"
	l := limits(p)
	if format == "" {
		return refuse(ClassLayout, rule+".formats", "the artifact's format is not known", "a model format", "none")
	}
	if len(files) == 0 {
		return refuse(ClassLayout, rule, "the artifact has no layers", "at least one layer", "none")
	}
	if len(files) > l.Files {
		return refuse(ClassLayout, rule+".limits.files", "too many layers", fmt.Sprint(l.Files), fmt.Sprint(len(files)))
	}
	var paths []string
	var total int64
	for _, f := range files {
		name := f.Path
		if name == "" {
			name = f.MediaType
		}
		switch {
		case f.Size < 0 || f.Size > l.FileBytes:
			return refuse(ClassLayout, rule+".limits.fileBytes", fmt.Sprintf("layer %q is too large", clip(name)), amount(l.FileBytes), amount(f.Size))
		case f.Size > l.TotalBytes-total:
			return refuse(ClassLayout, rule+".limits.totalBytes", "the layers are too large together", amount(l.TotalBytes), "more")
		}
		total += f.Size
		if len(p.Content.MediaTypes) > 0 && !slices.Contains(p.Content.MediaTypes, f.MediaType) {
			return refuse(ClassLayout, rule+".mediaTypes", fmt.Sprintf("layer %q is of a media type that the policy does not admit", clip(name)),
				strings.Join(p.Content.MediaTypes, ", "), clip(f.MediaType))
		}
		if f.Path == "" {
			if !f.Archive {
				return refuse(ClassLayout, "paths", "a layer that is no archive has no file name", "a file name", clip(f.MediaType))
			}
			continue
		}
		if f.Archive {
			if err := SafePath(f.Path); err != nil {
				return refuse(ClassLayout, "paths", err.Error(), "a plain relative path", clip(f.Path))
			}
			continue
		}
		paths = append(paths, f.Path)
		kind := formatOf(f.Path, f.MediaType)
		if kind == "" || !slices.Contains(formats(p), kind) {
			found := kind
			if found == "" {
				found = "a file of no known kind"
			}
			return refuse(ClassLayout, rule+".formats", fmt.Sprintf("file %q is not of an admitted format", clip(f.Path)), strings.Join(formats(p), ", "), found)
		}
	}
	if err := SafePaths(paths); err != nil {
		return refuse(ClassLayout, "paths", err.Error(), "plain relative paths that no file system confuses", err.Error())
	}
	if m.Size < 1 || total > m.Size {
		return refuse(ClassLayout, "models["+m.ID()+"].size", "the layers are larger than the snapshot says", fmt.Sprintf("at most %d bytes", m.Size), fmt.Sprintf("%d bytes", total))
	}
	return Decision{Allowed: true, Rule: rule, Reason: fmt.Sprintf("%d layers, %s", len(files), amount(total))}
}
