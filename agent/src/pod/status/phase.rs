//! The phase.
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

use crate::spec;

#[derive(Default)]
struct Counts {
    pending_init: usize,
    pending_sidecars: usize,
    failed_init: usize,
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    stopped_for_good: usize,
    succeeded: usize,
}

/// `finished` says that nothing of the pod will be started again, whatever its restart policy.
pub(super) fn phase(
    pod: &Pod,
    init: &[ContainerStatus],
    apps: &[ContainerStatus],
    finished: bool,
    initialized: bool,
) -> &'static str {
    let mut n = Counts::default();
    for container in spec::init_containers(pod) {
        let status = init.iter().find(|s| s.name == container.name);
        if spec::is_sidecar(container) { n.sidecar(status) } else { n.init(pod, container, status) }
    }
    for container in &spec::spec(pod).containers {
        n.app(pod, container, apps.iter().find(|s| s.name == container.name));
    }
    if n.failed_init > 0 {
        return "Failed";
    }
    if n.pending_init > 0 || (n.pending_sidecars > 0 && !initialized) || n.waiting > 0 {
        return "Pending";
    }
    if n.unknown > 0 {
        return "Pending";
    }
    if n.running > 0 {
        return "Running";
    }
    if n.stopped == 0 {
        return "Pending";
    }
    let ended = if n.stopped == n.succeeded { "Succeeded" } else { "Failed" };
    if finished && !spec::is_static(pod) {
        return ended;
    }
    if n.stopped != n.stopped_for_good { "Running" } else { ended }
}

fn exit_code(state: Option<&k8s_openapi::api::core::v1::ContainerState>) -> Option<i32> {
    state?.terminated.as_ref().map(|t| t.exit_code)
}

impl Counts {
    fn init(&mut self, pod: &Pod, container: &Container, status: Option<&ContainerStatus>) {
        let state = status.and_then(|s| s.state.as_ref());
        let ended = exit_code(state).or_else(|| {
            state?.waiting.as_ref()?;
            exit_code(status?.last_state.as_ref())
        });
        match ended {
            None => self.pending_init += 1,
            Some(0) => {}
            Some(code) if spec::restarts(pod, container, code) => {}
            Some(_) => self.failed_init += 1,
        }
        // An init container that failed and will be tried again keeps the pod pending.
        if ended.is_some_and(|code| code != 0 && spec::restarts(pod, container, code)) {
            self.pending_init += 1;
        }
    }

    fn sidecar(&mut self, status: Option<&ContainerStatus>) {
        let Some(status) = status else {
            self.unknown += 1;
            return;
        };
        let Some(state) = &status.state else {
            self.pending_sidecars += 1;
            self.unknown += 1;
            return;
        };
        if state.running.is_some() {
            if status.started != Some(true) {
                self.pending_sidecars += 1;
            }
            self.running += 1;
        } else if state.waiting.is_some() && exit_code(status.last_state.as_ref()).is_none() {
            self.pending_sidecars += 1;
            self.waiting += 1;
        }
    }

    fn app(&mut self, pod: &Pod, container: &Container, status: Option<&ContainerStatus>) {
        let Some(status) = status else {
            self.unknown += 1;
            return;
        };
        let state = status.state.as_ref();
        if state.is_some_and(|s| s.running.is_some()) {
            self.running += 1;
            return;
        }
        let now = exit_code(state);
        match now.or_else(|| exit_code(status.last_state.as_ref())) {
            None => self.waiting += 1,
            Some(code) => {
                self.stopped += 1;
                if !spec::restarts(pod, container, code) {
                    self.stopped_for_good += 1;
                }
                if now == Some(0) {
                    self.succeeded += 1;
                }
            }
        }
    }
}
