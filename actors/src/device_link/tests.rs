use super::*;
use crate::session::Resume;

fn limits() -> Config {
    Config { to_device_window: 64 * 1024, to_operator_window: 64 * 1024, per_device: 4, ..Default::default() }
}

const BINDING: Binding = Binding::ONLY;

fn fresh(user: &str) -> Open<&'static str> {
    Open { user: UserId::new(user), kept: false, resume: None, host: "host" }
}

fn link_with(sessions: &[SessionId]) -> DeviceLink<&'static str> {
    let mut link = DeviceLink::default();
    for session in sessions {
        assert!(link.open(*session, BINDING, fresh("user"), &limits()).is_empty());
    }
    link
}

/// The host's next message.
fn deliver(link: &mut DeviceLink<&'static str>, session: SessionId, message: Bytes) -> Vec<Effect<&'static str>> {
    let number = link.sessions[link.position(session).unwrap()].next_from_host;
    link.deliver(session, BINDING, number, message, &limits())
}

/// What the effects deliver to the host.
fn delivered(effects: &[Effect<&'static str>]) -> Vec<Bytes> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::ToHost { says: DeviceSays::Deliver { message, .. }, .. } => Some(message.clone()),
            _ => None,
        })
        .collect()
}

fn shell(session: SessionId, typ: &str, props: &[(&str, Prop<'_>)], body: &[u8]) -> Bytes {
    Compose { proto: proto::SHELL, typ, sid: &session.to_string(), props, body }.to_bytes()
}

fn output(session: SessionId, body: &[u8]) -> Bytes {
    shell(session, "shell", &[("status", Prop::Small(1))], body)
}

fn sent<E>(link: &mut DeviceLink<E>) -> Vec<(String, u16, String)> {
    std::iter::from_fn(|| link.next_outgoing(&limits()))
        .map(|out| {
            let read = Message::read(&out.message).unwrap();
            (read.sid.to_owned(), read.proto, read.typ.to_owned())
        })
        .collect()
}

#[test]
fn an_idle_link_is_small() {
    assert!(size_of::<DeviceLink<usize>>() <= 136, "{} bytes", size_of::<DeviceLink<usize>>());
}

#[test]
fn output_goes_to_its_own_session_only() {
    let (one, two) = (SessionId::random(), SessionId::random());
    let mut link = link_with(&[one, two]);
    let effects = link.hear(&output(two, b"hello"), &limits()).unwrap();
    assert!(matches!(&effects[..], [Effect::ToHost { session, .. }] if *session == two));
}

#[test]
fn a_lost_operator_stops_the_shell_and_closes_the_layered_session() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    deliver(&mut link, session, shell(session, "new", &[], b""));
    let forward = Compose { proto: proto::PORT_FORWARD, typ: "new", sid: &session.to_string(), ..Compose::default() };
    deliver(&mut link, session, forward.to_bytes());
    sent(&mut link);

    assert!(link.hang_up(session, BINDING));
    let sid = session.to_string();
    assert_eq!(
        sent(&mut link),
        [(sid.clone(), proto::SHELL, "stop".to_owned()), (sid, proto::CONTROL, "close".to_owned())]
    );
}

#[test]
fn an_operator_who_said_stop_is_not_repeated_unless_it_never_left() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    deliver(&mut link, session, shell(session, "new", &[], b""));
    deliver(&mut link, session, shell(session, "stop", &[], b""));
    sent(&mut link);
    link.hang_up(session, BINDING);
    assert_eq!(sent(&mut link), []);

    let mut link = link_with(&[session]);
    deliver(&mut link, session, shell(session, "new", &[], b""));
    sent(&mut link);
    deliver(&mut link, session, shell(session, "stop", &[], b""));
    link.hang_up(session, BINDING);
    let told = sent(&mut link);
    assert!(told.contains(&(session.to_string(), proto::SHELL, "stop".to_owned())), "{told:?}");
}

#[test]
fn a_shell_that_outlived_its_connection_waits_for_its_host_and_is_stopped_once_if_none_comes() {
    let orphan = SessionId::random();
    let mut link = link_with(&[]);
    assert_eq!(link.hear(&output(orphan, b"1"), &limits()).unwrap(), [Effect::Unclaimed { session: orphan }]);
    assert_eq!(link.hear(&output(orphan, b"2"), &limits()).unwrap(), []);
    assert_eq!(sent(&mut link), [], "its host may be on its way");
    link.give_up(orphan);
    assert_eq!(sent(&mut link), [(orphan.to_string(), proto::SHELL, "stop".to_owned())]);
    link.hear(&output(orphan, b"3"), &limits()).unwrap();
    assert_eq!(sent(&mut link), []);

    // Once the device has confirmed it, a new shell under the same id would be a new orphan.
    link.hear(&shell(orphan, "stop", &[("status", Prop::Small(1))], b""), &limits()).unwrap();
    link.hear(&output(orphan, b"again"), &limits()).unwrap();
    assert_eq!(link.session_count(), 1);
}

