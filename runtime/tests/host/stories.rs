//! What a user would notice.
use std::fs;
use std::process::Command;
use std::time::Duration;

use machine::cri::{self, NamespaceMode};

use crate::campaign::*;
use crate::cni::*;
use crate::config::*;
use crate::damaged::*;
use crate::escapes::*;
use crate::exits::*;
use crate::full::*;
use crate::hostile::*;
use crate::init::Init;
use crate::interrupted::*;
use crate::logs::*;
use crate::mounts::*;
use crate::pause::*;
use crate::power::no_power_cut_leaves_half_an_image;
use crate::registry::*;
use crate::ring::{Outcome, Ring, check, kill_launch, text};
use crate::room::*;
use crate::secrets::*;
use crate::sockets::*;
use crate::traces::nothing_remains;

async fn a_container_runs_logs_and_ends_with_its_code(ring: &mut Ring) -> Outcome {
    let pod = ring.sandbox("basic", NamespaceMode::Container).await?;
    let id = ring.run(&pod, "one", &["sh", "-c", "echo out; echo err >&2; exit 3"]).await?;
    let status = ring.exited(&id).await?;
    check(status.exit_code == 3 && status.reason == "Error", format!("{status:?}"))?;
    let log = fs::read_to_string("/var/log/pods/basic/one.log").map_err(text)?;
    check(log.contains(" stdout F out\n") && log.contains(" stderr F err\n"), log)?;
    ring.remove(&pod.0).await
}

async fn exec_has_the_containers_restrictions(ring: &mut Ring) -> Outcome {
    let pod = ring.sandbox("exec", NamespaceMode::Container).await?;
    let id = ring.run(&pod, "main", &["sleep", "1000"]).await?;
    let (status, code) =
        ring.exec(&id, &["grep", "-E", "Seccomp:|CapEff|SigIgn", "/proc/self/status"]).await?;
    check(
        code == 0 && status.contains("Seccomp:\t2") && status.contains("CapEff:\t00000000a80425fb"),
        status.clone(),
    )?;
    // SIGPIPE is not ignored, whatever else the host handed down.
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:\t"))
        .and_then(|text| u64::from_str_radix(text, 16).ok());
    check(ignored.is_some_and(|set| set & 0x1000 == 0), status)?;
    let (_, code) = ring.exec(&id, &["sh", "-c", "exit 7"]).await?;
    check(code == 7, format!("exit code {code}"))?;
    let error = ring.exec(&id, &["nope"]).await.unwrap_err();
    check(error.contains("exec: \"nope\": executable file not found in $PATH"), error)?;
    let (output, code) = ring.exec(&id, &["sh", "-c", "mknod /tmp/tty b 8 0 && head -c1 /tmp/tty"]).await?;
    check(code != 0 && output.contains("Operation not permitted"), format!("{code} {output}"))?;
    ring.remove(&pod.0).await
}

async fn a_missing_program_fails_the_start(ring: &mut Ring) -> Outcome {
    let pod = ring.sandbox("missing", NamespaceMode::Container).await?;
    let id = ring.create(&pod, "main", &["/no/such"], |_| {}).await?;
    let error = ring.begin(&id).await.unwrap_err();
    check(error.contains("no such file or directory"), error)?;
    let status = ring.status(&id).await?;
    check(status.exit_code == 127 && status.reason == "StartError", format!("{status:?}"))?;
    ring.remove(&pod.0).await
}

