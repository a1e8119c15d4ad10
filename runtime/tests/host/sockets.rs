//! The runtime's own sockets, as a pod sees them that has their folder mounted.
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use machine::cri::{self, NamespaceMode};
use machine::paths;

use crate::escapes::volume;
use crate::mounts::privileged;
use crate::ring::{Outcome, Ring, check, text};

/// Names the socket that this program tries, as a container's.
pub const PROBE: &str = "PINTLE_HOST_RING_PROBE";
const HUNG_UP: i32 = 3;

/// What the container runs: 0 when the socket answers, 3 when it hangs up.
pub fn probe(path: &str) -> ExitCode {
    let Ok(mut stream) = UnixStream::connect(path) else { return ExitCode::FAILURE };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    // It makes sense to none of them, and all of them have something to say to it.
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    // An import answers at its archive's end. HTTP takes a client that has ended for one that has left.
    if path == paths::IMPORT_SOCKET {
        let _ = stream.shutdown(Shutdown::Write);
    }
    match stream.read(&mut [0]) {
        Ok(1) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => ExitCode::FAILURE,
        _ => ExitCode::from(HUNG_UP as u8),
    }
}

/// This program and what it is linked with, and the sockets.
fn with_probe(config: &mut cri::ContainerConfig, socket: &str) -> Outcome {
    let real = |path: &str| std::fs::canonicalize(path).map(|path| path.display().to_string()).map_err(text);
    let own = std::env::current_exe().map_err(text)?.display().to_string();
    let mut mounts = vec![volume(&own, "/probe"), volume(paths::RUN, paths::RUN)];
    for libraries in ["/lib", "/lib64", "/usr/lib"] {
        if std::path::Path::new(libraries).exists() {
            mounts.push(volume(&real(libraries)?, libraries));
        }
    }
    config.mounts = mounts;
    config.envs = vec![cri::KeyValue { key: PROBE.into(), value: socket.into() }];
    Ok(())
}

pub async fn sockets_are_closed_to_pods_that_are_not_privileged(ring: &mut Ring) -> Outcome {
    let pod = ring.sandbox("sockets", NamespaceMode::Container).await?;
    for (name, socket) in
        [("cri", paths::CRI_SOCKET), ("stream", paths::STREAM_SOCKET), ("import", paths::IMPORT_SOCKET)]
    {
        for (kind, expected) in [("plain", HUNG_UP), ("privileged", 0)] {
            let mut prepared = Ok(());
            let id = ring
                .create(&pod, &format!("{name}-{kind}"), &["/probe"], |config| {
                    prepared = with_probe(config, socket);
                    if kind == "privileged" {
                        privileged(config);
                    }
                })
                .await?;
            prepared?;
            ring.begin(&id).await?;
            let code = ring.exited(&id).await?.exit_code;
            check(code == expected, format!("{socket}, {kind}: exit code {code}"))?;
        }
    }
    ring.remove(&pod.0).await
}