#[test]
fn a_shell_is_claimed_with_what_it_printed_meanwhile() {
    let session = SessionId::random();
    let mut link = link_with(&[]);
    link.hear(&output(session, b"early"), &limits()).unwrap();
    let resume = Resume { shell: true, output: 100, input: 7, received: Some((BINDING, 9)) };
    let effects = link.open(session, BINDING.next(), Open { resume: Some(resume), ..fresh("user") }, &limits());
    let resumed = Resumed { output: 100, input: 7, accepted: None };
    assert_eq!(effects[0], Effect::ToHost { session, says: DeviceSays::Resumed(resumed) });
    assert_eq!(delivered(&effects).len(), 1);
    link.give_up(session);
    assert_eq!(link.session_count(), 1, "it has a host now");
}

#[test]
fn orphans_are_remembered_within_a_bound() {
    let mut link = link_with(&[]);
    for _ in 0..10 * goodbyes::WAITING_LIMIT {
        link.hear(&output(SessionId::random(), b"x"), &limits()).unwrap();
    }
    assert_eq!(link.session_count(), UNCLAIMED_LIMIT);
    assert_eq!(link.goodbyes.counts(), (goodbyes::WAITING_LIMIT, goodbyes::STOPPING_LIMIT));
}

#[test]
fn output_beyond_the_credit_is_skipped_with_a_notice_and_goes_on_with_the_newest_lines() {
    let (slow, quick) = (SessionId::random(), SessionId::random());
    let mut link = link_with(&[slow, quick]);
    let mut taken = 0;
    for _ in 0..1000 {
        for effect in link.hear(&output(slow, &[b'x'; 255]), &limits()).unwrap() {
            let [message] = &delivered(&[effect])[..] else { panic!("the session was ended") };
            taken += charge(message.len());
        }
    }
    assert!(taken <= window(&limits()));
    assert_eq!(link.hear(&output(slow, b"...y\r\nnext\r\n$ "), &limits()).unwrap(), []);
    assert_eq!(link.hear(&output(quick, b"unharmed"), &limits()).unwrap().len(), 1);

    let effects = link.credit(slow, BINDING, taken, &limits());
    let [message] = &delivered(&effects)[..] else { panic!("no notice: {effects:?}") };
    let notice = String::from_utf8(Message::read(message).unwrap().body.bytes().to_vec()).unwrap();
    assert!(notice.contains("bytes of output skipped"), "{notice}");
    assert!(notice.ends_with("x...y\r\nnext\r\n$ "), "{notice}");
    assert_eq!(link.hear(&output(slow, &[b'y'; 255]), &limits()).unwrap().len(), 1);
}

#[test]
fn output_goes_on_when_a_host_that_had_all_of_it_comes_back() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    let mut received = 0;
    loop {
        match &delivered(&link.hear(&output(session, &[b'x'; 255]), &limits()).unwrap())[..] {
            [] => break,
            messages => received += u32::try_from(messages.len()).unwrap(),
        }
    }
    // What the host gave back was lost on the way.
    let resume = Resume { shell: true, output: 0, input: 0, received: Some((BINDING, received)) };
    let open = Open { resume: Some(resume), ..fresh("user") };
    let effects = link.open(session, BINDING.next(), open, &limits());
    let [notice] = &delivered(&effects)[..] else { panic!("no notice: {effects:?}") };
    assert!(Message::read(notice).unwrap().body.bytes().ends_with(b"xxx"));
    assert_eq!(link.hear(&output(session, b"y"), &limits()).unwrap().len(), 1);
}

#[test]
fn a_prompt_after_skipped_output_is_shown() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    let taken: usize = (0..1000)
        .flat_map(|_| delivered(&link.hear(&output(session, &[b'x'; 255]), &limits()).unwrap()))
        .map(|message| charge(message.len()))
        .sum();
    link.credit(session, BINDING, taken, &limits());
    assert_eq!(link.hear(&output(session, b"# "), &limits()).unwrap().len(), 1);
}

#[test]
fn a_second_new_that_fails_leaves_the_first_shell_known() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    for answer in [1, 2] {
        deliver(&mut link, session, shell(session, "new", &[], b""));
        link.hear(&shell(session, "new", &[("status", Prop::Small(answer))], b""), &limits()).unwrap();
    }
    sent(&mut link);
    deliver(&mut link, session, shell(session, "pong", &[], b""));
    link.hang_up(session, BINDING);
    let told: Vec<_> = sent(&mut link).into_iter().map(|(.., typ)| typ).collect();
    assert!(told.contains(&"stop".to_owned()), "{told:?}");
}

