//! kill -9 of the runtime while it pulls and unpacks: half an image is never shown, nothing is left over, and the next pull ends right.
use std::path::Path;
use std::time::Duration;

use machine::{cri, paths};
use serde_json::json;

use crate::content::{Content, noise, settled};
use crate::fake::{Fake, HERE};
use crate::random::Random;
use crate::ring::{Outcome, Ring, check, text};

/// How many kills; `PINTLE_HOST_RING_ROUNDS` says another number.
fn rounds() -> Result<u64, String> {
    std::env::var("PINTLE_HOST_RING_ROUNDS").map_or(Ok(8), |number| number.parse().map_err(text))
}

/// Another one each time, unless `PINTLE_HOST_RING_SEED` says which.
fn seed() -> Result<u64, String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_err(text)?;
    std::env::var("PINTLE_HOST_RING_SEED")
        .map_or(Ok(now.as_micros() as u64 | 1), |seed| seed.parse().map_err(text))
}

pub async fn a_pull_that_is_killed_leaves_nothing_half(ring: &mut Ring) -> Outcome {
    let state = Path::new(paths::RUNTIME_STATE);
    let fake = Fake::start(HERE).await?;
    fake.slow_down(Duration::from_millis(1));
    let seed = seed()?;
    let mut random = Random::new(seed);
    for round in 0..rounds()? {
        let says = |what: String| format!("round {round} of seed {seed}: {what}");
        let tars = noise(1000 + round, 3, 60, 20_000);
        let content = Content::new(&tars, json!({}));
        let name = fake.publish(&format!("killed{round}"), &content);
        let size: u64 = content.layers.iter().map(|layer| layer.len() as u64).sum();
        let image = Some(cri::ImageSpec { image: name.clone(), ..Default::default() });
        let mut images = ring.images.clone();
        let pull = tokio::task::spawn_local(async move {
            let request = cri::PullImageRequest { image, auth: None, sandbox_config: None };
            images.pull_image(request).await.is_ok()
        });
        // Every other time when all has been sent: it is unpacked, synced and recorded then.
        let when = if round % 2 == 0 { random.below(size) } else { size };
        fake.served(when).await;
        tokio::time::sleep(random.within(Duration::from_millis(30))).await;
        ring.stop_runtime().await?;
        let told = pull.await.map_err(text)?;
        ring.start_runtime().await?;
        // What was told stays true; what is shown is whole.
        let shown = ring.image_names().await?.contains(&name);
        check(shown || !told, says("an image that was pulled is not listed any more".into()))?;
        if shown {
            ring.holds(&name, &tars).await.map_err(says)?;
        }
        let kept = std::fs::read_dir(state.join("layers")).map_or(0, Iterator::count);
        check(kept <= 3, says(format!("{kept} layers of 3")))?;
        settled(state, kept).await.map_err(says)?;
        ring.pull(&name, None).await.map_err(says)?;
        ring.holds(&name, &tars).await.map_err(says)?;
        settled(state, 3).await.map_err(says)?;
        ring.remove_image(&name).await.map_err(says)?;
        settled(state, 0).await.map_err(says)?;
    }
    let snapshots = std::fs::read_dir(state.join("snapshots")).map_or(0, Iterator::count);
    check(snapshots == 0, format!("{snapshots} snapshots"))
}

/// Whole layers of a pull that a kill ended are not fetched again.
pub async fn what_was_whole_before_a_kill_is_not_fetched_again(ring: &mut Ring) -> Outcome {
    let state = Path::new(paths::RUNTIME_STATE);
    let fake = Fake::start(HERE).await?;
    let tars = noise(2000, 2, 3, 60_000);
    let content = Content::new(&tars, json!({}));
    let name = fake.publish("resumed", &content);
    let [lower, upper] = &content.layer_paths()[..] else { return Err("two layers".into()) };
    fake.fail(std::slice::from_ref(upper), usize::MAX, crate::fake::Fault::Stall(20_000));
    let image = Some(cri::ImageSpec { image: name.clone(), ..Default::default() });
    let mut images = ring.images.clone();
    let pull = tokio::task::spawn_local(async move {
        let request = cri::PullImageRequest { image, auth: None, sandbox_config: None };
        images.pull_image(request).await.is_ok()
    });
    for _ in 0..1000 {
        if ring.image_bytes().await? > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ring.kill_runtime().await?;
    check(!pull.await.map_err(text)?, "a pull from a stalled registry succeeded")?;
    settled(state, 1).await?;
    fake.heal();
    ring.pull(&name, None).await?;
    ring.holds(&name, &tars).await?;
    let times = |digest: &str| fake.seen().iter().filter(|seen| seen.path.contains(digest)).count();
    check((times(lower), times(upper)) == (1, 2), format!("{} and {} times", times(lower), times(upper)))?;
    ring.remove_image(&name).await?;
    settled(state, 0).await
}
