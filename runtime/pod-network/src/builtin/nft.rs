//! The one way to nftables: a transaction handed to the `nft` program.
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::Error;

const DEADLINE: Duration = Duration::from_secs(20);

/// Applies `ruleset` as one transaction: all of it or nothing. An empty one costs nothing.
pub async fn apply(ruleset: &str) -> Result<(), Error> {
    if ruleset.is_empty() {
        return Ok(());
    }
    tokio::time::timeout(DEADLINE, run(ruleset))
        .await
        .unwrap_or_else(|_| Err(Error::Nft("no answer within 20 s; the node may be overloaded".into())))
}

async fn run(ruleset: &str) -> Result<(), Error> {
    let mut command = tokio::process::Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    // A next life must not have its changes followed by one of ours.
    sys::spawn::end_with_parent(command.as_std_mut());
    let mut child = command.kill_on_drop(true).spawn().map_err(|error| {
        Error::Nft(format!("start nft: {error}; the image or the host lacks the nftables package"))
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // An early end of nft shows in its status, with its reason.
        let _ = stdin.write_all(ruleset.as_bytes()).await;
    }
    let output =
        child.wait_with_output().await.map_err(|error| Error::Nft(format!("wait for nft: {error}")))?;
    if output.status.success() {
        Ok(())
    } else {
        let reason = String::from_utf8_lossy(&output.stderr);
        Err(Error::Nft(reason.lines().take(4).collect::<Vec<_>>().join(" ")))
    }
}
