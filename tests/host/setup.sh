#!/bin/sh
# Sets up a Debian 12 machine to build and test Bulkhead: packages, QEMU 10 from
# backports, a kernel for the test host, and Rust if there is none. It says what
# it does; what is there already is left alone.
#
#   setup.sh            set up
#   setup.sh --check    only say what is missing; fails if anything is
#
# Variables:
#   BULKHEAD_CACHE        instead of ~/.cache/bulkhead
#   BULKHEAD_HOST_KERNEL  the kernel package of the test host; by default the one
#                         that Debian's linux-image-amd64 stands for
set -eu

cache=${BULKHEAD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bulkhead}
check=false
[ "${1-}" != --check ] || check=true

# The guest kernel's build.
kernel_packages="linux-source-6.12 build-essential bc bison flex libelf-dev xz-utils zstd cpio kmod rsync"
# The machine that tests run in, and what they use inside it.
host_packages="busybox-static iproute2 nftables e2fsprogs erofs-utils util-linux procps curl ca-certificates"
# What the image tests compare with, and an image is made from.
image_packages="skopeo umoci python3"
# 7.2, Debian 12's own, now and then breaks the boot of a 6.12 kernel in
# software emulation.
backports_packages="qemu-system-x86"
qemu_wanted=10

minimum_rust=95 # 1.95

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing_of() {
    for package; do
        installed "$package" || printf '%s ' "$package"
    done
}

qemu_is_new() {
    version=$(qemu-system-x86_64 --version 2>/dev/null |
        sed -n 's/^QEMU emulator version \([0-9]*\)\..*/\1/p')
    [ "${version:-0}" -ge "$qemu_wanted" ]
}

updated=false
apt_update() {
    [ "$updated" = false ] || return 0
    say "refreshing the package lists"
    as_root apt-get update -qq
    updated=true
}

apt_install() {
    apt_update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o Dpkg::Use-Pty=0 "$@" >/dev/null
}

have_suite() {
    apt-cache policy 2>/dev/null | grep -q "n=$1[,[:space:]]\|n=$1\$"
}

add_suite() {
    have_suite "$1" && return
    uri=$("$(dirname "$0")/mirror.sh") || fail "add the suite $1 by hand"
    say "adding the suite $1 from $uri"
    as_root tee "/etc/apt/sources.list.d/$1.sources" >/dev/null <<SOURCES
Types: deb
URIs: $uri
Suites: $1
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
    updated=false
    apt_update
}

packages() {
    # shellcheck disable=SC2086 # lists of words
    missing=$(missing_of $kernel_packages $host_packages $image_packages)
    if [ -n "$missing" ]; then
        $check && fail "missing packages: $missing"
        apt_update
        # Some releases have the 6.12 source only among the backports.
        apt-cache show linux-source-6.12 >/dev/null 2>&1 || add_suite bookworm-backports
        say "installing $missing"
        # shellcheck disable=SC2086
        apt_install $missing
    fi
    if ! qemu_is_new; then
        $check && fail "QEMU $qemu_wanted or later is missing"
        add_suite bookworm-backports
        say "installing $backports_packages from bookworm-backports"
        apt_install -t bookworm-backports "$backports_packages"
        qemu_is_new || fail "$(qemu-system-x86_64 --version | head -n 1) is still too old; $qemu_wanted is wanted"
    fi
}

# A number in the header of a bzImage. $1: file, $2: offset, $3: size
header_field() {
    od -An -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '
}

# Decompressing itself is half of a kernel's boot in software emulation, so it is
# done once here. Fields: Linux, Documentation/arch/x86/boot.rst. $1: directory
decompress_kernel() {
    image=$1/vmlinuz
    start=$((($(header_field "$image" 497 1) + 1) * 512 + $(header_field "$image" 584 4)))
    length=$(header_field "$image" 588 4)
    payload=$1/payload
    tail -c "+$((start + 1))" "$image" | head -c "$length" >"$payload"
    case $(od -An -t x1 -N 4 "$payload" | tr -d ' ') in
    fd377a58) xz -dc --single-stream <"$payload" >"$1/vmlinux.new" 2>/dev/null || true ;;
    28b52ffd) zstd -dcq <"$payload" >"$1/vmlinux.new" 2>/dev/null || true ;;
    esac
    rm -f "$payload"
    if [ "$(head -c 4 "$1/vmlinux.new" 2>/dev/null | tail -c 3)" = ELF ]; then
        mv "$1/vmlinux.new" "$1/vmlinux"
    else
        # QEMU boots either.
        rm -f "$1/vmlinux.new"
        ln -sfn vmlinuz "$1/vmlinux"
    fi
}

