use super::*;

struct Bench {
    folder: tempfile::TempDir,
    transfer: Transfer,
    log: LogFile,
    pipe: Pipe,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let transfer = Transfer::new(Vec::new(), &folder.path().join("note")).unwrap();
    let log = LogFile::open(&folder.path().join("log")).unwrap();
    Bench { folder, transfer, log, pipe: Pipe::new().unwrap() }
}

#[tokio::test]
async fn output_goes_into_the_log_and_to_whoever_is_attached() {
    let Bench { folder, transfer, log, pipe } = bench();
    nix::unistd::write(&pipe.write, b"one\ntwo\n").unwrap();
    let (log, read) = (Arc::new(log), crate::pipes::watch(pipe.read).unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let step = async || {
        let seen = Arc::clone(&seen);
        let deliver = move |bytes: &[u8]| seen.lock().unwrap().extend_from_slice(bytes);
        transfer.step(Arc::clone(&read), "id", Stream::Stdout, log.clone(), deliver).await.unwrap()
    };
    assert_eq!(step().await, Rest::Empty);
    assert_eq!(*seen.lock().unwrap(), b"one\ntwo\n");
    assert_eq!(step().await, Rest::Empty);
    let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(transfer.left().is_empty());
    drop(pipe.write);
    assert_eq!(step().await, Rest::Ended);
}

#[tokio::test]
async fn one_turn_takes_no_more_than_a_pipe_holds() {
    let Bench { transfer, log, pipe, .. } = bench();
    let full = vec![b'x'; TURN * CHUNK];
    assert_eq!(nix::unistd::write(&pipe.write, &full).unwrap(), full.len());
    let (log, read) = (Arc::new(log), crate::pipes::watch(pipe.read).unwrap());
    let rest = transfer.step(read, "id", Stream::Stdout, log, |_| {}).await.unwrap();
    assert_eq!(rest, Rest::More);
}

/// Each thread's pipe is taken up, and so is the one pipe of a former version.
#[test]
fn what_is_kept_is_found_again_in_every_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("note");
    let first = Transfer::new(Vec::new(), &note).unwrap();
    let pipe = Pipe::new().unwrap();
    let mut kept = Vec::new();
    for (number, writer) in first.0.iter().enumerate() {
        let mut way = writer.lock();
        let position = Position::default();
        way.write_note(&Note { container: number.to_string(), stream: Stream::Stdout, position }).unwrap();
        nix::unistd::write(&pipe.write, b"chunk").unwrap();
        sys::pipe::move_bytes(&pipe.read, &way.kept.write, CHUNK).unwrap();
        kept.extend([way.kept.read.try_clone().unwrap(), way.kept.write.try_clone().unwrap()]);
    }
    assert!(Transfer::knows(kept.len()) && Transfer::knows(first.raw().len()));
    let former = kept[..2].iter().map(|end| end.try_clone().unwrap()).collect();
    drop(first);
    let of = |transfer: &Transfer| -> Vec<String> {
        transfer.left().into_iter().map(|left| left.unwrap().note.container).collect()
    };
    assert_eq!(of(&Transfer::new(former, &note).unwrap()), ["0"]);
    let next = Transfer::new(kept, &note).unwrap();
    assert_eq!(of(&next), ["0", "1", "2", "3"]);
    next.forget().unwrap();
    assert_eq!(of(&next), [""; 0]);
}

/// What a kill leaves is told apart by the log's length, at every point of the way.
#[test]
fn a_chunk_that_was_left_is_written_once() {
    let bench = bench();
    bench.log.append(b"before\n", Stream::Stdout);
    nix::unistd::write(&bench.pipe.write, b"chunk\n").unwrap();
    let position = bench.log.position();
    {
        let mut inner = bench.transfer.0[0].lock();
        inner.write_note(&Note { container: "id".into(), stream: Stream::Stderr, position }).unwrap();
        sys::pipe::move_bytes(&bench.pipe.read, &inner.kept.write, CHUNK).unwrap();
    }
    let left = bench.transfer.left().remove(0).unwrap();
    assert_eq!((&*left.note.container, &left.bytes[..]), ("id", &b"chunk\n"[..]));
    let whole = crate::logs::format(b"chunk\n", Stream::Stderr, &crate::logs::timestamp()).len() as u64;
    assert_eq!(repair(&left, position.length), Repair::Write { length: position.length });
    assert_eq!(repair(&left, position.length + 5), Repair::Write { length: position.length });
    assert_eq!(repair(&left, position.length + whole), Repair::Nothing);
    // Asking changes nothing; forgetting does.
    assert_eq!(bench.transfer.left().len(), 1);
    bench.transfer.forget().unwrap();
    assert!(bench.transfer.left().is_empty());
}
