#!/bin/busybox sh
# The test host's first process, in the initramfs: loads what the root file
# system needs, lays a writable overlay over the machine's own root, and goes on
# there with start.sh.

bb() { /bin/busybox "$@"; }

fail() {
    echo "testhost: failed: $*"
    bb poweroff -f
}

bb mount -t proc proc /proc || fail "mounting /proc"
bb mount -t sysfs sysfs /sys || fail "mounting /sys"
bb mount -t devtmpfs dev /dev || fail "mounting /dev"

while read -r module; do
    bb insmod "/modules/$module" || fail "loading $module"
done </modules/order

# The upper directory cannot be on an overlay itself, so it is in memory.
bb mount -t tmpfs -o mode=0755 upper /upper || fail "mounting a tmpfs"
bb mkdir /upper/data /upper/work

# `loose` caches what was once read: the machine's files are not expected to
# change while a command runs. `testhost serve` drops the cache between commands.
bb mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,ro,cache=loose root /lower ||
    fail "mounting the machine's root"
bb mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work root /root ||
    fail "mounting the overlay"

bb mount --move /dev /root/dev || fail "moving /dev"
bb mount --move /proc /root/proc || fail "moving /proc"
bb mount --move /sys /root/sys || fail "moving /sys"
bb mount -t tmpfs -o mode=0755 run /root/run || fail "mounting /run"
bb mkdir -m 0700 /root/run/testhost
bb cp /start.sh /parameters /token /bin/busybox /root/run/testhost/

exec /bin/busybox switch_root /root /run/testhost/busybox sh /run/testhost/start.sh
