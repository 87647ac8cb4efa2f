#!/bin/sh
# Runs a command apart from the rest of this machine: in mount, network, process, IPC,
# host name and cgroup v2 namespaces of its own, with an empty /run and /var/lib. For
# whole-node tests without virtual machines: at the machine's own speed, and without a
# trace on it.
#
#   apart.sh COMMAND…
#
# Exit status: the command's; 125 if this machine can't do that (root is needed, a
# cgroup v2 hierarchy, and a kernel with erofs, overlayfs and loop devices).
set -eu

can_not() { echo "apart: $*" >&2; exit 125; }

[ "$(id -u)" = 0 ] || can_not "only root may make namespaces"
for path in "$@"; do
    case $path in
    /run/* | /var/lib/*) can_not "$path would not be seen: /run and /var/lib are empty in there" ;;
    esac
done
hierarchy=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[ -n "$hierarchy" ] || can_not "no cgroup v2 hierarchy is mounted"
# Host pods mount layers.
for filesystem in erofs overlay; do
    grep -qw "$filesystem" /proc/filesystems || modprobe -q "$filesystem" ||
        can_not "this kernel has no $filesystem"
done
[ -e /dev/loop-control ] || modprobe -q loop || can_not "this kernel has no loop devices"
group=$hierarchy/bulkhead-apart-$$
mkdir "$group" 2>/dev/null || can_not "no control group can be made in $hierarchy"
# What the namespaces held ends with their first process.
trap 'find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# shellcheck disable=SC2016 # for the inner shell
inner='
set -eu
# A sysfs of before shows the interfaces of the network namespace that it was mounted in.
umount -R /sys/fs/cgroup
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# Groups with processes in them may have no controllers for those beneath.
mkdir -p /sys/fs/cgroup/self
echo $$ >/sys/fs/cgroup/self/cgroup.procs
mount -t tmpfs -o mode=0755 run /run
mount -t tmpfs -o mode=0755 state /var/lib
ip link set lo up
'
in_namespaces() {
    sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" \
        unshare --mount --net --pid --ipc --uts --cgroup --fork --kill-child \
        --propagation private --mount-proc "$@"
}
in_namespaces sh -c "$inner" 2>/dev/null || can_not "namespaces with their own cgroup v2 can't be made here"

status=0
# Tells the cases that they run at the machine's own speed.
export BULKHEAD_APART=1
in_namespaces sh -c "$inner"'exec "$@"' sh "$@" || status=$?
exit $status
