# Runs in a privileged pod: puts the kubelet on the node and starts it there, in the node's own namespaces and outside of every pod.
set -eu
cp /kubelet /bin/busybox /node/
for name in cat mkdir mount sh sleep umount; do ln -sf busybox "/node/$name"; done
printf %s "$CA" >/node/ca.crt
printf %s "$BOOTSTRAP" >/node/bootstrap.json
printf %s "$CONFIG" >/node/config.json
printf %s "$SERVE" >/node/serve
# By its path: busybox takes its own for a name.
setsid /usr/bin/nsenter -t 1 -m -u -i -n -C "$HOME_ON_NODE/sh" "$HOME_ON_NODE/serve" </dev/null &
# What is still in the pod's cgroup when the pod ends, ends with it.
for _ in $(seq 600); do
	if grep -q . /proc/1/root/sys/fs/cgroup/system/kubelet/cgroup.procs 2>/dev/null; then
		exit 0
	fi
	sleep 0.1
done
echo "the kubelet has not been started on the node within a minute"
exit 1