#[test]
fn a_new_shell_lives_after_the_late_answer_to_a_stop() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    deliver(&mut link, session, shell(session, "new", &[], b""));
    deliver(&mut link, session, shell(session, "stop", &[], b""));
    deliver(&mut link, session, shell(session, "new", &[], b""));
    link.hear(&shell(session, "stop", &[("status", Prop::Small(1))], b""), &limits()).unwrap();
    link.hear(&shell(session, "new", &[("status", Prop::Small(1))], b""), &limits()).unwrap();
    sent(&mut link);
    deliver(&mut link, session, shell(session, "pong", &[], b""));
    assert_eq!(sent(&mut link).len(), 1);
}

#[test]
fn a_pong_that_goes_nowhere_gives_its_credit_back() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    let pong = shell(session, "pong", &[], b"");
    let bytes = charge(pong.len());
    assert_eq!(deliver(&mut link, session, pong), [Effect::ToHost { session, says: DeviceSays::Credit { bytes } }]);
}

#[test]
fn what_may_not_be_skipped_ends_its_session_alone() {
    let (slow, other) = (SessionId::random(), SessionId::random());
    let mut link = link_with(&[slow, other]);
    let sid = slow.to_string();
    let chunk =
        Compose { proto: proto::FILE_TRANSFER, typ: "file_chunk", sid: &sid, body: &[0; 4096], ..Compose::default() }
            .to_bytes();
    let ended = (0..100).find_map(|_| {
        link.hear(&chunk, &limits()).unwrap().into_iter().find(|effect| matches!(effect, Effect::End { .. }))
    });
    assert!(matches!(ended, Some(Effect::End { why: SessionEnd::OperatorTooSlow, .. })));
    assert_eq!(link.session_count(), 1);
}

#[test]
fn keystrokes_pass_a_paste_and_the_paste_is_not_starved() {
    let (paste, keys) = (SessionId::random(), SessionId::random());
    let mut link = link_with(&[paste, keys]);
    for _ in 0..8 {
        deliver(&mut link, paste, shell(paste, "shell", &[], &[b'p'; 4096]));
    }
    for _ in 0..40 {
        deliver(&mut link, keys, shell(keys, "shell", &[], b"k"));
    }
    let order: Vec<bool> = sent(&mut link).into_iter().map(|(sid, ..)| sid == keys.to_string()).collect();
    assert!(order[..8].iter().all(|is_key| *is_key), "the first eight are keystrokes: {order:?}");
    assert!(order[..20].iter().any(|is_key| !is_key), "the paste gets its turns: {order:?}");
    assert_eq!(order.len(), 48);
}

#[test]
fn credit_goes_back_as_messages_leave() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    for _ in 0..14 {
        deliver(&mut link, session, shell(session, "shell", &[], &[b'p'; 4096]));
    }
    let credit: usize =
        std::iter::from_fn(|| link.next_outgoing(&limits())).filter_map(|out| out.credit).map(|(_, bytes)| bytes).sum();
    assert!(credit >= 3 * limits().to_device_window / 4 - 8192, "{credit}");
}

#[test]
fn a_pong_never_follows_the_end_of_its_shell() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    deliver(&mut link, session, shell(session, "new", &[], b""));
    deliver(&mut link, session, shell(session, "pong", &[], b""));
    assert_eq!(sent(&mut link).len(), 2);
    link.hear(&shell(session, "stop", &[("status", Prop::Small(2))], b"exit"), &limits()).unwrap();
    deliver(&mut link, session, shell(session, "pong", &[], b""));
    assert_eq!(sent(&mut link), []);
}

#[test]
fn after_a_gap_between_nodes_the_session_waits_for_its_host_and_loses_nothing() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    deliver(&mut link, session, shell(session, "new", &[], b""));
    let effects = link.deliver(session, BINDING, 2, shell(session, "shell", &[], b"c"), &limits());
    assert!(matches!(effects[..], [Effect::End { why: SessionEnd::LinkLost, .. }, Effect::Unclaimed { .. }]));
    for piece in [b"one", b"two"] {
        assert_eq!(link.hear(&output(session, piece), &limits()).unwrap(), []);
    }
    let resume = Resume { shell: true, output: 0, input: 0, received: Some((BINDING, 0)) };
    let open = Open { resume: Some(resume), ..fresh("user") };
    let effects = link.open(session, BINDING.next(), open, &limits());
    let resumed = Resumed { output: 0, input: 0, accepted: Some(1) };
    assert_eq!(effects[0], Effect::ToHost { session, says: DeviceSays::Resumed(resumed) });
    assert_eq!(delivered(&effects).len(), 2);
    sent(&mut link);
    assert!(link.hang_up(session, BINDING.next()));
    assert_eq!(sent(&mut link).len(), 1, "the shell is still known");
}

