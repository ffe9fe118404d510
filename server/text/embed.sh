#!/bin/sh
# embed.sh FILE NAME: prints C that defines `const char NAME[]` with the text of FILE. Needs nothing but sed.
set -e
printf '/* Made by server/text/embed.sh from %s. */\n' "$(basename "$1")"
printf 'extern const char %s[];\nconst char %s[] =\n' "$2" "$2"
sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/^/    "/' -e 's/$/\\n"/' "$1"
printf '    "";\n'
