#!/bin/sh
# build.sh STAGE VERSION OUT: makes a Debian package in the folder OUT of STAGE, into which skein was installed (prefix /usr, configuration
# in /etc). Needs dpkg-deb and binutils; STAGE becomes the package's tree.
set -eu
stage=$1 version=$2 out=$3
here=$(dirname "$0")
arch=$(dpkg --print-architecture)
doc=$stage/usr/share/doc/skein

# The packages of the shared libraries that the programs name, each at least as new as the one that they were built with.
library_packages() {
    for program in "$stage"/usr/bin/*; do
        wanted=$(objdump -p "$program" | awk '$1 == "NEEDED" { print $2 }')
        for name in $wanted; do
            path=$(ldd "$program" | awk -v name="$name" '$1 == name { print $3 }')
            [ -n "$path" ] || continue # the loader itself
            real=$(readlink -f "$path")
            owner=$({ dpkg-query -S "$path" || dpkg-query -S "$real" || dpkg-query -S "${real#/usr}"; } 2>/dev/null | sed -n '1s/: .*//p')
            [ -n "$owner" ] || { echo "build.sh: no package has $path" >&2; exit 1; }
            dpkg-query -W -f '${Package} ${Version}\n' "$owner" | sed -e 's/^\([^ ]*\) \(.*\)$/\1 (>= \2/' -e 's/-[^-]*$//' -e 's/$/)/'
        done
    done | sort -u | paste -s -d, | sed 's/,/, /g'
}

strip --strip-unneeded "$stage"/usr/bin/*
mkdir -p "$doc" "$stage/DEBIAN"
cat >"$doc/copyright" <<EOF
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: skein

Files: *
Copyright: the skein authors
License: Apache-2.0
 The text of the Apache License, version 2.0, is in /usr/share/common-licenses/Apache-2.0.
EOF
rm -f "$doc/LICENSE"
find "$stage/usr/share/man" -type f ! -name '*.gz' -exec gzip -9n {} + 2>/dev/null || :
find "$stage" -type d -exec chmod 755 {} +

libraries=$(library_packages)
cat >"$stage/DEBIAN/control" <<EOF
Package: skein
Version: $version-1
Architecture: $arch
Maintainer: ${DEBFULLNAME:-skein} <${DEBEMAIL:-skein@localhost}>
Section: net
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$stage" | cut -f 1)
Depends: $libraries, python3, python3-jinja2, systemd | systemd-standalone-sysusers
Recommends: openmpi-bin
Description: server for language models with the API of OpenAI
 skeind serves a model from a GGUF file or a Hugging Face directory over HTTP:
 in-flight batching over a paged KV cache, prefix cache, API keys, metrics,
 and requests that survive a crash of the engine.
EOF
echo /etc/skein/skein.conf >"$stage/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    cp "$here/$script" "$stage/DEBIAN/$script"
    chmod 755 "$stage/DEBIAN/$script"
done
(cd "$stage" && find . -path ./DEBIAN -prune -o -type f ! -path ./etc/skein/skein.conf -printf '%P\n' | LC_ALL=C sort | xargs md5sum) >"$stage/DEBIAN/md5sums"
chmod 644 "$stage/DEBIAN/control" "$stage/DEBIAN/conffiles" "$stage/DEBIAN/md5sums"
mkdir -p "$out"
dpkg-deb --root-owner-group --build "$stage" "$out/skein_$version-1_$arch.deb"
