# Runs on the node, as a service manager would run the kubelet. Its log goes to the console.
export PATH="$HOME_ON_NODE:/usr/sbin:/usr/bin"
mkdir -p /sys/fs/cgroup/system/kubelet
echo 0 >/sys/fs/cgroup/system/kubelet/cgroup.procs
exec >/dev/console 2>&1
# Two agents on one runtime would end each other's pods.
while [ -n "$(cat /sys/fs/cgroup/system/agent/cgroup.procs)" ]; do
	echo "stock kubelet: waits for the node's agent to stop"
	sleep 5
done
while :; do
	kubelet --config "$HOME_ON_NODE/config.json" --bootstrap-kubeconfig "$HOME_ON_NODE/bootstrap.json" \
		--kubeconfig "$HOME_ON_NODE/kubeconfig" --node-ip "$NODE_IP" --v 2
	echo "stock kubelet: ended with $?"
	sleep 2
done
