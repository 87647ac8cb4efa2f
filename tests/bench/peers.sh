#!/bin/sh
# The runtimes that benchmarks run beside ours: containerd, runc, runsc and the CNI
# plugins, from Debian packages. They are unpacked in the cache, not installed: no
# service of theirs starts on this machine. Prints the directory.
#
# Of runsc the newest that there is, backports included: one without the platform
# systrap is no measure of gVisor.
set -eu

packages="containerd runc runsc containernetworking-plugins"
cache=${BULKHEAD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bulkhead}/peers

versions=
for package in $packages; do
    case $package in
    runsc) version=$(apt-cache madison runsc | sed -n '1s/^[^|]*| *\([^ |]*\).*/\1/p') ;;
    *) version=$(apt-cache policy "$package" | sed -n 's/^ *Candidate: //p') ;;
    esac
    if [ -z "$version" ] || [ "$version" = "(none)" ]; then
        echo "peers: no package $package: apt-get update, or a newer release" >&2
        exit 1
    fi
    versions="$versions $package=$version"
done
key=$(echo "$versions" | sha256sum | cut -c1-16)
dir=$cache/$key
if [ ! -e "$dir/versions" ]; then
    echo "peers: unpacking$versions" >&2
    work=$cache/new.$$
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/root"
    # shellcheck disable=SC2086 # a list of words
    (cd "$work" && apt-get download -qq $versions 2>/dev/null) || {
        echo "peers: could not download$versions" >&2
        exit 1
    }
    for archive in "$work"/*.deb; do
        dpkg-deb -x "$archive" "$work/root"
    done
    echo "$versions" >"$work/root/versions"
    rm -rf "$dir"
    mv "$work/root" "$dir"
fi
echo "$dir"
