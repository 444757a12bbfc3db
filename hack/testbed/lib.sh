# Shared by up.sh and down.sh. Sourced, never run.
#
# A testbed is one directory that holds a private containerd and the
# development registry. Everything it starts is recorded there as "PID START",
# where START is the process's start time from /proc, so that a reused PID is
# never taken for ours.

say() { printf 'testbed: %s\n' "$*" >&2; }
die() { printf 'testbed: %s\n' "$*" >&2; exit 1; }

# open_bed DIR names everything that belongs to the bed in DIR.
open_bed() {
  [ $# -eq 1 ] && [ -n "$1" ] || die "usage: $0 DIRECTORY"
  [ "$(id -u)" = 0 ] || die "containerd needs root: run this as root"
  bed=$(realpath -m -- "$1")
  case $bed in
    / | /bin* | /boot* | /dev* | /etc* | /lib* | /proc* | /run | /sbin* | /sys* | /usr* | /var | /root | /home | /tmp)
      die "$bed is no place for a testbed: name a directory that it may own" ;;
    *[!A-Za-z0-9._/-]*) die "$bed: use a path of letters, digits, dots, dashes and underscores" ;;
  esac
  marker=$bed/.testbed
  tag=$(printf %s "$bed" | sha256sum | cut -c1-8)
  namespace=rmodels-$tag
  # A Unix socket's path ends at 107 bytes, and containerd appends ".ttrpc".
  run=$bed/run
  [ ${#run} -le 80 ] || run=/run/rmodels-testbed-$tag
  socket=$run/containerd.sock
}

# start_of PID prints the process's start time, or nothing when it is gone or
# has ended and waits for its parent.
start_of() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  stat=${stat##*) } # the command's name may contain anything
  # shellcheck disable=SC2086
  set -- $stat
  [ "$1" = Z ] || printf %s "${20}"
}

record() { printf '%s %s\n' "$1" "$(start_of "$1")" > "$2"; } # PID FILE

# alive FILE prints the recorded PID if that very process still runs.
alive() {
  local pid start
  [ -s "$1" ] && read -r pid start < "$1" && [ -n "$start" ] || return 1
  [ "$(start_of "$pid")" = "$start" ] && printf %s "$pid"
}

# wait_for SECONDS COMMAND… polls until the command succeeds.
wait_for() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $end ] || return 1
    sleep 0.05
  done
}

gone() { ! alive "$1" >/dev/null; }

# stop FILE ends the recorded process: politely first, then for certain.
stop() {
  local pid
  pid=$(alive "$1") || { rm -f "$1"; return 0; }
  kill -TERM "$pid" 2>/dev/null || true
  if ! wait_for 10 gone "$1"; then
    kill -KILL "$pid" 2>/dev/null || true
    wait_for 10 gone "$1" || die "process $pid does not end (recorded in $1)"
  fi
  rm -f "$1"
}

# sweep ends containers that outlived their containerd: their shims name our
# socket on their command line. It unmounts what they left.
sweep() {
  local dir pid id line mount
  for dir in $(grep -alF -- "$socket" /proc/[0-9]*/cmdline 2>/dev/null || true); do
    dir=${dir%/cmdline}
    pid=${dir#/proc/}
    line=$({ tr '\0' ' ' < "$dir/cmdline"; } 2>/dev/null) || continue
    case $line in
      *containerd-shim*" -address $socket "*)
        for id in $(pgrep -P "$pid" 2>/dev/null || true); do kill -KILL "$id" 2>/dev/null || true; done
        kill -KILL "$pid" 2>/dev/null || true
        # A shim listens in a directory of all containerds (util_unix.go).
        id=${line#* -id }
        id=$(printf %s "$socket/$namespace/${id%% *}" | sha256sum)
        rm -f "/run/containerd/s/${id%% *}" ;;
    esac
  done
  mounts | while read -r mount; do umount -l "$mount" || true; done
  # Empty control groups of our namespace, innermost first. A process that was
  # just killed keeps its group busy for a moment.
  for dir in /sys/fs/cgroup/"$namespace" /sys/fs/cgroup/*/"$namespace"; do
    [ -d "$dir" ] || continue
    wait_for 5 prune_groups "$dir" || say "control group $dir is still in use"
  done
  rm -rf "/run/containerd/runc/$namespace"
}

# mounts lists what is mounted under the bed, innermost first.
mounts() {
  awk -v a="$bed/" -v b="$run/" 'index($5, a) == 1 || index($5, b) == 1 { print $5 }' /proc/self/mountinfo | sort -r
}

prune_groups() {
  find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
  [ ! -d "$1" ]
}
