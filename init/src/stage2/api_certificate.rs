//! The machine API's serving certificate. A machine that holds the machine CA's key signs it itself; a worker makes a key, which never
//! leaves it, and has a control-plane machine sign, through the net process. The API process finds both in its folder.
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use machine::config::{CertificateAuthority, MachineConfig, Role};
use machine::network::{NodeAddress, NodeNetwork};
use machine::paths::API_PKI;
use machine::pki::{self, Leaf, SERVING_LIFETIME};
use machine::socket::NetworkStatus;
use machine::socket::service_action::Action;

use super::api_files::{Files, leaf};
use crate::node::Machine;
use crate::task::blocking;

/// The last certificate of a worker with its key, so that its API answers while no control-plane machine does.
const KEPT: &str = "/var/lib/pintle/init/api-certificate.json";
/// How often the clock is looked at for the certificate's end.
const LOOK: Duration = Duration::from_secs(3600);
/// What net may take for all control-plane machines.
const JOIN: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A certificate that was made later than this from now was made by a clock that was wrong.
const SKEW: Duration = Duration::from_secs(600);

/// What the API shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    leaf: Leaf,
    ca: CertificateAuthority,
    signer: Signer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Signer {
    /// With the token that others show here.
    Ourselves(Option<String>),
    At {
        targets: Vec<(String, u16)>,
        token: String,
    },
}

/// What it has.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Certificate {
    /// [`Wanted::question`] of what it was made for.
    question: String,
    made: SystemTime,
    certificate: String,
    key: String,
}

impl Wanted {
    /// `None`: the machine has no API.
    fn of(config: &MachineConfig, network: &NodeNetwork) -> Option<Self> {
        let own = &config.machine;
        let ca = own.ca.clone()?;
        if network.addresses.is_empty() {
            return None;
        }
        let signer = if ca.key.is_some() {
            Signer::Ourselves(own.join_token.clone().filter(|_| own.role == Role::ControlPlane))
        } else {
            let token = own.join_token.clone()?;
            Signer::At { targets: own.join_targets(config.cluster.as_ref()), token }
        };
        Some(Self { leaf: leaf(config, network), ca, signer })
    }

    /// What decides whether a certificate is still the one that is wanted.
    fn question(&self) -> String {
        let Leaf { common_name, dns_names, addresses, .. } = &self.leaf;
        format!("{common_name} {dns_names:?} {addresses:?} {}", self.ca.certificate)
    }

    fn join_token(&self) -> Option<&str> {
        match &self.signer {
            Signer::Ourselves(token) => token.as_deref(),
            Signer::At { .. } => None,
        }
    }
}

impl Certificate {
    fn is_for(&self, wanted: &Wanted) -> bool {
        self.question == wanted.question()
    }

    /// Whether a third of its time or less is left, or its beginning lies in the future.
    fn is_due(&self, now: SystemTime) -> bool {
        now + SKEW < self.made || now >= self.made + SERVING_LIFETIME * 2 / 3
    }
}

