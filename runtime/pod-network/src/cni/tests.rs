//! The verbs against plugins that are shell scripts: each writes down how it was called, and answers what the test wants.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::{PodRequest, PortMapping, Protocol};

/// A node's folders, and the network on it.
struct Node {
    folder: tempfile::TempDir,
    /// Its own for each test: what is left running for a container is killed by its id.
    id: String,
    cni: Arc<Cni>,
}

/// Writes a line `<command> <plugin> <container> <interface> <netns>` and its input, and fails while there is a file `fail-<command>-<plugin>`.
const PLUGIN: &str = r#"#!/bin/sh
here=$(dirname "$0")/..
name=$(basename "$0")
input=$(cat)
echo "$CNI_COMMAND $name $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS" >> "$here/calls"
printf '%s\n' "$input" > "$here/$CNI_COMMAND-$name.json"
printf '%s\n' "$CNI_ARGS" > "$here/args"
if [ -e "$here/fail-$CNI_COMMAND-$name" ]; then
    echo '{"code": 11, "msg": "not today"}'
    exit 1
fi
[ -e "$here/hang-$CNI_COMMAND-$name" ] && sleep 1000
if [ "$CNI_COMMAND" = ADD ]; then cat "$here/result-$name"; fi
exit 0
"#;

const LIST: &str = r#"{"cniVersion": "1.1.0", "name": "pods", "plugins": [
    {"type": "one", "capabilities": {"portMappings": true}}, {"type": "two"}]}"#;
const CONFLIST: &str = "10-pods.conflist";

impl Node {
    fn new(list: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["net.d", "bin", "ns"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let cni = Arc::new(Cni::restore(Self::places(folder.path())).unwrap());
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let id = format!("pod{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let node = Self { folder, id, cni };
        for name in ["one", "two"] {
            node.write(&format!("bin/{name}"), PLUGIN);
            fs::set_permissions(node.path(&format!("bin/{name}")), fs::Permissions::from_mode(0o755))
                .unwrap();
            let number = if name == "one" { 5 } else { 6 };
            let result = json!({
                "cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "x"}],
                "ips": [{"address": format!("10.1.0.{number}/16"), "interface": 0}],
            });
            node.write(&format!("result-{name}"), &result.to_string());
        }
        node.write("ns/pod1", "");
        node.write(&format!("net.d/{CONFLIST}"), list);
        node
    }

    fn places(folder: &Path) -> Places {
        Places {
            config: folder.join("net.d"),
            plugins: vec![folder.join("nowhere"), folder.join("bin")],
            records: folder.join("records"),
        }
    }

    /// As after kill -9.
    fn restart(&mut self) {
        self.cni = Arc::new(Cni::restore(Self::places(self.folder.path())).unwrap());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    fn pod(&self) -> PodRequest {
        let mapping =
            PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port: 8080, host_ip: None };
        PodRequest {
            sandbox_id: self.id.clone(),
            netns: self.path("ns/pod1"),
            ports: vec![mapping],
            name: "web".into(),
            ..PodRequest::default()
        }
    }

    async fn add(&self) -> Result<String, String> {
        let added = self.cni.setup(&self.pod()).await;
        added.map(|addresses| format!("{:?}", addresses.ips)).map_err(|error| error.to_string())
    }

    /// Calls since the last look, without the folder, and with `pod1` for the pod.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        let folder = format!("{}/", self.folder.path().display());
        text.replace(&folder, "")
            .replace(&self.id, "pod1")
            .lines()
            .map(|line| line.trim().to_owned())
            .collect()
    }

    /// What a plugin was last given.
    fn input(&self, command: &str, plugin: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(&format!("{command}-{plugin}.json"))).unwrap()).unwrap()
    }

    fn records(&self) -> usize {
        fs::read_dir(self.path("records/pods")).unwrap().count()
    }
}

