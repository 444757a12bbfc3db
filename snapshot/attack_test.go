package snapshot_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/snapshot"
)

const (
	specAttacks = "TUF specification 1.0.34, section 1.5.2"
	ourTraps    = "design: traps seen when the libraries ran"
)

// attack is one row of the table. Its build changes a published set (sequence
// 2, which the node has accepted; sequence 3 is published and not yet seen)
// and returns how it is handed over; nil source: as a push file.
type attack struct {
	name   string
	source string
	class  error
	build  func(t *testing.T, net *network, n *node, f *forge) (snapshot.Source, time.Time)
}

func pushed(change func(f *forge)) func(*testing.T, *network, *node, *forge) (snapshot.Source, time.Time) {
	return func(_ *testing.T, net *network, _ *node, f *forge) (snapshot.Source, time.Time) {
		change(f)
		return nil, net.now()
	}
}

func old(f *forge, name string) []byte { return mustRead(f.t, f.net.dir+"/metadata/"+name) }

var attacks = []attack{
	{"arbitrary software: document signed by the attacker's keys", specAttacks, snapshot.ErrSignature, pushed(func(f *forge) {
		f.document(f.edited(func(s *snapshot.Snapshot) { s.Sequence++ }), "mallory-1", "mallory-2")
	})},
	{"arbitrary software: a whole repository of the attacker's", specAttacks, snapshot.ErrSignature, func(t *testing.T, net *network, _ *node, f *forge) (snapshot.Source, time.Time) {
		other := newNetwork(t)
		other.release()
		f.files = other.forge().files
		return nil, net.now()
	}},
	{"rollback: the whole set of the last release but one", specAttacks, snapshot.ErrReplay, pushed(func(f *forge) {
		for _, name := range []string{"1.snapshot.json", "1.targets.json"} {
			f.files[name] = old(f, name)
		}
		ts := f.timestamp()
		ts.Signed.Version = 1
		ts.Signed.Meta["snapshot.json"] = metadata.MetaFile(1)
		put(f, "timestamp.json", ts, "online")
	})},
	{"rollback: an old snapshot under a new timestamp (stolen online key)", specAttacks, snapshot.ErrReplay, pushed(func(f *forge) {
		f.files["1.snapshot.json"] = old(f, "1.snapshot.json")
		ts := f.timestamp()
		ts.Signed.Version += 5
		ts.Signed.Meta["snapshot.json"] = metadata.MetaFile(1)
		put(f, "timestamp.json", ts, "online")
	})},
	{"rollback: old targets under new online metadata (stolen online key)", specAttacks, snapshot.ErrReplay, pushed(func(f *forge) {
		f.files["1.targets.json"] = old(f, "1.targets.json")
		tg := load[metadata.TargetsType](f, "1.targets.json")
		f.online(tg, "online", 1)
	})},
	{"rollback: the timestamp before the last renewal", specAttacks, snapshot.ErrReplay, func(t *testing.T, net *network, n *node, f *forge) (snapshot.Source, time.Time) {
		renewed := &forge{t, net, maps.Clone(f.files)}
		renewed.online(renewed.targets(), "online", 1)
		must1(n.Apply(renewed.bundle(), net.now()))(t)
		return nil, net.now()
	}},
	{"rollback: the same document in targets of a lower version", specAttacks, snapshot.ErrReplay, func(t *testing.T, net *network, n *node, f *forge) (snapshot.Source, time.Time) {
		must1(n.Apply(f.bundle(), net.now()))(t)
		tg := f.targets()
		tg.Signed.Version--
		put(f, fmt.Sprintf("%d.targets.json", tg.Signed.Version), tg, "targets-1", "targets-2")
		f.online(tg, "online", 1)
		return nil, net.now()
	}},
	{"rollback: a lower sequence signed by a threshold of targets keys", ourTraps, snapshot.ErrReplay, pushed(func(f *forge) {
		f.document(f.edited(func(s *snapshot.Snapshot) { s.Sequence = 1 }), "targets-1", "targets-2")
	})},
	{"rollback after the cache was wiped", ourTraps, snapshot.ErrReplay, func(t *testing.T, net *network, n *node, f *forge) (snapshot.Source, time.Time) {
		f.files["1.snapshot.json"], f.files["1.targets.json"] = old(f, "1.snapshot.json"), old(f, "1.targets.json")
		tg := load[metadata.TargetsType](f, "1.targets.json")
		name := "targets/" + tg.Signed.Targets[snapshot.TargetName].Hashes["sha256"].String() + "." + snapshot.TargetName
		f.files[name] = old(f, name)
		ts := f.timestamp()
		ts.Signed.Version = 1
		ts.Signed.Meta["snapshot.json"] = metadata.MetaFile(1)
		put(f, "timestamp.json", ts, "online")
		check(t, os.RemoveAll(n.dir))
		check(t, snapshot.Pin(n.dir, n.floor, "mainnet", net.root()))
		n.reopen()
		return nil, net.now()
	}},
	{"equivocation: another document under an accepted sequence", ourTraps, snapshot.ErrReplay, pushed(func(f *forge) {
		f.document(f.edited(func(s *snapshot.Snapshot) { s.Sequence, s.OfflineGrace = 2, 1 }), "targets-1", "targets-2")
	})},
	{"fast-forward: the thief's document after the recovery", specAttacks, snapshot.ErrSignature, func(t *testing.T, net *network, n *node, f *forge) (snapshot.Source, time.Time) {
		f.document(f.edited(func(s *snapshot.Snapshot) { s.Sequence = math.MaxInt64 }), "targets-1", "targets-2")
		f.online(f.targets(), "online", math.MaxInt32)
		evil := f.bundle()
		must1(n.Apply(evil, net.now()))(t)
		net.rotate("targets-1", "targets-2", "online")
		must1(n.Apply(net.release(), net.now()))(t) // TestFastForward looks closer
		return pushSource(t, evil), net.now()
	}},
	{"freeze: an expired timestamp is handed over again", specAttacks, snapshot.ErrExpired, func(_ *testing.T, net *network, _ *node, _ *forge) (snapshot.Source, time.Time) {
		return nil, net.now().Add(8 * days)
	}},
	{"freeze: expired targets under fresh online metadata (stolen online key)", specAttacks, snapshot.ErrExpired, func(_ *testing.T, net *network, _ *node, f *forge) (snapshot.Source, time.Time) {
		now := net.now().Add(31 * days)
		ts, sn := f.timestamp(), f.snapshot()
		sn.Signed.Version, sn.Signed.Expires = sn.Signed.Version+1, now.Add(days)
		put(f, fmt.Sprintf("%d.snapshot.json", sn.Signed.Version), sn, "online")
		ts.Signed.Version, ts.Signed.Expires = ts.Signed.Version+1, now.Add(days)
		ts.Signed.Meta["snapshot.json"] = metadata.MetaFile(sn.Signed.Version)
		put(f, "timestamp.json", ts, "online")
		return nil, now
	}},
	{"freeze: an expired document in fresh metadata", ourTraps, snapshot.ErrExpired, pushed(func(f *forge) {
		f.document(f.edited(func(s *snapshot.Snapshot) {
			s.Sequence, s.Created, s.Expires = 4, start.Add(-2*days), start.Add(-days)
		}), "targets-1", "targets-2")
	})},
	{"freeze: an expired root", specAttacks, snapshot.ErrExpired, func(_ *testing.T, net *network, _ *node, f *forge) (snapshot.Source, time.Time) {
		now := net.now().Add(400 * days)
		ts := f.timestamp()
		ts.Signed.Version, ts.Signed.Expires = ts.Signed.Version+1, now.Add(days)
		put(f, "timestamp.json", ts, "online")
		return nil, now
	}},
	{"freeze: the clock is set back so that expired metadata seems fresh", ourTraps, snapshot.ErrExpired, func(t *testing.T, net *network, n *node, f *forge) (snapshot.Source, time.Time) {
		expired := f.bundle()
		net.forward(20 * days)
		renewed := &forge{t, net, maps.Clone(f.files)} // the same document
		renewed.renew(net.now().Add(7 * days))
		must1(n.Apply(renewed.bundle(), net.now()))(t)
		check(t, os.RemoveAll(n.dir)) // the time of the last acceptance is in the floor, too
		check(t, snapshot.Pin(n.dir, n.floor, "mainnet", net.root()))
		n.reopen()
		return pushSource(t, expired), start
	}},
	{"endless data: a timestamp that does not end", specAttacks, snapshot.ErrTooLarge, endless("timestamp.json")},
	{"endless data: a root that does not end", specAttacks, snapshot.ErrTooLarge, endless("2.root.json")},
	{"endless data: a snapshot that does not end", specAttacks, snapshot.ErrTooLarge, endless("3.snapshot.json")},
	{"endless data: targets that do not end", specAttacks, snapshot.ErrTooLarge, endless("3.targets.json")},
	{"endless data: a document that does not end", specAttacks, snapshot.ErrTooLarge, endless("DOCUMENT")},
	{"endless data: a document that claims to be huge", specAttacks, snapshot.ErrTooLarge, pushed(func(f *forge) {
		f.release(func(tg *metadata.Metadata[metadata.TargetsType]) {
			tg.Signed.Targets[snapshot.TargetName].Length = 1 << 40
		}, "targets-1", "targets-2")
	})},
	{"endless data: a source that ignores the cap it is given", specAttacks, snapshot.ErrTooLarge, func(_ *testing.T, net *network, _ *node, f *forge) (snapshot.Source, time.Time) {
		f.files["timestamp.json"] = bytes.Repeat([]byte(" "), 1<<20)
		return f, net.now()
	}},
	{"endless data: roots without end", specAttacks, snapshot.ErrTooLarge, func(_ *testing.T, net *network, _ *node, f *forge) (snapshot.Source, time.Time) {
		r := f.root(1)
		for v := int64(2); v <= 300; v++ {
			r.Signed.Version = v
			put(f, fmt.Sprintf("%d.root.json", v), r, "root-1", "root-2")
		}
		return f, net.now()
	}},
	{"slow retrieval: a server that never ends its answer", specAttacks, snapshot.ErrSource, func(t *testing.T, net *network, _ *node, _ *forge) (snapshot.Source, time.Time) {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}))
		t.Cleanup(srv.Close)
		return deadline{snapshot.HTTPSource(nil, srv.URL)}, net.now()
	}},
	{"mix and match: targets of the last release in this one", specAttacks, snapshot.ErrSignature, pushed(func(f *forge) {
		f.files[f.targetsName()] = old(f, "2.targets.json")
	})},
	{"mix and match: the same without hashes in the online metadata", specAttacks, snapshot.ErrReplay, pushed(func(f *forge) {
		tg := f.targets()
		name := f.targetsName()
		f.online(tg, "online", 1)
		f.files[name] = old(f, "2.targets.json")
	})},
	{"mix and match: snapshot of the last release in this one", specAttacks, snapshot.ErrSignature, pushed(func(f *forge) {
		f.files[f.snapshotName()] = old(f, "2.snapshot.json")
	})},
	{"wrong software: the document padded", specAttacks, snapshot.ErrTooLarge, pushed(func(f *forge) {
		f.files[f.docName()] = append(bytes.Clone(f.files[f.docName()]), f.files["timestamp.json"]...)
	})},
	{"wrong software: the last document under this one's name", specAttacks, snapshot.ErrSignature, pushed(func(f *forge) {
		tg := load[metadata.TargetsType](&forge{f.t, f.net, map[string][]byte{"2.targets.json": old(f, "2.targets.json")}}, "2.targets.json")
		f.files[f.docName()] = old(f, "targets/"+tg.Signed.Targets[snapshot.TargetName].Hashes["sha256"].String()+"."+snapshot.TargetName)
	})},
	{"wrong software: another signed document under this one's name", specAttacks, snapshot.ErrSignature, pushed(func(f *forge) {
		name := f.docName()
		f.files[name] = []byte(strings.Replace(string(f.files[name]), `"sequence": 3`, `"sequence": 4`, 1))
	})},
	{"wrong software: the document of another network", specAttacks, snapshot.ErrNetwork, pushed(func(f *forge) {
		f.document(f.edited(func(s *snapshot.Snapshot) { s.Sequence, s.Network = 4, "testnet" }), "targets-1", "targets-2")
	})},
	{"malicious mirror: withholds the timestamp", specAttacks, snapshot.ErrInvalid, pushed(func(f *forge) { delete(f.files, "timestamp.json") })},
	{"malicious mirror: withholds the document", specAttacks, snapshot.ErrInvalid, pushed(func(f *forge) { delete(f.files, f.docName()) })},
	{"malicious mirror: nothing is there, which is not the same as no further root", ourTraps, snapshot.ErrSource, func(t *testing.T, net *network, _ *node, _ *forge) (snapshot.Source, time.Time) {
		return snapshot.DirSource(t.TempDir() + "/gone"), net.now()
	}},
	{"malicious mirror: answers with errors", specAttacks, snapshot.ErrSource, func(t *testing.T, net *network, _ *node, _ *forge) (snapshot.Source, time.Time) {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
		t.Cleanup(srv.Close)
		return snapshot.HTTPSource(nil, srv.URL), net.now()
	}},
	{"malicious mirror: withholds a new root after an accepted one", specAttacks, snapshot.ErrReplay, func(t *testing.T, net *network, n *node, f *forge) (snapshot.Source, time.Time) {
		withheld := f.bundle()
		net.rotate("root-1")
		net.release()
		f.files["2.root.json"] = old(f, "2.root.json") // the document stays, so that the sequence tells nothing
		must1(n.Apply(f.bundle(), net.now()))(t)
		check(t, os.RemoveAll(n.dir))
		check(t, snapshot.Pin(n.dir, n.floor, "mainnet", f.files["1.root.json"]))
		n.reopen()
		return pushSource(t, withheld), net.now()
	}},
	{"key compromise: one of three targets keys", specAttacks, snapshot.ErrSignature, pushed(func(f *forge) {
		f.document(f.edited(func(s *snapshot.Snapshot) { s.Sequence = 4 }), "targets-2")
	})},
	{"key compromise: one targets key twice", ourTraps, snapshot.ErrInvalid, pushed(func(f *forge) {
		f.document(f.edited(func(s *snapshot.Snapshot) { s.Sequence = 4 }), "targets-2", "targets-2")
	})},
	{"key compromise: one targets key and the online key", specAttacks, snapshot.ErrSignature, pushed(func(f *forge) {
		f.document(f.edited(func(s *snapshot.Snapshot) { s.Sequence = 4 }), "targets-2", "online")
	})},
	{"key compromise: the online key alone changes the document", specAttacks, snapshot.ErrSignature, pushed(func(f *forge) {
		f.document(f.edited(func(s *snapshot.Snapshot) { s.Sequence = 4 }), "online")
	})},
	{"key compromise: one of three root keys adds a targets key", specAttacks, snapshot.ErrSignature, pushed(func(f *forge) {
		r := f.root(1)
		r.Signed.Version = 2
		check(f.t, r.Signed.AddKey(f.tufKey("mallory"), "targets"))
		put(f, "2.root.json", r, "root-1")
	})},
	{"key compromise: a new root signed by its own new keys alone", specAttacks, snapshot.ErrSignature, pushed(func(f *forge) {
		r := f.root(1)
		r.Signed.Version = 2
		check(f.t, r.Signed.AddKey(f.tufKey("mallory-1"), "root"))
		check(f.t, r.Signed.AddKey(f.tufKey("mallory-2"), "root"))
		put(f, "2.root.json", r, "mallory-1", "mallory-2")
	})},
	{"key compromise: a new root that the old keys signed and its own did not", specAttacks, snapshot.ErrSignature, pushed(func(f *forge) {
		r := f.root(1)
		r.Signed.Version, r.Signed.Roles["root"].Threshold = 2, 3
		put(f, "2.root.json", r, "root-1", "root-2")
	})},
	{"key compromise: a targets key that a new root replaced", ourTraps, snapshot.ErrSignature, func(t *testing.T, net *network, n *node, f *forge) (snapshot.Source, time.Time) {
		net.rotate("targets-1")
		net.release()
		g := net.forge()
		g.document(g.edited(func(s *snapshot.Snapshot) { s.Sequence += 5 }), "targets-1", "targets-2")
		*f = *g
		return nil, net.now()
	}},
	{"threshold 0 (CVE-2026-23992, GHSA-fphv-w9fq-2525)", "go-tuf advisory", snapshot.ErrInvalid, pushed(func(f *forge) {
		r := f.root(1)
		r.Signed.Version, r.Signed.Roles["targets"].Threshold = 2, 0
		put(f, "2.root.json", r, "root-1", "root-2")
		f.document(f.edited(func(s *snapshot.Snapshot) { s.Sequence = 4 }))
	})},
	{"threshold met by one key under two IDs", "go-tuf 2.4: fingerprints", snapshot.ErrSignature, pushed(func(f *forge) {
		r := f.root(1)
		r.Signed.Version = 2
		k := f.tufKey("mallory")
		k.UnrecognizedFields = map[string]any{"x": 1} // another key ID for the same key
		check(f.t, r.Signed.AddKey(f.tufKey("mallory"), "targets"))
		check(f.t, r.Signed.AddKey(k, "targets"))
		put(f, "2.root.json", r, "root-1", "root-2")
		tg := f.targets()
		tg.Signed.Version++
		put(f, fmt.Sprintf("%d.targets.json", tg.Signed.Version), tg, "mallory")
		sig := tg.Signatures[0]
		sig.KeyID = must1(k.ID())(f.t)
		tg.Signatures = append(tg.Signatures, sig)
		f.files[fmt.Sprintf("%d.targets.json", tg.Signed.Version)] = must1(tg.ToBytes(false))(f.t)
		f.online(tg, "online", 1)
	})},
	{"null roles, which go-tuf dereferences (CVE-2026-23991 class)", "go-tuf advisory", snapshot.ErrInvalid, pushed(func(f *forge) {
		f.files["2.root.json"] = []byte(`{"signed":{"_type":"root","version":2,"keys":{},"roles":{"root":null,"targets":null,"snapshot":null,"timestamp":null}},"signatures":[]}`)
	})},
	{"a timestamp without meta, signed (panics in go-tuf)", "go-tuf: nil dereference", snapshot.ErrInvalid, pushed(func(f *forge) {
		ts := f.timestamp()
		ts.Signed.Version++
		delete(ts.Signed.Meta, "snapshot.json")
		put(f, "timestamp.json", ts, "online")
	})},
	{"members that differ by case, signed (panics in go-tuf)", "go-tuf: nil dereference behind encoding/json", snapshot.ErrInvalid, pushed(func(f *forge) {
		ts := f.timestamp()
		ts.Signed.Version++
		ts.ClearSignatures()
		text := string(must1(ts.ToBytes(false))(f.t))
		text = strings.Replace(text, `"spec_version":`, `"META":{"snapshot.json":null},"spec_version":`, 1)
		// The thief signs what go-tuf makes of these bytes.
		var read metadata.Metadata[metadata.TimestampType]
		must1(read.FromBytes([]byte(text)))(f.t)
		must1(read.Sign(f.signer("online")))(f.t)
		sigs := string(mustJSON(f.t, []map[string]string{{"keyid": read.Signatures[0].KeyID, "sig": fmt.Sprintf("%x", []byte(read.Signatures[0].Signature))}}))
		f.files["timestamp.json"] = []byte(strings.Replace(text, `"signatures":[]`, `"signatures":`+sigs, 1))
	})},
	{"a key of the wrong length (panics in crypto/ed25519)", "go-tuf: unchecked length", snapshot.ErrInvalid, pushed(func(f *forge) {
		r := f.root(1)
		r.Signed.Version = 2
		for _, k := range r.Signed.Keys {
			k.Value.PublicKey = k.Value.PublicKey[:20]
		}
		put(f, "2.root.json", r, "root-1", "root-2")
	})},
	{"duplicate members, read differently by two parsers", ourTraps, snapshot.ErrInvalid, pushed(func(f *forge) {
		f.files["timestamp.json"] = bytes.Replace(f.files["timestamp.json"], []byte(`"version":`), []byte(`"version":99,"version":`), 1)
	})},
	{"one role's metadata as another's", ourTraps, snapshot.ErrInvalid, pushed(func(f *forge) { f.files["timestamp.json"] = f.files[f.snapshotName()] })},
	{"a root that skips a version", specAttacks, snapshot.ErrReplay, pushed(func(f *forge) {
		r := f.root(1)
		r.Signed.Version = 3
		put(f, "2.root.json", r, "root-1", "root-2")
	})},
	{"a target without SHA-256", ourTraps, snapshot.ErrInvalid, pushed(func(f *forge) {
		f.release(func(tg *metadata.Metadata[metadata.TargetsType]) {
			delete(tg.Signed.Targets[snapshot.TargetName].Hashes, "sha256")
		}, "targets-1", "targets-2")
	})},
	{"the document in a delegated role", ourTraps, snapshot.ErrInvalid, pushed(func(f *forge) {
		f.release(func(tg *metadata.Metadata[metadata.TargetsType]) {
			delete(tg.Signed.Targets, snapshot.TargetName)
			k := f.tufKey("mallory")
			id := must1(k.ID())(f.t)
			tg.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{id: k}, Roles: []metadata.DelegatedRole{
				{Name: "other", KeyIDs: []string{id}, Threshold: 1, Paths: []string{"*"}, Terminating: true},
			}}
		}, "targets-1", "targets-2")
	})},
	{"a signed document with an unknown member", ourTraps, snapshot.ErrInvalid, pushed(func(f *forge) {
		b := f.edited(func(s *snapshot.Snapshot) { s.Sequence = 4 })
		f.document(append([]byte(`{"evil":true,`), b[1:]...), "targets-1", "targets-2")
	})},
	{"a signed document that accepts by default", ourTraps, snapshot.ErrInvalid, pushed(func(f *forge) {
		f.document(f.edited(func(s *snapshot.Snapshot) { s.Sequence, s.Default = 4, "accept" }), "targets-1", "targets-2")
	})},
	{"a trust root that the document does not pin", ourTraps, snapshot.ErrSignature, pushed(func(f *forge) {
		b := []byte(`{"mediaType":"evil"}`)
		tf := must1(metadata.TargetFile().FromBytes("net.json", b, "sha256"))(f.t)
		f.files["targets/"+tf.Hashes["sha256"].String()+".net.json"] = b
		doc := f.edited(func(s *snapshot.Snapshot) {
			s.Sequence = 4
			s.TrustRoots = map[string]snapshot.TrustRoot{"net": {Target: "net.json", Digest: testDigest("another")}}
		})
		df := must1(metadata.TargetFile().FromBytes(snapshot.TargetName, doc, "sha256"))(f.t)
		f.files["targets/"+df.Hashes["sha256"].String()+"."+snapshot.TargetName] = doc
		f.release(func(tg *metadata.Metadata[metadata.TargetsType]) {
			tg.Signed.Targets[snapshot.TargetName], tg.Signed.Targets["net.json"] = df, tf
		}, "targets-1", "targets-2")
	})},
	{"a push file with a name that leaves its directory", ourTraps, snapshot.ErrInvalid, pushed(func(f *forge) { f.files["../../etc/cron.d/x"] = []byte("x") })},
	{"a push file over the size", ourTraps, snapshot.ErrTooLarge, pushed(func(f *forge) { f.files["x"] = make([]byte, 9<<20) })},
}

