package runner

import "github.com/opencontainers/go-digest"

// traits is one row of the table of engine differences: everything that is
// not the same for nerdctl, docker and podman stands here and nowhere else.
type traits struct {
	name string

	// dataRootFlag names the client's own directory. nerdctl makes one, by
	// default /var/lib/nerdctl, whenever it is called, even for its version.
	dataRootFlag string

	// imageID is what runs the image after a load: nerdctl knows an image by
	// its manifest, docker and podman by its configuration. Both name the same
	// bytes. The second is tried when the first is unknown (docker with the
	// containerd image store knows manifests).
	imageIDs func(Image) []digest.Digest

	// inspectMode is given to "image inspect". nerdctl's default mode panics
	// when the last history entry has no "created"; its native one does not.
	inspectMode []string

	// dnsNone is given with --network none. nerdctl and docker would mount the
	// host's resolv.conf; podman refuses the flag and hides the file by itself.
	dnsNone []string

	// fifoLog: output goes straight from containerd's shim into a FIFO of ours.
	// nerdctl's own logger reads whole lines of any length into its memory,
	// which lives outside the box: a flood without a newline would be an escape.
	// docker and conmon cut lines and bound the file.
	fifoLog bool

	// holdsRecord: the call that makes a box inherits its record's lock, so that
	// a run which is killed meanwhile is no orphan before the call is over.
	// Not podman: its monitor would inherit the lock and keep it.
	holdsRecord bool

	// tmpfsOwner: a tmpfs may be given an owner. Where its directory exists in
	// the image, runc gives the tmpfs that directory's mode instead of ours.
	tmpfsOwner bool

	// rmFlags are given with rm -f. podman would wait ten seconds between
	// asking and killing; the others kill at once.
	rmFlags []string

	// runFlags are given on each run.
	runFlags []string
	// limitFlags are given when the engine lacks CAP_SYS_RESOURCE.
	limitFlags []string
}

var engineNames = []string{"nerdctl", "docker", "podman"}

var engines = map[string]traits{
	"nerdctl": {
		name:         "nerdctl",
		dataRootFlag: "--data-root",
		imageIDs:     func(i Image) []digest.Digest { return []digest.Digest{i.Manifest} },
		inspectMode:  []string{"--mode", "native"},
		dnsNone:      []string{"--dns", "127.0.0.1"},
		fifoLog:      true,
		holdsRecord:  true,
		tmpfsOwner:   true,
	},
	"docker": {
		name:        "docker",
		imageIDs:    func(i Image) []digest.Digest { return []digest.Digest{i.Config, i.Manifest} },
		dnsNone:     []string{"--dns", "127.0.0.1"},
		holdsRecord: true,
		tmpfsOwner:  true,
		runFlags:    []string{"--log-driver", "json-file", "--log-opt", "max-size=1m", "--log-opt", "max-file=2"},
	},
	"podman": {
		name:     "podman",
		rmFlags:  []string{"--time", "0"},
		imageIDs: func(i Image) []digest.Digest { return []digest.Digest{i.Config} },
		// --passwd=false: no passwd and group made by podman; the image has its own.
		runFlags:   []string{"--passwd=false", "--log-driver", "k8s-file", "--log-opt", "max-size=1mb"},
		limitFlags: []string{"--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"},
	},
}
