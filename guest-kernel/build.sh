#!/bin/sh
# Builds the guest kernel: Linux 6.12 from a source tarball, configured by the
# fragments in config/ on top of allnoconfig, into an uncompressed vmlinux.
#
#   build.sh               build, or do nothing if it is built already
#   build.sh --print-path  print where the vmlinux is; fails if it is not built
#   build.sh --check       only configure, and check that no option was lost
#
# The result is cached by the content of its inputs (tarball, fragments, compiler
# and the recipe's number below) in ~/.cache/bulkhead/kernel/<hash>/: vmlinux, config and
# System.map. The link ~/.cache/bulkhead/kernel/current names the last one.
#
# Variables:
#   BULKHEAD_KERNEL_SOURCE  a linux-6.12 tarball to use instead of Debian's
#                           /usr/src/linux-source-6.12.tar.xz
#   BULKHEAD_CACHE          instead of ~/.cache/bulkhead
#   JOBS                    compile jobs; as many as processors by default
set -eu

# To be raised when this script makes another kernel of the same inputs.
recipe=1

here=$(cd "$(dirname "$0")" && pwd)
cache=${BULKHEAD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bulkhead}/kernel
tarball=${BULKHEAD_KERNEL_SOURCE:-/usr/src/linux-source-6.12.tar.xz}
jobs=${JOBS:-$(nproc)}

say() { echo "guest-kernel: $*" >&2; }
fail() { say "$@"; exit 1; }

# The tarball is large: its digest is remembered by name, size and time.
tarball_digest() {
    stamp=$(stat -L -c '%n %s %Y' "$tarball")
    memo=$cache/tarball.sha256
    if [ -r "$memo" ] && [ "$(sed -n 1p "$memo")" = "$stamp" ]; then
        sed -n 2p "$memo"
        return
    fi
    digest=$(sha256sum <"$tarball" | cut -d' ' -f1)
    mkdir -p "$cache"
    printf '%s\n%s\n' "$stamp" "$digest" >"$memo.$$"
    mv "$memo.$$" "$memo"
    echo "$digest"
}

inputs_digest() {
    {
        tarball_digest
        echo "$recipe"
        gcc -dumpfullversion -dumpversion
        cat "$here"/config/*.config
    } | sha256sum | cut -c1-24
}

# Kconfig drops an option whose dependencies are not met without a word, and
# adds one that another selects: compare what was asked with what came out.
# $1: the resulting .config
check_config() {
    wrong=$(cat "$here"/config/*.config | while IFS= read -r line; do
        case $line in
        'CONFIG_'*)
            grep -qxF -- "$line" "$1" || echo "  lost: $line"
            ;;
        '# CONFIG_'*' is not set')
            name=${line#\# }
            name=${name%% *}
            ! grep "^$name=" "$1" | sed 's/^/  must be absent: /' | grep . || true
            ;;
        esac
    done)
    [ -z "$wrong" ] || fail "kconfig did not keep the configuration:
$wrong"
}

# $1: source tree, $2: build directory
configure() {
    mkdir -p "$2"
    cat "$here"/config/*.config >"$2/fragments.config"
    make -s -C "$1" O="$2" KCONFIG_ALLCONFIG="$2/fragments.config" allnoconfig >/dev/null
    check_config "$2/.config"
}

unpack() {
    say "unpacking $(basename "$tarball")"
    mkdir -p "$work/source"
    tar -xf "$tarball" -C "$work/source" --strip-components=1
    version=$(make -s -C "$work/source" kernelversion)
    case $version in
    6.12*) ;;
    *) fail "$tarball holds Linux $version; the fragments are for 6.12" ;;
    esac
}

# Fixed names and dates: the same inputs give the same bytes.
build() {
    KBUILD_BUILD_USER=bulkhead KBUILD_BUILD_HOST=bulkhead KBUILD_BUILD_VERSION=1 \
        KBUILD_BUILD_TIMESTAMP="$(date -u -d "@$(stat -c %Y "$work/source/Makefile")")" \
        make -C "$work/source" O="$work/build" -j"$jobs" vmlinux >"$work/build.log" 2>&1 || {
        tail -n 30 "$work/build.log" >&2
        cp "$work/build.log" "$cache/failed.log"
        fail "the build failed; the whole log is $cache/failed.log"
    }
    mkdir -p "$work/out"
    strip -o "$work/out/vmlinux" "$work/build/vmlinux"
    cp "$work/build/.config" "$work/out/config"
    cp "$work/build/System.map" "$work/out/System.map"
    rm -rf "$result"
    mv "$work/out" "$result"
}

# A function is read as a whole: the script may be edited while it runs.
main() {
    mode=build
    case ${1-} in
    '') ;;
    --print-path) mode=print ;;
    --check) mode=check ;;
    -h | --help)
        sed -n '2,/^set -eu/{/^#/s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    *) fail "unknown option $1; see $0 --help" ;;
    esac

    [ -r "$tarball" ] || fail "no kernel source at $tarball: run 'make setup', or set BULKHEAD_KERNEL_SOURCE"
    result=$cache/$(inputs_digest)

    if [ "$mode" = print ]; then
        [ -e "$result/vmlinux" ] || fail "not built yet: run 'make kernel'"
        echo "$result/vmlinux"
        exit 0
    fi

    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock -n 9 || {
        say "another build is running; waiting for it"
        flock 9
    }
    if [ "$mode" = build ] && [ -e "$result/vmlinux" ]; then
        ln -sfn "$(basename "$result")" "$cache/current"
        say "up to date: $result/vmlinux"
        exit 0
    fi

    # The lock is ours: what lies there is of builds that were killed.
    rm -rf "$cache"/work.*
    work=$(mktemp -d "$cache/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM HUP

    started=$(date +%s)
    unpack
    configure "$work/source" "$work/build"
    say "Linux $version, $(grep -c '=y$' "$work/build/.config") options on"
    if [ "$mode" = check ]; then
        exit 0
    fi
    say "building with $jobs jobs; this takes 7 to 10 minutes on two processors"
    build
    ln -sfn "$(basename "$result")" "$cache/current"
    say "built in $(($(date +%s) - started)) s: $result/vmlinux ($(stat -c %s "$result/vmlinux") bytes)"
}

main "$@"
exit
