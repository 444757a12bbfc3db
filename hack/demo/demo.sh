#!/usr/bin/env bash
# demo.sh [DIRECTORY] runs the whole of rmodels for real, from nothing to an
# Active model: it publishes models to a registry, signs a snapshot that lists
# them, and brings a node in line with it. It asks nothing, may be repeated,
# and owns DIRECTORY (.demo), which down.sh removes.
#
#   ENGINE=docker or ENGINE=podman   use that installed engine instead of a
#   ENGINE=nerdctl                   private containerd with the pinned nerdctl;
#                                    nerdctl: the installed one, private containerd
set -euo pipefail
. "$(dirname "$0")/lib.sh"
. "$here/publish.sh"
cd "$top"
demo=$(realpath -m -- "${1:-.demo}")
# Commands are shown with short paths where there are any.
publisher=$(realpath -m --relative-base="$top" -- "$demo/publisher")
ceremony=$publisher/ceremony
down='make demo-down'
[ "$demo" = "$top/.demo" ] || down+=" DEMO=$demo"
engine=${ENGINE:-}

[ "$(id -u)" = 0 ] || fail "containers and their network namespaces need root: run it as root"
case $engine in
  '' ) ;;
  nerdctl | docker | podman)
    command -v "$engine" > /dev/null || fail "ENGINE=$engine, but $engine is not installed"
    if [ "$engine" = nerdctl ]; then export NERDCTL=$(command -v nerdctl); fi ;;
  *) fail "ENGINE=$engine: use nerdctl, docker or podman" ;;
esac
if [ -d "$demo" ] && [ ! -e "$demo/.demo" ] && [ -n "$(ls -A "$demo")" ]; then
  fail "$demo is not empty and not the demo's: name another directory with make demo DEMO=…"
fi

trap 'rc=$?; [ $rc -eq 0 ] || printf "\n   The demo stopped early. Its logs are in %s/log and %s/bed/log; clean up with: %s\n" "$demo" "$demo" "$down" >&2' EXIT

printf '%srmodels, from nothing to an Active model%s\n' "$bold" "$plain"
note "Everything lives in $demo; $down removes it."

# ---------------------------------------------------------------------------
step 'Set up what is missing'
hack/testbed/deps.sh 2>&1 | sed 's/^/   /'
[ ! -e "$demo" ] || "$here/down.sh" "$demo" > /dev/null
mkdir -p "$demo/log" && touch "$demo/.demo"
build() { GOFLAGS="${GOFLAGS-} -v" make --no-print-directory "$@"; }
[ -n "$engine" ] || watched 'nerdctl, from source' build bin/nerdctl
case $engine in docker | podman) command -v "$engine" > "$demo/engine" ;; esac
watched 'registry (distribution v3), from source' build bin/registry
watched 'rmodels' build build bin/tinygguf
watched 'inference engine (llama-server), from Debian packages' make --no-print-directory runtime
export PATH=$top/bin:$PATH

# ---------------------------------------------------------------------------
step 'Start a private containerd and a registry, on loopback'
case $engine in
  docker | podman) hack/testbed/up.sh --registry-only "$demo/bed" 2>&1 | sed 's/^testbed: /   /' ;;
  *) hack/testbed/up.sh "$demo/bed" 2>&1 | sed 's/^testbed: /   /' ;;
esac
. "$demo/bed/env"
note "the registry has its own certificate authority and a password"

# ---------------------------------------------------------------------------
step 'Publish: make, pack, push and sign models and an engine'
publish_artifacts

step 'Publish: list them in a snapshot, sign it, hand it out'
publish_first_snapshot

# ---------------------------------------------------------------------------
step 'The node: pin the network'"'"'s root, then do what its snapshot says'
node_setup
run 0 rmodels init --network demo --root "$ceremony/root.json"
run 0 rmodels sync --dry-run
mark=$(requests)
run 11 rmodels sync
expect_state tiny-chat@v1 Active
expect_state tiny-poet@v1 Active
expect_state stranger@v1 Failed
expect_state rotten@v1 Failed
expect_state giant@v1 Absent
! asked_for "$mark" "$(json_value "$publisher/models/stranger-v1.json" digest)" || fail 'weights were fetched although the signature is a stranger'"'"'s'
! asked_for "$mark" /demo/giant/ || fail 'giant was asked for although this node cannot run it'
good 'the registry saw no request for the weights of stranger, and none at all for giant'
run 0 rmodels incidents
run 0 rmodels explain tiny-chat

# ---------------------------------------------------------------------------
step 'Snapshot 2: tiny-chat v2 comes, tiny-poet is disabled'
publish_second_snapshot
run '0|11' rmodels sync # 11 when the two bad ones are due for another try
expect_state tiny-chat@v1 Active
expect_state tiny-chat@v2 Active
expect_state tiny-poet@v1 Inactive

step 'Snapshot 3: tiny-chat v1 is gone; its bytes are freed'
publish_third_snapshot
run '0|11' rmodels sync
expect_state tiny-chat@v1 -
expect_state tiny-chat@v2 Active
run 0 rmodels gc --dry-run
run 0 rmodels gc

step 'A replayed older snapshot is refused and changes nothing'
before=$(rmodels list --output json | sed 's/"updated":.*//')
run 10 rmodels snapshot apply "$publisher/snapshot-1.bundle.json"
[ "$before" = "$(rmodels list --output json | sed 's/"updated":.*//')" ] || fail 'the refused snapshot changed the list of models'
good 'the list of models is the same as before'

# ---------------------------------------------------------------------------
step 'Where the node stands'
run 0 rmodels list
run 0 rmodels incidents
printf '\n   What the node fetched\n'
summary_of_requests "$mark"
end_step

printf '\n%sTime%s\n' "$bold" "$plain"
for i in "${!step_names[@]}"; do printf '   %8s  %s\n' "${step_times[$i]}" "${step_names[$i]}"; done
printf '   %8s  in all\n' "$(seconds "$began" "$(now)")"

cat <<END

${bold}Try next${plain}
   . $(realpath --relative-base="$top" "$demo")/env                               # rmodels for this node, in your shell
   rmodels show tiny-chat@v2                  # who signed it, what it answered, how sealed the box was
   rm "\$BED_FAULTS" && rmodels sync rotten   # the registry serves good bytes again: rotten heals
   $(printf %-42s "$down") # end and remove everything
END