// notApplicable are attacks of the same lists that cannot be made here.
var notApplicable = []struct{ name, source, reason string }{
	{"extraneous dependencies", specAttacks, "targets name no dependencies: a node uses the document and what it pins by digest, nothing is resolved"},
	{"delegation tracing loops and terminating roles (CVE-2024-47534)", "go-tuf advisory", "delegations are not followed; the row \"the document in a delegated role\" shows it"},
	{"repository name as a path in a map file (TAP 4, CVE-2026-24686)", "go-tuf advisory", "map files are not read: one network, one repository"},
	{"a cached root overwritten by the embedded one (updater.New)", ourTraps, "go-tuf's updater is not used; TestPinAgain shows that pinning again keeps the newest root"},
	{"an updater that serves one refresh", ourTraps, "every acceptance begins from stored bytes; TestPushAndCurrent applies twice with one Trust"},
	{"a fetcher without a deadline", ourTraps, "every file has one; the row \"slow retrieval\" shows that the caller's counts as well"},
	{"vulnerability to a compromise of all root keys", specAttacks, "TUF cannot help then: nodes are pinned anew by hand"},
}

// deadline gives a source little time, as a caller would.
type deadline struct{ snapshot.Source }

func (d deadline) Fetch(ctx context.Context, name string, max int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	return d.Source.Fetch(ctx, name, max)
}

