use storage::{SessionId, UserId};

use super::*;
use crate::bus::DisconnectReason;
use crate::session::Resumed;
use crate::session::attachment::{ATTACHMENTS_LIMIT, Client, JoinRefused, Mode};

fn limits() -> Config {
    Config { to_operator_window: 64 * 1024, scrollback: 16 * 1024, ..Config::default() }
}

const NOW: Timestamp = Timestamp(0);

struct Rig {
    link: SessionLink,
    session: SessionId,
    next_from_device: u32,
    next_from: std::collections::HashMap<AttachmentId, u32>,
}

/// One message, shortened to what the tests ask about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    typ: String,
    body: String,
    number: Option<i64>,
}

impl Rig {
    fn new(kept: bool) -> Self {
        let session = SessionId::random();
        let mut link = SessionLink::new(session);
        assert!(matches!(link.begin(kept)[..], [Effect::Open { resume: None, .. }]));
        Self { link, session, next_from_device: 0, next_from: std::collections::HashMap::new() }
    }

    fn join(&mut self, user: &str, mode: Mode, client: Client) -> (AttachmentId, Vec<Effect>) {
        let attachment = AttachmentId::random();
        let join = Join { attachment, user: UserId::new(user), mode, client };
        (attachment, self.link.hear(attachment, AttachedSays::Join(join), NOW, &limits()))
    }

    fn stock(&mut self) -> AttachmentId {
        self.join("stock", Mode::Write, Client::Stock).0
    }

    fn ours(&mut self, user: &str, mode: Mode, from: Option<u64>) -> (AttachmentId, Vec<Effect>) {
        self.join(user, mode, Client::Ours { from, replaces: None, keep: true })
    }

    fn says(&mut self, attachment: AttachmentId, typ: &str, body: &[u8]) -> Vec<Effect> {
        self.says_of(attachment, proto::SHELL, typ, body)
    }

    fn says_of(&mut self, attachment: AttachmentId, proto: u16, typ: &str, body: &[u8]) -> Vec<Effect> {
        let number = self.next_from.entry(attachment).or_default();
        let message = Compose { proto, typ, sid: &self.session.to_string(), props: &[], body }.to_bytes();
        let says = AttachedSays::Deliver { number: *number, message };
        *number += 1;
        self.link.hear(attachment, says, NOW, &limits())
    }

    fn device(&mut self, typ: &str, body: &[u8]) -> Vec<Effect> {
        let message = self::message(&self.session.to_string(), typ, &[("status", Prop::Wide(1))], body);
        let number = self.next_from_device;
        self.next_from_device += 1;
        self.hear(DeviceSays::Deliver { number, message })
    }

    fn hear(&mut self, says: DeviceSays) -> Vec<Effect> {
        self.link.hear_device(self.link.binding(), says, NOW, &limits())
    }

    fn start_shell(&mut self, attachment: AttachmentId) {
        self.says(attachment, "new", b"");
        self.device("new", b"Shell started");
        self.confirm_all();
    }

    fn confirm_all(&mut self) -> Vec<Effect> {
        let bytes = self.link.unconfirmed.iter().map(|it| charge(it.message.len())).sum();
        self.hear(DeviceSays::Credit { bytes })
    }

    fn lose_device(&mut self) -> Vec<Effect> {
        self.hear(DeviceSays::End { why: SessionEnd::DeviceGone(DisconnectReason::ConnectionLost) })
    }

    fn resume(&mut self, resumed: Resumed) -> Vec<Effect> {
        self.next_from_device = 0;
        self.hear(DeviceSays::Resumed(resumed))
    }
}

