use super::*;

const LIMITS: session::Config =
    session::Config { to_device_window: 64 * 1024, to_operator_window: 64 * 1024, per_device: 4, per_user: 4 };

fn link_with(sessions: &[SessionId]) -> DeviceLink<&'static str> {
    let mut link = DeviceLink::default();
    for session in sessions {
        assert!(link.open(*session, UserId::new("user"), "operator", &LIMITS).is_empty());
    }
    link
}

fn shell(session: SessionId, typ: &str, props: &[(&str, Prop<'_>)], body: &[u8]) -> Bytes {
    Compose { proto: proto::SHELL, typ, sid: &session.to_string(), props, body }.to_bytes()
}

fn output(session: SessionId, body: &[u8]) -> Bytes {
    shell(session, "shell", &[("status", Prop::Small(1))], body)
}

fn sent<E>(link: &mut DeviceLink<E>) -> Vec<(String, u16, String)> {
    std::iter::from_fn(|| link.next_outgoing(&LIMITS))
        .map(|out| {
            let read = Message::read(&out.message).unwrap();
            (read.sid.to_owned(), read.proto, read.typ.to_owned())
        })
        .collect()
}

#[test]
fn an_idle_link_is_small() {
    assert!(size_of::<DeviceLink<usize>>() <= 112, "{} bytes", size_of::<DeviceLink<usize>>());
}

#[test]
fn output_goes_to_its_own_session_only() {
    let (one, two) = (SessionId::random(), SessionId::random());
    let mut link = link_with(&[one, two]);
    let effects = link.hear(&output(two, b"hello"), &LIMITS).unwrap();
    assert!(matches!(&effects[..], [Effect::ToOperator { session, .. }] if *session == two));
}

#[test]
fn a_lost_operator_stops_the_shell_and_closes_the_layered_session() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    link.deliver(session, None, shell(session, "new", &[], b""), &LIMITS);
    let forward = Compose { proto: proto::PORT_FORWARD, typ: "new", sid: &session.to_string(), ..Compose::default() };
    link.deliver(session, None, forward.to_bytes(), &LIMITS);
    sent(&mut link);

    assert!(link.hang_up(session));
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
    link.deliver(session, None, shell(session, "new", &[], b""), &LIMITS);
    link.deliver(session, None, shell(session, "stop", &[], b""), &LIMITS);
    sent(&mut link);
    link.hang_up(session);
    assert_eq!(sent(&mut link), []);

    let mut link = link_with(&[session]);
    link.deliver(session, None, shell(session, "new", &[], b""), &LIMITS);
    sent(&mut link);
    link.deliver(session, None, shell(session, "stop", &[], b""), &LIMITS);
    link.hang_up(session);
    let told = sent(&mut link);
    assert!(told.contains(&(session.to_string(), proto::SHELL, "stop".to_owned())), "{told:?}");
}

#[test]
fn an_orphaned_shell_is_told_to_stop_once() {
    let orphan = SessionId::random();
    let mut link = link_with(&[]);
    for _ in 0..5 {
        assert_eq!(link.hear(&output(orphan, b"still here"), &LIMITS).unwrap(), []);
    }
    assert_eq!(sent(&mut link), [(orphan.to_string(), proto::SHELL, "stop".to_owned())]);

    // Once the device has confirmed it, a new shell under the same id would be a new orphan.
    link.hear(&shell(orphan, "stop", &[("status", Prop::Small(1))], b""), &LIMITS).unwrap();
    link.hear(&output(orphan, b"again"), &LIMITS).unwrap();
    assert_eq!(sent(&mut link).len(), 1);
}

#[test]
fn orphans_are_remembered_within_a_bound() {
    let mut link = link_with(&[]);
    for _ in 0..10 * GOODBYES_LIMIT {
        link.hear(&output(SessionId::random(), b"x"), &LIMITS).unwrap();
    }
    assert_eq!((link.stopping.len(), link.goodbyes.len()), (STOPPING_LIMIT, GOODBYES_LIMIT));
}

#[test]
fn output_beyond_the_credit_is_skipped_with_a_notice_and_resumes_at_a_line() {
    let (slow, quick) = (SessionId::random(), SessionId::random());
    let mut link = link_with(&[slow, quick]);
    let mut delivered = 0;
    for _ in 0..1000 {
        for effect in link.hear(&output(slow, &[b'x'; 255]), &LIMITS).unwrap() {
            let Effect::ToOperator { message, .. } = effect else { panic!("the session was ended") };
            delivered += charge(message.len());
        }
    }
    assert!(delivered <= LIMITS.to_operator_window);
    assert_eq!(link.hear(&output(quick, b"unharmed"), &LIMITS).unwrap().len(), 1);

    let effects = link.credit(slow, delivered, &LIMITS);
    let [Effect::ToOperator { message, .. }] = &effects[..] else { panic!("no notice: {effects:?}") };
    let notice = String::from_utf8(Message::read(message).unwrap().body.bytes().to_vec()).unwrap();
    assert!(notice.contains("bytes of output skipped"), "{notice}");

    let mut end_of_a_line = [b'x'; 255];
    end_of_a_line[254] = b'\n';
    assert_eq!(link.hear(&output(slow, &[b'x'; 255]), &LIMITS).unwrap(), []);
    assert_eq!(link.hear(&output(slow, &end_of_a_line), &LIMITS).unwrap(), []);
    assert_eq!(link.hear(&output(slow, &[b'y'; 255]), &LIMITS).unwrap().len(), 1);
}

#[test]
fn a_prompt_after_skipped_output_is_shown() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    let delivered: usize = (0..1000)
        .flat_map(|_| link.hear(&output(session, &[b'x'; 255]), &LIMITS).unwrap())
        .map(|effect| if let Effect::ToOperator { message, .. } = effect { charge(message.len()) } else { 0 })
        .sum();
    link.credit(session, delivered, &LIMITS);
    assert_eq!(link.hear(&output(session, b"# "), &LIMITS).unwrap().len(), 1);
}

