use super::*;

const WINDOW: usize = 96 * 1024;
const ROOM: usize = 1024 * 1024;

struct Rig {
    forwarding: Forwarding,
    sid: String,
}

impl Rig {
    fn new() -> Self {
        let session = SessionId::random();
        Self { forwarding: Forwarding::new(session, "user", WINDOW, 4), sid: session.to_string() }
    }

    fn operator(&mut self, typ: &str, connection: &str, body: &[u8]) -> Vec<Said> {
        let raw = said(&self.sid, typ, connection, body);
        let steps = self.forwarding.hear_operator(&Message::read(&raw).unwrap(), &raw, ROOM);
        read_all(&steps)
    }

    fn device(&mut self, typ: &str, connection: &str, body: &[u8], room: usize) -> Vec<Said> {
        let stream = self.forwarding.streams.iter().find(|stream| stream.connection == connection).unwrap();
        let (id, raw) = (stream.id, said(&stream.sid, typ, connection, body));
        read_all(&self.forwarding.hear_device(id, &Message::read(&raw).unwrap(), room))
    }

    fn open(&mut self, connection: &str) {
        assert_eq!(words(&self.operator("new", connection, b"where")), ["device new"]);
        assert_eq!(words(&self.device("new", connection, b"", ROOM)), ["operator new"]);
    }
}

#[derive(Debug)]
struct Said {
    to: &'static str,
    typ: String,
    sid: String,
    connection: Option<String>,
    body: Vec<u8>,
}

fn said(sid: &str, typ: &str, connection: &str, body: &[u8]) -> Bytes {
    let props = [("connection_id", Prop::Text(connection))];
    Compose { proto: proto::PORT_FORWARD, typ, sid, props: &props, body }.to_bytes()
}

fn read_all(steps: &[Step]) -> Vec<Said> {
    steps
        .iter()
        .filter_map(|step| match step {
            Step::ToDevice(message) => Some(("device", message)),
            Step::ToOperator(message) => Some(("operator", message)),
            Step::Linger(_) | Step::Stalled => None,
        })
        .map(|(to, message)| {
            let read = Message::read(message).unwrap();
            Said {
                to,
                typ: read.typ.to_owned(),
                sid: read.sid.to_owned(),
                connection: read.text_prop("connection_id").map(str::to_owned),
                body: read.body.bytes().to_vec(),
            }
        })
        .collect()
}

fn words(said: &[Said]) -> Vec<String> {
    said.iter().map(|said| format!("{} {}", said.to, said.typ)).collect()
}

#[test]
fn every_frame_of_the_operators_is_acknowledged_once_and_the_device_has_one_at_a_time() {
    let mut rig = Rig::new();
    rig.open("c");
    let first = rig.operator("forward", "c", b"1");
    assert_eq!(words(&first), ["device forward", "operator ack"]);
    assert_ne!(first[0].sid, rig.sid, "a session of its own on the device");
    assert_eq!((first[1].sid.as_str(), first[1].connection.as_deref()), (rig.sid.as_str(), Some("c")));
    assert_eq!(words(&rig.operator("forward", "c", b"2")), ["operator ack"], "the device has not taken the first");
    let next = rig.device("ack", "c", b"", ROOM);
    assert_eq!((words(&next), next[0].body.as_slice()), (vec!["device forward".to_owned()], &b"2"[..]));
    assert_eq!(words(&rig.device("ack", "c", b"", ROOM)), Vec::<String>::new(), "the far end's goes no further");
    assert_eq!(words(&rig.device("ack", "c", b"", ROOM)), Vec::<String>::new(), "a surplus one stands for nothing");
}

#[test]
fn nothing_is_sent_to_a_device_that_still_dials() {
    let mut rig = Rig::new();
    assert_eq!(words(&rig.operator("new", "c", b"where")), ["device new"]);
    assert_eq!(words(&rig.operator("forward", "c", b"early")), ["operator ack"]);
    assert_eq!(words(&rig.device("new", "c", b"", ROOM)), ["operator new", "device forward"]);
}

#[test]
fn acknowledgements_beyond_the_window_wait_for_the_device() {
    let mut rig = Rig::new();
    rig.open("c");
    let mut acknowledged = 0;
    let mut sent = 0;
    while acknowledged == sent {
        acknowledged += rig.operator("forward", "c", &[0; 4096]).iter().filter(|said| said.typ == "ack").count();
        sent += 1;
    }
    assert!((22..=26).contains(&sent), "{sent} frames fill the window");
    let step = rig.device("ack", "c", b"", ROOM);
    assert_eq!(words(&step), ["device forward", "operator ack"]);
}

#[test]
fn an_operator_who_does_not_wait_for_acknowledgements_loses_the_connection() {
    let mut rig = Rig::new();
    rig.open("c");
    let ended = (0..100)
        .map(|_| words(&rig.operator("forward", "c", &[0; 4096])))
        .find(|said| said.len() > 1 && said[0] != "device forward");
    assert_eq!(ended.unwrap(), ["operator error", "operator stop"], "and the busy device is not told yet");
    assert_eq!(rig.forwarding.stream_count(), 0);
}

