#!/bin/sh
# The shell of the images that critest pulls: that of Debian's package busybox, which runs
# the programs that it finds, where that of busybox-static runs its own whatever is at
# /bin/ls. The two packages exclude each other, so it is unpacked in the cache and not
# installed. Prints the program.
set -eu

cache=${BULKHEAD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bulkhead}/busybox
version=$(apt-cache policy busybox | sed -n 's/^ *Candidate: //p')
if [ -z "$version" ] || [ "$version" = "(none)" ]; then
    echo "conformance: no package busybox: apt-get update" >&2
    exit 1
fi
dir=$cache/$(echo "$version" | tr -c '0-9A-Za-z.+\n-' _)
if [ ! -x "$dir/bin/busybox" ] && [ ! -x "$dir/usr/bin/busybox" ]; then
    echo "conformance: unpacking busybox $version" >&2
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/new.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    (cd "$work" && apt-get download -qq "busybox=$version" 2>/dev/null) || {
        echo "conformance: could not download busybox $version" >&2
        exit 1
    }
    dpkg-deb -x "$work"/*.deb "$work/root"
    rm -rf "$dir"
    mv "$work/root" "$dir"
fi
for program in "$dir/bin/busybox" "$dir/usr/bin/busybox"; do
    if [ -x "$program" ]; then
        echo "$program"
        exit
    fi
done
echo "conformance: no busybox in $dir" >&2
exit 1
