//! Where things lie on a node. Paths that other software mounts or reads keep Kubernetes' conventional places.

/// Our executables in the root image; all static.
pub const BIN: &str = "/usr/lib/pintle";
/// The images shipped in the root image: `index.json` ([`crate::bundle`]) beside `layers/<diff id>/` and `configs/<digest>.json`.
pub const BUNDLE: &str = "/usr/lib/pintle/bundle";

/// Run-time state of init and its services: a tmpfs of its own, of bounded size, mode 0755; files in it are their owner's only, except the
/// socket and `etc/`, which every process reads.
pub const RUN: &str = "/run/pintle";
/// init's request socket (mode 0666; who is no service, by process, user and cgroup, is turned away).
pub const MACHINE_SOCKET: &str = "/run/pintle/machine.sock";
/// The validated, active machine config as YAML documents (mode 0600, root). Written before services start, replaced atomically.
pub const ACTIVE_CONFIG: &str = "/run/pintle/config.yaml";
/// The merged network as JSON ([`crate::network::NodeNetwork`]); replaced atomically at each change (mode 0600, root; watch the folder with inotify).
pub const NETWORK_STATUS: &str = "/run/pintle/network.json";
/// There once the API server of this node has answered since boot: from then on controller manager and scheduler run.
pub const API_SERVER_ANSWERED: &str = "/run/pintle/api-server-answered";
/// What the api process may read of the machine CA and its serving certificate (mode 0750, group of [`API_UID`]).
pub const API_PKI: &str = "/run/pintle/api";

/// Names of files in [`API_PKI`].
pub mod api_pki {
    /// The machine CA's certificate, which client certificates are checked against.
    pub const CA: &str = "ca.crt";
    /// Written last: whoever sees a new one finds the other files new too.
    pub const CERTIFICATE: &str = "server.crt";
    pub const KEY: &str = "server.key";
    /// What other machines show to have their certificates signed here; there on control-plane machines only.
    pub const JOIN_TOKEN: &str = "join.token";
}

/// The cgroups of init and of the services; pods are elsewhere.
pub const NODE_CGROUPS: [&str; 3] = ["/init", "/system", "/runtime"];

/// The CRI v1 gRPC socket of the runtime (root only).
pub const CRI_SOCKET: &str = "/run/pintle/runtime/cri.sock";
/// Where exec, attach and port-forward streams are served (HTTP/1.1 upgrade over a unix socket, root only).
pub const STREAM_SOCKET: &str = "/run/pintle/runtime/stream.sock";
/// Image import: write one OCI-layout or docker archive, shut down the write side, read one JSON line
/// `{"names":[..]}` or `{"error":".."}` (root only; handed out by init).
pub const IMPORT_SOCKET: &str = "/run/pintle/runtime/import.sock";
/// Volatile state of the runtime: pinned namespaces, bundles, mounts.
pub const RUNTIME_RUN: &str = "/run/pintle/runtime";
/// Images, snapshots and metadata of the runtime.
pub const RUNTIME_STATE: &str = "/var/lib/pintle/runtime";

/// The state partition's mount point.
pub const STATE: &str = "/var";
/// Persistent data of init: machine config, host key, network leases, random seed.
pub const INIT_STATE: &str = "/var/lib/pintle/init";
/// The machine config that survives reboots.
pub const STATE_CONFIG: &str = "/var/lib/pintle/init/config.yaml";
/// Logs of services: `<service>.log`, rotated to `<service>.log.1` ….
pub const SERVICE_LOGS: &str = "/var/log/pintle";
/// The D-Bus system bus address that login1 answers on.
pub const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";

/// Agent state, in the kubelet's conventional place.
pub const KUBELET: &str = "/var/lib/kubelet";
/// Network configurations of CNI; /etc/cni is a bind mount of /var/etc/cni.
pub const CNI_CONFIG: &str = "/etc/cni/net.d";
/// CNI plugins, which a network's DaemonSet installs; /opt is a bind mount of /var/opt.
pub const CNI_PLUGINS: &str = "/opt/cni/bin";
/// Pod log directories.
pub const POD_LOGS: &str = "/var/log/pods";
/// Symlinks to container logs.
pub const CONTAINER_LOGS: &str = "/var/log/containers";
/// Static pod manifests; /etc/kubernetes is a bind mount of /var/etc/kubernetes.
pub const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// Control-plane certificates.
pub const KUBERNETES_PKI: &str = "/etc/kubernetes/pki";
/// The administrator's kubeconfig, on control-plane nodes.
pub const ADMIN_KUBECONFIG: &str = "/etc/kubernetes/admin.conf";
/// etcd's data.
pub const ETCD_DATA: &str = "/var/lib/etcd";

/// TCP port of the machine API.
pub const API_PORT: u16 = 50000;
/// TCP port of control-plane nodes on which other machines have their serving certificate signed.
pub const JOIN_PORT: u16 = 50001;
/// uid and gid of pintle-api. Above what a pod's runAsUser or an image's USER can say (31 bits) and above pods' user namespaces.
pub const API_UID: u32 = (1 << 31) + 100;
/// uid and gid of pintle-net.
pub const NET_UID: u32 = (1 << 31) + 101;

/// The image that holds etcd, the control plane, kube-proxy, CoreDNS and kubectl: one binary, told apart by argv[0].
pub const KUBERNETES_IMAGE: &str = "pintle.dev/kubernetes:v1.37.2";
/// The Kubernetes version of that image.
pub const KUBERNETES_VERSION: &str = "v1.37.2";

/// File-system label of a volume that carries machine config (`config.yaml`, or cloud-init's `user-data` on `cidata`).
pub const CONFIG_VOLUME_LABELS: [&str; 2] = ["PINTLE-CONFIG", "cidata"];
/// The fw_cfg item that carries machine config.
pub const FW_CFG_CONFIG: &str = "opt/pintle.dev/config";
/// GPT partition name of the state partition.
pub const STATE_PARTITION: &str = "PINTLE-STATE";

/// Kernel command line: verity root hash (hex).
pub const CMDLINE_ROOT_HASH: &str = "pintle.root.hash";
/// Kernel command line: UUID in the root's EROFS superblock; every block device, ISO file `/pintle/root.img` and the initramfs file
/// `/root.img` is searched for it.
pub const CMDLINE_ROOT_UUID: &str = "pintle.root.uuid";
/// Kernel command line: size in bytes of the EROFS data; the verity superblock and tree follow at this offset.
pub const CMDLINE_ROOT_SIZE: &str = "pintle.root.size";
/// Kernel command line: where to fetch the machine config.
pub const CMDLINE_CONFIG: &str = "pintle.config";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pod_can_be_given_the_user_of_a_service() {
        // What the API server takes as runAsUser, and images as USER, ends with 31 bits; pods' user namespaces end before that.
        for uid in [API_UID, NET_UID] {
            assert!(uid > i32::MAX as u32 && uid < u32::MAX - 1, "{uid}");
        }
        assert_ne!(API_UID, NET_UID);
    }
}
