use super::*;
use crate::services::state::State;

#[test]
fn the_end_of_a_service_is_that_of_its_whole_cgroup() {
    let root = tempfile::tempdir().unwrap();
    let [net, api, ..] = &SERVICES;
    fs::create_dir_all(root.path().join(net.cgroup)).unwrap();
    kill_cgroup(root.path(), net);
    kill_cgroup(root.path(), api);
    assert_eq!(fs::read_to_string(root.path().join("system/net/cgroup.kill")).unwrap(), "1");
    assert!(!root.path().join(api.cgroup).exists(), "it never ran");
}

/// There are no programs of ours where tests run: the first service fails for good as soon as it is started,
/// which is told each time.
#[tokio::test]
async fn after_a_panic_the_supervisor_goes_on_with_the_services_as_they_are() {
    let (events, children) = (Events::default(), Children::new(crate::ledger::Ledger::default()));
    let (mut supervisor, handle) = Supervisor::new(children, LogSink::start().unwrap(), events.clone());
    supervisor.lives[2].0.state = State::Ready { pid: i32::MAX };
    let sender = supervisor.sender.clone();
    tokio::spawn(supervisor.kept());
    let life = |services: &[socket::Service], index: usize| -> (String, i32) {
        services.get(index).map(|service| (service.state.clone(), service.pid)).unwrap_or_default()
    };
    let mut snapshot = handle.watch();
    snapshot.wait_for(|services| life(services, 0).0 == "Failed").await.unwrap();
    let told = |kind: &str| events.after(0).iter().filter(|event| event.kind == kind).count();
    assert_eq!((told("ServiceFailed"), told("SupervisorRestarted")), (1, 0));
    // No service has this number.
    sender.send(Command::Event(usize::MAX, Event::Start)).await.unwrap();
    // Heard by the supervisor that comes after it.
    sender.send(Command::Event(1, Event::Stop)).await.unwrap();
    snapshot.wait_for(|services| life(services, 1).0 == "Stopped").await.unwrap();
    let services = handle.services();
    assert_eq!(life(&services, 0).0, "Failed");
    assert_eq!(life(&services, 2), ("Ready".into(), i32::MAX));
    assert_eq!((told("ServiceFailed"), told("ServiceStarted"), told("SupervisorRestarted")), (1, 0, 1));
}