#[test]
fn a_host_that_comes_back_gets_what_it_has_not_received_and_no_more() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    for piece in [b"one", b"two", b"six"] {
        link.hear(&output(session, piece), &limits()).unwrap();
    }
    let resume = Resume { shell: true, output: 6, input: 0, received: Some((BINDING, 2)) };
    let effects = link.open(session, BINDING.next(), Open { resume: Some(resume), ..fresh("user") }, &limits());
    let resumed = Resumed { output: 6, input: 0, accepted: Some(0) };
    assert_eq!(effects[0], Effect::ToHost { session, says: DeviceSays::Resumed(resumed) });
    let [message] = &delivered(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(Message::read(message).unwrap().body.bytes(), b"six");
}

#[test]
fn another_host_takes_a_kept_session_over_with_all_that_was_not_confirmed() {
    let session = SessionId::random();
    let mut link = DeviceLink::default();
    link.open(session, BINDING, Open { kept: true, ..fresh("user") }, &limits());
    deliver(&mut link, session, shell(session, "new", &[], b""));
    deliver(&mut link, session, shell(session, "shell", &[], b"keys"));
    for piece in [b"one", b"two"] {
        link.hear(&output(session, piece), &limits()).unwrap();
    }
    let first = charge(output(session, b"one").len() + 8);
    link.credit(session, BINDING, first, &limits());
    assert!(link.host_lost(session), "it is kept");
    link.hear(&output(session, b"six"), &limits()).unwrap();

    let resume = Resume { shell: true, output: 0, input: 0, received: None };
    let binding = Binding::of_generation(1);
    let open = Open { kept: true, resume: Some(resume), ..fresh("user") };
    let effects = link.open(session, binding, open, &limits());
    let resumed = Resumed { output: 3, input: 4, accepted: None };
    assert_eq!(effects[0], Effect::ToHost { session, says: DeviceSays::Resumed(resumed) });
    let bodies: Vec<Vec<u8>> =
        delivered(&effects).iter().map(|message| Message::read(message).unwrap().body.bytes().to_vec()).collect();
    assert_eq!(bodies, [b"two", b"six"]);

    let late =
        Open { kept: true, resume: Some(Resume { shell: true, output: 0, input: 0, received: None }), ..fresh("user") };
    let effects = link.open(session, BINDING.next(), late, &limits());
    assert!(matches!(effects[..], [Effect::End { why: SessionEnd::Moved, .. }]), "{effects:?}");
}

#[test]
fn a_session_that_is_not_kept_ends_with_the_node_of_its_host() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    deliver(&mut link, session, shell(session, "new", &[], b""));
    sent(&mut link);
    assert!(!link.host_lost(session));
    assert_eq!(sent(&mut link), [(session.to_string(), proto::SHELL, "stop".to_owned())]);
}

#[test]
fn sessions_per_device_have_a_limit() {
    let mut link = link_with(&[SessionId::random(), SessionId::random(), SessionId::random(), SessionId::random()]);
    let effects = link.open(SessionId::random(), BINDING, fresh("user"), &limits());
    assert!(matches!(effects[..], [Effect::End { why: SessionEnd::TooManySessions, .. }]));
}

#[test]
fn malformed_bytes_from_a_device_are_an_error() {
    assert!(link_with(&[]).hear(&Bytes::from_static(b"\x93\x01"), &limits()).is_err());
}

#[test]
fn a_shell_that_may_not_have_heard_that_it_is_to_stop_is_remembered() {
    let [stopped, closed, confirmed, again, open] = [(); 5].map(|()| SessionId::random());
    let mut link = link_with(&[]);
    for session in [stopped, closed, confirmed, again] {
        link.open(session, BINDING, fresh("user"), &limits());
        deliver(&mut link, session, shell(session, "new", &[], b""));
    }
    for session in [stopped, confirmed, again] {
        deliver(&mut link, session, shell(session, "stop", &[], b""));
    }
    sent(&mut link);
    link.hear(&shell(confirmed, "stop", &[("status", Prop::Small(1))], b""), &limits()).unwrap();
    deliver(&mut link, again, shell(again, "new", &[], b""));
    sent(&mut link);
    assert!(link.hang_up(closed, BINDING) && link.hang_up(stopped, BINDING) && link.hang_up(confirmed, BINDING));
    link.open(open, BINDING, fresh("user"), &limits());
    // A word to a stranger says nothing of whose shell it is.
    link.hear(&shell(SessionId::random(), "new", &[("status", Prop::Small(1))], b""), &limits()).unwrap();

    let mut left = link.unstopped();
    left.sort();
    let mut expected = [stopped, closed].map(|session| (session, UserId::new("user")));
    expected.sort();
    assert_eq!(left, expected);
    let shells: Vec<_> = link.end_all().into_iter().map(|ended| (ended.session, ended.shell_of.is_some())).collect();
    assert_eq!(shells, [(again, true), (open, false)]);
}
