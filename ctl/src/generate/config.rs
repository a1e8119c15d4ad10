use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use machine::config::{API_VERSION, Cluster, Document, Machine, Role, to_yaml};
use serde_yaml_ng::Value;

use super::{ClientConfig, Patch, Secrets, parse_documents};

/// What `pintle gen config` is told.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub cluster: String,
    /// URL, host or host:port of the API server.
    pub endpoint: String,
    pub pod_cidrs: Vec<IpNet>,
    pub service_cidrs: Vec<IpNet>,
    pub dns_domain: Option<String>,
    /// Further names and addresses in the API server's certificate.
    pub sans: Vec<String>,
    pub schedule_on_control_plane: bool,
    /// Laid over both configs.
    pub patch: Patch,
    pub control_plane_patch: Patch,
    pub worker_patch: Patch,
}

/// The files of a new cluster.
#[derive(Debug, Clone)]
pub struct Generated {
    pub control_plane: String,
    pub worker: String,
    pub client: ClientConfig,
}

/// Makes the machine configs and the client config of a cluster.
///
/// # Errors
/// When the endpoint is unusable, or the result is not a valid config (a bad patch); every fault is listed.
pub fn generate(options: &Options, secrets: &Secrets) -> Result<Generated> {
    let (endpoint, host) = endpoint(&options.endpoint)?;
    let control_plane = vec![
        Document::Machine(machine(Role::ControlPlane, secrets)),
        Document::Cluster(control_plane_cluster(options, &endpoint, secrets)),
    ];
    let worker = vec![
        Document::Machine(machine(Role::Worker, secrets)),
        Document::Cluster(worker_cluster(options, &endpoint, secrets)),
    ];
    Ok(Generated {
        control_plane: finish(
            "control-plane.yaml",
            &control_plane,
            &[&options.patch, &options.control_plane_patch],
        )?,
        worker: finish("worker.yaml", &worker, &[&options.patch, &options.worker_patch])?,
        client: ClientConfig::new(&options.cluster, vec![host], secrets),
    })
}

/// The URL that every machine gets, and its host.
fn endpoint(text: &str) -> Result<(String, String)> {
    let rest = match text.split_once("://") {
        Some(("https", rest)) => rest,
        Some((scheme, _)) => bail!("the endpoint's scheme is {scheme}; the API server speaks https only"),
        None => text,
    };
    let rest = rest.trim_end_matches('/');
    if rest.is_empty() || rest.contains(['/', '?', '#', '@', ' ']) {
        bail!("the endpoint {text:?} is no https://HOST:PORT; give the address that every node reaches");
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse::<u16>().with_context(|| format!("the port {port:?} of the endpoint"))?)
        }
        _ => (rest, 6443),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let url_host = if bare.contains(':') { format!("[{bare}]") } else { bare.to_owned() };
    Ok((format!("https://{url_host}:{port}"), bare.to_owned()))
}

/// The machine CA's key makes administrators: it is the control plane's alone.
fn machine(role: Role, secrets: &Secrets) -> Machine {
    let mut ca = secrets.machine_ca.clone();
    if role == Role::Worker {
        ca.key = None;
    }
    Machine { role, ca: Some(ca), join_token: Some(secrets.join_token.clone()), ..Machine::default() }
}

/// The part that every machine knows: no secret but the bootstrap token.
fn worker_cluster(options: &Options, endpoint: &str, secrets: &Secrets) -> Cluster {
    let defaults: Cluster = serde_yaml_ng::from_str(
        "{name: '', controlPlaneEndpoint: '', ca: {certificate: ''}, bootstrapToken: ''}",
    )
    .unwrap_or_default();
    let or_default =
        |given: &Vec<IpNet>, default: Vec<IpNet>| if given.is_empty() { default } else { given.clone() };
    Cluster {
        name: options.cluster.clone(),
        control_plane_endpoint: endpoint.into(),
        pod_cidrs: or_default(&options.pod_cidrs, defaults.pod_cidrs.clone()),
        service_cidrs: or_default(&options.service_cidrs, defaults.service_cidrs.clone()),
        dns_domain: options.dns_domain.clone().unwrap_or_else(|| defaults.dns_domain.clone()),
        ca: machine::config::CertificateAuthority {
            certificate: secrets.cluster_ca.certificate.clone(),
            key: None,
        },
        bootstrap_token: secrets.bootstrap_token.clone(),
        schedule_on_control_plane: options.schedule_on_control_plane,
        ..defaults
    }
}

