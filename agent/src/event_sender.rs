//! Empties the event queue: repeated events are counted, and one object cannot flood the API server.
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

use crate::api_handle::ApiHandle;
use crate::events::{Happening, Kind};

/// Events remembered for counting; the oldest is forgotten first.
const REMEMBERED: usize = 512;
/// Events of one object at once, and seconds until it may have one more (the kubelet's spam filter).
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
const TRIES: u32 = 3;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    object: String,
    field: String,
    reason: &'static str,
    message: String,
}

#[derive(Debug, Clone)]
struct Sent {
    name: String,
    namespace: String,
    count: i32,
}

/// What to do with one happening.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Create,
    Count(i32),
    Drop,
}

/// Which happenings are new, which repeat, and which are too many. No IO, no clock.
#[derive(Debug, Default)]
struct Book {
    sent: HashMap<Key, Sent>,
    order: VecDeque<Key>,
    buckets: HashMap<String, (f64, f64)>,
}

fn key(happening: &Happening) -> Key {
    let about = &happening.about;
    Key {
        object: about.uid.clone().unwrap_or_default(),
        field: about.field_path.clone().unwrap_or_default(),
        reason: happening.reason,
        message: happening.message.clone(),
    }
}

impl Book {
    fn step(&mut self, happening: &Happening, seconds: f64) -> Step {
        let key = key(happening);
        let (tokens, last) = self.buckets.get(&key.object).copied().unwrap_or((BURST, seconds));
        let tokens = (tokens + (seconds - last) / REFILL_SECONDS).min(BURST);
        if tokens < 1.0 {
            return Step::Drop;
        }
        if self.buckets.len() >= REMEMBERED && !self.buckets.contains_key(&key.object) {
            self.buckets.retain(|_, (tokens, last)| *tokens + (seconds - *last) / REFILL_SECONDS < BURST);
        }
        if self.buckets.len() < REMEMBERED || self.buckets.contains_key(&key.object) {
            self.buckets.insert(key.object.clone(), (tokens - 1.0, seconds));
        }
        match self.sent.get_mut(&key) {
            Some(sent) => {
                sent.count += 1;
                Step::Count(sent.count)
            }
            None => Step::Create,
        }
    }

    /// The event is no more, an hour after its last change: what happens again is told anew.
    fn gone(&mut self, happening: &Happening) {
        let key = key(happening);
        self.sent.remove(&key);
        self.order.retain(|other| *other != key);
    }

    fn created(&mut self, happening: &Happening, sent: Sent) {
        let key = key(happening);
        self.order.push_back(key.clone());
        self.sent.insert(key, sent);
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.sent.remove(&oldest);
            }
        }
    }
}

/// Sends events for as long as the agent lives.
pub async fn run(api: ApiHandle, node: std::sync::Arc<str>, mut queue: mpsc::Receiver<Happening>) {
    let mut book = Book::default();
    let begun = tokio::time::Instant::now();
    while let Some(happening) = queue.recv().await {
        let Some(client) = api.ready().await else { return };
        let step = book.step(&happening, begun.elapsed().as_secs_f64());
        for attempt in 1..=TRIES {
            match tokio::time::timeout(
                Duration::from_secs(10),
                send(&client, &node, &happening, &step, &mut book),
            )
            .await
            {
                Ok(Ok(())) => break,
                Ok(Err(kube::Error::Api(answer))) => {
                    tracing::debug!("event {}: {}", happening.reason, answer.message);
                    break;
                }
                _ if attempt == TRIES => tracing::debug!("event {} was given up", happening.reason),
                _ => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }
}

async fn send(
    client: &kube::Client,
    node: &str,
    happening: &Happening,
    step: &Step,
    book: &mut Book,
) -> Result<(), kube::Error> {
    let now = jiff::Timestamp::now();
    match step {
        Step::Drop => Ok(()),
        Step::Create => create(client, node, happening, book).await,
        Step::Count(count) => {
            let Some(sent) = book.sent.get(&key(happening)) else { return Ok(()) };
            let events: Api<Event> = Api::namespaced(client.clone(), &sent.namespace);
            let patch = serde_json::json!({ "count": count, "lastTimestamp": Time(second(now)) });
            match events.patch(&sent.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(kube::Error::Api(answer)) if answer.code == 404 => {
                    book.gone(happening);
                    create(client, node, happening, book).await
                }
                told => told.map(drop),
            }
        }
    }
}

async fn create(
    client: &kube::Client,
    node: &str,
    happening: &Happening,
    book: &mut Book,
) -> Result<(), kube::Error> {
    let event = event(node, happening, jiff::Timestamp::now());
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let created = events.create(&PostParams::default(), &event).await?;
    let name = created.metadata.name.unwrap_or_default();
    book.created(happening, Sent { name, namespace, count: 1 });
    Ok(())
}

fn second(at: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn event(node: &str, happening: &Happening, now: jiff::Timestamp) -> Event {
    let about = happening.about.clone();
    let namespace = about.namespace.clone().unwrap_or_else(|| "default".into());
    let name = format!("{}.{:x}", about.name.clone().unwrap_or_default(), now.as_nanosecond());
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..Default::default() },
        involved_object: about,
        reason: Some(happening.reason.into()),
        message: Some(happening.message.chars().take(1024).collect()),
        type_: Some(match happening.kind {
            Kind::Normal => "Normal".into(),
            Kind::Warning => "Warning".into(),
        }),
        source: Some(EventSource { component: Some("kubelet".into()), host: Some(node.into()) }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(node.into()),
        first_timestamp: Some(Time(second(now))),
        last_timestamp: Some(Time(second(now))),
        count: Some(1),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ObjectReference;

    #[test]
    fn repeats_are_counted_and_floods_dropped() {
        let happening = Happening {
            about: ObjectReference { uid: Some("u".into()), ..Default::default() },
            kind: Kind::Warning,
            reason: "BackOff",
            message: "again".into(),
        };
        let mut book = Book::default();
        assert_eq!(book.step(&happening, 0.0), Step::Create);
        book.created(&happening, Sent { name: "e".into(), namespace: "default".into(), count: 1 });
        assert_eq!(book.step(&happening, 1.0), Step::Count(2));
        let later: Vec<Step> = (0..30).map(|_| book.step(&happening, 2.0)).collect();
        assert_eq!(later.iter().filter(|s| **s == Step::Drop).count(), 7);
        assert!(matches!(book.step(&happening, 400.0), Step::Count(_)));
    }
}
