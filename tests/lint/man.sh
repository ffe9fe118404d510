#!/bin/sh
# The man pages that the tables make are ones that man shows without a warning. Runs in the build folder.
set -eu
src=${SK_SRCDIR:-$(cd "$(dirname "$0")/../.." && pwd)}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
"${SK_MKMAN:-conf/mkman}" "$src/conf/man" "$out"
command -v groff >/dev/null || { echo "man.sh: no groff to check the man pages with"; exit 77; }
bad=0
for page in "$out"/*.[158]; do
    groff -man -Tutf8 -ww -z "$page" >"$out/warnings" 2>&1
    if command -v mandoc >/dev/null; then
        mandoc -Tlint -Wwarning "$page" >>"$out/warnings" || :
    fi
    [ ! -s "$out/warnings" ] || { bad=1; cat "$out/warnings"; }
done
for word in NAME SYNOPSIS DESCRIPTION OPTIONS SIGNALS METRICS ERRORS 'EXIT STATUS' FILES 'SEE ALSO'; do
    grep -qx ".SH $word" "$out/skeind.8" || { bad=1; echo "skeind.8 has no section $word"; }
done
exit $bad
