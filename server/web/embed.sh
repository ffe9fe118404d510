#!/bin/sh
# embed.sh FILE...: prints C that defines the page's files (web.h) with their texts. index.html is served at /, any other
# at /web/NAME. Needs nothing but sed and cksum.
set -e
type_of() {
    case $1 in
    *.html) echo "text/html; charset=utf-8" ;;
    *.css) echo "text/css; charset=utf-8" ;;
    *.js) echo "text/javascript; charset=utf-8" ;;
    *) echo "embed.sh: $1: no known type" >&2; exit 1 ;;
    esac
}
path_of() {
    case $1 in
    */index.html) echo / ;;
    *) echo "/web/$(basename "$1")" ;;
    esac
}
printf '/* Made by server/web/embed.sh. */\n#include "server/web/web.h"\n\n'
i=0
for file; do
    printf 'static const char text_%d[] =\n' $i
    sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/??/?\\?/g' -e 's/^/    "/' -e 's/$/\\n"/' "$file"
    printf '    "";\n'
    i=$((i + 1))
done
printf '\nconst struct sk_web_file sk_web_files[] = {\n'
i=0
for file; do
    type=$(type_of "$file")
    tag=$(cksum <"$file" | sed 's/ /-/')
    printf '    {"%s", "%s", "\\"%s\\"", text_%d, sizeof text_%d - 1},\n' "$(path_of "$file")" "$type" "$tag" $i $i
    i=$((i + 1))
done
printf '};\nconst size_t sk_web_n_file = sizeof sk_web_files / sizeof sk_web_files[0];\n'
