//! One pass from input to files.
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::time::SystemTime;

use anyhow::{Context, Result};
use base64::Engine;

use crate::certificates::{self, Wanted};
use crate::input::Input;
use crate::layout::{self, Layout};
use crate::membership::InitialCluster;
use crate::{kubeconfig, pods};
use node_kit::files::{Durability, replace_changed};

/// Makes the files say what the input says; returns the paths that were written or removed. While the API server has not answered
/// since boot, there is no manifest of a pod that only ends without it ([`pods::needs_api_server`]).
///
/// # Errors
/// When a certificate cannot be issued or a file not be written; what was written before stays.
pub fn reconcile(
    layout: &Layout,
    input: &Input,
    now: SystemTime,
    api_server_answered: bool,
) -> Result<Vec<String>> {
    let mut writer = Writer { layout, changed: Vec::new() };
    authorities(&mut writer, input)?;
    kubelet_authority(&mut writer, input, now)?;
    for wanted in certificates::wanted(input) {
        certificate(&mut writer, input, &wanted, now)?;
    }
    for wanted in certificates::wanted_kubeconfigs() {
        client_config(&mut writer, input, &wanted, now)?;
    }
    // etcd warns at each start about a data folder that others may read.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(layout.at(machine::paths::ETCD_DATA))
        .context("make etcd's data folder")?;
    let members = InitialCluster::single(&input.node_name, &pods::etcd_peer_url(input));
    let stamp = |name: &str| digest(&fs::read(layout.at(&layout::kubeconfig(name))).unwrap_or_default());
    for (name, manifest) in pods::render(input, &members, stamp)? {
        if api_server_answered || !pods::needs_api_server(name) {
            writer.write(layout::manifest(name), manifest.as_bytes(), 0o600)?;
        } else {
            writer.remove(layout::manifest(name))?;
        }
    }
    Ok(writer.changed)
}

struct Writer<'a> {
    layout: &'a Layout,
    changed: Vec<String>,
}

impl Writer<'_> {
    fn write(&mut self, path: String, content: &[u8], mode: u32) -> Result<()> {
        if replace_changed(&self.layout.at(&path), content, mode, Durability::PowerCut)? {
            self.changed.push(path);
        }
        Ok(())
    }

    fn remove(&mut self, path: String) -> Result<()> {
        match fs::remove_file(self.layout.at(&path)) {
            Ok(()) => self.changed.push(path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("remove {path}")),
        }
        Ok(())
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.layout.at(path)).ok()
    }
}

fn authorities(writer: &mut Writer<'_>, input: &Input) -> Result<()> {
    let secrets = &input.secrets;
    for (name, ca) in [
        ("ca", &input.cluster.ca),
        ("etcd/ca", &secrets.etcd_ca),
        ("front-proxy-ca", &secrets.front_proxy_ca),
    ] {
        let key = ca.key.as_deref().with_context(|| {
            format!(
                "the CA {name} has no key in the machine config; take it from the file of `pintle gen config`"
            )
        })?;
        writer.write(layout::pki(&format!("{name}.key")), key.as_bytes(), 0o600)?;
        writer.write(layout::pki(&format!("{name}.crt")), ca.certificate.as_bytes(), 0o644)?;
    }
    writer.write(layout::pki("sa.key"), secrets.service_account.private.as_bytes(), 0o600)?;
    writer.write(layout::pki("sa.pub"), secrets.service_account.public.as_bytes(), 0o644)
}

