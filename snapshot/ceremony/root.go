package ceremony

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/sys/unix"

	"github.com/resultity/rmodels/snapshot"
)

// RoleOnline names snapshot and timestamp together: one key signs both.
const RoleOnline = "online"

// GenerateKeyFile makes an Ed25519 key for a role, writes the private half to
// a new file and returns the public half in PEM.
func GenerateKeyFile(file string) (string, error) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	b, err := marshalPrivateKey(priv)
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return "", fmt.Errorf("write key: %w", err)
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", fmt.Errorf("write key %s: %w", file, err)
	}
	return PublicKeyPEM(file)
}

// RotateKey stages a root in which the role ("root", "targets" or
// [RoleOnline]) has public (PEM) in place of the key oldID. An empty oldID adds
// a key, an empty public removes one. The staged root then needs signatures:
// of the root keys before it and of its own.
//
// To recover from stolen targets keys replace the online key too: the version
// of the targets metadata, which a thief may have pushed far ahead, is
// remembered under the old online key alone.
func (r *Repository) RotateKey(role, oldID, public string) error {
	return r.editRoot(func(root *rootMeta) error {
		names, err := tufRoles(role)
		if err != nil {
			return err
		}
		for _, name := range names {
			if oldID != "" {
				id, err := findKey(root, name, oldID)
				if err != nil {
					return err
				}
				if err := root.Signed.RevokeKey(id, name); err != nil {
					return fmt.Errorf("%w: %w", snapshot.ErrKey, err)
				}
			}
			if public == "" {
				continue
			}
			k, err := publicTUFKey(public)
			if err != nil {
				return err
			}
			if err := root.Signed.AddKey(k, name); err != nil {
				return fmt.Errorf("%w: %w", snapshot.ErrKey, err)
			}
		}
		return nil
	})
}

// SetThreshold stages a root in which the role needs n distinct keys.
func (r *Repository) SetThreshold(role string, n int) error {
	return r.editRoot(func(root *rootMeta) error {
		names, err := tufRoles(role)
		if err != nil {
			return err
		}
		for _, name := range names {
			root.Signed.Roles[name].Threshold = n
		}
		return nil
	})
}

// RenewRoot stages the same root with a new term.
func (r *Repository) RenewRoot() error { return r.editRoot(func(*rootMeta) error { return nil }) }

func tufRoles(role string) ([]string, error) {
	switch role {
	case metadata.ROOT, metadata.TARGETS:
		return []string{role}, nil
	case RoleOnline:
		return []string{metadata.SNAPSHOT, metadata.TIMESTAMP}, nil
	}
	return nil, fmt.Errorf("%w: role %.80q, must be %s, %s or %s", snapshot.ErrKey, role, metadata.ROOT, metadata.TARGETS, RoleOnline)
}

// findKey takes a key ID of the role, or the beginning of exactly one.
func findKey(root *rootMeta, role, id string) (string, error) {
	var found []string
	if root.Signed.Roles[role] != nil {
		for _, k := range root.Signed.Roles[role].KeyIDs {
			if strings.HasPrefix(k, id) {
				found = append(found, k)
			}
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%w: %d keys of role %s begin with %.80q; snapshot status lists them", snapshot.ErrKey, len(found), role, id)
	}
	return found[0], nil
}

// editRoot changes the staged root, or stages the published one's successor.
// Signatures that it had are for another text and are dropped.
func (r *Repository) editRoot(change func(*rootMeta) error) error {
	root, err := r.stagedRoot()
	if err != nil {
		return err
	}
	if root == nil {
		if root, err = r.publishedRoot(); err != nil {
			return err
		}
		if root == nil {
			return fmt.Errorf("%w: %s has no root", snapshot.ErrInvalid, r.dir)
		}
		root.Signed.Version++
	}
	root.ClearSignatures()
	root.Signed.Expires = r.now().Add(r.config.Terms.Root.Std())
	if err := change(root); err != nil {
		return err
	}
	for _, name := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		role := root.Signed.Roles[name]
		if role == nil {
			return fmt.Errorf("%w: no role %s", snapshot.ErrInvalid, name)
		}
		if n := len(snapshot.RoleKeys(root, name)); role.Threshold < 1 || role.Threshold > n {
			return fmt.Errorf("%w: role %s would have threshold %d and %d distinct keys", snapshot.ErrInvalid, name, role.Threshold, n)
		}
	}
	if unknown := slices.DeleteFunc(slices.Collect(maps.Keys(root.Signed.Roles)), func(n string) bool {
		return n == metadata.ROOT || n == metadata.TARGETS || n == metadata.SNAPSHOT || n == metadata.TIMESTAMP
	}); len(unknown) > 0 {
		return fmt.Errorf("%w: unknown roles %q", snapshot.ErrInvalid, unknown)
	}
	// Snapshot and timestamp under the old root may need another key.
	if err := r.dropStagedOnline(); err != nil {
		return err
	}
	return writeMeta(r.path(stagedFolder, snapshot.MetadataFile(metadata.ROOT, root.Signed.Version)), root)
}
