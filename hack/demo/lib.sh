# Shared by demo.sh and down.sh. Sourced, never run: titles, timing, progress.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)

if [ -t 1 ] && [ -z "${NO_COLOR-}" ]; then
  bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
else
  bold='' dim='' green='' red='' plain=''
fi

note() { printf '   %s\n' "$*"; }
good() { printf '   %s✓%s %s\n' "$green" "$plain" "$*"; }
fail() { printf '\n   %s✗ %s%s\n' "$red" "$*" "$plain" >&2; exit 1; }

now() { printf '%s' "${EPOCHREALTIME/[.,]/}"; }            # microseconds
seconds() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.1f s", (b - a) / 1e6 }'; }

began=$(now)
step_names=() step_times=()
step_began='' step_name=''

# step TITLE closes the step before and begins the next.
step() {
  end_step
  step_name=$1 step_began=$(now)
  printf '\n%s── %d. %s%s\n' "$bold" $((${#step_names[@]} + 1)) "$1" "$plain"
}

end_step() {
  [ -n "$step_name" ] || return 0
  step_names+=("$step_name")
  step_times+=("$(seconds "$step_began" "$(now)")")
  printf '   %s%s%s\n' "$dim" "${step_times[-1]}" "$plain"
  step_name=''
}

# watched TITLE COMMAND… runs a command whose output nobody wants to read, and
# says how it is getting on: in place on a terminal, every ten seconds
# elsewhere. The output is shown when the command fails.
watched() {
  local title=$1 log=$demo/log/setup.log start pid word line last=0 elapsed
  shift
  start=$(now)
  : > "$log"
  "$@" > "$log" 2>&1 < /dev/null &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    elapsed=$((($(now) - start) / 1000000))
    word=$(tail -n 1 "$log")
    if [ -t 1 ]; then
      line="   … $title: $elapsed s  $word"
      printf '\r%s%s%s\e[K' "$dim" "${line:0:$(($(tput cols 2>/dev/null || echo 80) - 1))}" "$plain"
    elif [ $((elapsed / 10)) -gt "$last" ]; then
      last=$((elapsed / 10))
      note "… $title: $elapsed s  ${word:0:60}"
    fi
    sleep 0.2
  done
  [ ! -t 1 ] || printf '\r\e[K'
  if ! wait "$pid"; then
    tail -n 40 "$log" >&2
    fail "$title failed; its words are above and in $log"
  fi
  good "$title ($(seconds "$start" "$(now)"))"
}

# show COMMAND… prints a command as one would type it.
show() {
  local word line=''
  for word in "$@"; do
    case $word in
      *[!A-Za-z0-9_./:@%+=,-]* | '') line+=" '${word//\'/\'\\\'\'}'" ;;
      *) line+=" $word" ;;
    esac
  done
  printf '   %s$%s%s\n' "$bold" "$line" "$plain"
}

# indent runs a command with its output set in by four columns. On a terminal
# the progress bars go straight through.
indent() {
  local rc
  set +e
  if [ -t 2 ]; then
    "$@" | sed -u 's/^/     /'
  else
    "$@" 2>&1 | sed -u 's/^/     /'
  fi
  rc=${PIPESTATUS[0]}
  set -e
  return "$rc"
}
