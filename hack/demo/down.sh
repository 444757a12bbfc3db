#!/usr/bin/env bash
# down.sh [DIRECTORY] ends everything that the demo started and removes what
# it wrote. It is safe to repeat.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
demo=$(realpath -m -- "${1:-$top/.demo}")
[ -e "$demo" ] || { note "$demo does not exist: nothing to do"; exit 0; }
[ -e "$demo/.demo" ] || fail "$demo was not made by the demo: it is left as it is"
# With another engine than the private one, its containers carry our label.
if [ -s "$demo/engine" ]; then
  read -r engine < "$demo/engine"
  "$engine" ps -aq --filter label=rmodels.run 2>/dev/null | xargs -r "$engine" rm -f >/dev/null 2>&1 || true
fi
"$top/hack/testbed/down.sh" "$demo/bed" 2>&1 | sed 's/^/   /'
# Trees are read-only; root may remove them all the same.
find "$demo" -mindepth 1 -maxdepth 1 ! -name .demo -exec rm -rf --one-file-system {} +
rm -rf --one-file-system "$demo"
good "removed $demo; compiled tools and downloads stay in bin/ and .cache/ (make clean removes them)"
