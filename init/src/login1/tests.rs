use zbus::OwnedFd;

use super::*;

/// A client as others make it: over the socket, with a handshake and Hello.
async fn client(path: &Path) -> zbus::Connection {
    for _ in 0..500 {
        if path.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let address = format!("unix:path={}", path.display());
    zbus::connection::Builder::address(address.as_str()).build().await.unwrap()
}

async fn serve(name: &str) -> (Login1, std::path::PathBuf, broadcast::Receiver<PowerRequest>) {
    let login1 = Login1::new(Duration::from_secs(600));
    let requests = login1.0.power.subscribe();
    let path = std::env::temp_dir().join(format!("pintle-{name}-{}.sock", std::process::id()));
    let (server, at) = (login1.clone(), path.clone());
    tokio::spawn(async move { server.serve(&at).await });
    (login1, path, requests)
}

async fn manager(connection: &zbus::Connection) -> zbus::Proxy<'static> {
    zbus::Proxy::new(connection, LOGIN1, LOGIN1_PATH, MANAGER).await.unwrap()
}

#[tokio::test]
async fn a_kubelets_shutdown() {
    let (login1, path, _power) = serve("kubelet").await;
    let connection = client(&path).await;
    assert!(connection.unique_name().unwrap().starts_with(":1."));
    let manager = manager(&connection).await;
    let limit: u64 = manager.get_property("InhibitDelayMaxUSec").await.unwrap();
    assert_eq!(limit, 600_000_000);
    let mut signals = manager.receive_signal("PrepareForShutdown").await.unwrap();
    let lock: OwnedFd = manager
        .call("Inhibit", &("shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay"))
        .await
        .unwrap();
    assert_eq!(login1.inhibitors().len(), 1);

    let shutting = login1.clone();
    let down = tokio::spawn(async move {
        shutting.prepare_for_shutdown(PowerRequest::Reboot, Duration::from_secs(60)).await
    });
    let signal = tokio::time::timeout(Duration::from_secs(10), futures::StreamExt::next(&mut signals))
        .await
        .unwrap()
        .unwrap();
    assert!(signal.body().deserialize::<bool>().unwrap());
    assert!(!down.is_finished(), "the inhibitor holds");
    drop(lock);
    assert_eq!(down.await.unwrap(), Released { blockers: vec![] });
    assert_eq!(login1.inhibitors(), []);
}

#[tokio::test]
async fn who_does_not_let_go_is_named() {
    let (login1, path, _power) = serve("blocker").await;
    let connection = client(&path).await;
    let manager = manager(&connection).await;
    let _delay: OwnedFd =
        manager.call("Inhibit", &("shutdown:sleep", "slow", "busy", "delay")).await.unwrap();
    let _block: OwnedFd = manager.call("Inhibit", &("shutdown", "stubborn", "no", "block")).await.unwrap();
    let released = login1.prepare_for_shutdown(PowerRequest::Reboot, Duration::from_millis(50)).await;
    assert_eq!(released.blockers, ["slow (busy)"]);
    let error = manager.call::<_, _, OwnedFd>("Inhibit", &("lunch", "a", "b", "delay")).await.unwrap_err();
    assert!(error.to_string().contains("lunch"), "{error}");
}

#[tokio::test]
async fn an_inhibitor_ends_with_the_process_that_held_it() {
    let (login1, path, _power) = serve("gone").await;
    let connection = client(&path).await;
    let held: OwnedFd =
        manager(&connection).await.call("Inhibit", &("shutdown", "a", "b", "delay")).await.unwrap();
    let copy = std::os::fd::AsFd::as_fd(&held).try_clone_to_owned().unwrap();
    drop(held);
    let released = login1.prepare_for_shutdown(PowerRequest::Reboot, Duration::from_millis(50)).await;
    assert_eq!(released.blockers.len(), 1, "a copy still holds it");
    drop(copy);
    assert_eq!(
        login1.prepare_for_shutdown(PowerRequest::Reboot, Duration::from_secs(10)).await.blockers.len(),
        0
    );
}

#[tokio::test]
async fn the_bus_answers_what_clients_ask_of_a_bus() {
    let (_login1, path, mut power) = serve("bus").await;
    let connection = client(&path).await;
    let bus = zbus::fdo::DBusProxy::new(&connection).await.unwrap();
    let owner = bus.get_name_owner(LOGIN1.try_into().unwrap()).await.unwrap();
    assert_eq!(owner.as_str(), UNIQUE_NAME);
    assert!(bus.get_name_owner("org.example".try_into().unwrap()).await.is_err());
    assert!(bus.request_name("org.example".try_into().unwrap(), Default::default()).await.is_err());
    let systemd = zbus::Proxy::new(
        &connection,
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
    )
    .await
    .unwrap();
    systemd.call::<_, _, ()>("KillUnit", &("systemd-logind.service", "all", 1)).await.unwrap();
    assert!(systemd.call::<_, _, ()>("KillUnit", &("etcd.service", "all", 9)).await.is_err());
    manager(&connection).await.call::<_, _, ()>("Reboot", &(false,)).await.unwrap();
    assert_eq!(power.recv().await, Ok(PowerRequest::Reboot));
}

#[tokio::test]
async fn a_client_in_excess_of_its_share_is_hung_up_on() {
    use tokio::io::AsyncReadExt;
    let (login1, path, _power) = serve("share").await;
    let first = client(&path).await;
    let mut idle = Vec::new();
    for _ in 1..=SHARE {
        idle.push(tokio::net::UnixStream::connect(&path).await.unwrap());
    }
    let mut last = idle.pop().unwrap();
    assert_eq!(last.read(&mut [0; 8]).await.unwrap(), 0);
    assert!(login1.0.places.take("/system/agent").is_some(), "a service has places of its own");
    drop((first, idle));
}

#[test]
fn a_service_is_one_wherever_below_its_cgroup_it_is() {
    let origins =
        ["/system/agent", "/system/agent/x/y", "/runtime", "/init"].map(|cgroup| origin(Some(cgroup)));
    assert_eq!(origins, ["/system/agent", "/system/agent", "/runtime", "/init"]);
    assert_eq!(origin(None), "pods");
}

/// What the child below runs: ask for a reboot.
#[tokio::test]
async fn child() {
    let Some(path) = std::env::var_os("LOGIN1_TEST_SOCKET") else { return };
    let connection = client(Path::new(&path)).await;
    manager(&connection).await.call::<_, _, ()>("Reboot", &(false,)).await.unwrap();
}

#[tokio::test]
async fn root_of_a_pod_without_privilege_powers_nothing_off() {
    if !nix::unistd::getuid().is_root() {
        eprintln!("skipped: only root has rights to give up");
        return;
    }
    let (_login1, path, mut power) = serve("pod").await;
    for (wrapper, reboots) in [
        (&["setpriv"][..], true),
        (&["setpriv", "--bounding-set=-sys_admin"], false),
        (&["unshare", "--user", "--map-root-user"], false),
    ] {
        let child = tokio::process::Command::new(wrapper[0])
            .args(&wrapper[1..])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "login1::tests::child"])
            .env("LOGIN1_TEST_SOCKET", &path)
            .output();
        let output = tokio::time::timeout(Duration::from_secs(60), child).await.unwrap().unwrap();
        assert_eq!(output.status.success(), reboots, "{wrapper:?}");
        assert_eq!(power.try_recv().is_ok(), reboots, "{wrapper:?}");
    }
}