# Unpacks a package without installing it. $1: package, $2: a new directory; the
# package's files are in its root/.
unpack() {
    mkdir -p "$2/root"
    (cd "$2" && apt-get download -qq "$1" 2>/dev/null) || fail "could not download $1"
    dpkg-deb -x "$2/$1"_*.deb "$2/root"
}

# The registry that pulls are tested against is unpacked, not installed: a service of
# that name has no business on this machine.
docker_registry() {
    current=$cache/docker-registry
    [ ! -x "$current/usr/bin/docker-registry" ] || return 0
    $check && fail "docker-registry is not unpacked"
    apt_update
    say "unpacking docker-registry for the tests of pulls"
    work=$cache/docker-registry.$$
    unpack docker-registry "$work"
    rm -rf "$current"
    mv "$work/root" "$current"
    rm -rf "$work"
}

# The kernel is unpacked, not installed: it never boots this machine.
host_kernel() {
    current=$cache/testhost/kernel/current
    if [ -z "${BULKHEAD_HOST_KERNEL-}" ] && [ -e "$current/vmlinux" ]; then
        return
    fi
    $check && fail "the test host's kernel is not unpacked"
    package=${BULKHEAD_HOST_KERNEL-}
    if [ -z "$package" ]; then
        package=$(apt-cache depends linux-image-amd64 2>/dev/null |
            sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    fi
    [ -n "$package" ] || fail "no package linux-image-amd64: set BULKHEAD_HOST_KERNEL"
    case $package in
    *cloud*) fail "$package has no 9p: take a generic kernel" ;;
    esac
    version=${package#linux-image-}
    dir=$cache/testhost/kernel/$version
    if [ ! -e "$dir/vmlinux" ]; then
        apt_update
        say "unpacking $package for the test host"
        work=$cache/testhost/kernel/unpack.$$
        unpack "$package" "$work"
        mkdir -p "$work/tree/lib"
        mv "$work/root/lib/modules" "$work/tree/lib/modules"
        mv "$work/root/boot/vmlinuz-$version" "$work/tree/vmlinuz"
        /sbin/depmod -b "$work/tree" "$version"
        decompress_kernel "$work/tree"
        rm -rf "$dir"
        mv "$work/tree" "$dir"
        rm -rf "$work"
    fi
    ln -sfn "$version" "$current"
}

rust_minor() {
    rustc --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p'
}

rust() {
    [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
    minor=$(rust_minor)
    if [ "${minor:-0}" -lt "$minimum_rust" ]; then
        $check && fail "Rust 1.$minimum_rust or later is missing"
        # Debian keeps a current compiler for its browsers.
        say "installing Rust from Debian (rustc-web and its tools)"
        apt_install rustc-web cargo-web rustfmt-web rust-web-clippy ||
            fail "install Rust 1.$minimum_rust or later by rustup, then run this again"
        minor=$(rust_minor)
        [ "${minor:-0}" -ge "$minimum_rust" ] ||
            fail "$(rustc --version) is too old: add the suite bookworm-security to apt's sources, or install 1.$minimum_rust or later by rustup"
    fi
}

[ "$(uname -m)" = x86_64 ] || fail "only x86-64 machines are supported"
command -v apt-get >/dev/null || fail "this script knows Debian 12 only; the lists at its head name what is needed"

packages
docker_registry
host_kernel
rust
say "ready: $(qemu-system-x86_64 --version | sed -n '1s/ (.*//p'), test host kernel $(readlink "$cache/testhost/kernel/current"), $(rustc --version)"