#[test]
fn a_surplus_ack_of_the_operators_goes_nowhere() {
    let mut rig = Rig::new();
    rig.open("c");
    assert_eq!(words(&rig.operator("ack", "c", b"")), Vec::<String>::new());
    let frame = rig.device("forward", "c", b"x", ROOM);
    assert_eq!(words(&frame), ["device ack", "operator forward"]);
    assert_eq!(words(&rig.operator("ack", "c", b"")), Vec::<String>::new());
    assert_eq!(words(&rig.operator("ack", "c", b"")), Vec::<String>::new());
}

#[test]
fn a_client_that_does_not_take_its_frames_stops_that_stream_alone() {
    let mut rig = Rig::new();
    rig.open("slow");
    rig.open("quick");
    let mut taken = 0;
    while words(&rig.device("forward", "slow", &[0; 4000], ROOM)) == ["device ack", "operator forward"] {
        taken += 1;
    }
    assert_eq!(taken, FRAMES_LIMIT, "as many as a stock client holds");
    assert_eq!(words(&rig.device("forward", "quick", b"x", ROOM)), ["device ack", "operator forward"]);
    let step = rig.operator("ack", "slow", b"");
    assert_eq!(words(&step), ["device ack", "operator forward"], "the one that waited");
}

#[test]
fn a_session_without_credit_holds_one_frame_per_stream() {
    let mut rig = Rig::new();
    rig.open("c");
    assert_eq!(words(&rig.device("forward", "c", b"x", 0)), Vec::<String>::new());
    assert_eq!(words(&read_all(&rig.forwarding.release(ROOM))), ["device ack", "operator forward"]);
}

#[test]
fn an_operators_stop_comes_behind_what_was_acknowledged() {
    let mut rig = Rig::new();
    rig.open("c");
    rig.operator("forward", "c", b"1");
    rig.operator("forward", "c", b"2");
    assert_eq!(words(&rig.operator("stop", "c", b"")), Vec::<String>::new());
    assert_eq!(words(&rig.device("ack", "c", b"", ROOM)), ["device forward"]);
    assert_eq!(words(&rig.device("ack", "c", b"", ROOM)), ["device stop"]);
    assert_eq!(words(&rig.device("stop", "c", b"", ROOM)), ["operator stop", "device close"]);
    assert_eq!(rig.forwarding.stream_count(), 0);
}

#[test]
fn a_devices_stop_comes_behind_its_last_frame() {
    let mut rig = Rig::new();
    rig.open("c");
    rig.device("forward", "c", b"last", 0);
    assert_eq!(words(&rig.device("stop", "c", b"", 0)), Vec::<String>::new());
    let step = read_all(&rig.forwarding.release(ROOM));
    assert_eq!(words(&step), ["device ack", "operator forward", "operator stop", "device close"]);
}

#[test]
fn a_refused_connection_ends_that_connection_for_the_operator() {
    let mut rig = Rig::new();
    rig.operator("new", "refused", b"where");
    rig.open("fine");
    let step = rig.device("error", "refused", b"dial tcp: connection refused", ROOM);
    assert_eq!(words(&step), ["operator error", "operator stop", "device close"]);
    assert_eq!(step[1].connection.as_deref(), Some("refused"));
    assert_eq!(rig.forwarding.stream_count(), 1);
}

#[test]
fn connections_have_a_limit_and_names_are_used_once() {
    let mut rig = Rig::new();
    for connection in ["a", "b", "c", "d"] {
        rig.open(connection);
    }
    assert_eq!(words(&rig.operator("new", "a", b"")), ["operator error"]);
    assert_eq!(words(&rig.operator("new", "e", b"")), ["operator error", "operator stop"]);
}

#[test]
fn the_hub_answers_a_streams_health_check_itself() {
    let mut rig = Rig::new();
    rig.open("c");
    let (id, sid) = (rig.forwarding.streams[0].id, rig.forwarding.streams[0].sid.clone());
    let ping = Compose { proto: proto::CONTROL, typ: "ping", sid: &sid, ..Compose::default() }.to_bytes();
    let steps = rig.forwarding.hear_device(id, &Message::read(&ping).unwrap(), ROOM);
    assert_eq!(words(&read_all(&steps)), ["device pong"]);
}

#[test]
fn a_busy_stream_of_a_session_that_ended_is_known_as_busy() {
    let mut rig = Rig::new();
    rig.open("busy");
    rig.open("idle");
    rig.operator("forward", "busy", b"x");
    let busy: Vec<bool> = rig.forwarding.into_streams().map(|(_, is_busy)| is_busy).collect();
    assert_eq!(busy, [true, false]);
}
