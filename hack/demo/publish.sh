# The publisher's and the node's side of the demo. Sourced by demo.sh.

# run CODE COMMAND… shows a command, runs it, and stops the demo unless it
# exits with the code that is expected; CODE may be two, as in '0|11'.
run() {
  local want=$1 rc=0
  shift
  show "$@"
  indent "$@" || rc=$?
  [[ "|$want|" = *"|$rc|"* ]] || fail "exit code $rc, expected $want: $*"
  [ $rc = 0 ] || note "${dim}exit code $rc, as it should be${plain}"
}

# publisher COMMAND… is run with the publisher's configuration. What it printed
# stays in $demo/log/printed for the next line of this script.
publisher() {
  show "$@"
  RMODELS_CONFIG=$publisher/config.toml "$@" < /dev/null > "$demo/log/printed" || fail "exit code $?: $*"
  sed 's/^/     /' "$demo/log/printed"
}

hosts_table() {
  printf '[hosts."%s"]\nca = "%s"\nusername = "%s"\npassword-file = "%s"\n' \
    "$BED_REGISTRY" "$BED_CA" "$BED_USERNAME" "$demo/registry.password"
}

# Each model is a directory with a tiny GGUF whose answer is known, and a text.
# make_model NAME VERSION WORDS
make_model() {
  local dir=$publisher/models/$1-$2
  mkdir -p "$dir"
  tinygguf -o "$dir/model.gguf" -name "$1 $2" -words "$3" > "$publisher/models/$1-$2.json"
  printf '# %s %s\n\nA model for tests: asked "ping", it says "%s."\n' "$1" "$2" "$3" > "$dir/README.md"
}

json_value() { sed -n "s/.*\"$2\":\"\([^\"]*\)\".*/\1/p" "$1"; } # FILE KEY, of one-line JSON

# pack_model NAME VERSION KEY
pack_model() {
  publisher rmodels pack "$publisher/models/$1-$2" "$BED_REGISTRY/demo/$1" --check \
    --name "$1" --model-version "$2" --sign-key "$publisher/$3.key"
  head -n 1 "$demo/log/printed" > "$publisher/models/$1-$2.ref"
}

# add_model NAME VERSION [COMPAT] puts a model into the draft; COMPAT is more
# JSON members of its needs.
add_model() {
  local file=$publisher/models/$1-$2.entry.json answer
  answer=$(json_value "$publisher/models/$1-$2.json" answer)
  cat > "$file" <<END
{
  "name": "$1", "version": "$2", "enabled": true, "policy": "demo-policy", "size": 0,
  "reference": "$(cat "$publisher/models/$1-$2.ref")",
  "chatTemplateDigests": ["$(json_value "$publisher/models/$1-$2.json" chatTemplateDigest)"],
  "compat": {"runtime": "llama-cpp", "tasks": ["chat"]${3:+, $3}},
  "validation": {
    "request": {"messages": [{"role": "user", "content": "ping"}], "temperature": 0, "max_tokens": 32},
    "expect": {"exact": "$answer"}, "deterministic": true, "timeout": "30s"
  }
}
END
  publisher rmodels snapshot add model "$ceremony" "$file"
}

# sign_and_publish NUMBER
sign_and_publish() {
  publisher rmodels snapshot diff "$ceremony"
  publisher rmodels snapshot sign "$ceremony" --yes "$(sed -n 's/^digest //p' "$demo/log/printed")"
  publisher rmodels snapshot publish "$ceremony" --to "$publisher/site" --bundle "$publisher/snapshot-$1.bundle.json"
}