// endless serves the set over HTTP with one file that never ends.
func endless(file string) func(*testing.T, *network, *node, *forge) (snapshot.Source, time.Time) {
	return func(t *testing.T, net *network, _ *node, f *forge) (snapshot.Source, time.Time) {
		name := file
		if name == "DOCUMENT" {
			name = f.docName()
		}
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked := strings.TrimPrefix(r.URL.Path, "/")
			if asked == name {
				junk := bytes.Repeat([]byte(" "), 64<<10)
				for {
					if _, err := w.Write(junk); err != nil {
						return
					}
				}
			}
			b, ok := f.files[asked]
			if !ok {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			_, _ = w.Write(b)
		}))
		t.Cleanup(srv.Close)
		return snapshot.HTTPSource(nil, srv.URL), net.now()
	}
}

// pushSource hands a push file over through Apply.
type pushSourceBytes []byte

func pushSource(_ *testing.T, b []byte) snapshot.Source { return pushSourceBytes(b) }

func (pushSourceBytes) Fetch(context.Context, string, int64) ([]byte, error) { return nil, io.EOF }

// acceptedFloor is what the floor says about acceptances. The roots that were
// seen are kept also when what follows is refused.
func acceptedFloor(t *testing.T, n *node) string {
	t.Helper()
	var f map[string]any
	check(t, json.Unmarshal(mustRead(t, n.floor), &f))
	delete(f, "root")
	return fmt.Sprint(f)
}

