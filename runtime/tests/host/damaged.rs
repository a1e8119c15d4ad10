//! Damage on the disk that the runtime's state lies on: it comes up all the same, what runs goes on, and images can be pulled again.
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use machine::cri::NamespaceMode;
use machine::paths;
use serde_json::json;

use crate::content::{Content, noise};
use crate::fake::{Fake, HERE};
use crate::random::Random;
use crate::ring::{Outcome, Ring, check, text};

const PAGE: u64 = 4096;

/// Random bytes in the place of some pages, but for the first `spared`.
fn scribble(path: &Path, random: &mut Random, spared: u64) -> Outcome {
    let file = fs::OpenOptions::new().write(true).open(path).map_err(text)?;
    let pages = file.metadata().map_err(text)?.len() / PAGE;
    for _ in 0..pages {
        let page = spared + random.below(pages - spared);
        file.write_all_at(&random.bytes(PAGE as usize), page * PAGE).map_err(text)?;
    }
    Ok(())
}

fn set_aside() -> usize {
    let entries = fs::read_dir(paths::RUNTIME_STATE).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("images.redb.damaged-")).count()
}

pub async fn damaged_image_metadata_stops_neither_runtime_nor_containers(ring: &mut Ring) -> Outcome {
    let database = Path::new(paths::RUNTIME_STATE).join("images.redb");
    let fake = Fake::start(HERE).await?;
    let tars = noise(800, 2, 4, 60_000);
    let image = fake.publish("damaged", &Content::new(&tars, json!({})));
    let pod = ring.sandbox("damaged", NamespaceMode::Container).await?;
    let main = ring.run(&pod, "main", &["sleep", "1000"]).await?;
    for seed in 0..6 {
        ring.pull(&image, None).await?;
        ring.holds(&image, &tars).await?;
        // A container that stands on layers of the image itself.
        let name = format!("layers{seed}");
        let of_image = |config: &mut machine::cri::ContainerConfig| {
            config.image = Some(machine::cri::ImageSpec { image: image.clone(), ..Default::default() });
        };
        let id = ring.create(&pod, &name, &["/data/0/0"], of_image).await?;
        let layers = ring.layers(&image).await?;
        ring.stop_runtime().await?;
        scribble(&database, &mut Random::new(seed), seed % 2)?;
        ring.start_runtime().await?;
        check(layers.iter().all(|layer| layer.exists()), format!("seed {seed}: a container's layers went"))?;
        ring.status(&id).await?;
        let (said, code) = ring.exec(&main, &["echo", "here"]).await?;
        check(code == 0 && said == "here\n", format!("seed {seed}: a running container: {code} {said}"))?;
    }
    let kept = set_aside();
    check((1..=2).contains(&kept), format!("{kept} damaged files are kept"))?;
    ring.pull(&image, None).await?;
    ring.holds(&image, &tars).await?;
    ring.remove(&pod.0).await?;
    ring.remove_image(&image).await
}
