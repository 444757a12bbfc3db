package ceremony

import (
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/opencontainers/go-digest"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/internal/durable"
	"github.com/resultity/rmodels/snapshot"
)

// mark is the highest number that a key has signed under, and what it signed:
// the digest is without signatures.
type mark struct {
	Version int64         `json:"version"`
	Digest  digest.Digest `json:"digest"`
}

func markOf[T metadata.Roles](version int64, m *metadata.Metadata[T]) (mark, error) {
	d, err := signedDigest(m)
	return mark{version, d}, err
}

// differs says how what a key would sign goes back behind what it has signed;
// empty where it does not.
func (m mark) differs(now mark, what string) string {
	switch {
	case now.Version < m.Version:
		return fmt.Sprintf("this key has signed %s %d, this is %d", what, m.Version, now.Version)
	case now.Version == m.Version && now.Digest != m.Digest:
		return fmt.Sprintf("this key has signed another %s %d, %s", what, m.Version, m.Digest)
	}
	return ""
}

// unlessPublished is what to do about a number that is signed again.
func (st *state) unlessPublished() string {
	return fmt.Sprintf("if that was published, bring the folder up to date with: rmodels snapshot update %s --from SITE", st.r.dir)
}

// repeats finds what keys would sign under a number that they have used. Below
// it root and targets are refused: only what follows a published one gets the
// next number, so the folder is behind. At the same number, and for the online
// key, what was signed may never have been published: that is a risk.
func (st *state) repeats(keys []*Key, p *Pending, signsRoot, targets, online bool) error {
	hold := func(ids []string, now mark, what string, refuse bool, was func(*memory) mark) error {
		for _, k := range keys {
			if !slices.Contains(ids, k.id) {
				continue
			}
			why := was(&k.memory).differs(now, what)
			switch {
			case why == "":
			case refuse && now.Version < was(&k.memory).Version:
				return fmt.Errorf("%w: %s; %s", ErrBehind, why, st.unlessPublished())
			default:
				p.risk(why + "; " + st.unlessPublished())
			}
		}
		return nil
	}
	if signsRoot {
		now, err := markOf(st.waiting.meta.Signed.Version, st.waiting.meta)
		if err != nil {
			return err
		}
		if err := hold(st.rootSigners(), now, "root", true, func(m *memory) mark { return m.SignedRoot }); err != nil {
			return err
		}
	}
	roles := st.inForce().Signed.Roles
	if targets && st.draft != nil {
		tg := (*targetsMeta)(nil)
		if st.wanted() {
			tg = st.staged.targetsMeta
		} else {
			var err error
			if _, tg, err = st.newTargets(); err != nil {
				return err
			}
		}
		now, err := markOf(tg.Signed.Version, tg)
		if err != nil {
			return err
		}
		if err := hold(roles[metadata.TARGETS].KeyIDs, now, "targets", true, func(m *memory) mark { return m.SignedTargets }); err != nil {
			return err
		}
	}
	if online && !targets {
		tg, err := st.renewable()
		if err != nil || tg == nil {
			return err
		}
		now, err := markOf(tg.Signed.Version, tg)
		if err != nil {
			return err
		}
		return hold(roles[metadata.TIMESTAMP].KeyIDs, now, "a timestamp for targets", false, func(m *memory) mark { return m.SignedOver })
	}
	return nil
}

// renewed refuses a renewal for other targets than the key has signed for
// last: nobody is asked, so nobody could say that those were given up.
func (st *state) renewed(keys []*Key, targets []byte) error {
	tg, err := parseMeta[metadata.TargetsType](metadata.TARGETS, targets)
	if err != nil {
		return err
	}
	now, err := markOf(tg.Signed.Version, tg)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if why := k.memory.SignedOver.differs(now, "a timestamp for targets"); why != "" {
			return fmt.Errorf("%w: %s; publish what waits; %s; if it was given up, confirm that with: rmodels snapshot sign %s",
				ErrBehind, why, st.unlessPublished(), st.r.dir)
		}
	}
	return nil
}

// renewable are the targets that the online key would sign for, nil for none.
func (st *state) renewable() (*targetsMeta, error) {
	switch {
	case st.staged != nil && st.staged.complete:
		return st.staged.targetsMeta, nil
	case st.staged != nil || st.document() == nil:
		return nil, nil
	}
	return parseMeta[metadata.TargetsType](metadata.TARGETS, st.published.files[snapshot.MetadataFile(metadata.TARGETS, st.targetsVersion())])
}

// risk is one that only the keys at hand know of.
func (p *Pending) risk(why string) {
	p.Risks = append(p.Risks, why)
	p.Digest = digest.FromString(p.Digest.String() + "\n" + why)
}

// note keeps what keys are about to sign beside them, before any signature is
// made: a folder and a site that are put back afterwards know nothing of it.
func note(keys []*Key, ids []string, change func(*memory)) error {
	for _, k := range keys {
		if !slices.Contains(ids, k.id) {
			continue
		}
		m := k.memory
		change(&m)
		if err := k.keep(m); err != nil {
			return fmt.Errorf("%w: what this key signs is kept beside it first: %w", snapshot.ErrKey, err)
		}
	}
	return nil
}

// keep writes what the holder has seen and signed.
func (k *Key) keep(m memory) error {
	if k.memory == m {
		return nil
	}
	if k.file != "" { // else not of a file: it remembers for as long as it is loaded
		b, err := json.Marshal(m)
		if err != nil {
			return err
		}
		if err := durable.WriteFile(k.file+memorySuffix, append(b, '\n'), 0o600); err != nil {
			return err
		}
	}
	k.memory = m
	return nil
}
