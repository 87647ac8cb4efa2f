#!/bin/sh
# A mkfs.erofs that reads tar archives, which erofs-utils does since 1.7. Where Debian's is
# older, that of Debian 13 with its libraries, from the mirror that the machine uses: it is
# unpacked in the cache, nothing is installed. Prints the program.
set -eu

cache=${BULKHEAD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bulkhead}/mkfs.erofs
suite=trixie

reads_tar() {
    "$1" --help 2>&1 | grep -q -e '--tar'
}

for program in mkfs.erofs "$cache/mkfs.erofs"; do
    if command -v "$program" >/dev/null && reads_tar "$program"; then
        command -v "$program"
        exit
    fi
done

uri=$("$(dirname "$0")/../host/mirror.sh") || {
    echo "mkfs: install erofs-utils 1.7 or later" >&2
    exit 1
}

mkdir -p "$cache"
work=$(mktemp -d "$cache/new.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/root"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main" \
    >"$work/sources.list"
# An apt of its own, on a machine that has nothing yet.
apt() {
    apt-get -qq -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=- \
        -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" \
        -o Dir::State::Status=/dev/null -o Debug::NoLocking=1 \
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        -o APT::Sandbox::User=root "$@"
}
echo "mkfs: unpacking erofs-utils of Debian's $suite" >&2
apt update
apt install --download-only --no-install-recommends -y erofs-utils >/dev/null
for archive in "$work"/cache/archives/*.deb; do
    dpkg-deb -x "$archive" "$work/root"
done

rm -rf "$cache/root"
mv "$work/root" "$cache/root"
# By the loader and the libraries of that release.
loader=$(find "$cache/root" -name 'ld-linux*' -type f | head -n 1)
libraries=$(find "$cache/root" -name 'lib*.so.*' -exec dirname {} + | sort -u | paste -sd: -)
program=$(find "$cache/root" -path '*bin/mkfs.erofs' | head -n 1)
printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' \
    "$loader" "$libraries" "$program" >"$work/mkfs.erofs"
chmod +x "$work/mkfs.erofs"
mv "$work/mkfs.erofs" "$cache/mkfs.erofs"
reads_tar "$cache/mkfs.erofs" || {
    echo "mkfs: what was unpacked in $cache does not run" >&2
    exit 1
}
echo "$cache/mkfs.erofs"