async fn a_container_is_stopped_in_its_grace_or_killed(ring: &mut Ring) -> Outcome {
    let pod = ring.sandbox("stop", NamespaceMode::Container).await?;
    let polite = ring
        .run(&pod, "polite", &["sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done"])
        .await?;
    let deaf = ring.run(&pod, "deaf", &["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (id, code) in [(&polite, 5), (&deaf, 137)] {
        ring.client
            .stop_container(cri::StopContainerRequest { container_id: id.clone(), timeout: 2 })
            .await
            .map_err(text)?;
        let status = ring.exited(id).await?;
        check(status.exit_code == code, format!("{status:?}"))?;
    }
    ring.remove(&pod.0).await
}

async fn users_groups_and_files(ring: &mut Ring) -> Outcome {
    let pod = ring.sandbox("user", NamespaceMode::Container).await?;
    let change = |config: &mut cri::ContainerConfig| {
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.run_as_user = Some(cri::Int64Value { value: 1000 });
        security.no_new_privs = true;
        security.readonly_rootfs = true;
    };
    let id = ring.create(&pod, "main", &["sh", "-c", "id; echo $FROM $HOME; echo again > /dev/stdout; echo x > /tmp/x || echo read-only; grep NoNewPrivs /proc/self/status"], change).await?;
    ring.begin(&id).await?;
    ring.exited(&id).await?;
    let log = fs::read_to_string("/var/log/pods/user/main.log").map_err(text)?;
    check(
        log.contains("uid=1000") && log.contains("77") && log.contains("image /tmp") && log.contains("again"),
        log.clone(),
    )?;
    check(log.contains("read-only") && log.contains("NoNewPrivs:\t1"), log)?;
    ring.remove(&pod.0).await
}

async fn nothing_is_lost_when_the_runtime_is_killed(ring: &mut Ring) -> Outcome {
    let pod = ring.sandbox("kill", NamespaceMode::Container).await?;
    let counting = ring
        .run(
            &pod,
            "counting",
            &["sh", "-c", "for i in $(seq 1 300); do echo line $i; sleep 0.01; done; exit 9"],
        )
        .await?;
    let short = ring.run(&pod, "short", &["sh", "-c", "sleep 0.5; exit 4"]).await?;
    let pid = ring.status(&counting).await?.started_at;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        ring.kill_runtime().await?;
    }
    check(ring.status(&counting).await?.started_at == pid, "the container was started anew")?;
    check(ring.exited(&short).await?.exit_code == 4, "the short container's code")?;
    check(ring.exited(&counting).await?.exit_code == 9, "the counting container's code")?;
    let log = fs::read_to_string("/var/log/pods/kill/counting.log").map_err(text)?;
    let lines: Vec<&str> = log.lines().filter_map(|line| line.split(" F ").nth(1)).collect();
    let wanted: Vec<String> = (1..=300).map(|number| format!("line {number}")).collect();
    check(lines == wanted, format!("{} lines of 300: {:?}", lines.len(), lines.last()))?;
    ring.remove(&pod.0).await
}

async fn a_shared_pid_namespace_has_one_pause_process(ring: &mut Ring) -> Outcome {
    let pod = ring.sandbox("shared", NamespaceMode::Pod).await?;
    let one = ring.run(&pod, "one", &["sleep", "1234"]).await?;
    let two = ring.run(&pod, "two", &["sleep", "1000"]).await?;
    let (seen, _) = ring.exec(&two, &["sh", "-c", "cat /proc/[0-9]*/cmdline"]).await?;
    check(seen.contains("1234") && seen.contains("pause"), seen)?;
    let _ = one;
    ring.remove(&pod.0).await
}

async fn a_terminal_is_one(ring: &mut Ring) -> Outcome {
    let pod = ring.sandbox("terminal", NamespaceMode::Container).await?;
    let command = ["sh", "-c", "[ -t 0 ] && [ -t 1 ] && echo terminal $TERM"];
    let id = ring.create(&pod, "main", &command, |config| config.tty = true).await?;
    ring.begin(&id).await?;
    check(ring.exited(&id).await?.exit_code == 0, "no terminal")?;
    let log = fs::read_to_string("/var/log/pods/terminal/main.log").map_err(text)?;
    check(log.contains(" stdout F terminal xterm"), log)?;
    ring.remove(&pod.0).await
}

