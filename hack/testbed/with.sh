#!/usr/bin/env bash
# with.sh DIRECTORY COMMAND… runs a command in a fresh testbed and takes the
# testbed down on every way out: success, failure, interrupt. What an earlier
# run left there, even one that was killed, is removed first.
#
# The command finds the testbed in RMODELS_TEST_BED (a JSON file, see up.sh),
# RMODELS_TEST_NERDCTL and RMODELS_TEST_CONTAINERD.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 2 ] || { echo "usage: $0 DIRECTORY COMMAND…" >&2; exit 2; }
bed=$(realpath -m -- "$1")
shift
"$here/down.sh" "$bed"

finish() {
  local rc=$?
  trap - EXIT INT TERM HUP
  # What the daemons said is worth reading when something failed.
  if [ $rc -ne 0 ]; then
    for log in "$bed"/log/*.log; do
      [ -s "$log" ] && { printf -- '--- last lines of %s\n' "$log"; tail -n 20 "$log"; } >&2
    done
  fi
  "$here/down.sh" "$bed" || rc=1
  exit $rc
}
trap finish EXIT

"$here/up.sh" "$bed"
. "$bed/env"
# A shell handles a signal only between commands, so the command runs beside
# it, in a process group of its own that is ended as a whole.
set -m
"$@" < /dev/null &
child=$!
set +m
end() {
  trap - INT TERM HUP
  kill -TERM -- "-$child" 2>/dev/null || true
  wait "$child" || true
  exit "$1"
}
trap 'end 130' INT
trap 'end 143' TERM HUP
wait "$child"