/// The authority of kubelets' serving certificates: the config's, or one that this machine makes once and keeps. The bundle beside it is what the API server
/// takes kubelets by: certificates of before there was this authority are the cluster CA's and hold until they are renewed.
fn kubelet_authority(writer: &mut Writer<'_>, input: &Input, now: SystemTime) -> Result<()> {
    let name = "kubelet-serving-ca";
    let (crt, key) = (layout::pki(&format!("{name}.crt")), layout::pki(&format!("{name}.key")));
    let kept = || {
        let (certificate, key) = (writer.read(&crt)?, writer.read(&key)?);
        let whole = machine::pki::is_key_of(&key, &certificate);
        whole.then_some(machine::config::CertificateAuthority { certificate, key: Some(key) })
    };
    let ca = match input.secrets.kubelet_serving_ca.clone().or_else(kept) {
        Some(ca) => ca,
        None => {
            machine::pki::new_ca(name, now).context("make the authority of kubelets' serving certificates")?
        }
    };
    let secret = ca.key.as_deref().with_context(|| {
        format!(
            "the CA {name} has no key in the machine config; take it from the file of `pintle gen config`"
        )
    })?;
    writer.write(key, secret.as_bytes(), 0o600)?;
    writer.write(crt, ca.certificate.as_bytes(), 0o644)?;
    let bundle = format!("{}\n{}\n", ca.certificate.trim_end(), input.cluster.ca.certificate.trim_end());
    writer.write(layout::pki("kubelet-ca-bundle.crt"), bundle.as_bytes(), 0o644)
}

/// The certificate is written last: a pass that is cut off between the two finds a key that does not fit and issues again.
fn certificate(writer: &mut Writer<'_>, input: &Input, wanted: &Wanted, now: SystemTime) -> Result<()> {
    let (crt, key) =
        (layout::pki(&format!("{}.crt", wanted.name)), layout::pki(&format!("{}.key", wanted.name)));
    let ca = certificates::authority(input, wanted.signer);
    if let (Some(certificate), Some(key)) = (writer.read(&crt), writer.read(&key))
        && certificates::may_stay(&certificate, &wanted.leaf, ca, now)
        && machine::pki::is_key_of(&key, &certificate)
    {
        return Ok(());
    }
    let issued = certificates::issue(input, wanted, now)?;
    writer.write(key, issued.key.as_bytes(), 0o600)?;
    writer.write(crt, issued.certificate.as_bytes(), 0o644)
}

fn client_config(writer: &mut Writer<'_>, input: &Input, wanted: &Wanted, now: SystemTime) -> Result<()> {
    let path = layout::kubeconfig(wanted.name);
    let kept = writer.read(&path).as_deref().and_then(kubeconfig::client_of).filter(|client| {
        certificates::may_stay(&client.certificate, &wanted.leaf, &input.cluster.ca, now)
            && machine::pki::is_key_of(&client.key, &client.certificate)
    });
    let client = match kept {
        Some(client) => client,
        None => certificates::issue(input, wanted, now)?,
    };
    // People take the administrator's to their own machine; the others speak to the API server beside them.
    let server =
        if wanted.name == "admin" { input.cluster.control_plane_endpoint.clone() } else { input.local_url() };
    let cluster = &input.cluster;
    let text = kubeconfig::render(
        &cluster.name,
        &server,
        &cluster.ca.certificate,
        &wanted.leaf.common_name,
        &client,
    )?;
    writer.write(path, text.as_bytes(), 0o600)
}

