package snapshot_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/resultity/rmodels/snapshot"
	"github.com/resultity/rmodels/snapshot/ceremony"
)

// forge is a published set in an attacker's hands: every file can be changed,
// and signed again with the keys that the attacker is said to have.
type forge struct {
	t     *testing.T
	net   *network
	files map[string][]byte
}

func (n *network) forge() *forge {
	n.t.Helper()
	return &forge{n.t, n, maps.Clone(must1(n.repo.Files())(n.t))}
}

// signer loads a key of the ceremony, or makes one of the attacker's own.
func (f *forge) signer(name string) signature.Signer {
	f.t.Helper()
	file := f.net.key(name)
	if _, err := os.Stat(file); err != nil {
		must1(ceremony.GenerateKeyFile(file, nil))(f.t)
	}
	block, _ := pem.Decode(mustRead(f.t, file))
	priv := must1(x509.ParsePKCS8PrivateKey(block.Bytes))(f.t)
	return must1(signature.LoadSigner(priv, crypto.Hash(0)))(f.t)
}

func (f *forge) tufKey(name string) *metadata.Key {
	f.t.Helper()
	pub := must1(f.signer(name).PublicKey())(f.t)
	return must1(metadata.KeyFromPublicKey(pub.(ed25519.PublicKey)))(f.t)
}

func load[T metadata.Roles](f *forge, name string) *metadata.Metadata[T] {
	f.t.Helper()
	var m metadata.Metadata[T]
	must1(m.FromBytes(f.files[name]))(f.t)
	return &m
}

// put signs m with keys alone and stores it.
func put[T metadata.Roles](f *forge, name string, m *metadata.Metadata[T], keys ...string) {
	f.t.Helper()
	m.ClearSignatures()
	for _, k := range keys {
		must1(m.Sign(f.signer(k)))(f.t)
	}
	f.files[name] = must1(m.ToBytes(false))(f.t)
}

func (f *forge) root(v int64) *metadata.Metadata[metadata.RootType] {
	return load[metadata.RootType](f, fmt.Sprintf("%d.root.json", v))
}

func (f *forge) timestamp() *metadata.Metadata[metadata.TimestampType] {
	return load[metadata.TimestampType](f, "timestamp.json")
}

func (f *forge) snapshot() *metadata.Metadata[metadata.SnapshotType] {
	return load[metadata.SnapshotType](f, f.snapshotName())
}

func (f *forge) snapshotName() string {
	return fmt.Sprintf("%d.snapshot.json", f.timestamp().Signed.Meta["snapshot.json"].Version)
}

func (f *forge) targets() *metadata.Metadata[metadata.TargetsType] {
	return load[metadata.TargetsType](f, f.targetsName())
}

func (f *forge) targetsName() string {
	return fmt.Sprintf("%d.targets.json", f.snapshot().Signed.Meta["targets.json"].Version)
}

func (f *forge) docName() string {
	return "targets/" + f.targets().Signed.Targets[snapshot.TargetName].Hashes["sha256"].String() + "." + snapshot.TargetName
}

// online writes timestamp and snapshot anew over the targets file as it is
// now, as a thief of the online key could.
func (f *forge) online(targets *metadata.Metadata[metadata.TargetsType], key string, bump int64) {
	f.t.Helper()
	ts, sn := f.timestamp(), f.snapshot()
	sn.Signed.Version += bump
	sn.Signed.Meta["targets.json"] = metadata.MetaFile(targets.Signed.Version)
	put(f, fmt.Sprintf("%d.snapshot.json", sn.Signed.Version), sn, key)
	ts.Signed.Version += bump
	ts.Signed.Meta["snapshot.json"] = metadata.MetaFile(sn.Signed.Version)
	put(f, "timestamp.json", ts, key)
}

// renew signs the online metadata anew, with a later term.
func (f *forge) renew(expires time.Time) {
	f.t.Helper()
	sn, ts := f.snapshot(), f.timestamp()
	sn.Signed.Version, sn.Signed.Expires = sn.Signed.Version+1, expires
	put(f, fmt.Sprintf("%d.snapshot.json", sn.Signed.Version), sn, "online")
	ts.Signed.Version, ts.Signed.Expires = ts.Signed.Version+1, expires
	ts.Signed.Meta["snapshot.json"] = metadata.MetaFile(sn.Signed.Version)
	put(f, "timestamp.json", ts, "online")
}

