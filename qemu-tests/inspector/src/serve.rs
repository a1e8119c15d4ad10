//! HTTP and UDP on one port. `/` answers with the pod's name; `/COMMAND?WORD&WORD` with the command's result.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

/// The largest request head that is read.
const MAX_HEAD: u64 = 16 * 1024;
/// The most requests at once.
const MAX_REQUESTS: usize = 32;
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

static REQUESTS: AtomicUsize = AtomicUsize::new(0);

/// Serves until it is killed.
pub fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("listen on port {port}"))?;
    let datagrams = UdpSocket::bind(("0.0.0.0", port)).with_context(|| format!("bind UDP port {port}"))?;
    std::thread::spawn(move || answer_datagrams(&datagrams));
    println!("listening on port {port}");
    for stream in listener.incoming().flatten() {
        if REQUESTS.fetch_add(1, Ordering::SeqCst) >= MAX_REQUESTS {
            REQUESTS.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        std::thread::spawn(move || {
            if let Err(fault) = answer(&stream) {
                eprintln!("request failed: {fault:#}");
            }
            REQUESTS.fetch_sub(1, Ordering::SeqCst);
        });
    }
    Ok(())
}

/// Sends each datagram back, with the pod's name before it.
fn answer_datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let text = format!("{} {}", name(), String::from_utf8_lossy(&buffer[..length]));
        let _ = socket.send_to(text.as_bytes(), from);
    }
}

fn answer(mut stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut lines = BufReader::new(stream.take(MAX_HEAD)).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let (status, body) = match reply(&request) {
        Ok(body) => ("200 OK", body),
        Err(fault) => ("500 Internal Server Error", format!("{fault:#}")),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

fn reply(request: &str) -> Result<String> {
    let target = request.split(' ').nth(1).context("the request has no target")?;
    let target = target.trim_start_matches('/');
    let (command, words) = target.split_once('?').unwrap_or((target, ""));
    if command.is_empty() {
        return Ok(format!("{}\n", name()));
    }
    let words = std::iter::once(command).chain(words.split('&').filter(|word| !word.is_empty()));
    crate::answer(&words.collect::<Vec<_>>())
}

/// The host name, which is the pod's name.
fn name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}
