use std::time::SystemTime;

use proptest::prelude::*;

use super::*;
use crate::config::{Cluster, Machine, Role};
use crate::pki;

fn faults(text: &str) -> Vec<Fault> {
    parse("test.yaml", text).unwrap_err()
}

/// Line, column and field of every fault.
fn places(text: &str) -> Vec<(u32, u32, String)> {
    faults(text).into_iter().map(|fault| (fault.line, fault.column, fault.field)).collect()
}

const HEAD: &str = "apiVersion: pintle.dev/v1alpha1\n";

fn document(rest: &str) -> String {
    format!("{HEAD}{rest}")
}

fn control_plane() -> (Machine, Cluster) {
    let ca = |name| pki::new_ca(name, SystemTime::now()).unwrap();
    let machine = Machine { role: Role::ControlPlane, ca: Some(ca("pintle")), ..Machine::default() };
    let cluster = Cluster {
        name: "demo".into(),
        control_plane_endpoint: "https://10.5.0.10:6443".into(),
        pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
        dns_domain: "cluster.local".into(),
        ca: ca("kubernetes"),
        etcd_ca: Some(ca("etcd-ca")),
        front_proxy_ca: Some(ca("front-proxy-ca")),
        service_account: Some(pki::new_key_pair().unwrap()),
        bootstrap_token: "abcdef.0123456789abcdef".into(),
        ..Cluster::default()
    };
    (machine, cluster)
}

fn yaml(machine: &Machine, cluster: &Cluster) -> String {
    to_yaml(&[Document::Machine(machine.clone()), Document::Cluster(cluster.clone())]).unwrap()
}

#[test]
fn what_is_written_is_read_back() {
    let (machine, cluster) = control_plane();
    let config = parse("test.yaml", &yaml(&machine, &cluster)).unwrap();
    assert_eq!((config.machine, config.cluster), (machine, Some(cluster)));
    assert_eq!(parse("empty", "").unwrap(), MachineConfig::default());
    assert_eq!(parse("empty", "---\n---\n# nothing\n").unwrap(), MachineConfig::default());
}

#[test]
fn what_yaml_versions_disagree_about_is_read_back() {
    let text = document("kind: Sysctl\nvalues: {net.core.somaxconn: \"a\\u2028b\\x85 c\"}\n");
    let sysctl = parse("test.yaml", &text).unwrap().sysctls.remove(0);
    assert_eq!(sysctl.values["net.core.somaxconn"], "a\u{2028}b\u{85} c");
    let written = to_yaml(&[Document::Sysctl(sysctl.clone())]).unwrap();
    assert_eq!(parse("test.yaml", &written).unwrap().sysctls, [sysctl]);
}

#[test]
fn every_fault_is_reported_with_its_place_and_a_remedy() {
    let text = document("kind: Machine\nhostnam: cp1\nrole: Controlplane\n---\n")
        + &document("kind: Link\nlink:\n  name: eth0\n  mac: 52:54:00:12:34:56\nmtu: \"9000\"\n---\n")
        + &document("kind: Linkk\n");
    let faults = faults(&text);
    let found: Vec<_> = faults.iter().map(|f| (f.line, f.column, &*f.field)).collect();
    assert_eq!(
        found,
        [(3, 1, "Machine.hostnam"), (4, 7, "Machine.role"), (11, 6, "Link.mtu"), (14, 7, "kind")]
    );
    assert_eq!(faults[0].remedy, "did you mean hostname?");
    assert_eq!(faults[1].remedy, "did you mean ControlPlane?");
    assert_eq!(faults[3].remedy, "did you mean Link?");
    assert!(faults.iter().all(|f| f.file == "test.yaml" && !f.message.is_empty()));
    assert!(faults[0].to_string().starts_with("test.yaml:3:1: Machine.hostnam: unknown field; did you mean"));
}

#[test]
fn missing_fields_wrong_types_and_ranges_are_faults() {
    assert_eq!(places(&document("kind: Registry\n")), [(1, 1, "Registry.host".into())]);
    assert_eq!(places(&document("kind: Registry\nhost: 5000\n")), [(3, 7, "Registry.host".into())]);
    assert_eq!(places(&document("kind: NodeAgent\nmaxPods: -1\n")), [(3, 10, "NodeAgent.maxPods".into())]);
    assert_eq!(
        places(&document("kind: Resolver\nnameservers: 10.0.0.1\n")),
        [(3, 14, "Resolver.nameservers".into())]
    );
    assert_eq!(
        places(&document("kind: Resolver\nnameservers:\n- 10.0.0\n")),
        [(4, 3, "Resolver.nameservers[0]".into())]
    );
    assert_eq!(places("kind: Machine\n"), [(1, 1, "apiVersion".into())]);
}

#[test]
fn a_bad_range_is_blamed_where_it_stands() {
    let (machine, cluster) = control_plane();
    let text = yaml(&machine, &cluster).replace("10.244.0.0/16", "10.244.0.0/99");
    let line = text.lines().position(|line| line.contains("/99")).unwrap() as u32 + 1;
    let faults = faults(&text);
    assert_eq!(faults.iter().map(|f| f.line).collect::<Vec<_>>(), [line,], "{faults:?}");
}

