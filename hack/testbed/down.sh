#!/usr/bin/env bash
# down.sh DIRECTORY ends exactly what up.sh started there, unmounts what was
# left mounted, and removes the directory. It is safe to repeat, and works
# after a crash or a kill.
set -euo pipefail
. "$(cd "$(dirname "$0")" && pwd)/lib.sh"
open_bed "$@"
[ -e "$bed" ] || { say "$bed does not exist: nothing to do"; exit 0; }
[ -e "$marker" ] || die "$bed is no testbed: it is left as it is"
touch "$marker"

# Containers first, by the engine itself as long as it answers.
if alive "$bed/containerd.pid" >/dev/null && [ -s "$bed/env" ]; then
  . "$bed/env"
  ids=$(timeout 30 $BED_NERDCTL ps -aq 2>/dev/null || true)
  # shellcheck disable=SC2086
  [ -z "$ids" ] || timeout 60 $BED_NERDCTL rm -f -v $ids >/dev/null 2>&1 || true
fi
stop "$bed/registry.pid"
stop "$bed/containerd.pid"
sweep
if [ -n "$(mounts)" ]; then
  die "something is still mounted under $bed: see /proc/self/mountinfo, unmount it and run this again"
fi
# The marker goes last, so that an interrupted removal can be repeated.
find "$bed" -mindepth 1 -maxdepth 1 ! -name .testbed -exec rm -rf --one-file-system {} +
rm -rf --one-file-system "$run" "$bed"
say "removed $bed"