// release signs changed targets with keys and puts the rest on top of it.
func (f *forge) release(change func(*metadata.Metadata[metadata.TargetsType]), keys ...string) {
	f.t.Helper()
	tg := f.targets()
	tg.Signed.Version++
	change(tg)
	put(f, fmt.Sprintf("%d.targets.json", tg.Signed.Version), tg, keys...)
	f.online(tg, "online", 1)
}

// document replaces the document by b and signs the set with keys.
func (f *forge) document(b []byte, keys ...string) {
	f.t.Helper()
	tf := must1(metadata.TargetFile().FromBytes(snapshot.TargetName, b, "sha256"))(f.t)
	f.release(func(tg *metadata.Metadata[metadata.TargetsType]) { tg.Signed.Targets[snapshot.TargetName] = tf }, keys...)
	f.files["targets/"+tf.Hashes["sha256"].String()+"."+snapshot.TargetName] = b
}

// edited is the document with a change, as bytes.
func (f *forge) edited(change func(*snapshot.Snapshot)) []byte {
	f.t.Helper()
	s := must1(snapshot.Parse(f.files[f.docName()]))(f.t)
	change(s)
	return mustJSON(f.t, s)
}

// bundle is the set as a push file.
func (f *forge) bundle() []byte {
	f.t.Helper()
	return must1(json.Marshal(struct {
		Kind    string            `json:"kind"`
		Version int               `json:"version"`
		Files   map[string][]byte `json:"files"`
	}{"rmodels-push", 1, f.files}))(f.t)
}

// Fetch makes the set a source.
func (f *forge) Fetch(_ context.Context, name string, _ int64) ([]byte, error) {
	if b, ok := f.files[name]; ok {
		return b, nil
	}
	return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

// rotate replaces keys of roles by new ones ("name" becomes "name-new") and
// publishes the root.
func (n *network) rotate(keys ...string) {
	n.t.Helper()
	f := &forge{n.t, n, nil}
	for _, k := range keys {
		role := "online"
		for _, r := range []string{"root", "targets"} {
			if len(k) > len(r) && k[:len(r)] == r {
				role = r
			}
		}
		id := must1(f.tufKey(k).ID())(n.t)
		public := must1(ceremony.GenerateKeyFile(n.key(k+"-new"), nil))(n.t)
		check(n.t, n.repo.RotateKey(role, id, public))
	}
	// The holders of old root keys still sign this one.
	signWith(n.t, n.repo)
}

// stage is a network at sequence 3 and a node that holds sequence 2, made once
// and copied for each attack: making it costs a few hundred fsyncs.
type stage struct {
	net  *network
	node *node
}

func newStage(t *testing.T) stage {
	t.Helper()
	net := newNetwork(t)
	net.release()
	check(t, net.repo.AddModel(testModel("tiny", "v2")))
	b2 := net.release()
	n := newNode(t, "mainnet", net.root())
	must1(n.Apply(b2, net.now()))(t)
	net.forward(time.Hour)
	check(t, net.repo.AddModel(testModel("tiny", "v3")))
	net.release()
	return stage{net, n}
}

func (s stage) copy(t *testing.T) (*network, *node) {
	t.Helper()
	base := t.TempDir()
	net := &network{t: t, dir: filepath.Join(base, "ceremony"), clock: &clock{s.net.now()}}
	check(t, os.CopyFS(net.dir, os.DirFS(s.net.dir)))
	keys := must1(filepath.Glob(net.key("*")))(t)
	for _, k := range keys { // CopyFS leaves them for others to read
		check(t, os.Chmod(k, 0o600))
	}
	net.repo = must1(ceremony.Open(net.dir))(t)
	net.repo.Now = net.now
	n := &node{t: t, dir: filepath.Join(base, "trust"), floor: filepath.Join(base, "floor", "mainnet.json")}
	check(t, os.CopyFS(n.dir, os.DirFS(s.node.dir)))
	check(t, os.CopyFS(filepath.Dir(n.floor), os.DirFS(filepath.Dir(s.node.floor))))
	n.reopen()
	return net, n
}
