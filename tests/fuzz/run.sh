#!/bin/sh
# Builds every fuzz target and runs each for FUZZ_SECONDS (default 5), one on each
# processor at a time. Corpora stay in tests/fuzz/corpus and begin with
# tests/fuzz/seeds; a finding is in tests/fuzz/artifacts.
#
# Sanitisers need an unstable compiler flag: a nightly toolchain is used where
# there is one, else the stable one is told to allow it.
set -eu
cd "$(dirname "$0")"
export FUZZ_SECONDS="${FUZZ_SECONDS:-5}"

if ! command -v cargo-fuzz >/dev/null; then
    echo "fuzz: installing cargo-fuzz"
    cargo install -q --locked cargo-fuzz@0.13.2
fi
if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
    export FUZZ_TOOLCHAIN=+nightly
else
    export FUZZ_TOOLCHAIN=
    export RUSTC_BOOTSTRAP=1
fi
# Apart from the other builds: the sanitiser is in every dependency.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/fuzz"

echo "fuzz: building"
# shellcheck disable=SC2086 # empty is no argument
cargo $FUZZ_TOOLCHAIN fuzz build --fuzz-dir . --dev
PROGRAMS=$CARGO_TARGET_DIR/$(rustc -vV | sed -n 's/^host: //p')/debug
export PROGRAMS

# shellcheck disable=SC2016 # for the inner shell
run='
target=$1
mkdir -p "corpus/$target"
seeds=
[ ! -d "seeds/$target" ] || seeds=seeds/$target
log=corpus/$target.log
mkdir -p "artifacts/$target"
# As `cargo fuzz run` does it, which would ask cargo once more for each of them.
if ! ASAN_OPTIONS=detect_odr_violation=0 "$PROGRAMS/$target" "corpus/$target" $seeds \
    -artifact_prefix="artifacts/$target/" -max_total_time="$FUZZ_SECONDS" \
    -rss_limit_mb=2048 -timeout=20 -print_final_stats=1 >"$log" 2>&1; then
    tail -n 40 "$log"
    echo "fuzz: $target found something, see above and tests/fuzz/artifacts/$target" >&2
    exit 1
fi
units=$(sed -n "s/^stat::number_of_executed_units: *//p" "$log")
# One that ran nothing has shown nothing.
[ "${units:-0}" -gt 0 ] || { echo "fuzz: $target ran no input; see $log" >&2; exit 1; }
echo "fuzz: $target: $units inputs in $FUZZ_SECONDS s"
rm -f "$log"
'
targets=$(cargo fuzz list --fuzz-dir .)
echo "$targets" | xargs -P "$(nproc)" -n 1 sh -c "$run" fuzz
echo "fuzz: $(echo "$targets" | wc -l) targets, nothing found"