/// A short digest that tells two contents apart (FNV-1a; nothing depends on it being hard to forge).
fn digest(content: &[u8]) -> String {
    let hash = content.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::input;

    fn folder(name: &str) -> Layout {
        let path = std::env::temp_dir().join(format!("pintle-cp-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Layout::new(path)
    }

    #[test]
    fn a_second_pass_writes_nothing() {
        let (layout, input, now) = (folder("twice"), input(), SystemTime::now());
        let written = reconcile(&layout, &input, now, true).unwrap();
        assert!(written.contains(&"/etc/kubernetes/manifests/etcd.yaml".into()));
        assert!(written.contains(&"/etc/kubernetes/pki/etcd/server.crt".into()));
        assert_eq!(reconcile(&layout, &input, now, true).unwrap(), Vec::<String>::new());
        fs::remove_dir_all(layout.at("/")).unwrap();
    }

    #[test]
    fn what_ends_without_the_api_server_waits_for_it_at_each_boot() {
        let (layout, input, now) = (folder("wait"), input(), SystemTime::now());
        let controllers = [
            "/etc/kubernetes/manifests/kube-controller-manager.yaml",
            "/etc/kubernetes/manifests/kube-scheduler.yaml",
        ];
        let written = reconcile(&layout, &input, now, false).unwrap();
        assert!(written.contains(&"/etc/kubernetes/manifests/kube-apiserver.yaml".into()));
        assert!(!written.iter().any(|path| controllers.contains(&path.as_str())), "{written:?}");
        assert_eq!(reconcile(&layout, &input, now, true).unwrap(), controllers);
        assert_eq!(
            reconcile(&layout, &input, now, false).unwrap(),
            controllers,
            "a new boot takes them away"
        );
        fs::remove_dir_all(layout.at("/")).unwrap();
    }

    #[test]
    fn near_their_end_leaves_are_renewed_and_readers_restarted() {
        let (layout, input, now) = (folder("renew"), input(), SystemTime::now());
        reconcile(&layout, &input, now, true).unwrap();
        let later = now + Duration::from_secs(340 * 86_400);
        let written = reconcile(&layout, &input, later, true).unwrap();
        for path in [
            "/etc/kubernetes/pki/apiserver.crt",
            "/etc/kubernetes/pki/apiserver.key",
            "/etc/kubernetes/controller-manager.conf",
            "/etc/kubernetes/manifests/kube-controller-manager.yaml",
            "/etc/kubernetes/manifests/kube-scheduler.yaml",
        ] {
            assert!(written.iter().any(|w| w == path), "{path}");
        }
        assert!(!written.iter().any(|w| w.ends_with("kube-apiserver.yaml")), "it reloads its files itself");
        assert_eq!(reconcile(&layout, &input, later, true).unwrap(), Vec::<String>::new());
        fs::remove_dir_all(layout.at("/")).unwrap();
    }

    #[test]
    fn the_authority_of_kubelets_is_made_once_unless_the_config_has_it() {
        let (layout, mut input, now) = (folder("kubelets"), input(), SystemTime::now());
        reconcile(&layout, &input, now, true).unwrap();
        let read = |name: &str| fs::read_to_string(layout.at(&layout::pki(name))).unwrap();
        let made = read("kubelet-serving-ca.crt");
        assert_ne!(made, input.cluster.ca.certificate);
        assert!(read("kubelet-ca-bundle.crt").contains(made.trim_end()));
        assert!(read("kubelet-ca-bundle.crt").contains(input.cluster.ca.certificate.trim_end()));
        reconcile(&layout, &input, now + Duration::from_secs(86_400), true).unwrap();
        assert_eq!(read("kubelet-serving-ca.crt"), made, "kept");
        let given = machine::pki::new_ca("kubelet-serving-ca", now).unwrap();
        input.secrets.kubelet_serving_ca = Some(given.clone());
        reconcile(&layout, &input, now, true).unwrap();
        assert_eq!(read("kubelet-serving-ca.crt"), given.certificate);
        fs::remove_dir_all(layout.at("/")).unwrap();
    }

    #[test]
    fn a_lost_or_foreign_key_makes_a_new_pair() {
        let (layout, input, now) = (folder("keys"), input(), SystemTime::now());
        reconcile(&layout, &input, now, true).unwrap();
        let other = fs::read(layout.at("/etc/kubernetes/pki/etcd/peer.key")).unwrap();
        fs::write(layout.at("/etc/kubernetes/pki/etcd/server.key"), other).unwrap();
        let written = reconcile(&layout, &input, now, true).unwrap();
        assert_eq!(written, ["/etc/kubernetes/pki/etcd/server.key", "/etc/kubernetes/pki/etcd/server.crt"]);
        fs::remove_dir_all(layout.at("/")).unwrap();
    }
}
