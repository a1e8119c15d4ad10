//! Images whose configs and files lie about users, homes, volumes, labels and devices.
use std::fs;

use machine::cri::{self, NamespaceMode};
use serde_json::{Value, json};
use tar::EntryType;

use crate::content::{Content, Tar, digest_of};
use crate::fake::{Fake, HERE};
use crate::hostile::{set_canaries, unharmed};
use crate::ring::{Outcome, Ring, check, text};

/// A root with a shell, and these files besides.
fn root(files: &[(&str, &str)]) -> Result<Vec<u8>, String> {
    let mut tar = Tar::default().dir("bin/").dir("etc/").dir("tmp/");
    tar = tar.add(EntryType::Regular, "bin/busybox", "", 0o755, &fs::read("/bin/busybox").map_err(text)?);
    for name in ["sh", "id", "cat", "head", "touch", "ls", "sleep"] {
        tar = tar.symlink(&format!("bin/{name}"), "busybox");
    }
    Ok(files.iter().fold(tar, |tar, (name, text)| tar.file(name, text.as_bytes())).0)
}

async fn publish(
    ring: &Ring,
    fake: &Fake,
    name: &str,
    tars: &[Vec<u8>],
    config: Value,
) -> Result<String, String> {
    let name = fake.publish(name, &Content::new(tars, config));
    ring.pull(&name, None).await?;
    Ok(name)
}

type Sandbox = (String, cri::PodSandboxConfig);

/// Runs a command in a container of an image; returns what it wrote, or why there is none.
async fn said(
    ring: &mut Ring,
    pod: &Sandbox,
    image: &str,
    command: &[&str],
    user: Option<i64>,
) -> Result<String, String> {
    let name = &digest_of(format!("{image}{command:?}{user:?}").as_bytes())[7..27];
    let change = |config: &mut cri::ContainerConfig| {
        config.image = Some(cri::ImageSpec { image: image.into(), ..Default::default() });
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().run_as_user =
            user.map(|value| cri::Int64Value { value });
    };
    let id = ring.create(pod, name, command, change).await?;
    ring.begin(&id).await?;
    ring.exited(&id).await?;
    fs::read_to_string(format!("{}/{name}.log", pod.1.log_directory)).map_err(text)
}

/// CVE-2024-40635, CVE-2026-46680: numbers beyond the range, and names that look like numbers, do not become root.
pub async fn no_user_of_an_image_becomes_root(ring: &mut Ring) -> Outcome {
    let fake = Fake::start(HERE).await?;
    let passwd = "root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\n2147483648:x:0:0::/:/bin/sh\n";
    let tars = [root(&[("etc/passwd", passwd), ("etc/group", "root:x:0:\n1000:x:0:\n")])?];
    let pod = ring.sandbox("users", NamespaceMode::Container).await?;
    let mut images = Vec::new();
    for (number, (user, wanted)) in [
        ("4294967296", "out of range"),
        ("4294967295", "out of range"),
        ("-1", "out of range"),
        ("18446744073709551616", "out of range"),
        ("0x0", "unable to find user"),
        ("1000", "uid=1000"),
        ("1000:1000", "gid=1000"),
        ("2147483648", "uid=2147483648"),
    ]
    .into_iter()
    .enumerate()
    {
        let image = publish(ring, &fake, &format!("user{number}"), &tars, json!({"User": user})).await?;
        let outcome = said(ring, &pod, &image, &["id"], None).await;
        let output = outcome.unwrap_or_else(|error| error);
        check(output.contains(wanted) && !output.contains("uid=0"), format!("USER {user}: {output}"))?;
        images.push(image);
    }
    let output = said(ring, &pod, &images[5], &["id"], Some(1000)).await?;
    check(output.contains("uid=1000"), format!("runAsUser 1000: {output}"))?;
    // As the agent judges runAsNonRoot: what is no uid is a name, which it refuses.
    let status = ring.image(&images[0]).await?.unwrap_or_default();
    check(status.uid.is_none() && status.username == "4294967296", format!("{status:?}"))?;
    ring.remove(&pod.0).await?;
    forget(ring, &images).await
}

