#!/bin/sh
# Builds every fuzz target and runs each for FUZZ_SECONDS (default 10). Corpora
# stay in tests/fuzz/corpus and begin with tests/fuzz/seeds; a finding is in
# tests/fuzz/artifacts.
#
# Sanitisers need an unstable compiler flag: a nightly toolchain is used where
# there is one, else the stable one is told to allow it.
set -eu
cd "$(dirname "$0")"
seconds=${FUZZ_SECONDS:-10}

if ! command -v cargo-fuzz >/dev/null; then
    echo "fuzz: installing cargo-fuzz"
    cargo install -q --locked cargo-fuzz@0.13.2
fi
if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
    toolchain=+nightly
else
    toolchain=
    export RUSTC_BOOTSTRAP=1
fi

echo "fuzz: building"
# shellcheck disable=SC2086 # empty is no argument
cargo $toolchain fuzz build --fuzz-dir . --dev
count=0
for target in $(cargo fuzz list --fuzz-dir .); do
    echo "fuzz: $target for $seconds s"
    mkdir -p "corpus/$target"
    seeds=
    [ ! -d "seeds/$target" ] || seeds=seeds/$target
    # shellcheck disable=SC2086
    if ! cargo $toolchain fuzz run --fuzz-dir . --dev "$target" \
        "corpus/$target" $seeds -- \
        -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=20 -print_final_stats=1 \
        >"corpus/$target.log" 2>&1; then
        tail -n 40 "corpus/$target.log"
        echo "fuzz: $target found something, see above and tests/fuzz/artifacts/$target" >&2
        exit 1
    fi
    grep -h 'stat::number_of_executed_units' "corpus/$target.log" || true
    rm -f "corpus/$target.log"
    count=$((count + 1))
done
echo "fuzz: $count targets, nothing found"