async fn a_pod_has_a_network_of_its_own(ring: &mut Ring) -> Outcome {
    ring.give_range().await?;
    let pod = ring.sandbox_on("network", NamespaceMode::Container, NamespaceMode::Pod).await?;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.0.clone(), verbose: false };
    let status =
        ring.client.pod_sandbox_status(request).await.map_err(text)?.into_inner().status.unwrap_or_default();
    let ip = status.network.map(|network| network.ip).unwrap_or_default();
    check(ip.starts_with("10.99.7."), ip)?;
    let id = ring.run(&pod, "main", &["sleep", "1000"]).await?;
    let (name, _) = ring.exec(&id, &["hostname"]).await?;
    check(name == "network-host\n", name)?;
    let (devices, _) = ring.exec(&id, &["cat", "/proc/net/dev"]).await?;
    check(devices.contains("eth0") && devices.contains("lo:"), devices)?;
    let stats = ring
        .client
        .pod_sandbox_stats(cri::PodSandboxStatsRequest { pod_sandbox_id: pod.0.clone() })
        .await
        .map_err(text)?
        .into_inner();
    let linux = stats.stats.and_then(|stats| stats.linux).unwrap_or_default();
    let interface = linux.network.and_then(|network| network.default_interface).unwrap_or_default();
    check(interface.name == "eth0" && interface.rx_bytes.is_some(), format!("{interface:?}"))?;
    let described = ring
        .client
        .list_metric_descriptors(cri::ListMetricDescriptorsRequest {})
        .await
        .map_err(text)?
        .into_inner()
        .descriptors;
    let metrics = ring
        .client
        .list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {})
        .await
        .map_err(text)?
        .into_inner()
        .pod_metrics;
    let mine =
        metrics.iter().find(|metrics| metrics.pod_sandbox_id == pod.0).ok_or("no metrics of the pod")?;
    let named = |metric: &cri::Metric| described.iter().any(|known| known.name == metric.name);
    let received = mine.metrics.iter().any(|metric| metric.name == "container_network_receive_bytes_total");
    check(
        received && mine.metrics.iter().all(named) && mine.container_metrics.len() == 1,
        format!("{mine:?}"),
    )?;
    ring.remove(&pod.0).await
}

/// Kills the next launch that is seen, a little later each round.
fn kill_next_launch(round: u64) -> tokio::task::JoinHandle<bool> {
    tokio::task::spawn_local(async move {
        for _ in 0..2000 {
            tokio::time::sleep(Duration::from_micros(300 * (round + 1))).await;
            if kill_launch() {
                return true;
            }
        }
        false
    })
}

