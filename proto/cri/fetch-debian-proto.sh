#!/bin/sh
# Fetches Debian's copy of the CRI protocol definition, for tests/debian.rs.
#
# usage: fetch-debian-proto.sh [DIRECTORY]     (default: ~/.cache/bulkhead/cri-api)
#
# The package golang-k8s-cri-api-dev (all architectures, 79 KB) exists only in
# Debian's newer suites. It is taken from the archive that this machine's own apt
# uses, with apt's lists and cache in a directory of their own, so the machine's
# package state is not touched and no root is needed. Prints the file's path.
# A second run with the file in place does nothing.
set -eu

package=golang-k8s-cri-api-dev
inside=usr/share/gocode/src/k8s.io/cri-api/pkg/apis/runtime/v1/api.proto
target=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/bulkhead/cri-api}

if [ -s "$target/api.proto" ]; then
    echo "$target/api.proto"
    exit 0
fi

for tool in apt-get dpkg-deb; do
    command -v "$tool" >/dev/null || {
        echo "fetch-debian-proto: $tool is missing: this needs a Debian machine." >&2
        echo "Put api.proto of $package anywhere and set CRI_API_PROTO to its path." >&2
        exit 1
    }
done

# The archive: the first Debian one that apt is configured with on this machine.
archive=$(apt-get indextargets --format '$(SITE) $(REPO_URI)' 'Created-By: Packages' |
    awk '$2 ~ /\/debian\/?$/ { print $2; exit }')
if [ -z "$archive" ]; then
    archive=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list \
        /etc/apt/sources.list.d/*.sources 2>/dev/null |
        awk '/^deb |^URIs:/ { for (i = 2; i <= NF; i++) if ($i ~ /\/debian\/?$/) { print $i; exit } }')
fi
if [ -z "$archive" ]; then
    echo "fetch-debian-proto: apt on this machine has no Debian archive configured." >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/deb" "$target"
: >"$work/status"

apt() {
    apt-get -qq \
        -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o Dir::State="$work" -o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status" \
        -o Dir::Cache="$work/cache" -o APT::Sandbox::User="$(id -un)" \
        -o Acquire::Languages=none -o APT::Default-Release= \
        "$@"
}

for suite in forky sid; do
    echo "fetch-debian-proto: looking for $package in $suite of $archive" >&2
    echo "deb $archive $suite main" >"$work/sources.list"
    if apt update && (cd "$work/deb" && apt download "$package"); then
        dpkg-deb --fsys-tarfile "$work"/deb/*.deb | tar -xO "./$inside" >"$target/api.proto.new"
        mv "$target/api.proto.new" "$target/api.proto"
        echo "$target/api.proto"
        exit 0
    fi
done
echo "fetch-debian-proto: $package could not be had from $archive; see the messages above." >&2
echo "Put its api.proto anywhere and set CRI_API_PROTO to its path." >&2
exit 1