async fn forget(ring: &Ring, images: &[String]) -> Outcome {
    for image in images {
        ring.remove_image(image).await?;
    }
    Ok(())
}

/// CVE-2026-15809: homes and variables with line breaks and the like stay one variable; a passwd that is a link out of the image is empty.
pub async fn no_home_or_variable_of_an_image_becomes_another(ring: &mut Ring) -> Outcome {
    let (fake, canaries) = (Fake::start(HERE).await?, set_canaries()?);
    let pod = ring.sandbox("homes", NamespaceMode::Container).await?;
    let passwd = "app:x:1000:1000::/home\u{b}\u{1}LD_PRELOAD=/x:/bin/sh\n";
    let config = json!({"User": "app", "Env": ["A=1\nHOME=/evil", "PATH=/bin"]});
    let home = publish(ring, &fake, "home", &[root(&[("etc/passwd", passwd)])?], config).await?;
    let show = ["sh", "-c", "cat /proc/self/environ; echo"];
    let output = said(ring, &pod, &home, &show, None).await?;
    let single = output.contains("\0HOME=/\0") && !output.contains("LD_PRELOAD");
    check(single && output.contains("A=1\n"), format!("{output:?}"))?;
    let linked = Tar::default().symlink("etc/passwd", "../../../../../../../run/canary/passwd").0;
    let linked = publish(ring, &fake, "linked", &[root(&[])?, linked], json!({"User": "evil"})).await?;
    let error = said(ring, &pod, &linked, &["id"], None).await.err().unwrap_or_default();
    check(error.contains("unable to find user evil"), format!("{error:?}"))?;
    unharmed(&canaries)?;
    ring.remove(&pod.0).await?;
    forget(ring, &[home, linked]).await
}

/// CVE-2022-23648 (volumes that lead out), CVE-2026-53488 (labels that belong to the runtime), and devices.
pub async fn volumes_devices_and_labels_of_an_image_reach_nothing(ring: &mut Ring) -> Outcome {
    let (fake, canaries) = (Fake::start(HERE).await?, set_canaries()?);
    let pod = ring.sandbox("reach", NamespaceMode::Container).await?;
    let layer = Tar::default()
        .symlink("volume", "/run/canary")
        .device(EntryType::Block, "disk", 254, 0)
        .device(EntryType::Char, "memory", 1, 1)
        .0;
    let config = json!({
        "Volumes": {"/volume": {}, "/../../../../run/canary": {}, "../../run/canary": {}, "/etc/../../../run/canary": {}},
        "Labels": {
            "io.cri-containerd.pinned": "pinned", "io.cri-containerd.image": "managed",
            "io.kubernetes.pod.uid": "evil", "io.kubernetes.container.name": "evil",
        },
    });
    let image = publish(ring, &fake, "reach", &[root(&[])?, layer], config).await?;
    let script = "cat /volume/file /run/canary/file; touch /volume/x /run/canary/x; for node in /disk /memory; do head -c1 $node; done";
    let output = said(ring, &pod, &image, &["sh", "-c", script], None).await?;
    check(!output.contains("precious"), format!("the host's file was read: {output}"))?;
    let refused = output.matches("Operation not permitted").count();
    check(refused == 2, format!("devices of the image: {output}"))?;
    unharmed(&canaries)?;
    let filter = cri::ContainerFilter { pod_sandbox_id: pod.0.clone(), ..Default::default() };
    let request = cri::ListContainersRequest { filter: Some(filter) };
    let containers = ring.client.list_containers(request).await.map_err(text)?.into_inner().containers;
    let plain =
        containers.iter().all(|container| container.labels.is_empty() && container.annotations.is_empty());
    check(containers.len() == 1 && plain, format!("{containers:?}"))?;
    ring.remove(&pod.0).await?;
    ring.remove_image(&image).await?;
    check(!ring.image_names().await?.contains(&image), "an image pinned itself")
}