#[test]
fn a_second_new_that_fails_leaves_the_first_shell_known() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    for answer in [1, 2] {
        link.deliver(session, None, shell(session, "new", &[], b""), &LIMITS);
        link.hear(&shell(session, "new", &[("status", Prop::Small(answer))], b""), &LIMITS).unwrap();
    }
    sent(&mut link);
    link.deliver(session, None, shell(session, "pong", &[], b""), &LIMITS);
    link.hang_up(session);
    let told: Vec<_> = sent(&mut link).into_iter().map(|(.., typ)| typ).collect();
    assert!(told.contains(&"stop".to_owned()), "{told:?}");
}

#[test]
fn a_new_shell_lives_after_the_late_answer_to_a_stop() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    link.deliver(session, None, shell(session, "new", &[], b""), &LIMITS);
    link.deliver(session, None, shell(session, "stop", &[], b""), &LIMITS);
    link.deliver(session, None, shell(session, "new", &[], b""), &LIMITS);
    link.hear(&shell(session, "stop", &[("status", Prop::Small(1))], b""), &LIMITS).unwrap();
    link.hear(&shell(session, "new", &[("status", Prop::Small(1))], b""), &LIMITS).unwrap();
    sent(&mut link);
    link.deliver(session, None, shell(session, "pong", &[], b""), &LIMITS);
    assert_eq!(sent(&mut link).len(), 1);
}

#[test]
fn a_pong_that_goes_nowhere_gives_its_credit_back() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    let pong = shell(session, "pong", &[], b"");
    let bytes = charge(pong.len());
    assert_eq!(link.deliver(session, None, pong, &LIMITS), [Effect::ReturnCredit { session, bytes }]);
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
        link.hear(&chunk, &LIMITS).unwrap().into_iter().find(|effect| matches!(effect, Effect::End { .. }))
    });
    assert!(matches!(ended, Some(Effect::End { why: SessionEnd::OperatorTooSlow, .. })));
    assert_eq!(link.session_count(), 1);
}

#[test]
fn keystrokes_pass_a_paste_and_the_paste_is_not_starved() {
    let (paste, keys) = (SessionId::random(), SessionId::random());
    let mut link = link_with(&[paste, keys]);
    for _ in 0..8 {
        link.deliver(paste, None, shell(paste, "shell", &[], &[b'p'; 4096]), &LIMITS);
    }
    for _ in 0..40 {
        link.deliver(keys, None, shell(keys, "shell", &[], b"k"), &LIMITS);
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
        link.deliver(session, None, shell(session, "shell", &[], &[b'p'; 4096]), &LIMITS);
    }
    let credit: usize =
        std::iter::from_fn(|| link.next_outgoing(&LIMITS)).filter_map(|out| out.credit).map(|(_, bytes)| bytes).sum();
    assert!(credit >= 3 * LIMITS.to_device_window / 4 - 8192, "{credit}");
}

#[test]
fn a_pong_never_follows_the_end_of_its_shell() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    link.deliver(session, None, shell(session, "new", &[], b""), &LIMITS);
    link.deliver(session, None, shell(session, "pong", &[], b""), &LIMITS);
    assert_eq!(sent(&mut link).len(), 2);
    link.hear(&shell(session, "stop", &[("status", Prop::Small(2))], b"exit"), &LIMITS).unwrap();
    link.deliver(session, None, shell(session, "pong", &[], b""), &LIMITS);
    assert_eq!(sent(&mut link), []);
}

#[test]
fn a_gap_between_nodes_ends_the_session() {
    let session = SessionId::random();
    let mut link = link_with(&[session]);
    assert!(link.deliver(session, Some(0), shell(session, "shell", &[], b"a"), &LIMITS).is_empty());
    let effects = link.deliver(session, Some(2), shell(session, "shell", &[], b"c"), &LIMITS);
    assert!(matches!(effects[..], [Effect::End { why: SessionEnd::LinkLost, .. }]));
}

#[test]
fn sessions_per_device_have_a_limit() {
    let mut link = link_with(&[SessionId::random(), SessionId::random(), SessionId::random(), SessionId::random()]);
    let effects = link.open(SessionId::random(), UserId::new("user"), "operator", &LIMITS);
    assert!(matches!(effects[..], [Effect::End { why: SessionEnd::TooManySessions, .. }]));
}

#[test]
fn malformed_bytes_from_a_device_are_an_error() {
    assert!(link_with(&[]).hear(&Bytes::from_static(b"\x93\x01"), &LIMITS).is_err());
}
