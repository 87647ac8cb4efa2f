#!/bin/sh
# Builds every program and puts them side by side, as the tests expect them:
#
#   DIRECTORY/bulkhead          daemon and command line   profile release
#   DIRECTORY/bulkhead-vmm      static                    profile vmm
#   DIRECTORY/bulkhead-agent    static                    profile agent
#   DIRECTORY/bulkhead-e2e      whole-node tests          profile dev
#   DIRECTORY/bulkhead-bench    benchmarks                profile dev
#   DIRECTORY/bulkhead-standin  VMM and agent without VM  profile dev
#   DIRECTORY/bulkhead-testbox  static, for test images   profile agent
#   DIRECTORY/suites/           tests of crates that      profile dev
#                               need the test host
#   DIRECTORY/vmlinux           link to the guest kernel
#
# DIRECTORY is printed; it is `programs` in cargo's target directory.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
target=${CARGO_TARGET_DIR:-$root/target}
programs=$target/programs

say() { echo "build: $*" >&2; }

musl=x86_64-unknown-linux-musl
have_musl() { [ -e "$(rustc --print target-libdir --target $musl)" ]; }

# Static programs want musl. Where its standard library is neither installed nor
# to be had, glibc linked statically does as well.
if ! have_musl && command -v rustup >/dev/null; then
    say "adding the Rust target $musl"
    timeout 120 rustup -q target add $musl >/dev/null 2>&1 || true
fi
if have_musl; then
    static=$musl
    static_flags=
else
    static=x86_64-unknown-linux-gnu
    static_flags="-C target-feature=+crt-static"
    say "no standard library for $musl: linking glibc statically"
fi

# $1: package, $2: profile, $3: flags of its own
build_static() {
    say "$1 ($static, profile $2)"
    RUSTFLAGS="${RUSTFLAGS-} $static_flags ${3-}" \
        cargo build --locked -q -p "$1" --profile "$2" --target "$static" >&2
    install -m 0755 "$target/$static/$2/$1" "$programs/$1"
}

# $1: package, $2: a file of its tests/; the executable is suites/$1
suite() {
    say "suites/$1 (its test \"$2\", profile dev)"
    # Cargo says where it put it; examples are what some tests start.
    cargo build --locked -q -p "$1" --examples >&2
    built=$(cargo test --locked -q -p "$1" --test "$2" --no-run --message-format=json |
        sed -n 's/.*"kind":\["test"\].*"executable":"\([^"]*\)".*/\1/p')
    # A link: the test finds what was built with it beside itself.
    ln -sfn "$built" "$programs/suites/$1"
}

# Read as a whole: the script may be edited while it runs.
{
    mkdir -p "$programs/suites"
    say "bulkhead (profile release)"
    cargo build --locked -q -p bulkhead --release >&2
    install -m 0755 "$target/release/bulkhead" "$programs/bulkhead"
    build_static bulkhead-vmm vmm
    # Nothing unwinds in a program that aborts at a panic; the tables for it would be a
    # tenth of a binary that every pod keeps in memory.
    build_static bulkhead-agent agent "-C force-unwind-tables=no"
    build_static bulkhead-testbox agent
    say "bulkhead-e2e, bulkhead-bench, bulkhead-standin (profile dev)"
    cargo build --locked -q -p bulkhead-e2e -p bulkhead-bench -p bulkhead-standin >&2
    for program in bulkhead-e2e bulkhead-bench bulkhead-standin; do
        install -m 0755 "$target/debug/$program" "$programs/"
    done
    suite bulkhead-agent containers
    suite bulkhead-vmm vcpu
    ln -sfn "$("$root/guest-kernel/build.sh" --print-path)" "$programs/vmlinux"

    echo "$programs"
    exit
}