fn message(sid: &str, typ: &str, props: &[(&str, Prop<'_>)], body: &[u8]) -> Bytes {
    Compose { proto: proto::SHELL, typ, sid, props, body }.to_bytes()
}

/// What is delivered to an attachment.
fn told(effects: &[Effect], to: AttachmentId) -> Vec<Said> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::ToAttached { attachment, says: ToAttached::Deliver { message, .. } } if *attachment == to => {
                Some(message)
            }
            _ => None,
        })
        .map(|message| {
            let read = Message::read(message).unwrap();
            Said {
                typ: read.typ.to_owned(),
                body: String::from_utf8_lossy(read.body.bytes()).into_owned(),
                number: read.int_prop("bytes").or(read.int_prop("output")),
            }
        })
        .filter(|said| said.typ != "people")
        .collect()
}

fn bodies(effects: &[Effect], to: AttachmentId) -> String {
    told(effects, to).into_iter().filter(|said| said.typ == "shell").map(|said| said.body).collect()
}

fn to_device(effects: &[Effect]) -> Vec<(u32, String)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::ToDevice { number, message } => {
                let read = Message::read(message).unwrap();
                Some((*number, format!("{} {}", read.typ, String::from_utf8_lossy(read.body.bytes()))))
            }
            _ => None,
        })
        .collect()
}

fn finished(effects: &[Effect]) -> Option<SessionEnd> {
    effects.iter().find_map(|effect| if let Effect::Finish(why) = effect { Some(*why) } else { None })
}

#[test]
fn a_stock_session_ends_with_its_operators_socket() {
    let mut rig = Rig::new(false);
    let operator = rig.stock();
    rig.start_shell(operator);
    let effects = rig.link.hear(operator, AttachedSays::Leave(Leave::Lost), NOW, &limits());
    assert_eq!(finished(&effects), Some(SessionEnd::OperatorLeft));
}

#[test]
fn a_stock_client_hears_nothing_but_the_device() {
    let mut rig = Rig::new(false);
    let operator = rig.stock();
    rig.start_shell(operator);
    let effects = rig.device("shell", b"# ");
    assert_eq!(told(&effects, operator), [Said { typ: "shell".into(), body: "# ".into(), number: None }]);
    rig.says(operator, "shell", b"ls");
    assert_eq!(told(&rig.confirm_all(), operator), []);
}