#[tokio::test]
async fn a_chain_is_added_in_order_and_deleted_in_reverse() {
    let node = Node::new(LIST);
    assert_eq!(node.add().await.unwrap(), "[10.1.0.6]", "the last plugin's result counts");
    assert_eq!(node.calls(), ["ADD one pod1 eth0 ns/pod1", "ADD two pod1 eth0 ns/pod1"]);
    let one = node.input("ADD", "one");
    assert_eq!(one["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
    assert!(one.get("prevResult").is_none() && one.get("capabilities").is_none());
    assert_eq!(node.input("ADD", "two")["prevResult"]["ips"][0]["address"], "10.1.0.5/16");
    let arguments = fs::read_to_string(node.path("args")).unwrap();
    assert!(arguments.starts_with("IgnoreUnknown=1;K8S_POD_NAMESPACE=;K8S_POD_NAME=web;"), "{arguments}");
    assert!(node.add().await.unwrap_err().contains("connected already"));
    assert!(node.calls().is_empty());

    node.cni.teardown(&node.id).await.unwrap();
    assert_eq!(node.calls(), ["DEL two pod1 eth0 ns/pod1", "DEL one pod1 eth0 ns/pod1"]);
    for plugin in ["one", "two"] {
        assert_eq!(node.input("DEL", plugin)["prevResult"]["ips"][0]["address"], "10.1.0.6/16");
    }
    assert_eq!(node.input("DEL", "one")["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
    node.cni.teardown(&node.id).await.unwrap();
    assert!(node.calls().is_empty() && node.records() == 0);
}

#[tokio::test]
async fn del_follows_an_add_that_failed_halfway() {
    let node = Node::new(LIST);
    node.write("fail-ADD-two", "");
    let error = node.add().await.unwrap_err();
    assert_eq!(
        error,
        "the CNI plugin two of the network pods failed to ADD: not today, code 11 (try again later) (exit status: 1)"
    );
    let calls: Vec<String> = node.calls().iter().map(|call| call[..7].to_owned()).collect();
    assert_eq!(calls, ["ADD one", "ADD two", "DEL two", "DEL one"]);
    assert_eq!(node.input("DEL", "one")["prevResult"]["ips"][0]["address"], "10.1.0.5/16");
    assert_eq!(node.records(), 0);
}

#[tokio::test]
async fn a_result_without_an_address_or_sense_is_undone() {
    for (result, wanted) in [
        (r#"{"ips": []}"#, "gave the pod no address"),
        ("nonsense", "not valid JSON"),
        ("", "printed no result"),
    ] {
        let node = Node::new(LIST);
        node.write("result-two", result);
        let error = node.add().await.unwrap_err();
        assert!(error.contains(wanted), "{error}");
        assert!(node.calls().len() == 4 && node.records() == 0);
    }
}

#[tokio::test]
async fn after_a_restart_del_has_what_add_was_told_whatever_happened_to_the_configuration() {
    let mut node = Node::new(LIST);
    node.add().await.unwrap();
    node.calls();
    node.remove(&format!("net.d/{CONFLIST}"));
    node.restart();
    let check = node.cni.inspect(&node.id).await.unwrap();
    assert_eq!((check["check"].as_str(), check["network"].as_str()), (Some("ok"), Some("pods")));
    assert_eq!(node.calls(), ["CHECK one pod1 eth0 ns/pod1", "CHECK two pod1 eth0 ns/pod1"]);
    assert_eq!(node.input("CHECK", "one")["prevResult"]["ips"][0]["address"], "10.1.0.6/16");
    node.write("fail-CHECK-two", "");
    let check = node.cni.inspect(&node.id).await.unwrap();
    assert!(check["check"].as_str().unwrap().contains("two of the network pods failed to CHECK: not today"));
    node.calls();
    node.write(&format!("net.d/{CONFLIST}"), "{");
    node.remove("ns/pod1");
    node.cni.teardown(&node.id).await.unwrap();
    assert_eq!(
        node.calls(),
        ["DEL two pod1 eth0", "DEL one pod1 eth0"],
        "a namespace that is gone has no name"
    );
    assert_eq!(node.input("DEL", "one")["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
    assert!(node.cni.inspect(&node.id).await.is_none());
}

#[tokio::test]
async fn del_that_fails_is_repeated_from_the_start_and_followed_by_gc() {
    let mut node = Node::new(LIST);
    node.add().await.unwrap();
    node.calls();
    node.write("fail-DEL-one", "");
    let error = node.cni.teardown(&node.id).await.unwrap_err().to_string();
    assert!(error.contains("one of the network pods failed to DEL: not today"), "{error}");
    let calls: Vec<String> = node.calls().iter().map(|call| call[..6].to_owned()).collect();
    assert_eq!(calls, ["DEL tw", "DEL on", "GC one", "GC two"]);
    assert_eq!(node.input("GC", "one")["cni.dev/valid-attachments"], json!([]), "it is to go");
    node.cni.teardown(&node.id).await.unwrap_err();
    assert_eq!(node.calls().len(), 2, "GC is not repeated at once");
    node.remove("fail-DEL-one");
    node.restart();
    node.cni.teardown(&node.id).await.unwrap();
    assert!(node.calls().len() == 2 && node.records() == 0);
}

#[tokio::test]
async fn a_plugin_that_hangs_is_killed_and_undone() {
    let mut node = Node::new(LIST);
    Arc::get_mut(&mut node.cni).unwrap().deadline = Duration::from_secs(3);
    node.write("hang-ADD-two", "");
    let error = node.add().await.unwrap_err();
    assert!(error.contains("two of the network pods failed to ADD: it did not end within"), "{error}");
    assert_eq!(node.records(), 0);
}

#[tokio::test]
async fn an_add_that_nobody_waits_for_any_more_is_on_record() {
    let mut node = Node::new(LIST);
    node.write("hang-ADD-two", "");
    let pod = node.pod();
    let begun = async {
        while !fs::read_to_string(node.path("calls")).unwrap_or_default().contains("ADD two") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        done = node.cni.setup(&pod) => panic!("{done:?}"),
        () = begun => {}
    }
    node.restart();
    node.calls();
    assert_eq!(node.records(), 1);
    let (mut stale, mut gc) = (BTreeSet::from([node.id.clone()]), true);
    node.cni.collect_once(&mut stale, &mut gc).await.unwrap();
    assert!(stale.is_empty() && !gc && node.records() == 0);
    let calls: Vec<String> = node.calls().iter().map(|call| call[..6].to_owned()).collect();
    assert_eq!(calls, ["DEL tw", "DEL on", "GC one", "GC two"]);
    assert_eq!(node.input("DEL", "two")["prevResult"]["ips"][0]["address"], "10.1.0.5/16");
}

#[tokio::test]
async fn gc_names_live_pods_and_waits_for_a_configuration() {
    let mut node = Node::new(LIST);
    node.add().await.unwrap();
    node.restart();
    node.calls();
    let (mut stale, mut gc) = (BTreeSet::new(), true);
    fs::rename(node.path(&format!("net.d/{CONFLIST}")), node.path("away")).unwrap();
    assert!(matches!(node.cni.collect_once(&mut stale, &mut gc).await, Err(Error::NoConfig(_))));
    assert!(gc);
    node.write(&format!("net.d/{CONFLIST}"), &LIST.replace(r#""name""#, r#""disableGC": true, "name""#));
    node.cni.gc().await.unwrap();
    assert!(node.calls().is_empty(), "disableGC");
    node.write(&format!("net.d/{CONFLIST}"), &LIST.replace("1.1.0", "1.0.0"));
    node.cni.gc().await.unwrap();
    assert!(node.calls().is_empty(), "GC came with 1.1.0");
    node.write(&format!("net.d/{CONFLIST}"), LIST);
    node.write("fail-GC-one", "");
    node.cni.gc().await.unwrap_err();
    assert_eq!(node.calls().len(), 2, "one's failure is no reason to leave two out");
    assert_eq!(
        node.input("GC", "two")["cni.dev/valid-attachments"],
        json!([{"containerID": node.id, "ifname": "eth0"}])
    );
}

#[tokio::test]
async fn status_is_asked_from_1_1_on_and_believed_for_a_while() {
    let node = Node::new(LIST);
    node.write("fail-STATUS-two", "");
    let error = node.cni.ready().await.unwrap_err().to_string();
    assert!(error.contains("two of the network pods failed to STATUS"), "{error}");
    node.remove("fail-STATUS-two");
    node.calls();
    for _ in 0..3 {
        node.cni.ready().await.unwrap();
    }
    assert_eq!(node.calls(), ["STATUS one", "STATUS two"]);
    // Another configuration is asked at once, and an older one not at all.
    node.write(
        &format!("net.d/{CONFLIST}"),
        &LIST.replace(r#""type": "two""#, r#""type": "two", "mtu": 9000"#),
    );
    node.cni.ready().await.unwrap();
    assert_eq!(node.calls().len(), 2);
    node.write(&format!("net.d/{CONFLIST}"), &LIST.replace("1.1.0", "1.0.0"));
    node.cni.ready().await.unwrap();
    assert!(node.calls().is_empty());
}

#[tokio::test]
async fn not_ready_says_what_is_missing() {
    let node = Node::new(LIST);
    let not_ready = async || node.cni.ready().await.unwrap_err().to_string();
    node.write(&format!("net.d/{CONFLIST}"), &LIST.replace("portMappings", "ipRanges"));
    assert!(not_ready().await.contains("ipRanges"));
    node.remove("bin/two");
    node.write(&format!("net.d/{CONFLIST}"), LIST);
    let message = not_ready().await;
    assert!(message.contains("the CNI plugin two of the network pods is not in") && message.contains("/bin"));
    assert!(node.add().await.unwrap_err().contains("plugin two"));
    assert!(node.calls().is_empty(), "nothing is begun that cannot be finished");
    node.write("bin/two", "not executable");
    assert!(not_ready().await.contains("no executable file"));
    node.write(&format!("net.d/{CONFLIST}"), "{");
    let message = not_ready().await;
    assert!(message.contains(CONFLIST) && message.contains("not valid JSON"), "{message}");
    node.remove(&format!("net.d/{CONFLIST}"));
    let message = not_ready().await;
    assert!(message.contains("no network configuration") && message.contains("podNetwork: cni"), "{message}");
}

#[tokio::test]
async fn an_edited_configuration_is_the_next_pods() {
    let node = Node::new(LIST);
    node.add().await.unwrap();
    node.write(
        "net.d/05-other.conflist",
        r#"{"cniVersion": "0.3.1", "name": "other", "plugins": [{"type": "two"}]}"#,
    );
    node.calls();
    let second = format!("{}-2", node.id);
    let next = PodRequest { sandbox_id: second.clone(), ..node.pod() };
    node.cni.setup(&next).await.unwrap();
    assert_eq!(node.calls(), ["ADD two pod1-2 eth0 ns/pod1"]);
    node.cni.teardown(&node.id).await.unwrap();
    assert_eq!(node.calls().len(), 2, "the first pod still has its own two plugins");
    assert_eq!(
        node.cni.inspect(&second).await.unwrap()["check"],
        "not done: the configuration is older than 0.4.0"
    );
    node.cni.teardown(&second).await.unwrap();
    assert!(node.input("DEL", "two").get("prevResult").is_none(), "0.3.1 knows no prevResult for DEL");
}

#[tokio::test]
async fn ids_that_could_leave_the_folder_are_refused() {
    let node = Node::new(LIST);
    for id in ["", "../x", ".x", "-x", "a/b", "a b"] {
        let pod = PodRequest { sandbox_id: id.into(), ..node.pod() };
        assert!(matches!(node.cni.setup(&pod).await, Err(Error::BadId(_))), "{id}");
    }
    assert!(node.calls().is_empty() && node.records() == 0);
}
