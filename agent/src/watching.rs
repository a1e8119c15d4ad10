//! Following something of the API server for as long as the agent lives: over lost connections, new credentials and expired versions.
use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::api_handle::ApiHandle;

/// The wait after a failure, until the first success: a node that boots is needed now.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait after failures in a row.
const LONGEST: Duration = Duration::from_secs(10);

/// Passes on what the streams made by `make` say, one stream for each client of `api`, with growing pauses after errors. It ends with `api`.
pub async fn follow<E, S>(
    api: ApiHandle,
    make: impl Fn(kube::Client) -> S,
    mut on: impl FnMut(Result<E, watcher::Error>),
) where
    S: Stream<Item = Result<E, watcher::Error>>,
{
    let mut longest = FIRST;
    while let Some(client) = api.ready().await {
        let mut stream = std::pin::pin!(make(client));
        let mut replaced = std::pin::pin!(api.replaced());
        let mut wait = FIRST;
        loop {
            let next = tokio::select! {
                next = stream.next() => next,
                () = &mut replaced => break,
            };
            let Some(next) = next else { break };
            let failed = next.is_err();
            on(next);
            if !failed {
                (wait, longest) = (FIRST, LONGEST);
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = &mut replaced => break,
            }
            wait = (wait * 2).min(longest);
        }
    }
}

/// Runs a watch for as long as the agent lives, and says when it fails and when it works again.
pub async fn objects<K, F>(
    api: ApiHandle,
    what: &str,
    make: impl Fn(kube::Client) -> Api<K>,
    config: watcher::Config,
    mut on: F,
) where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static,
    F: FnMut(Event<K>),
{
    let mut told = String::new();
    let stream = |client| watcher::watcher(make(client), config.clone());
    let next = |next: Result<Event<K>, watcher::Error>| match next {
        Ok(event) => {
            if !told.is_empty() && matches!(event, Event::InitDone) {
                tracing::info!("watch {what}: works again");
                told.clear();
            }
            on(event);
        }
        Err(error) => {
            let text = crate::errors::chain(&error);
            if text != told {
                tracing::warn!("watch {what}: {text}; trying again");
                told = text;
            }
        }
    };
    follow(api, stream, next).await;
}
