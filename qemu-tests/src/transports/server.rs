//! A file server for guests: what network boot and `pintle.config=http://…` fetch.
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// The longest request head that is read, in bytes.
const HEAD: u64 = 16 << 10;

/// Serves a folder on loopback for as long as the program runs; guests reach it at 10.0.2.2.
#[derive(Debug)]
pub struct FileServer {
    port: u16,
}

impl FileServer {
    /// Starts to serve `folder`.
    ///
    /// # Errors
    /// When loopback has no port.
    pub fn start(folder: &Path) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("listen on loopback")?;
        let port = listener.local_addr()?.port();
        let folder = folder.to_path_buf();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let folder = folder.clone();
                // A client that goes away early is its own affair.
                std::thread::spawn(move || drop(answer(stream, &folder)));
            }
        });
        Ok(Self { port })
    }

    /// A file's URL as a guest on the user-mode network asks for it.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("http://10.0.2.2:{}/{name}", self.port)
    }
}

fn answer(mut stream: TcpStream, folder: &Path) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(120)))?;
    let mut head = BufReader::new(std::io::Read::take(stream.try_clone()?, HEAD));
    let mut request = String::new();
    head.read_line(&mut request)?;
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut words = request.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let found = place(folder, target).and_then(|path| std::fs::File::open(path).ok());
    let Some(mut file) = found.filter(|_| matches!(method, "GET" | "HEAD")) else {
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        return Ok(());
    };
    let length = file.metadata()?.len();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    if method == "GET" {
        std::io::copy(&mut file, &mut stream)?;
    }
    Ok(())
}

/// The file that a request's target names, below `folder`.
fn place(folder: &Path, target: &str) -> Option<PathBuf> {
    let path = Path::new(target.strip_prefix('/')?.split('?').next()?);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && path != Path::new("")).then(|| folder.join(path))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_file_is_served_and_nothing_outside_the_folder() -> Result<()> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("a.yaml"), "kind: Machine\n")?;
        let server = FileServer::start(folder.path())?;
        let ask = |target: &str| -> Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", server.port))?;
            write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        assert!(ask("/a.yaml?mac=1")?.ends_with("\r\n\r\nkind: Machine\n"));
        for outside in ["/../etc/passwd", "/", "//etc/passwd", "a.yaml", "/b"] {
            assert!(ask(outside)?.starts_with("HTTP/1.1 404"), "{outside}");
        }
        Ok(())
    }
}
