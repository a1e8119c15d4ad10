//! The demo image's only program: answers every HTTP request with the name and addresses of its pod, so that a first Deployment and its
//! Service can be tried without a registry.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// The largest request head that is read.
const MAX_HEAD: u64 = 16 * 1024;
/// How long a client may take to send its request or read its answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> std::io::Result<()> {
    // Something to `kubectl exec`.
    if std::env::args().nth(1).as_deref() == Some("--version") {
        println!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        return Ok(());
    }
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080);
    let listener = TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))?;
    println!("listening on port {port}");
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let greeting = format!("Hello from pod {}\n", name.trim());
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => match answer(stream, &greeting) {
                Ok(request) => println!("{request}"),
                Err(fault) => eprintln!("request failed: {fault}"),
            },
            Err(fault) => eprintln!("accept failed: {fault}"),
        }
    }
    Ok(())
}

/// Reads one request and answers it; one at a time is enough for a demo.
fn answer(mut stream: TcpStream, greeting: &str) -> std::io::Result<String> {
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut lines = BufReader::new((&stream).take(MAX_HEAD)).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{greeting}",
        greeting.len()
    )?;
    Ok(request)
}