#[test]
fn a_terminal_goes_on_when_its_device_returns_and_nothing_is_lost_or_doubled() {
    let mut rig = Rig::new(false);
    let operator = rig.stock();
    rig.start_shell(operator);
    rig.says(operator, "shell", b"sent");
    assert!(rig.lose_device().contains(&Effect::DeviceAway));
    assert_eq!(to_device(&rig.says(operator, "shell", b"typed meanwhile")), []);

    let effects = rig.link.find_device();
    let [Effect::Open { resume: Some(resume), .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((resume.shell, resume.received), (true, Some((Binding::ONLY, 1))));
    let effects = rig.resume(Resumed { output: 0, input: 0, accepted: None });
    assert!(effects.contains(&Effect::DeviceBack));
    let resent = vec![(0, "shell sent".to_owned()), (1, "shell typed meanwhile".to_owned())];
    assert_eq!(to_device(&effects), resent, "what had not left for the lost connection");
    assert_eq!(to_device(&rig.says(operator, "shell", b"now")), [(2, "shell now".to_owned())]);
    assert_eq!(bodies(&rig.device("shell", b"output"), operator), "output");
}

#[test]
fn what_the_same_connection_has_accepted_is_not_sent_again() {
    let mut rig = Rig::new(false);
    let operator = rig.stock();
    rig.start_shell(operator);
    rig.says(operator, "shell", b"accepted");
    rig.says(operator, "shell", b"lost between nodes");
    rig.link.lose_device(SessionEnd::LinkLost);
    rig.link.find_device();
    let effects = rig.resume(Resumed { output: 0, input: 0, accepted: Some(2) });
    assert_eq!(to_device(&effects), [(0, "shell lost between nodes".to_owned())]);
    // A second time, before either has left.
    rig.link.lose_device(SessionEnd::LinkLost);
    rig.link.find_device();
    let effects = rig.resume(Resumed { output: 0, input: 0, accepted: Some(1) });
    assert_eq!(to_device(&effects), []);
}

#[test]
fn forwards_end_with_their_devices_connection() {
    let mut rig = Rig::new(false);
    let operator = rig.stock();
    let open = Compose { proto: proto::CONTROL, typ: "open", ..Compose::default() }.to_bytes();
    rig.link.hear(operator, AttachedSays::Deliver { number: 0, message: open }, NOW, &limits());
    let why = SessionEnd::DeviceGone(DisconnectReason::ConnectionLost);
    assert_eq!(finished(&rig.lose_device()), Some(why));
}

#[test]
fn a_device_that_lost_its_access_does_not_come_back() {
    let mut rig = Rig::new(true);
    let (operator, _) = rig.ours("u", Mode::Write, None);
    rig.start_shell(operator);
    let why = SessionEnd::DeviceGone(DisconnectReason::AccessWithdrawn);
    assert_eq!(finished(&rig.hear(DeviceSays::End { why })), Some(why));
}

#[test]
fn a_kept_session_waits_for_its_operator_who_gets_exactly_what_is_missing() {
    let mut rig = Rig::new(true);
    let (operator, effects) = rig.ours("u", Mode::Write, None);
    assert_eq!(told(&effects, operator)[0], Said { typ: "attached".into(), body: String::new(), number: Some(0) });
    rig.start_shell(operator);
    rig.device("shell", b"seen");
    let effects = rig.link.hear(operator, AttachedSays::Leave(Leave::Lost), NOW, &limits());
    assert!(effects.contains(&Effect::Vacant(Leave::Lost)), "{effects:?}");
    rig.device("shell", b" missed");
    let (again, effects) = rig.ours("u", Mode::Write, Some(4));
    assert_eq!(told(&effects, again)[0].number, Some(4));
    assert_eq!(bodies(&effects, again), " missed");
    assert_eq!(bodies(&rig.device("shell", b" live"), again), " live");
}

#[test]
fn while_nobody_types_the_hub_keeps_the_shell_alive() {
    let mut rig = Rig::new(true);
    let (operator, _) = rig.ours("u", Mode::Write, None);
    rig.start_shell(operator);
    assert_eq!(to_device(&rig.device("ping", b"")), [], "the operator's client answers");
    rig.link.hear(operator, AttachedSays::Leave(Leave::Detached), NOW, &limits());
    assert_eq!(to_device(&rig.device("ping", b"")), [(1, "pong ".to_owned())]);
}

#[test]
fn who_leaves_is_told_once_the_place_is_free() {
    let mut rig = Rig::new(true);
    let (writer, _) = rig.ours("writer", Mode::Write, None);
    rig.start_shell(writer);
    let leave = |rig: &mut Rig, how| rig.link.hear(writer, AttachedSays::Leave(how), NOW, &limits());
    let effects = leave(&mut rig, Leave::Detached);
    let place = |wanted: &dyn Fn(&Effect) -> bool| effects.iter().position(wanted).expect("it is there");
    let free = place(&|effect| matches!(effect, Effect::People));
    let told = place(&|effect| matches!(effect, Effect::ToAttached { says: ToAttached::Left, .. }));
    let forgotten = place(&|effect| matches!(effect, Effect::Forget { .. }));
    assert!(free < told && told < forgotten, "{effects:?}");
    // The socket says it once more as it ends, and another is not answered at all.
    assert!(!leave(&mut rig, Leave::Lost).iter().any(|effect| matches!(effect, Effect::ToAttached { .. })));
}

#[test]
fn a_watcher_sees_everything_and_types_nothing() {
    let mut rig = Rig::new(true);
    let (writer, _) = rig.ours("writer", Mode::Write, None);
    rig.start_shell(writer);
    rig.device("shell", b"before ");
    let (watcher, effects) = rig.ours("watcher", Mode::Watch, None);
    assert_eq!(bodies(&effects, watcher), "before ");
    let effects = rig.device("shell", b"both");
    assert_eq!((bodies(&effects, writer), bodies(&effects, watcher)), ("both".into(), "both".into()));
    let effects = rig.says(watcher, "shell", b"rm -rf /");
    assert_eq!(to_device(&effects), []);
    assert!(matches!(effects[..], [Effect::ToAttached { says: ToAttached::Credit { .. }, .. }]), "{effects:?}");
}

#[test]
fn one_writes_at_a_time_and_may_be_relieved() {
    let mut rig = Rig::new(true);
    let (first, _) = rig.ours("first", Mode::Write, None);
    rig.start_shell(first);
    let (second, effects) = rig.ours("second", Mode::Write, None);
    assert!(effects.contains(&Effect::Forget { attachment: second }), "{effects:?}");
    let (third, effects) = rig.ours("third", Mode::TakeOver, None);
    assert!(told(&effects, first).iter().any(|said| said.typ == "role"));
    assert_eq!(to_device(&rig.says(first, "shell", b"no longer")), []);
    assert_eq!(to_device(&rig.says(third, "shell", b"now")).len(), 1);
    let roles: Vec<Role> = rig.link.people().iter().map(|person| person.role).collect();
    assert_eq!(roles, [Role::Watcher, Role::Writer]);
}

#[test]
fn a_client_replaces_its_own_lost_socket_and_nobody_elses() {
    let mut rig = Rig::new(true);
    let (first, _) = rig.ours("u", Mode::Write, None);
    rig.start_shell(first);
    let client = |replaces| Client::Ours { from: Some(0), replaces, keep: true };
    let (_, effects) = rig.join("thief", Mode::Write, client(Some(first)));
    assert!(matches!(effects[0], Effect::ToAttached { says: ToAttached::Refused(_), .. }), "{effects:?}");
    let (_, effects) = rig.join("u", Mode::Write, client(Some(first)));
    assert!(effects.contains(&Effect::Forget { attachment: first }));
    assert_eq!(rig.link.people().len(), 1);
}

#[test]
fn those_who_take_part_have_a_limit() {
    let mut rig = Rig::new(true);
    for n in 0..ATTACHMENTS_LIMIT {
        rig.ours("u", if n == 0 { Mode::Write } else { Mode::Watch }, None);
    }
    let (_, effects) = rig.ours("u", Mode::Watch, None);
    assert!(
        matches!(&effects[0], Effect::ToAttached { says: ToAttached::Refused(JoinRefused::Full), .. }),
        "{effects:?}"
    );
}

#[test]
fn a_slow_watcher_misses_output_is_told_how_much_and_holds_nobody_up() {
    let mut rig = Rig::new(true);
    let (writer, _) = rig.ours("writer", Mode::Write, None);
    rig.start_shell(writer);
    let (watcher, _) = rig.ours("watcher", Mode::Watch, None);
    let (mut written, mut shown) = (0, 0);
    for _ in 0..1000 {
        let effects = rig.device("shell", &[b'x'; 255]);
        written += bodies(&effects, writer).len();
        shown += bodies(&effects, watcher).len();
        let bytes = 255 + 512;
        rig.link.hear(writer, AttachedSays::Took { bytes }, NOW, &limits());
    }
    assert_eq!(written, 255_000);
    assert!(shown < 64 * 1024, "{shown}");
    let effects = rig.link.hear(watcher, AttachedSays::Took { bytes: 1 << 20 }, NOW, &limits());
    let skipped = told(&effects, watcher);
    assert_eq!(skipped[0].typ, "skipped");
    let newest = bodies(&effects, watcher).len();
    assert_eq!(newest, 4096);
    assert_eq!(usize::try_from(skipped[0].number.unwrap()).unwrap() + shown + newest, 255_000);
    assert_eq!(bodies(&rig.device("shell", b"live"), watcher), "live");
}

#[test]
fn a_slow_screen_that_missed_the_end_of_a_flood_is_shown_it() {
    let mut rig = Rig::new(false);
    let (stock, _) = rig.join("stock", Mode::Write, Client::Stock);
    rig.start_shell(stock);
    for _ in 0..1000 {
        rig.device("shell", &[b'x'; 255]);
    }
    rig.device("shell", b"...and\r\nthe end\r\n$ ");
    let effects = rig.link.hear(stock, AttachedSays::Took { bytes: 1 << 20 }, NOW, &limits());
    let shown = bodies(&effects, stock);
    assert!(shown.contains("bytes of output skipped") && shown.ends_with("x...and\r\nthe end\r\n$ "), "{shown:?}");
}

#[test]
fn a_little_that_did_not_fit_is_shown_late_and_no_more_is_said() {
    let mut rig = Rig::new(true);
    let (writer, _) = rig.ours("u", Mode::Write, None);
    rig.start_shell(writer);
    let (watcher, _) = rig.ours("watcher", Mode::Watch, None);
    let mut shown = String::new();
    let mut fits = true;
    while fits {
        let more = bodies(&rig.device("shell", &[b'x'; 255]), watcher);
        fits = !more.is_empty();
        shown += &more;
        rig.link.hear(writer, AttachedSays::Took { bytes: 255 + 512 }, NOW, &limits());
    }
    let effects = rig.link.hear(watcher, AttachedSays::Took { bytes: 1 << 20 }, NOW, &limits());
    assert_eq!(told(&effects, watcher).iter().map(|said| said.typ.as_str()).collect::<Vec<_>>(), ["shell"]);
    assert_eq!(bodies(&effects, watcher), "x".repeat(255));
}

#[test]
fn output_a_client_may_still_ask_for_is_confirmed_late_and_within_a_bound() {
    let mut rig = Rig::new(true);
    let (writer, _) = rig.ours("u", Mode::Write, None);
    rig.start_shell(writer);
    let credit = |effects: &[Effect]| -> usize {
        effects.iter().map(|effect| if let Effect::Credit { bytes } = effect { *bytes } else { 0 }).sum()
    };
    for _ in 0..20 {
        rig.device("shell", b"unseen");
    }
    assert_eq!(rig.link.uncredited.len(), 20, "all of it is kept");
    let seen = rig.link.hear(writer, AttachedSays::Seen { output: 6 * 20 }, NOW, &limits());
    assert!(credit(&seen) > LEAST_CREDIT);
    let total: usize = (0..1000).map(|_| credit(&rig.device("shell", &[b'x'; 255]))).sum();
    let kept: usize = rig.link.uncredited.iter().map(|(_, cost)| cost).sum();
    assert!(total > 0 && kept <= limits().to_operator_window / 2, "{kept}");
}

#[test]
fn credit_for_small_output_gathers_in_a_terminal_alone() {
    let mut rig = Rig::new(false);
    let operator = rig.stock();
    rig.start_shell(operator);
    let credit = |effects: &[Effect]| -> usize {
        effects.iter().map(|effect| if let Effect::Credit { bytes } = effect { *bytes } else { 0 }).sum()
    };
    let (mut words, mut given, keys) = (0, 0, 1_000);
    for _ in 0..keys {
        let bytes = credit(&rig.device("shell", b"k"));
        (words, given) = (words + usize::from(bytes > 0), given + bytes);
        assert!(rig.link.uncredited.iter().map(|(_, cost)| cost).sum::<usize>() <= LEAST_CREDIT);
    }
    assert!((1..keys / 8).contains(&words), "{words} for {keys} keys");
    let due: usize = rig.link.uncredited.iter().map(|(_, cost)| cost).sum();
    assert!(given > 0 && due > 0);
    rig.says_of(operator, proto::FILE_TRANSFER, "get_file", b"");
    let taken = rig.link.hear(operator, AttachedSays::Took { bytes: 1 }, NOW, &limits());
    assert_eq!(credit(&taken), 1 + due, "what is not a terminal has the whole window");
}

#[test]
fn a_terminal_taken_over_from_a_dead_node_goes_on_where_its_client_is() {
    let session = SessionId::random();
    let mut rig = Rig {
        link: SessionLink::taken_over(session, 1),
        session,
        next_from_device: 0,
        next_from: std::collections::HashMap::new(),
    };
    let (client, effects) = rig.ours("u", Mode::Write, Some(10));
    assert_eq!(effects, [], "where it stands is not known yet");
    let effects = rig.link.find_device();
    let [Effect::Open { resume: Some(resume), .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((resume.shell, resume.received.is_none()), (true, true));
    let effects = rig.resume(Resumed { output: 6, input: 42, accepted: None });
    assert_eq!(told(&effects, client)[0].number, Some(10));
    assert_eq!(bodies(&rig.device("shell", b"6789"), client), "", "it has these");
    assert_eq!(bodies(&rig.device("shell", b"new"), client), "new");
}

#[test]
fn a_terminal_handed_over_knows_everything() {
    let mut rig = Rig::new(true);
    let (writer, _) = rig.ours("u", Mode::Write, None);
    rig.start_shell(writer);
    rig.device("shell", b"printed");
    rig.says(writer, "shell", b"typed");
    let past = rig.link.past();
    let mut next = Rig {
        link: SessionLink::handed_over(rig.session, 1, past),
        session: rig.session,
        next_from_device: 0,
        next_from: std::collections::HashMap::new(),
    };
    let (client, effects) = next.ours("u", Mode::Write, Some(3));
    assert_eq!(bodies(&effects, client), "nted");
    let effects = next.link.find_device();
    let [Effect::Open { resume: Some(resume), .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(resume.received, Some((Binding::ONLY, 2)));
    let effects = next.resume(Resumed { output: 7, input: 5, accepted: Some(1) });
    assert_eq!(to_device(&effects), [(0, "shell typed".to_owned())]);
}

#[test]
fn what_is_handed_over_on_the_way_to_a_device_counts_from_the_last_confirmed_binding() {
    let mut rig = Rig::new(true);
    let (writer, _) = rig.ours("u", Mode::Write, None);
    rig.start_shell(writer);
    rig.device("shell", b"printed");
    rig.lose_device();
    rig.link.find_device();
    let next = SessionLink::handed_over(rig.session, 1, rig.link.past()).find_device();
    let [Effect::Open { resume: Some(resume), .. }] = &next[..] else { panic!("{next:?}") };
    assert_eq!((resume.output, resume.received), (7, Some((Binding::ONLY, 2))));

    // Who knows nothing hands nothing over, not even that nothing was printed.
    let mut blank = SessionLink::taken_over(rig.session, 1);
    blank.find_device();
    let next = SessionLink::handed_over(rig.session, 2, blank.past());
    assert!(next.is_blank);
}

#[test]
fn an_agent_started_anew_knows_the_shell_no_longer() {
    let mut rig = Rig::new(false);
    let operator = rig.stock();
    rig.start_shell(operator);
    rig.lose_device();
    rig.link.find_device();
    rig.resume(Resumed { output: 0, input: 0, accepted: None });
    let props = [("status", Prop::Wide(2))];
    let gone = message(&rig.session.to_string(), "shell", &props, b"session not found");
    let effects = rig.hear(DeviceSays::Deliver { number: 0, message: gone });
    assert_eq!(finished(&effects), Some(SessionEnd::ShellEnded));
}

#[test]
fn messages_of_an_older_binding_change_nothing() {
    let mut rig = Rig::new(false);
    let operator = rig.stock();
    rig.start_shell(operator);
    rig.lose_device();
    rig.link.find_device();
    let late = DeviceSays::End { why: SessionEnd::DeviceGone(DisconnectReason::Replaced) };
    assert_eq!(rig.link.hear_device(Binding::ONLY, late, NOW, &limits()), []);
}
