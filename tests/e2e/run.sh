#!/bin/sh
# Runs the whole-node tests. Those that need no virtual machine run on this machine
# itself, in namespaces of their own, where it lets us (apart.sh). The others, and these
# too where it doesn't, are shared by two test hosts if there are the processors and the
# memory for two, for a guest in an emulated machine keeps one processor busy and no
# more. No processor is shared by two of theirs: emulated ones spin while they wait for
# each other. Each line of output begins with its host's number.
#
#   run.sh TESTHOST PROGRAMS RESULTS
#
#   TESTHOST   the test host's command
#   PROGRAMS   the directory that tests/host/build.sh made
#   RESULTS    a directory that the test hosts may write to
#
# BULKHEAD_HOSTS  how many test hosts, instead of what the machine has room for
set -eu

testhost=$1 programs=$2 results=$3
claims=$results/claims
seconds=3600
# What a test host takes, with QEMU's own needs (tests/host/README.md).
host_kib=$((7 * 1024 * 1024))

room() {
    memory=$(awk -v host=$host_kib '/^MemAvailable/ { print int($2 / host) }' /proc/meminfo)
    least=$(nproc)
    [ "$memory" -ge "$least" ] || least=$memory
    [ "$least" -le 2 ] || least=2
    [ "$least" -ge 1 ] || least=1
    echo "$least"
}

# $1: number of the host. Its exit status is kept in a file: a pipe would lose it.
one_host() {
    {
        status=0
        "$testhost" run --share "$results" --env BULKHEAD_BIN_DIR="$programs" \
            --env CI --cpus "$cpus" --timeout $seconds -- \
            "$programs/bulkhead-e2e" test --share "$claims" 2>&1 || status=$?
        echo $status >"$results/status.$1"
    } | sed -u "s/^/[$1] /"
}

mkdir -p "$results"
rm -rf "$claims" "$results"/status.*
mkdir "$claims"

status=0
"$(dirname "$0")/apart.sh" "$programs/bulkhead-e2e" --bin-dir "$programs" \
    test --apart --share "$claims" 2>&1 || status=$?
[ $status != 125 ] || echo "e2e: every case runs in a test host, then"

hosts=${BULKHEAD_HOSTS:-$(room)}
cpus=$(($(nproc) / hosts))
[ "$cpus" -le 2 ] || cpus=2
[ "$cpus" -ge 1 ] || cpus=1
for host in $(seq "$hosts"); do
    one_host "$host" &
done
wait

# A test host that dies takes the case with it that it was in: such a one is run once
# more. It is the emulator that is unsure, not the case.
if grep -qx 125 "$results"/status.*; then
    echo "e2e: a test host itself died; what it had not done is run once more"
    rm -f "$results"/status.*
    for claim in "$claims"/*; do
        # What failed has failed.
        [ -e "$claim/passed" ] || [ -e "$claim/failed" ] || rmdir "$claim"
    done
    one_host again
fi

wanted=$("$programs/bulkhead-e2e" --bin-dir "$programs" list | wc -l)
passed=$(find "$claims" -name passed | wc -l)
echo "e2e: $passed of $wanted cases passed"
[ "$wanted" -gt 0 ] && [ "$passed" = "$wanted" ]