publish_artifacts() {
  mkdir -p "$publisher/models"
  (umask 077 && printf %s "$BED_PASSWORD" > "$demo/registry.password")
  hosts_table > "$publisher/config.toml"
  publisher rmodels keygen "$publisher/acme"
  publisher rmodels keygen "$publisher/unknown"
  note 'tiny llama models with hand-set weights, so that their answers are known:'
  make_model tiny-chat v1 'the model files answer from a sealed box'
  make_model tiny-chat v2 'version two answers from a sealed box too'
  make_model tiny-poet v1 'small words make large rooms'
  make_model stranger v1 'nobody vouches for me'
  make_model giant v1 'too large for this node'
  make_model rotten v1 'one byte is wrong'
  for f in "$publisher"/models/*.json; do
    note "  $(basename "$f" .json): \"$(json_value "$f" answer)\""
  done
  publisher rmodels pack .cache/runtime/rootfs "$BED_REGISTRY/runtimes/llama-cpp" --image \
    --entrypoint /usr/bin/llama-server --user 65532:65532 --sign-key "$publisher/acme.key"
  head -n 1 "$demo/log/printed" > "$publisher/runtime.ref"
  pack_model tiny-chat v1 acme
  pack_model tiny-poet v1 acme
  pack_model stranger v1 unknown
  pack_model giant v1 acme
  pack_model rotten v1 acme
  # The registry now serves one wrong byte in the weights of rotten.
  printf '{"faults": [{"name": "one wrong byte", "kind": "blob", "digest": "%s", "flip": 4000000}]}\n' \
    "$(json_value "$publisher/models/rotten-v1.json" digest)" > "$BED_FAULTS"
  note 'from now on the registry serves one wrong byte in the weights of rotten'
}

publish_first_snapshot() {
  local pem
  publisher rmodels snapshot init "$ceremony" --network demo
  pem=$(awk '{ printf "%s\\n", $0 }' "$publisher/acme.pub")
  cat > "$publisher/policy.json" <<END
{
  "name": "demo-policy", "threshold": 1,
  "images": [{"glob": "$BED_REGISTRY/demo/*"}, {"glob": "$BED_REGISTRY/runtimes/*"}],
  "authorities": [{"name": "acme", "signatureFormat": "bundle", "key": {"data": "$pem"}}]
}
END
  publisher rmodels snapshot add policy "$ceremony" "$publisher/policy.json"
  cat > "$publisher/runtime.json" <<END
{
  "name": "llama-cpp", "version": "0.7.0", "policy": "demo-policy",
  "reference": "$(cat "$publisher/runtime.ref")",
  "protocol": "openai-chat", "port": 8080, "health": "/health",
  "entrypoint": ["/usr/bin/llama-server"],
  "args": ["--model", "{{.Model}}", "--host", "127.0.0.1", "--port", "{{.Port}}", "--threads", "2", "--ctx-size", "512", "--parallel", "1", "--offline"],
  "gpu": "none", "memory": "2GiB", "cpus": 2, "startTimeout": "1m"
}
END
  publisher rmodels snapshot add runtime "$ceremony" "$publisher/runtime.json"
  add_model tiny-chat v1
  add_model tiny-poet v1
  add_model stranger v1
  add_model giant v1 '"gpuMemory": "80GiB"'
  add_model rotten v1
  sign_and_publish 1
}

publish_second_snapshot() {
  pack_model tiny-chat v2 acme
  add_model tiny-chat v2
  publisher rmodels snapshot disable "$ceremony" tiny-poet@v1
  sign_and_publish 2
}

publish_third_snapshot() {
  publisher rmodels snapshot remove "$ceremony" tiny-chat@v1
  sign_and_publish 3
}

# node_setup writes the node's configuration; from here on rmodels is the node's.
node_setup() {
  (umask 022 && mkdir -p "$demo/node")
  {
    printf 'network = "demo"\nstate-dir = "%s"\n\n[snapshot]\nsource = "%s"\n\n[engine]\n' "$demo/node/state" "$demo/publisher/site"
    case $engine in
      docker | podman) printf 'name = "%s"\n' "$engine" ;;
      *)
        # shellcheck disable=SC2086
        set -- $BED_NERDCTL
        printf 'name = "nerdctl"\npath = "%s"\nargs = [' "$1"
        shift
        printf '"%s", ' "$@"
        printf ']\n' ;;
    esac
    printf '\n'
    hosts_table
  } > "$demo/node/config.toml"
  chmod 0600 "$demo/node/config.toml"
  export RMODELS_CONFIG=$demo/node/config.toml
  printf '. %s\nexport PATH=%s:$PATH RMODELS_CONFIG=%s\n' "$demo/bed/env" "$top/bin" "$RMODELS_CONFIG" > "$demo/env"
}

# expect_state NAME@VERSION STATE stops the demo unless the model is in that
# state; - is "not in the list".
expect_state() {
  local found
  found=$(rmodels list | awk -v n="${1%@*}" -v v="${1#*@}" '$1 == n && $2 == v { print $3 }')
  [ "${found:--}" = "$2" ] || fail "$1 is ${found:-not listed}, expected $2"
  if [ "$2" = - ]; then good "$1 is gone"; else good "$1 is $2"; fi
}

# The registry's request log, one JSON object per line.
requests() { wc -l < "$BED_REQUESTS"; }

# asked_for FROM TEXT: does a request since line FROM have TEXT in its path?
asked_for() { tail -n "+$(($1 + 1))" "$BED_REQUESTS" | grep -qF -- "$2"; }

summary_of_requests() {
  tail -n "+$(($1 + 1))" "$BED_REQUESTS" | grep -F '"method":"GET"' | grep -F '"kind":"blob"' |
    sed -n 's/.*"repository":"\([^"]*\)".*"bytes":\([0-9]*\).*/\1 \2/p' |
    awk '{ n[$1]++; b[$1] += $2; all += $2 }
         END { for (r in n) printf "     %-22s %3d requests %8.1f MB\n", r, n[r], b[r] / 1e6 | "sort"; close("sort")
               printf "     %-22s %12s %8.1f MB\n", "in all", "", all / 1e6 }'
}
