//! kill -9 of the runtime and of `pintle-launch` at random moments, while clients make, start, exec, stop and remove. Whatever a client was told
//! stays true, and when all pods are gone everything is as it was.
//!
//! `PINTLE_CAMPAIGN_ROUNDS` and `PINTLE_CAMPAIGN_SEED` set how often, and which random numbers; each round begins with a seed of its own, which a
//! failure names. A client's [`life`] is what it does; [`pod`] is what it was promised; [`world`] says which failures a kill excuses.
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use machine::cri::runtime_service_client::RuntimeServiceClient;
use tokio::task::JoinHandle;

use crate::random::Random;
use crate::ring::{Outcome, Ring, channel, check, kill_launch};
use crate::traces::Traces;

mod calls;
pub mod events;
mod life;
mod look;
mod pod;
pub mod world;

use events::Events;
use life::Client;
use world::World;

const CLIENTS: usize = 8;
/// Kills come within this time of a round's beginning.
const SPAN: Duration = Duration::from_millis(900);
/// No round takes this long.
const DEADLINE: Duration = Duration::from_secs(180);

pub fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

pub async fn the_kill_campaign_breaks_no_promise(ring: &mut Ring) -> Outcome {
    let rounds = setting("PINTLE_CAMPAIGN_ROUNDS").unwrap_or(20);
    let seed = setting("PINTLE_CAMPAIGN_SEED").unwrap_or_else(|| crate::init::now().unsigned_abs());
    // To standard error, which `cargo xtask` shows as it comes.
    eprintln!("kill campaign: {rounds} rounds with {CLIENTS} clients, PINTLE_CAMPAIGN_SEED={seed}");
    let world = Rc::new(World::default());
    let events = Rc::new(Events::default());
    let listening = tokio::task::spawn_local(Rc::clone(&events).follow(Rc::clone(&world)));
    world::network(&mut RuntimeServiceClient::new(channel())).await?;
    let mut campaign = Campaign { ring, world, events, started: Instant::now() };
    let result = campaign.run(rounds, seed).await;
    listening.abort();
    result
}

struct Campaign<'a> {
    ring: &'a mut Ring,
    world: Rc<World>,
    events: Rc<Events>,
    started: Instant,
}

impl Campaign<'_> {
    async fn run(&mut self, rounds: u64, seed: u64) -> Outcome {
        // What one pod of every kind leaves (bridge, table, compiled filters, folders) stays.
        self.world.stop();
        for number in 0..CLIENTS {
            self.client(number, 0).live().await?;
        }
        let pause = Path::new(machine::paths::RUNTIME_RUN).join("empty");
        check(pause.exists(), "no pod before the first round had a pause process")?;
        let before = Traces::now(self.ring);
        before.come_back(self.ring).await?;
        for round in 1..=rounds {
            let seed = seed.wrapping_add(round - 1);
            let done = self.round(seed).await;
            let done = match done {
                Ok(()) => before.come_back(self.ring).await.map_err(|left| format!("left behind:\n{left}")),
                failed => failed,
            };
            let done = match done {
                Ok(()) => self.events.all_were_told().await,
                failed => failed,
            };
            done.map_err(|error| {
                format!("round {round} (PINTLE_CAMPAIGN_ROUNDS=1 PINTLE_CAMPAIGN_SEED={seed}): {error}")
            })?;
            if round % 10 == 0 || round == rounds {
                let seconds = self.started.elapsed().as_secs();
                eprintln!("kill campaign: round {round} of {rounds} after {seconds} s; {}", self.world);
            }
        }
        Ok(())
    }

    fn client(&self, number: usize, seed: u64) -> Client {
        let random = Random::new(seed ^ ((number as u64 + 1) << 32));
        Client::new(number, Rc::clone(&self.world), Rc::clone(&self.events), random)
    }

    /// Clients live one pod after the other until everything was killed that was to be.
    async fn round(&mut self, seed: u64) -> Outcome {
        self.world.go_on();
        let clients: Vec<JoinHandle<Outcome>> = (0..CLIENTS)
            .map(|number| {
                let (mut client, world) = (self.client(number, seed), Rc::clone(&self.world));
                tokio::task::spawn_local(async move {
                    while world.goes_on() {
                        client.live().await.map_err(|error| format!("client {number}: {error}"))?;
                    }
                    Ok(())
                })
            })
            .collect();
        let killed = self.kill(&mut Random::new(seed)).await;
        self.world.stop();
        let start = Instant::now();
        let mut result = killed;
        for client in clients {
            let rest = DEADLINE.saturating_sub(start.elapsed());
            let abort = client.abort_handle();
            let ended = match tokio::time::timeout(rest, client).await {
                Ok(ended) => ended.map_err(|error| error.to_string()).and_then(|outcome| outcome),
                Err(_) => Err(format!("a client has not come to its end within {} s", DEADLINE.as_secs())),
            };
            abort.abort();
            result = result.and(ended);
        }
        result.and_then(|()| self.world.failures_have_causes())
    }

    /// One kill of the runtime and one of a launch, in either order; now and then the runtime is killed again while it starts.
    async fn kill(&mut self, random: &mut Random) -> Outcome {
        let (runtime, launch) = (random.within(SPAN), random.within(SPAN));
        let start = Instant::now();
        let sleep = |until: Duration| tokio::time::sleep(until.saturating_sub(start.elapsed()));
        if launch < runtime {
            sleep(launch).await;
            self.kill_launch(random).await?;
        }
        sleep(runtime).await;
        self.events.forgive();
        self.world.runtime_dies();
        self.ring.stop_runtime().await?;
        while random.below(4) == 0 {
            self.world.runtime_dies();
            self.ring.kill_while_it_starts(random.within(Duration::from_millis(120))).await?;
        }
        let restart = Instant::now();
        self.ring.start_runtime().await?;
        self.world.runtime_is_back(restart.elapsed());
        if launch >= runtime {
            sleep(launch).await;
            self.kill_launch(random).await?;
        }
        Ok(())
    }

    async fn kill_launch(&self, random: &mut Random) -> Outcome {
        let start = Instant::now();
        let late = random.within(Duration::from_millis(12));
        while start.elapsed() < Duration::from_secs(60) {
            tokio::time::sleep(late).await;
            if kill_launch() {
                self.world.launch_died();
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err("no launch was seen within 60 s".into())
    }
}
