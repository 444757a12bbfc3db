#!/usr/bin/env bash
# deps.sh installs the Debian packages that building and testing need, and
# only those whose commands are missing. It asks nothing.
set -euo pipefail
say() { printf 'deps: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("${@:2}"); } # COMMAND PACKAGE…
need containerd containerd
need runc runc
need gcc gcc libc6-dev # go test -race links with it
need make make
need git git
need pgrep procps
need mount mount
need unshare util-linux
need ip iproute2
need awk mawk
need realpath coreutils
need skopeo skopeo # reads what we export, as one of the other clients
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)

if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || die "missing: ${missing[*]}; install them with your package tool (only Debian's is known here)"
  [ "$(id -u)" = 0 ] || die "missing: ${missing[*]}; run as root: apt-get install ${missing[*]}"
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  # Lists of a fresh image are empty, and old ones name packages that are gone.
  { apt-get -q update && apt-get -q -y --no-install-recommends install "${missing[@]}"; } > "$log" 2>&1 < /dev/null ||
    { cat "$log" >&2; die "apt-get could not install ${missing[*]}: its words are above"; }
fi

command -v go >/dev/null || die "go is missing: install Go $(sed -n 's/^go //p' "$(dirname "$0")/../../go.mod") or newer from https://go.dev/dl"
