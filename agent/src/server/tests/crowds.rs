//! Port 10250 with more clients, larger requests and stranger logs than it should have.
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::Ordering;

use nix::sys::stat::Mode;
use tokio::net::TcpStream;

use super::*;

/// Generous, and less than any time after which the server gives up on a silent client.
const SOON: Duration = Duration::from_secs(8);

async fn soon<T>(what: &str, answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, answer).await.unwrap_or_else(|_| panic!("no answer: {what}"))
}

#[tokio::test]
async fn clients_that_do_not_say_who_they_are_hold_up_nobody() {
    let rig = rig().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(rig.address).await.unwrap());
    }
    let answer = soon("beside silent clients", ask(&rig, Some("certificate"), Method::GET, "/healthz")).await;
    assert_eq!(answer.0, 200);
    // The oldest of them had to go.
    let mut byte = [0];
    assert_eq!(soon("the oldest is closed", silent[0].read(&mut byte)).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_connection_ends_with_a_401() {
    let rig = rig().await;
    let mut stream = secured(&rig, false).await;
    stream.write_all(b"GET /pods HTTP/1.1\r\nhost: n\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    // A client's own close_notify is not waited for.
    let _ = soon("the end of the connection", stream.read_to_string(&mut answer)).await;
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn followers_of_logs_leave_room_for_other_requests() {
    let rig = rig().await;
    rig.backend.endless.store(true, Ordering::SeqCst);
    std::fs::write(&rig.backend.log, "2026-01-01T00:00:00Z stdout F alive\n").unwrap();
    let mut followers = Vec::new();
    let refused = loop {
        let mut sender = connect(&rig, true).await;
        let request = Request::get("/containerLogs/ns/p/c?follow=true").header("host", "n");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answer = soon("a follower", sender.send_request(request)).await.unwrap();
        if answer.status() != StatusCode::OK || followers.len() > 400 {
            break answer.status();
        }
        followers.push((sender, answer));
    };
    assert_eq!(refused, StatusCode::TOO_MANY_REQUESTS, "after {} followers", followers.len());
    assert_eq!(soon("no follower", ask(&rig, Some("certificate"), Method::GET, "/healthz")).await.0, 200);
    let without = ask(&rig, Some("certificate"), Method::GET, "/containerLogs/ns/p/c?tailLines=0");
    assert_eq!(soon("a log that is not followed", without).await.0, 200);
}

#[tokio::test]
async fn one_address_has_few_token_reviews_under_way() {
    let rig = rig().await;
    rig.backend.mute.store(true, Ordering::SeqCst);
    let mut clients = Vec::new();
    for number in 0..20 {
        let mut sender = connect(&rig, false).await;
        let request = Request::get("/healthz").header("host", "n");
        let request = request.header("authorization", format!("Bearer stranger-{number}"));
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        clients.push(tokio::spawn(async move { sender.send_request(request).await.map(|a| a.status()) }));
    }
    // A known client is not kept waiting by those that are not.
    let known = soon("a certificate", ask(&rig, Some("certificate"), Method::GET, "/healthz")).await;
    assert_eq!(known.0, 200);
    let most = rig.backend.waiting.lock().unwrap().1;
    assert!((1..=4).contains(&most), "{most} at a time");
}

#[tokio::test]
async fn a_request_is_refused_rather_than_cut_short() {
    let rig = rig().await;
    let words = |count: usize| format!("/exec/ns/p/c?output=1{}", "&command=x".repeat(count));
    let refused = ask(&rig, Some("certificate"), Method::GET, &words(5000)).await;
    assert_eq!(refused.0, 400, "{}", refused.1);
    assert!(rig.backend.asked.lock().unwrap().is_empty());
    let asked = ask(&rig, Some("certificate"), Method::GET, &words(4000)).await;
    assert_eq!(asked.0, 502, "nobody serves streams in this test: {}", asked.1);
    assert_eq!(rig.backend.asked.lock().unwrap()[0].matches("\"x\"").count(), 4000);
}

#[tokio::test]
async fn headers_may_have_a_mebibyte_as_with_the_kubelet() {
    let rig = rig().await;
    let status = async |size: usize| {
        let mut sender = connect(&rig, true).await;
        let request = Request::get("/healthz").header("host", "n").header("x-long", "x".repeat(size));
        // A refusal comes before all is sent, so that the client may not see more of it than the end.
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await;
        answer.map_or(431, |answer| answer.status().as_u16())
    };
    assert_eq!(status(1 << 10).await, 200);
    assert_eq!(status(900 << 10).await, 200);
    assert_eq!(status(3 << 20).await, 431);
}

fn strange(log: &Path, how: &str) {
    let outside = log.with_file_name("outside");
    std::fs::write(&outside, "2026-01-01T00:00:00Z stdout F the node's own\n").unwrap();
    match how {
        "fifo" => nix::unistd::mkfifo(log, Mode::S_IRUSR | Mode::S_IWUSR).unwrap(),
        "link" => symlink(&outside, log).unwrap(),
        _ => std::fs::hard_link(&outside, log).unwrap(),
    }
}

#[tokio::test]
async fn a_log_that_is_no_file_of_its_own_is_neither_shown_nor_waited_for() {
    for how in ["fifo", "link", "hard link"] {
        for query in ["", "follow=true&", "tailLines=1&"] {
            let rig = rig().await;
            strange(&rig.backend.log, how);
            let path = format!("/containerLogs/ns/p/c?{query}limitBytes=100");
            let answer = soon(how, ask(&rig, Some("certificate"), Method::GET, &path)).await;
            assert!(!answer.1.contains("the node's own"), "{how}: {}", answer.1);
        }
    }
}

#[tokio::test]
async fn a_log_behind_a_linked_folder_is_not_shown() {
    let rig = rig().await;
    let real = rig.dir.path().join("real");
    std::fs::create_dir(&real).unwrap();
    std::fs::write(real.join("0.log"), "2026-01-01T00:00:00Z stdout F the node's own\n").unwrap();
    symlink(&real, rig.dir.path().join("linked")).unwrap();
    let (output, mut chunks) = mpsc::channel(4);
    let path = rig.dir.path().join("linked/0.log");
    let sent = logs::send(path, LogOptions::default(), std::future::ready(()), output).await;
    assert!(sent.is_err());
    assert_eq!(chunks.recv().await, None);
}

#[tokio::test]
async fn the_kernel_tells_of_clients_that_are_cut_off() {
    use nix::sys::socket::{getsockopt, sockopt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = accept(&listener).await;
    assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap());
    assert_eq!(getsockopt(&stream, sockopt::TcpKeepIdle).unwrap(), 60);
    assert_eq!(getsockopt(&stream, sockopt::TcpUserTimeout).unwrap(), 120_000);
}
