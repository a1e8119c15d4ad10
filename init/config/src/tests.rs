use super::*;

/// What the process says to a text.
fn answer(yaml: &[u8]) -> Result<Read, Vec<Fault>> {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let serving = std::thread::spawn(move || serve(theirs));
    let request = Request { source: "t".into(), yaml: yaml.to_vec() }.encode_to_vec();
    ours.write_all(&(request.len() as u32).to_be_bytes()).unwrap();
    ours.write_all(&request).unwrap();
    let mut said = Vec::new();
    ours.read_to_end(&mut said).unwrap();
    serving.join().unwrap().unwrap();
    assert_eq!(u32::from_be_bytes(said[..4].try_into().unwrap()) as usize, said.len() - 4);
    Answer::outcome(&said[4..]).unwrap()
}

#[test]
fn documents_come_with_the_text_without_its_secrets() {
    let text = "apiVersion: pintle.dev/v1alpha1\nkind: Machine\nhostname: n1\n---\napiVersion: pintle.dev/v1alpha1\nkind: Registry\nhost: r.example\nauth: {username: u, password: K3}\n";
    let read = answer(text.as_bytes()).unwrap();
    assert_eq!(read.config, config::parse("t", text).unwrap());
    assert!(read.redacted.contains("hostname: n1") && !read.redacted.contains("K3"), "{}", read.redacted);
}

#[test]
fn faults_have_their_place() {
    let faults = answer(b"apiVersion: pintle.dev/v1alpha1\nkind: Machine\nhostnam: n1\n").unwrap_err();
    assert_eq!((faults.len(), faults[0].line, &*faults[0].file), (1, 3, "t"));
    let faults = answer(b"\xff").unwrap_err();
    assert!(faults[0].message.contains("no UTF-8 text"), "{faults:?}");
}

#[test]
fn bombs_are_faults() {
    let mut aliases = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..30 {
        aliases.push_str(&format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", ")));
    }
    for (bomb, said) in [
        (aliases, "alias"),
        ("---\n{}\n".repeat(100_000), "documents"),
        ("[".repeat(1 << 19), "recursion limit"),
        ("x".repeat((1 << 20) + 1), "at most 1048576 are read"),
    ] {
        let faults = answer(bomb.as_bytes()).unwrap_err();
        assert!(faults.iter().any(|fault| fault.to_string().contains(said)), "{said}: {:?}", faults[0]);
    }
}

#[test]
fn a_request_of_any_length_is_no_reason_to_take_memory() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert!(matches!(serve(theirs), Err(Failed::Long(length)) if length == u32::MAX as usize));
}
