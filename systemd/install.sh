#!/bin/sh
# install.sh install|uninstall DESTDIR PREFIX BINDIR SYSCONFDIR SKEIND: units, user, directories and, unless there is one, the sample
# configuration, which SKEIND prints. Paths go into the files here rather than when skein is built, because a package has others.
set -eu
verb=$1 dest=$2 prefix=$3 bindir=$4 sysconfdir=$5 skeind=$6
here=$(dirname "$0")
lib=$dest$prefix/lib
put() { # put TEMPLATE FILE
    mkdir -p "$(dirname "$2")"
    sed -e "s,@bindir@,$bindir,g" -e "s,@sysconfdir@,$sysconfdir,g" "$here/$1" >"$2.new"
    chmod 644 "$2.new"
    mv "$2.new" "$2"
}
case $verb in
install)
    put skeind.service.in "$lib/systemd/system/skeind.service"
    put skeind.socket "$lib/systemd/system/skeind.socket"
    put skein.sysusers.conf "$lib/sysusers.d/skein.conf"
    put skein.tmpfiles.conf.in "$lib/tmpfiles.d/skein.conf"
    conf=$dest$sysconfdir/skein/skein.conf
    if [ ! -e "$conf" ]; then
        mkdir -p "$(dirname "$conf")"
        env -u CREDENTIALS_DIRECTORY "$skeind" --print-config >"$conf.new"
        chmod 644 "$conf.new"
        mv "$conf.new" "$conf"
    fi
    ;;
uninstall) # the configuration stays if it was changed
    rm -f "$lib/systemd/system/skeind.service" "$lib/systemd/system/skeind.socket" "$lib/sysusers.d/skein.conf" "$lib/tmpfiles.d/skein.conf"
    conf=$dest$sysconfdir/skein/skein.conf
    ! env -u CREDENTIALS_DIRECTORY "$skeind" --print-config | cmp -s - "$conf" || rm -f "$conf"
    ;;
*)
    echo "install.sh: install or uninstall, not $verb" >&2
    exit 2
    ;;
esac