#[test]
fn overlapping_ranges_and_networks_are_faults() {
    let (machine, mut cluster) = control_plane();
    cluster.service_cidrs = vec!["10.244.64.0/20".parse().unwrap()];
    let text = yaml(&machine, &cluster)
        + "---\n"
        + &document("kind: Address\nlink: {name: eth0}\naddress: 10.244.1.5/24\n");
    let fields: Vec<_> = faults(&text).into_iter().map(|f| f.field).collect();
    assert_eq!(fields, ["Cluster.podCIDRs[0]", "Address.address"]);
}

#[test]
fn a_control_plane_machine_needs_every_key() {
    let (machine, mut cluster) = control_plane();
    cluster.ca.key = None;
    cluster.etcd_ca = None;
    cluster.service_account = None;
    let mut fields: Vec<_> = faults(&yaml(&machine, &cluster)).into_iter().map(|f| f.field).collect();
    fields.sort();
    assert_eq!(fields, ["Cluster.ca.key", "Cluster.etcdCA", "Cluster.serviceAccount"]);
    assert_eq!(places(&document("kind: Machine\nrole: ControlPlane\n")), [(3, 7, "Machine.role".into())]);
}

#[test]
fn the_machine_cas_key_is_on_control_plane_machines_only() {
    let (control_plane, cluster) = control_plane();
    let fields = |machine: &Machine| match parse("test.yaml", &yaml(machine, &cluster)) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.into_iter().map(|f| f.field).collect::<Vec<_>>(),
    };
    let ca = control_plane.ca.clone().unwrap();
    let bare = Some(crate::config::CertificateAuthority { key: None, ..ca });
    assert_eq!(fields(&Machine { ca: bare.clone(), ..control_plane.clone() }), ["Machine.ca.key"]);
    let worker = Machine { role: Role::Worker, ..control_plane };
    assert_eq!(fields(&worker), ["Machine.ca.key"]);
    assert_eq!(fields(&Machine { ca: bare.clone(), ..worker.clone() }), ["Machine.joinToken"]);
    let token = Some(pki::join_token().unwrap());
    let joining = Machine { ca: bare, join_token: token, ..worker.clone() };
    assert_eq!(fields(&joining), [""; 0]);
    let alone = |machine: &Machine| to_yaml(&[Document::Machine(machine.clone())]).unwrap();
    assert!(parse("alone", &alone(&worker)).is_ok(), "without a cluster it signs for itself");
    assert_eq!(places(&alone(&joining))[0].2, "Machine.joinEndpoints");
    let weak = Machine { join_token: Some("abc".into()), join_endpoints: vec!["a b".into()], ..joining };
    assert_eq!(fields(&weak), ["Machine.joinToken", "Machine.joinEndpoints[0]"]);
}

#[test]
fn keys_that_do_not_fit_are_faults() {
    let (machine, mut cluster) = control_plane();
    cluster.etcd_ca.as_mut().unwrap().key = cluster.ca.key.clone();
    let faults = faults(&yaml(&machine, &cluster));
    assert_eq!(faults[0].field, "Cluster.etcdCA.key");
}

#[test]
fn names_endpoints_and_tokens_are_checked() {
    let (mut machine, mut cluster) = control_plane();
    machine.hostname = Some("Bad_Host".into());
    cluster.control_plane_endpoint = "http://10.5.0.10:6443".into();
    cluster.bootstrap_token = "abc".into();
    let fields: Vec<_> = faults(&yaml(&machine, &cluster)).into_iter().map(|f| f.field).collect();
    assert_eq!(fields, ["Machine.hostname", "Cluster.controlPlaneEndpoint", "Cluster.bootstrapToken"]);
}

#[test]
fn a_second_document_of_its_kind_is_a_fault() {
    let text = document("kind: Machine\n---\n")
        + &document("kind: Machine\n---\n")
        + &document("kind: Dhcp\nlink: {name: eth0}\n---\n")
        + &document("kind: Dhcp\nlink: {name: eth0}\n");
    let fields: Vec<_> = faults(&text).into_iter().map(|f| f.field).collect();
    assert_eq!(fields, ["Machine", "Dhcp.link"]);
}

#[test]
fn what_could_exhaust_memory_is_refused() {
    let bomb = "a: &a [x, x]\nb: [*a, *a]\n";
    assert!(faults(bomb)[0].message.contains("aliases"));
    assert!(faults(&"[".repeat(500)).len() == 1);
    assert!(faults(&"#".repeat((1 << 20) + 1))[0].message.contains("bytes"));
    assert_eq!(faults("a: 1\na: 2\n")[0].line, 2);
}

#[test]
fn every_kind_has_a_schema_and_the_types_agree_with_it() {
    for kind in KINDS {
        let schema = kind_schema(kind).unwrap();
        assert_eq!(schema["type"], "object", "{kind}");
        assert_eq!(schema["additionalProperties"], false, "{kind}");
    }
    assert_eq!(super::super::schema()["oneOf"].as_array().unwrap().len(), KINDS.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn parsing_never_panics(text in "\\PC{0,200}") {
        let _ = parse("any", &text);
    }

    #[test]
    fn parsing_yaml_like_text_never_panics(
        lines in proptest::collection::vec("( {0,4})(kind|apiVersion|link|name|mtu|podCIDRs|- |---|\\? |&a |\\*a )?:? ?(Machine|Link|pintle.dev/v1alpha1|\\[|\\{|\"|'|[0-9.]{0,5}|null)?", 0..20)
    ) {
        let _ = parse("any", &lines.join("\n"));
    }
}
