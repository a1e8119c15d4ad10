//! `pintle health`.
use std::time::Duration;

use anyhow::{Result, bail};
use ctl::client::connect;
use ctl::generate::ClientConfig;
use machine::api;
use serde_json::{Value, json};

use crate::cli_errors::explain;
use crate::cli_rows::Rows;

/// Asks until everything is healthy; prints each change of what is waited for.
pub async fn health(config: &ClientConfig, node: &str, wait: Duration, rows: &mut Rows) -> Result<()> {
    let deadline = tokio::time::Instant::now() + wait;
    let mut said = String::new();
    loop {
        let (conditions, waiting) = match look(config, node).await {
            Ok(conditions) => {
                let waiting = blockers(&conditions);
                (conditions, waiting)
            }
            Err(error) => (Vec::new(), format!("{error:#}")),
        };
        let over = tokio::time::Instant::now() >= deadline;
        if waiting.is_empty() || over {
            let list: Vec<_> = conditions.iter().map(condition).collect();
            let healthy = waiting.is_empty();
            let text = if healthy { "healthy".to_owned() } else { format!("waiting for {waiting}") };
            rows.say(node, &text, json!({"healthy": healthy, "waitingFor": waiting, "conditions": list}));
            if healthy {
                return Ok(());
            }
            bail!("not healthy within {} s. Next: pintle --nodes {node} services", wait.as_secs());
        }
        if waiting != said {
            // Not part of the answer: with json, standard output is one document.
            eprintln!("{node}: waiting for {waiting}");
            said = waiting;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

async fn look(config: &ClientConfig, node: &str) -> Result<Vec<api::Condition>> {
    let mut client = connect(config, node).await?;
    Ok(client.health(api::HealthRequest {}).await.map_err(explain)?.into_inner().conditions)
}

/// What a machine waits for, in words; empty when it is healthy.
fn blockers(conditions: &[api::Condition]) -> String {
    if conditions.is_empty() {
        return "the machine's first report".into();
    }
    let bad = conditions.iter().filter(|condition| !condition.ok);
    let words = bad.map(|c| match c.message.replace(char::is_control, " ").trim() {
        "" => format!("{} ({})", c.name, c.reason),
        message => format!("{} ({}: {message})", c.name, c.reason),
    });
    words.collect::<Vec<_>>().join("; ")
}

fn condition(c: &api::Condition) -> Value {
    json!({"name": c.name, "ok": c.ok, "reason": c.reason, "message": c.message, "reporter": c.reporter, "sinceUnixMs": c.since_unix_ms})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_names_what_is_waited_for_and_nothing_else() {
        let condition = |name: &str, ok, message: &str| api::Condition {
            name: name.into(),
            ok,
            reason: "Waiting".into(),
            message: message.into(),
            ..api::Condition::default()
        };
        assert_eq!(blockers(&[condition("A", true, "x")]), "");
        assert_eq!(
            blockers(&[
                condition("A", true, ""),
                condition("B", false, "a\x1b[2Jdisk"),
                condition("C", false, "")
            ]),
            "B (Waiting: a [2Jdisk); C (Waiting)"
        );
        assert_eq!(blockers(&[]), "the machine's first report");
    }
}