/// Keeps the API's certificate right: names, addresses, CA and time.
pub async fn follow(machine: Machine) -> Result<()> {
    let mut config = machine.config.subscribe();
    let mut network = machine.network.subscribe();
    let mut clock = machine.net.clock();
    let mut current: Option<Certificate> = None;
    // What lies in the API's folder beside the certificate.
    let mut token: Option<Option<String>> = None;
    let mut failures = 0_u32;
    loop {
        let active = config.borrow_and_update().clone();
        let node = addresses(&network.borrow_and_update());
        let wanted = active.as_ref().and_then(|active| Wanted::of(&active.config, &node));
        let mut pause = LOOK;
        if let Some(wanted) = &wanted {
            match provide(&machine, wanted, &mut current, &mut token).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    pause = FIRST_PAUSE.saturating_mul(1 << failures.min(5)).min(LONGEST_PAUSE);
                    if failures == 0 {
                        tracing::warn!("certificate of the machine API: {error:#}; trying again");
                    }
                    failures += 1;
                    machine.condition("ApiCertificate", false, "Waiting", &format!("{error:#}"));
                }
            }
        }
        tokio::select! {
            changed = config.changed() => changed?,
            changed = network.changed() => changed?,
            // The clock is set by another task; it may have jumped.
            changed = clock.changed(), if wanted.is_some() => {
                changed?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Gets and writes what is not there or not right.
async fn provide(
    machine: &Machine,
    wanted: &Wanted,
    current: &mut Option<Certificate>,
    token: &mut Option<Option<String>>,
) -> Result<()> {
    if current.is_none() && matches!(wanted.signer, Signer::At { .. }) {
        *current = blocking("read the kept certificate", Duration::from_secs(30), || Ok(kept())).await?;
        if let Some(kept) = current.as_ref().filter(|kept| kept.is_for(wanted)) {
            write(machine, wanted, kept)?;
            *token = Some(None);
        }
    }
    let now = SystemTime::now();
    let good = current.as_ref().is_some_and(|current| current.is_for(wanted) && !current.is_due(now));
    let same_token = token.as_ref().is_some_and(|token| token.as_deref() == wanted.join_token());
    if good && same_token {
        return Ok(());
    }
    let new = if good { current.clone().context("a certificate")? } else { obtain(machine, wanted).await? };
    write(machine, wanted, &new)?;
    machine.condition("ApiCertificate", true, "Issued", "");
    if !good {
        let said = format!("serving certificate of the machine API for {}", wanted.leaf.common_name);
        machine.events.note("init", "ApiCertificate", &said);
    }
    *current = Some(new);
    // The second port opens and closes with the process.
    let before = token.replace(wanted.join_token().map(str::to_owned));
    if before.is_some_and(|before| before.is_some() != wanted.join_token().is_some()) {
        machine.supervisor.act("api", Action::Restart).await;
    }
    Ok(())
}

async fn obtain(machine: &Machine, wanted: &Wanted) -> Result<Certificate> {
    let (made, question) = (SystemTime::now(), wanted.question());
    let (key, csr) = pki::new_request(&wanted.leaf).context("make a key")?;
    match &wanted.signer {
        Signer::Ourselves(_) => {
            let own = pki::read_request(&csr).context("read our own request")?;
            let certificate = pki::sign_serving(&wanted.ca, &wanted.leaf, &own.public_key, made)?;
            Ok(Certificate { question, made, certificate, key })
        }
        Signer::At { targets, token } => {
            anyhow::ensure!(
                !targets.is_empty(),
                "no control-plane machine is named; set Machine.joinEndpoints"
            );
            let joined = machine.net.join(targets, &wanted.ca.certificate, token, &csr, JOIN).await;
            let certificate = joined
                .map_err(|why| anyhow::anyhow!("waits for a control-plane machine to sign it: {why}"))?;
            let new = Certificate { question, made, certificate, key };
            if machine.supervisor.facts().state_mounted {
                let bytes = serde_json::to_vec(&new)?;
                let keep = move || crate::config::write_atomically(KEPT, &bytes, 0o600);
                if let Err(error) = blocking("keep the certificate", Duration::from_secs(30), keep).await {
                    tracing::warn!(
                        "keep the machine API's certificate: {error:#}; the next boot asks for another"
                    );
                }
            }
            Ok(new)
        }
    }
}

fn write(machine: &Machine, wanted: &Wanted, new: &Certificate) -> Result<()> {
    let (ca, certificate, key) = (&*wanted.ca.certificate, &*new.certificate, &*new.key);
    Files { ca, certificate, key, join_token: wanted.join_token() }
        .write(Path::new(API_PKI))
        .with_context(|| format!("write the machine API's certificate to {API_PKI}"))?;
    machine.supervisor.set_facts(|facts| facts.api_certificate = true);
    Ok(())
}

fn kept() -> Option<Certificate> {
    serde_json::from_slice(&std::fs::read(KEPT).ok()?).ok()
}

/// What the certificate speaks for: the host name and the addresses of links that are up, sorted, so that an order of links is no change.
fn addresses(status: &NetworkStatus) -> NodeNetwork {
    let mut addresses: Vec<NodeAddress> = status
        .links
        .iter()
        .filter(|link| link.up && link.name != "lo")
        .flat_map(|link| {
            let parse =
                |text: &String| Some(NodeAddress { link: link.name.clone(), address: text.parse().ok()? });
            link.addresses.iter().filter_map(parse)
        })
        .filter(|own| !matches!(own.address.addr(), std::net::IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .collect();
    addresses.sort_by(|a, b| (&a.link, a.address).cmp(&(&b.link, b.address)));
    NodeNetwork { hostname: status.hostname.clone(), addresses, ..NodeNetwork::default() }
}

#[cfg(test)]
mod tests {
    use machine::config::Cluster;
    use machine::socket::Link;

    use super::*;

    fn network() -> NodeNetwork {
        let address = NodeAddress { link: "eth1".into(), address: "10.5.0.11/24".parse().unwrap() };
        NodeNetwork { hostname: "w1".into(), addresses: vec![address], ..NodeNetwork::default() }
    }

    fn config(role: Role, key: Option<&str>) -> MachineConfig {
        let cluster =
            Cluster { control_plane_endpoint: "https://10.5.0.10:6443".into(), ..Cluster::default() };
        let mut config = MachineConfig { cluster: Some(cluster), ..MachineConfig::default() };
        config.machine.role = role;
        config.machine.ca = Some(CertificateAuthority { certificate: "C".into(), key: key.map(Into::into) });
        config.machine.join_token = Some("T".into());
        config
    }

    #[test]
    fn the_certificate_speaks_for_links_that_are_up() {
        let link = |name: &str, up, addresses: &[&str]| Link {
            name: name.into(),
            up,
            addresses: addresses.iter().map(|a| (*a).into()).collect(),
            ..Link::default()
        };
        let status = NetworkStatus {
            hostname: "n".into(),
            links: vec![
                link("lo", true, &["127.0.0.1/8"]),
                link("eth1", true, &["10.5.0.10/24", "fe80::1/64"]),
                link("eth0", false, &["10.0.2.15/24"]),
            ],
            ..NetworkStatus::default()
        };
        let node = addresses(&status);
        let found: Vec<_> = node.addresses.iter().map(|a| a.address.to_string()).collect();
        assert_eq!(found, ["10.5.0.10/24"]);
    }

    #[test]
    fn a_worker_asks_the_control_plane_and_the_control_plane_itself() {
        let of = |config: &MachineConfig| Wanted::of(config, &network()).map(|wanted| wanted.signer);
        let at =
            Signer::At { targets: vec![("10.5.0.10".into(), machine::paths::JOIN_PORT)], token: "T".into() };
        assert_eq!(of(&config(Role::Worker, None)), Some(at));
        assert_eq!(of(&config(Role::ControlPlane, Some("K"))), Some(Signer::Ourselves(Some("T".into()))));
        assert_eq!(
            of(&config(Role::Worker, Some("K"))),
            Some(Signer::Ourselves(None)),
            "signs for nobody else"
        );
        assert_eq!(of(&MachineConfig::default()), None);
        assert_eq!(Wanted::of(&config(Role::Worker, None), &NodeNetwork::default()), None);
    }

    #[test]
    fn a_certificate_is_renewed_in_time_and_when_what_it_says_has_changed() {
        let wanted = Wanted::of(&config(Role::Worker, None), &network()).unwrap();
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let own = Certificate { question: wanted.question(), made, certificate: "C".into(), key: "K".into() };
        assert!(own.is_for(&wanted) && !own.is_due(made) && !own.is_due(made + SERVING_LIFETIME / 2));
        assert!(own.is_due(made + SERVING_LIFETIME * 2 / 3));
        assert!(own.is_due(made - SKEW - Duration::from_secs(1)), "made by a clock that was ahead");
        let mut moved = network();
        moved.addresses[0].address = "10.5.0.12/24".parse().unwrap();
        assert!(!own.is_for(&Wanted::of(&config(Role::Worker, None), &moved).unwrap()));
        let mut other = config(Role::Worker, None);
        other.machine.ca = Some(CertificateAuthority { certificate: "D".into(), key: None });
        assert!(!own.is_for(&Wanted::of(&other, &network()).unwrap()), "another CA");
        let kept: Certificate = serde_json::from_slice(&serde_json::to_vec(&own).unwrap()).unwrap();
        assert_eq!(kept, own);
    }
}
