#!/usr/bin/env bash
# up.sh [--registry-only] DIRECTORY starts a private containerd and the
# development registry in one directory that it owns. Running it again is safe: what runs is kept, what
# a killed run left is cleaned up. down.sh ends and removes it all.
#
# It writes DIRECTORY/env.json (for programs) and DIRECTORY/env (for a shell).
# NERDCTL and REGISTRY name the binaries; the default is what make tools built.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
engine=containerd
if [ "${1-}" = --registry-only ]; then
  engine=none
  shift
fi
open_bed "$@"
top=$(cd "$here/../.." && pwd)
nerdctl=$(realpath -m -- "${NERDCTL:-$top/bin/nerdctl}")
registry=$(realpath -m -- "${REGISTRY:-$top/bin/registry}")

if [ $engine = containerd ]; then
  for tool in containerd runc; do
    command -v $tool >/dev/null || die "$tool is missing: run make deps, or apt-get install $tool"
  done
  [ -x "$nerdctl" ] || die "$nerdctl is missing: run make tools"
fi
[ -x "$registry" ] || die "$registry is missing: run make tools"

# A directory that we did not make may hold what someone wants to keep.
if [ -d "$bed" ] && [ ! -e "$marker" ] && [ -n "$(ls -A "$bed")" ]; then
  die "$bed is not empty and no testbed: name another directory"
fi
# The engine's unprivileged user must reach the files that a container mounts.
mkdir -p "$bed" && chmod 0755 "$bed" && touch "$marker"
mkdir -p "$run" "$bed/log"

answers() { "$nerdctl" --address "$socket" --namespace "$namespace" --data-root "$bed/nerdctl" info >/dev/null 2>&1; }

start_containerd() {
  local snapshotter=overlayfs
  # overlayfs cannot have an upper directory on overlayfs.
  [ "$(stat -f -c %T "$bed")" != overlayfs ] || snapshotter=native
  printf %s "$snapshotter" > "$bed/snapshotter"
  cat > "$bed/containerd.toml" <<END
version = 2
root = "$bed/containerd"
state = "$run/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "$socket"
[debug]
  level = "warn"
END
  rm -f "$socket" "$socket.ttrpc"
  setsid containerd --config "$bed/containerd.toml" < /dev/null >> "$bed/log/containerd.log" 2>&1 &
  record $! "$bed/containerd.pid"
  disown
  wait_for 30 answers || { tail -n 20 "$bed/log/containerd.log" >&2; die "containerd does not answer on $socket: see $bed/log/containerd.log"; }
}

if [ $engine = none ]; then
  printf none > "$bed/snapshotter"
elif alive "$bed/containerd.pid" >/dev/null && answers; then
  say "containerd runs already (pid $(alive "$bed/containerd.pid"))"
else
  stop "$bed/containerd.pid"
  sweep
  start_containerd
  say "containerd $(containerd --version | awk '{print $3}') on $socket (pid $(alive "$bed/containerd.pid"))"
fi

ready=$bed/registry/registry.json
value() { sed -n "s/^ *\"$1\": \"\(.*\)\",\{0,1\}\$/\1/p" "$ready"; }
listens() { [ -s "$ready" ]; }
if alive "$bed/registry.pid" >/dev/null && listens; then
  say "registry runs already on $(value address)"
else
  stop "$bed/registry.pid"
  rm -f "$ready"
  # Each run of tests starts without the faults of a killed one.
  rm -f "$bed/registry/faults.json"
  setsid "$registry" serve -dir "$bed/registry" < /dev/null >> "$bed/log/registry.log" 2>&1 &
  record $! "$bed/registry.pid"
  disown
  wait_for 30 listens || { tail -n 20 "$bed/log/registry.log" >&2; die "the registry does not start: see $bed/log/registry.log"; }
  say "registry on $(value address)"
fi

cat > "$bed/env.json.part" <<END
{
  "directory": "$bed",
  "nerdctl": "$nerdctl",
  "engineArgs": ["--address", "$socket", "--namespace", "$namespace", "--data-root", "$bed/nerdctl", "--cni-netconfpath", "$bed/cni", "--snapshotter", "$(cat "$bed/snapshotter")"],
  "containerd": "$socket",
  "namespace": "$namespace",
  "dataRoot": "$bed/nerdctl",
  "registry": {
    "binary": "$registry",
    "directory": "$bed/registry",
    "address": "$(value address)",
    "ca": "$(value ca)",
    "username": "$(value username)",
    "password": "$(value password)",
    "faults": "$(value control)",
    "requests": "$(value requests)"
  }
}
END
chmod 0600 "$bed/env.json.part"
mv "$bed/env.json.part" "$bed/env.json"
cat > "$bed/env" <<END
export RMODELS_TEST_BED=$bed/env.json
export RMODELS_TEST_NERDCTL=$nerdctl
export RMODELS_TEST_CONTAINERD=$socket
export BED=$bed
export BED_NERDCTL="$nerdctl --address $socket --namespace $namespace --data-root $bed/nerdctl --cni-netconfpath $bed/cni --snapshotter $(cat "$bed/snapshotter")"
export BED_REGISTRY=$(value address)
export BED_CA=$(value ca)
export BED_USERNAME=$(value username)
export BED_PASSWORD=$(value password)
export BED_FAULTS=$(value control)
export BED_REQUESTS=$(value requests)
END
chmod 0600 "$bed/env"
