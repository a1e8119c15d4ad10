//! `pintle image import`.
use std::path::PathBuf;

use anyhow::{Context, Result};
use ctl::client::Client;
use machine::api;
use tokio::io::AsyncReadExt;

use crate::cli_errors::explain;

/// Bytes of an image sent at once.
const CHUNK: usize = 256 << 10;

/// Sends one machine an archive; returns the names of its images.
pub async fn import(client: &mut Client, archive: &PathBuf) -> Result<Vec<String>> {
    let mut file = tokio::fs::File::open(archive).await.context("open the archive")?;
    let (send, receive) = tokio::sync::mpsc::channel(4);
    let reader = async move {
        loop {
            let mut data = vec![0_u8; CHUNK];
            let length = file.read(&mut data).await?;
            data.truncate(length);
            if length == 0 || send.send(api::Data { data: data.into() }).await.is_err() {
                return Ok::<(), std::io::Error>(());
            }
        }
    };
    let call = client.image_import(tokio_stream::wrappers::ReceiverStream::new(receive));
    let (read, answer) = tokio::join!(reader, call);
    let names = answer.map_err(explain)?.into_inner().names;
    read.context("read the archive")?;
    Ok(names)
}