async fn a_killed_launch_leaves_nothing(ring: &mut Ring) -> Outcome {
    let pod = ring.sandbox("launch", NamespaceMode::Container).await?;
    for round in 0..10 {
        let id = ring.create(&pod, &format!("c{round}"), &["true"], |_| {}).await?;
        let killer = kill_next_launch(round);
        // It fails or it is quick enough; either way the container has ended and can be removed.
        let started = ring.begin(&id).await;
        killer.abort();
        let status = ring.exited(&id).await?;
        check(started.is_ok() == (status.exit_code == 0), format!("{started:?} {status:?}"))?;
    }
    // Nor in a container that goes on.
    let id = ring.run(&pod, "main", &["sleep", "1000"]).await?;
    let processes = format!("/sys/fs/cgroup/kubepods/launch/{id}/cgroup.procs");
    let mut failed = 0;
    for round in 0..20 {
        let killer = kill_next_launch(round);
        let answer = ring.exec(&id, &["true"]).await;
        killer.abort();
        failed += usize::from(answer.is_err());
        check(answer.is_err() || answer == Ok((String::new(), 0)), format!("{answer:?}"))?;
        let mut left = String::new();
        for _ in 0..100 {
            left = fs::read_to_string(&processes).map_err(text)?;
            if left.lines().count() == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        check(left.lines().count() == 1, format!("processes {left:?} after {answer:?}"))?;
    }
    check(failed > 0, "no exec's launch was killed in time")?;
    ring.remove(&pod.0).await
}

/// Runs a shell command beside the runtime; returns 1 when it fails.
pub async fn run_command(init: Init, command: &str) -> usize {
    let ring = Ring::start(init).await;
    let status = match &ring {
        // Our PID 1 reaps whatever ends, so the shell itself says how it ended.
        Ok(_) => {
            let marker = "/run/command-status";
            let script = format!("({command}\n); echo $? > {marker}");
            Command::new("sh").args(["-c", &script]).spawn().map_err(text).map(drop)
        }
        Err(error) => Err(error.clone()),
    };
    if let Err(error) = status {
        println!("FAILED start: {error}");
        return 1;
    }
    let code = loop {
        if let Ok(code) = fs::read_to_string("/run/command-status")
            && code.ends_with('\n')
        {
            break code;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    if let Ok(mut ring) = ring {
        let _ = ring.runtime.kill();
    }
    usize::from(code.trim() != "0")
}

/// Runs the stories whose names hold `filter`; returns how many failed.
pub async fn run(init: Init, filter: &str) -> usize {
    let mut ring = match Ring::start(init).await {
        Ok(ring) => ring,
        Err(error) => {
            println!("FAILED start: {error}");
            return 1;
        }
    };
    let mut failed = 0;
    let mut passed = 0;
    macro_rules! story {
        ($($name:ident),*) => {$(
            if stringify!($name).contains(filter) {
                match $name(&mut ring).await {
                    Ok(()) => { passed += 1; println!("passed {}", stringify!($name)); }
                    Err(error) => { failed += 1; println!("FAILED {}: {error}", stringify!($name)); }
                }
            }
        )*};
    }
    story!(
        a_container_runs_logs_and_ends_with_its_code,
        exec_has_the_containers_restrictions,
        a_missing_program_fails_the_start,
        a_container_is_stopped_in_its_grace_or_killed,
        users_groups_and_files,
        nothing_is_lost_when_the_runtime_is_killed,
        a_shared_pid_namespace_has_one_pause_process,
        a_pause_process_is_in_its_pod_and_may_do_nothing,
        a_pod_whose_pause_process_has_ended_is_not_ready,
        a_terminal_is_one,
        a_pod_has_a_network_of_its_own,
        a_killed_launch_leaves_nothing,
        launches_see_no_mounts_of_pods,
        mounts_come_and_go_as_the_volume_says,
        read_only_goes_down_the_whole_tree,
        a_pod_with_its_own_users_owns_its_files,
        a_volume_hides_nothing_that_lies_below_it,
        a_working_folder_that_is_not_there_is_made,
        a_start_that_fails_says_what_failed,
        a_volume_at_dev_leaves_the_hosts_devices_alone,
        an_image_with_a_link_for_dev_is_refused,
        no_descriptor_leads_out_as_working_folder,
        proc_is_the_kernels,
        sockets_are_closed_to_pods_that_are_not_privileged,
        links_of_an_image_lead_no_volume_astray,
        nothing_is_inheritable,
        the_launchers_executable_stays_as_it_is,
        a_false_console_leads_nowhere,
        mount_points_below_volumes_stay_inside,
        no_race_leads_a_mount_into_proc,
        a_false_null_device_masks_nothing,
        a_process_that_enters_brings_nothing_along,
        read_only_and_masked_paths_hold,
        fast_output_survives_kills_whole_and_once,
        a_kill_between_pipe_and_log_loses_nothing,
        what_lies_in_a_logs_place_leads_nowhere,
        the_kill_campaign_breaks_no_promise,
        the_exit_campaign_reports_each_end_once,
        pulls_from_faulty_registries_end_right_or_say_why,
        an_image_that_is_not_what_it_says_leaves_nothing,
        an_image_is_pulled_by_its_digest,
        a_stalled_registry_holds_up_nobody_else,
        a_pull_ends_with_its_deadline,
        no_pull_reaches_into_the_node_or_the_cluster,
        a_pull_that_is_killed_leaves_nothing_half,
        what_was_whole_before_a_kill_is_not_fetched_again,
        images_live_through_a_full_disk,
        damaged_image_metadata_stops_neither_runtime_nor_containers,
        a_full_log_disk_stops_no_container,
        no_container_fills_the_nodes_tmpfs,
        ends_and_removals_need_no_room,
        what_had_no_room_leaves_nothing,
        nobody_else_reads_what_the_runtime_keeps,
        two_hundred_hostile_images_change_nothing_outside,
        what_an_image_may_take_is_bounded,
        no_user_of_an_image_becomes_root,
        no_home_or_variable_of_an_image_becomes_another,
        volumes_devices_and_labels_of_an_image_reach_nothing,
        credentials_follow_no_redirect_and_no_foreign_layer,
        credentials_are_nowhere_after_a_pull
    );
    if crate::cni::plugins().is_some() {
        story!(
            cni_plugins_connect_pods_and_leave_nothing,
            a_kill_during_add_leaves_nothing,
            a_pod_of_one_kind_of_network_is_taken_down_under_the_other
        );
    } else if filter.is_empty() || "cni".contains(filter) {
        println!("SKIPPED: the stories with CNI plugins need a folder of them in PINTLE_CNI_PLUGINS");
    }
    // A suite of its own: `cargo xtask power-cuts`.
    if crate::power::wanted() {
        story!(no_power_cut_leaves_half_an_image);
    }
    story!(nothing_remains);
    let _ = ring.runtime.kill();
    println!("{passed} passed, {failed} failed");
    failed
}