fn control_plane_cluster(options: &Options, endpoint: &str, secrets: &Secrets) -> Cluster {
    Cluster {
        ca: secrets.cluster_ca.clone(),
        etcd_ca: Some(secrets.etcd_ca.clone()),
        front_proxy_ca: Some(secrets.front_proxy_ca.clone()),
        kubelet_serving_ca: secrets.kubelet_serving_ca.clone(),
        service_account: Some(secrets.service_account.clone()),
        api_server_cert_sans: options.sans.clone(),
        ..worker_cluster(options, endpoint, secrets)
    }
}

fn finish(name: &str, documents: &[Document], patches: &[&Patch]) -> Result<String> {
    let mut values = parse_documents(name, &to_yaml(documents)?)?;
    for patch in patches {
        patch.apply(&mut values);
    }
    let mut text = String::new();
    for mut value in values {
        if let Value::Mapping(map) = &mut value
            && !map.contains_key("apiVersion")
        {
            map.insert("apiVersion".into(), API_VERSION.into());
        }
        text.push_str("---\n");
        text.push_str(&serde_yaml_ng::to_string(&value)?);
    }
    if let Err(faults) = machine::config::parse(name, &text) {
        let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
        bail!("the generated config would be refused:\n{}", lines.join("\n"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn generated(options: Options) -> Generated {
        generate(&options, &Secrets::new(SystemTime::now()).unwrap()).unwrap()
    }

    #[test]
    fn a_worker_gets_no_key_of_the_cluster() {
        let secrets = Secrets::new(SystemTime::now()).unwrap();
        let options = Options { cluster: "demo".into(), endpoint: "10.5.0.10".into(), ..Options::default() };
        let files = generate(&options, &secrets).unwrap();
        let worker = machine::config::parse("worker", &files.worker).unwrap();
        assert_eq!(worker.machine.role, Role::Worker);
        let cluster = worker.cluster.unwrap();
        assert_eq!(cluster.control_plane_endpoint, "https://10.5.0.10:6443");
        assert!(cluster.ca.key.is_none() && cluster.etcd_ca.is_none() && cluster.front_proxy_ca.is_none());
        assert!(cluster.service_account.is_none());
        assert!(cluster.kubelet_serving_ca.is_none());
        let kubelets = secrets.kubelet_serving_ca.as_ref().unwrap();
        for secret in
            [&secrets.machine_ca, &secrets.cluster_ca, &secrets.etcd_ca, &secrets.front_proxy_ca, kubelets]
        {
            let line = secret.key.as_ref().unwrap().lines().nth(1).unwrap();
            assert!(!files.worker.contains(line));
            assert!(files.control_plane.contains(line));
        }
        let control_plane = machine::config::parse("cp", &files.control_plane).unwrap();
        assert_eq!(control_plane.machine.role, Role::ControlPlane);
        assert_eq!(files.client.endpoints, ["10.5.0.10"]);
    }

    #[test]
    fn patches_reach_the_configs_they_are_for() {
        let patch = |text| Patch(parse_documents("patch", text).unwrap());
        let files = generated(Options {
            cluster: "demo".into(),
            endpoint: "https://[fd00::10]:8443".into(),
            patch: patch("kind: TimeSync\nservers: [10.5.0.1]\n"),
            worker_patch: patch("kind: Machine\nhostname: w1\n"),
            ..Options::default()
        });
        let worker = machine::config::parse("worker", &files.worker).unwrap();
        let control_plane = machine::config::parse("cp", &files.control_plane).unwrap();
        assert_eq!(worker.machine.hostname.as_deref(), Some("w1"));
        assert_eq!(control_plane.machine.hostname, None);
        assert_eq!(worker.time_sync, control_plane.time_sync);
        assert!(worker.time_sync.is_some());
        assert_eq!(worker.cluster.unwrap().control_plane_endpoint, "https://[fd00::10]:8443");
    }

    #[test]
    fn endpoints_are_urls_hosts_or_refused() {
        let ok = |text| endpoint(text).unwrap().0;
        assert_eq!(ok("https://cp.example:443/"), "https://cp.example:443");
        assert_eq!(ok("cp.example"), "https://cp.example:6443");
        assert_eq!(ok("fd00::1"), "https://[fd00::1]:6443");
        for bad in ["http://a", "", "https://", "a/b", "a:b:c]:x", "host:99999"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_patch_is_refused_with_the_fault() {
        let options = Options {
            cluster: "demo".into(),
            endpoint: "10.5.0.10".into(),
            patch: Patch(parse_documents("p", "kind: Machine\nhostnam: x\n").unwrap()),
            ..Options::default()
        };
        let error = generate(&options, &Secrets::new(SystemTime::now()).unwrap()).unwrap_err();
        assert!(error.to_string().contains("hostnam"), "{error}");
    }
}
