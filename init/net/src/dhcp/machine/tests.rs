use super::*;

fn terms(seconds: u32) -> Box<Terms> {
    let lease = Lease {
        link: "eth0".into(),
        address: "10.0.2.15/24".parse().unwrap(),
        routers: vec![],
        routes: vec![],
        resolvers: vec![],
        search: vec![],
        hostname: None,
        mtu: None,
        ntp_servers: vec![],
        seconds,
        server: [10, 0, 2, 2].into(),
    };
    Box::new(Terms { lease, renew: None, rebind: None })
}

fn bound(now: Instant, seconds: u32) -> Machine {
    let mut machine = Machine::new(now, 42, None);
    machine.tick(now);
    machine.receive(now, Reply::Offer(terms(seconds)));
    assert!(matches!(machine.receive(now, Reply::Ack(terms(seconds)))[..], [Output::Leased(_)]));
    machine
}

/// What is sent at the machine's next deadline, with the seconds since `start`.
fn next(machine: &mut Machine, start: Instant) -> (u64, Vec<Output>) {
    let now = machine.deadline();
    (now.duration_since(start).as_secs(), machine.tick(now))
}

#[test]
fn discover_offer_request_ack() {
    let now = Instant::now();
    let mut machine = Machine::new(now, 42, Some([10, 0, 2, 99].into()));
    let outputs = machine.tick(now);
    assert!(
        matches!(outputs[..], [Output::Send { say: Say::Discover { hint: Some(_) }, to: None, .. }]),
        "{outputs:?}"
    );
    let outputs = machine.receive(now, Reply::Offer(terms(3600)));
    let request = Say::Request { address: [10, 0, 2, 15].into(), server: [10, 0, 2, 2].into() };
    assert!(matches!(outputs[..], [Output::Send { say, to: None, .. }] if say == request), "{outputs:?}");
    let outputs = machine.receive(now, Reply::Ack(terms(3600)));
    assert!(matches!(outputs[..], [Output::Leased(_)]));
    assert_eq!(machine.deadline().duration_since(now), Duration::from_secs(1800));
}

#[test]
fn a_silent_network_is_asked_ever_more_slowly_and_for_ever() {
    let start = Instant::now();
    let mut machine = Machine::new(start, 42, None);
    let mut times = Vec::new();
    for _ in 0..12 {
        let (seconds, outputs) = next(&mut machine, start);
        assert!(matches!(outputs[..], [Output::Send { say: Say::Discover { .. }, .. }]));
        times.push(seconds);
    }
    assert!(times[1] <= 2 && times[3] <= 8, "fast at first: {times:?}");
    assert!(times[11] - times[10] >= 32 && times[11] - times[10] <= 36, "slow at last: {times:?}");
}

#[test]
fn renews_with_its_server_then_with_any_then_starts_over() {
    let start = Instant::now();
    let mut machine = bound(start, 3600);
    let mut unicast = 0;
    let mut broadcast = 0;
    loop {
        match next(&mut machine, start) {
            (seconds, outputs) if outputs.first() == Some(&Output::Lost) => {
                assert_eq!(seconds, 3600);
                assert!(matches!(outputs[1], Output::Send { say: Say::Discover { .. }, .. }));
                break;
            }
            (seconds, outputs) => match outputs[..] {
                [Output::Send { say: Say::Renew { .. }, to: Some(_), .. }] => {
                    assert!((1800..3150).contains(&seconds), "{seconds}");
                    unicast += 1;
                }
                [Output::Send { say: Say::Renew { .. }, to: None, .. }] => {
                    assert!((3150..3600).contains(&seconds), "{seconds}");
                    broadcast += 1;
                }
                ref other => panic!("{other:?}"),
            },
        }
    }
    assert!(unicast >= 3 && broadcast >= 2, "{unicast} {broadcast}");
}

#[test]
fn a_renewed_lease_starts_anew() {
    let start = Instant::now();
    let mut machine = bound(start, 3600);
    let (_, outputs) = next(&mut machine, start);
    assert_eq!(outputs.len(), 1);
    let now = start + Duration::from_secs(1801);
    assert!(matches!(machine.receive(now, Reply::Ack(terms(3600)))[..], [Output::Leased(_)]));
    assert_eq!(machine.deadline(), now + Duration::from_secs(1800));
}

#[test]
fn a_refused_renewal_loses_the_lease_but_an_unasked_refusal_does_not() {
    let start = Instant::now();
    let mut machine = bound(start, 3600);
    assert_eq!(machine.receive(start, Reply::Nak), []);
    next(&mut machine, start);
    let outputs = machine.receive(start + Duration::from_secs(1800), Reply::Nak);
    assert_eq!(outputs[0], Output::Lost);
}

#[test]
fn an_offer_that_is_never_confirmed_is_given_up() {
    let start = Instant::now();
    let mut machine = Machine::new(start, 42, None);
    machine.tick(start);
    machine.receive(start, Reply::Offer(terms(3600)));
    let mut requests = 1;
    loop {
        let (_, outputs) = next(&mut machine, start);
        match outputs[..] {
            [Output::Send { say: Say::Request { .. }, .. }] => requests += 1,
            [Output::Send { say: Say::Discover { .. }, .. }] => break,
            ref other => panic!("{other:?}"),
        }
    }
    assert_eq!(requests, REQUESTS);
}

#[test]
fn a_lease_for_ever_and_a_tiny_one() {
    let start = Instant::now();
    let mut machine = bound(start, u32::MAX);
    for _ in 0..5 {
        assert_eq!(next(&mut machine, start).1, []);
    }
    let machine = bound(start, 1);
    assert!(machine.deadline() >= start + Duration::from_secs(u64::from(SHORTEST) / 2));
}