// TestAttacks runs the table: each attack is refused in its class and leaves
// the node with the snapshot that it had.
func TestAttacks(t *testing.T) {
	stage := newStage(t)
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			net, n := stage.copy(t)
			before := must1(n.Current(net.now()))(t)

			f := net.forge()
			src, now := a.build(t, net, n, f)
			held, heldErr := n.Current(net.now())
			floor := acceptedFloor(t, n)
			var mem runtime.MemStats
			runtime.ReadMemStats(&mem)
			allocated := mem.TotalAlloc
			most := uint64(128 << 20)
			var err error
			switch s := src.(type) {
			case nil:
				_, err = n.Apply(f.bundle(), now)
			case pushSourceBytes:
				_, err = n.Apply(s, now)
			default:
				_, err = n.Pull(t.Context(), s, now)
				most *= 2 // the steps run as it is fetched, and once more under the lock
			}
			wantErr(t, err, a.class)
			runtime.ReadMemStats(&mem)
			if n := mem.TotalAlloc - allocated; n > most {
				t.Errorf("allocated %d MiB while refusing", n>>20)
			}
			t.Logf("%s: refused: %v", a.source, err)
			after, afterErr := n.Current(net.now())
			if errors.Is(err, snapshot.ErrExpired) && afterErr == nil {
				// What it withdraws is in force, and it activates nothing.
				if late, lateErr := n.Current(now); lateErr != nil || late.Freshness == snapshot.Fresh {
					t.Errorf("an expired set is in force as %+v, %v", late, lateErr)
				}
				return
			}
			if (heldErr == nil) != (afterErr == nil) || heldErr == nil && after.Digest != held.Digest {
				t.Errorf("the refusal changed what the node holds: %v %v", heldErr, afterErr)
			}
			if heldErr == nil && held.Document.Sequence < before.Document.Sequence {
				t.Error("the node holds less than before")
			}
			if acceptedFloor(t, n) != floor {
				t.Error("the refusal moved the floor")
			}
		})
	}
	for _, a := range notApplicable {
		if a.reason == "" {
			t.Errorf("%s: no reason", a.name)
		}
		t.Logf("%s: does not apply: %s (%s)", a.name, a.reason, a.source)
	}
}

// TestHonestRelease: the same stage without an attack is accepted, so that the
// table refuses for the attack's sake.
func TestHonestRelease(t *testing.T) {
	net := newNetwork(t)
	b1 := net.release()
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(b1, net.now()))(t)
	check(t, net.repo.AddModel(testModel("tiny", "v3")))
	net.release()
	f := net.forge()
	f.document(f.edited(func(s *snapshot.Snapshot) { s.Sequence = 4 }), "targets-1", "targets-2")
	if acc := must1(n.Apply(f.bundle(), net.now()))(t); acc.Document.Sequence != 4 {
		t.Errorf("sequence %d", acc.Document.Sequence)
	}
	if acc := must1(newNode(t, "mainnet", net.root()).Pull(t.Context(), f, net.now()))(t); acc.Document.Sequence != 4 {
		t.Errorf("sequence %d", acc.Document.Sequence)
	}
}
