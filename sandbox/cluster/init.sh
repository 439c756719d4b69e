#!/bin/sh
# First process of a node, in new network, mount, pid, uts and ipc namespaces: builds the root filesystem, reports its
# process id (on the machine), waits for its network, and becomes the supervisor.
#
# Environment: NODE data folder, ROOT Debian root filesystem, BINARIES Kubernetes, ROUTER kube-router, SUPERVISOR Python
# packages, NAME host name, ADDRESS own address, SERVICES and PODS address ranges.
set -eu

# /proc is still the machine's at this point.
read -r pid _ < /proc/self/stat

mkdir -p "$NODE/root"
mount -t tmpfs -o mode=0755 node "$NODE/root"
cd "$NODE/root"
mkdir upper work merged
mount -t overlay -o "lowerdir=$ROOT,upperdir=$PWD/upper,workdir=$PWD/work" node merged
cd merged

bind() { # FROM TO [OPTIONS]
    mkdir -p "$1" ".$2"
    mount --bind "$1" ".$2"
    [ -z "${3:-}" ] || mount -o "remount,bind,$3" ".$2"
}
bind "$BINARIES" /opt/kubernetes ro
bind "$ROUTER" /opt/kube-router ro
bind "$SUPERVISOR" /opt/supervisor ro
bind "$NODE/etc" /etc/kubernetes ro
bind "$NODE/log" /var/log
# /var/lib/cni is not among them: no address is in use when a node starts, so it starts without leases.
for folder in etcd containerd kubelet volumes; do
    bind "$NODE/$folder" "/var/lib/$folder"
done

mount -t proc proc proc
mount -t sysfs sysfs sys
mount -o remount,bind,ro sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount -t tmpfs -o mode=0755 run run
mount -t tmpfs -o mode=0755,nosuid dev dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
for device in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9' 'tty 5 0' 'kmsg 1 11'; do
    # shellcheck disable=SC2086 # name, major, minor
    set -- $device
    mknod -m 0666 "dev/$1" c "$2" "$3"
done

# The kubelet sets six sysctls of the whole machine unless they have the wanted value: here each appears to have it.
mkdir run/sysctl
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=proc/sys/${setting%=*}
    seeming=run/sysctl/$(echo "${setting%=*}" | tr / _)
    echo "${setting#*=}" > "$seeming"
    [ ! -e "$file" ] || mount --bind "$seeming" "$file"
done

# kube-router also writes rules for pods on a bridge, which would load br_netfilter into the machine's kernel. There is
# no bridge here.
mkdir run/kube-router
cat > run/kube-router/iptables-restore <<'END'
#!/bin/sh
grep -v -e --physdev-is-bridged | exec /usr/sbin/iptables-restore "$@"
END
chmod +x run/kube-router/iptables-restore

mkdir -p machine
pivot_root . machine
umount -l /machine
rmdir /machine
mount --make-rshared /
hostname "$NAME"
echo "$NAME" > /etc/hostname
printf '127.0.0.1 localhost\n%s %s\n' "$ADDRESS" "$NAME" > /etc/hosts
: > /etc/resolv.conf

echo "$pid"
read -r _ || exit 0 # whoever starts this node is gone: nobody would give it a network
exec < /dev/null > /dev/null

ip link set lo up
ip address add "$ADDRESS/30" dev eth0
ip link set eth0 up
# There is no default route, so nothing here reaches beyond the machine. This range is for kube-proxy, which rewrites it
# to addresses of pods before a packet leaves; the kernel requires a route for it first.
ip route add "$SERVICES" dev eth0
echo 1 > /proc/sys/net/ipv4/ip_forward
# The machine has a route to the node and none to its pods: an answer to a pod would leave by its default route.
iptables -t nat -A POSTROUTING -s "$PODS" -o eth0 -j MASQUERADE

exec env -i PATH=/opt/kubernetes:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
    PYTHONPATH=/opt/supervisor PYTHONDONTWRITEBYTECODE=1 \
    python3 -m supervisor.supervisord --nodaemon --configuration /etc/kubernetes/supervisord.conf
