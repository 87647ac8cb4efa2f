#!/bin/busybox sh
# The test host's first process, on its root: mounts, modules, devices, and the
# server that runs commands. It then stays to reap what loses its parent.
#
# Names without a path are busybox's own: it lies in memory and is linked
# statically, where each program of the root costs a tenth of a second in software
# emulation the first time.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8
cd /

fail() {
    echo "testhost: failed: $*"
    poweroff -f
}

# KERNEL_MODULES, KVM_MODULE, TESTHOST, SHARES, EMPTY, ADDRESS, PORT
. /run/testhost/parameters

mkdir -p /lib/modules
mount -o bind "$KERNEL_MODULES" /lib/modules || fail "no modules in $KERNEL_MODULES"
/sbin/modprobe -a "$KVM_MODULE" tun vhost_vsock vhost_net \
    nf_tables nft_chain_nat nft_masq nft_ct nft_reject_inet nft_compat \
    bridge br_netfilter veth dummy 8021q sch_ingress cls_matchall cls_u32 act_mirred \
    erofs loop ext4 &
modules=$!

# The root is an overlay, and an overlay cannot be the upper of another one:
# whatever holds state of ours is a tmpfs. So is what should begin empty.
mkdir -p /dev/pts /dev/shm /dev/mqueue /dev/hugepages /var/lib/bulkhead /var/log
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t mqueue mqueue /dev/mqueue
mount -t hugetlbfs hugetlbfs /dev/hugepages
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=0755 state /var/lib/bulkhead
for directory in $EMPTY; do
    mount -t tmpfs -o mode=1777 empty "$directory"
done
ln -sf pts/ptmx /dev/ptmx
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr

mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup ||
    fail "mounting cgroup2"
read -r controllers </sys/fs/cgroup/cgroup.controllers
for controller in $controllers; do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
mount -t bpf bpf /sys/fs/bpf 2>/dev/null
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null

number=0
for share in $SHARES; do
    mkdir -p "$share"
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=mmap "share$number" "$share" ||
        fail "mounting $share"
    number=$((number + 1))
done

# The link to the machine outside hides in a network name space of its own, which
# `ip netns` does not list: commands find a host with a loopback and nothing else.
control=/run/testhost/netns
ifconfig lo up
touch "$control"
unshare --net="$control" true
/sbin/ip link set eth0 netns "$control" || fail "no control network"
nsenter --net="$control" ifconfig eth0 "$ADDRESS" netmask 255.255.255.0 up

hostname testhost
ulimit -n 1048576
ulimit -l unlimited

wait "$modules" || echo "testhost: some modules did not load"
[ -c /dev/kvm ] || fail "no /dev/kvm: $KVM_MODULE found no virtualisation"
# As udev would have it.
chgrp kvm /dev/kvm /dev/vhost-vsock /dev/vhost-net 2>/dev/null &&
    chmod 0660 /dev/kvm /dev/vhost-vsock /dev/vhost-net
chmod 0666 /dev/net/tun

"$TESTHOST" serve --token-file /run/testhost/token --port "$PORT" --netns "$control" </dev/null &
# wait(1) without names reaps every child, adopted ones too, and comes back
# only when the server has ended.
wait
fail "the server ended"
