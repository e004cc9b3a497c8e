//! Ports of a device brought to an operator's machine: every byte once, every frame acknowledged once, no stream in
//! another's way.

use harness::traffic::{Behaviour, Pattern, Peer, listens, pattern_digest, receive, send_pattern};
use harness::{
    ADMIN_EMAIL, ADMIN_PASSWORD, DelayProxy, Door, Heard, LIMIT, MenderCli, Mooring, OneInFlight, Packet, Process,
    RealDevice, Set, Socket, TestHub, TestUser, both_sets, free_port, temporary_directory, wait_until, within,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

both_sets!([
    each_frame_is_acknowledged_once_to_its_sender_and_nobody_hears_two,
    a_surplus_ack_reaches_neither_side,
    what_was_said_before_an_end_arrives_before_it,
    a_refused_dial_ends_its_own_stream_and_no_other,
    a_stream_whose_reader_stalls_is_in_no_other_s_way,
]);

const MIB: u64 = 1024 * 1024;

/// How many frames one side may send ahead of the other side's acks, and a little more.
const MORE_THAN_A_WINDOW: usize = 64;

// What a strictly counting agent, and a strictly counting client, see.

/// A message about a stream.
fn packet(typ: &str, stream: &str) -> Packet {
    Packet::new(3, typ).prop("connection_id", stream)
}

/// What one side of the forwarding has sent and got, stream by stream. Either Go client dies of one ack too many.
#[derive(Default)]
struct Ledger {
    streams: HashMap<String, Account>,
}

#[derive(Default)]
struct Account {
    sent: usize,
    acked: usize,
    got: Vec<u8>,
    has_ended: bool,
}

impl Ledger {
    fn of(&mut self, stream: &str) -> &mut Account {
        self.streams.entry(stream.to_owned()).or_default()
    }

    /// Notes what was heard; the ack that is owed for it, if any.
    fn hear(&mut self, heard: &Heard) -> Option<Packet> {
        let stream = heard.text("connection_id")?.to_owned();
        let account = self.of(&stream);
        match heard.typ() {
            "forward" => {
                assert!(!account.has_ended, "data after the end of {stream}");
                account.got.extend_from_slice(heard.body());
                Some(packet("ack", &stream).sid(heard.sid()))
            }
            "ack" => {
                account.acked += 1;
                assert!(account.acked <= account.sent, "an ack too many on {stream}");
                None
            }
            "stop" => {
                account.has_ended = true;
                None
            }
            _ => None,
        }
    }
}

/// An agent that forwards ports: it answers as `mender-connect` does, and keeps a ledger.
#[derive(Clone, Default)]
struct Agent {
    ledger: Arc<Mutex<Ledger>>,
    /// The session in which it was asked for a stream.
    sids: Arc<Mutex<HashMap<String, String>>>,
}

impl Agent {
    /// What it answers at once.
    fn answer(&self, heard: &Heard) -> Vec<Packet> {
        if heard.is(65535, "open") {
            // {version: 1, protocols: [1, 2, 3, 4]}
            let accept = harness::msgpack::hex("82 a776657273696f6e 01 a970726f746f636f6c73 94 01 02 03 04");
            return vec![Packet::control("accept").sid(heard.sid()).body(accept)];
        }
        if heard.proto() != 3 {
            return vec![];
        }
        let Some(stream) = heard.text("connection_id").map(str::to_owned) else { return vec![] };
        let owed = self.ledger.lock().unwrap().hear(heard);
        match heard.typ() {
            "new" => {
                self.sids.lock().unwrap().insert(stream.clone(), heard.sid().to_owned());
                vec![packet("new", &stream).sid(heard.sid())]
            }
            "stop" => vec![packet("stop", &stream).sid(heard.sid())],
            _ => owed.into_iter().collect(),
        }
    }

    fn sid(&self, stream: &str) -> String {
        self.sids.lock().unwrap().get(stream).cloned().unwrap_or_else(|| panic!("no stream {stream}"))
    }

    fn got(&self, stream: &str) -> Vec<u8> {
        self.ledger.lock().unwrap().of(stream).got.clone()
    }
}

/// The body of a `new`.
fn target() -> Vec<u8> {
    // {remote_host: "h", remote_port: 9, protocol: "tcp"}
    harness::msgpack::hex(
        "83 ab72656d6f74655f686f7374 a168 ab72656d6f74655f706f7274 cd0009 a870726f746f636f6c a3746370",
    )
}

/// An operator with streams on a device of our own.
struct Scene {
    _hub: TestHub,
    user: TestUser,
    id: String,
    device: Socket,
    agent: Agent,
    operator: Socket,
    ledger: Ledger,
}

impl Scene {
    async fn new(set: Set) -> Self {
        let hub = set.hub().await;
        let user = hub.user().await;
        let device = hub.accepted_by(&user).await;
        let socket = device.connect().await;
        let operator = user.open(&device.id).await;
        let mut this = Self {
            _hub: hub,
            user,
            id: device.id,
            device: socket,
            agent: Agent::default(),
            operator,
            ledger: Ledger::default(),
        };
        // {versions: [1]}
        let versions = harness::msgpack::hex("81 a876657273696f6e73 91 01");
        this.operator.say(&Packet::control("open").body(versions)).await;
        let accept = this.until("an accept", |_, heard| heard.is(65535, "accept").then(|| heard.clone())).await;
        assert!(accept.has_body());
        this
    }

    /// Lets the agent answer and the operator's ledger note, until the operator has heard what `found` looks for.
    async fn until<T>(&mut self, what: &str, mut found: impl FnMut(&mut Ledger, &Heard) -> Option<T>) -> T {
        let waiting = async {
            loop {
                tokio::select! {
                    event = self.device.next() => {
                        let harness::Event::Message(heard) = event else { panic!("the device hears {event:?}") };
                        for answer in self.agent.answer(&heard) {
                            self.device.say(&answer).await;
                        }
                    }
                    event = self.operator.next() => {
                        let harness::Event::Message(heard) = event else { panic!("the operator hears {event:?}") };
                        if let Some(ack) = self.ledger.hear(&heard) {
                            self.operator.say(&ack).await;
                        }
                        if let Some(found) = found(&mut self.ledger, &heard) {
                            return found;
                        }
                    }
                }
            }
        };
        within(LIMIT, what, waiting).await
    }

    /// Lets the agent answer until that is so.
    async fn agent_until(&mut self, what: &str, is_so: impl Fn(&Agent) -> bool) {
        let agent = self.agent.clone();
        let waiting = async {
            while !is_so(&agent) {
                let harness::Event::Message(heard) = self.device.next().await else { panic!("the device is lost") };
                for answer in agent.answer(&heard) {
                    self.device.say(&answer).await;
                }
            }
        };
        within(LIMIT, what, waiting).await;
    }

    async fn start(&mut self, stream: &str) {
        self.operator.say(&packet("new", stream).body(target())).await;
        self.until("a stream", |_, heard| (heard.is(3, "new")).then_some(())).await;
    }

    async fn operator_sends(&mut self, stream: &str, body: impl AsRef<[u8]>) {
        self.ledger.of(stream).sent += 1;
        self.operator.say(&packet("forward", stream).body(body)).await;
    }

    async fn device_sends(&mut self, stream: &str, body: impl AsRef<[u8]>) {
        let sid = self.agent.sid(stream);
        self.agent.ledger.lock().unwrap().of(stream).sent += 1;
        self.device.say(&packet("forward", stream).sid(&sid).body(body)).await;
    }

    /// Lets the agent hear and answer everything that the hub has sent it so far.
    async fn device_hears_all(&mut self) {
        self.device.ping(b"settled?").await;
        loop {
            match within(LIMIT, "a pong", self.device.next()).await {
                harness::Event::Pong(payload) if payload == b"settled?" => return,
                harness::Event::Message(heard) => {
                    for answer in self.agent.answer(&heard) {
                        self.device.say(&answer).await;
                    }
                }
                other => panic!("the device hears {other:?}"),
            }
        }
    }

    /// Frames of a stream that the device has sent and has no ack for.
    fn owed_to_device(&self, stream: &str) -> usize {
        let mut ledger = self.agent.ledger.lock().unwrap();
        let account = ledger.of(stream);
        account.sent - account.acked
    }

    /// Waits until nothing that either side has said before is on its way any more.
    async fn settle(&mut self) {
        // A stream of its own goes through the whole path and back.
        self.operator.say(&packet("new", "settled").body(target())).await;
        self.until("a stream", |_, heard| (heard.text("connection_id") == Some("settled")).then_some(())).await;
        self.device_hears_all().await;
        self.operator.ping(b"settled?").await;
        loop {
            match within(LIMIT, "a pong", self.operator.next()).await {
                harness::Event::Pong(payload) if payload == b"settled?" => return,
                harness::Event::Message(heard) => {
                    if let Some(ack) = self.ledger.hear(&heard) {
                        self.operator.say(&ack).await;
                    }
                }
                other => panic!("the operator hears {other:?}"),
            }
        }
    }
}

async fn each_frame_is_acknowledged_once_to_its_sender_and_nobody_hears_two(set: Set) {
    let mut scene = Scene::new(set).await;
    let mut pattern = Pattern::new(1);
    for stream in ["a", "b"] {
        scene.start(stream).await;
    }
    let (mut up, mut down) = (Vec::new(), Vec::new());
    // One frame at a time in either direction, as the Go clients send them.
    for _ in 0..MORE_THAN_A_WINDOW {
        for stream in ["a", "b"] {
            let frame = pattern.take(4096);
            scene.operator_sends(stream, &frame).await;
            up.extend(frame);
            scene
                .until("an ack for the operator", |ledger, _| {
                    let account = ledger.of(stream);
                    (account.acked == account.sent).then_some(())
                })
                .await;
            let frame = pattern.take(4096);
            scene.device_sends(stream, &frame).await;
            down.extend(frame);
            let wanted = scene.agent.ledger.lock().unwrap().of(stream).sent;
            scene
                .agent_until("an ack for the device", |agent| agent.ledger.lock().unwrap().of(stream).acked == wanted)
                .await;
        }
    }
    scene.settle().await;

    let interleaved = |got: [Vec<u8>; 2]| {
        let [a, b] = got;
        a.chunks(4096).zip(b.chunks(4096)).flat_map(|(a, b)| [a, b].concat()).collect::<Vec<_>>()
    };
    assert!(interleaved(["a", "b"].map(|stream| scene.agent.got(stream))) == up, "to the device");
    assert!(interleaved(["a", "b"].map(|stream| scene.ledger.of(stream).got.clone())) == down, "to the operator");
    for stream in ["a", "b"] {
        let operator = scene.ledger.of(stream);
        assert_eq!((operator.acked, operator.sent), (MORE_THAN_A_WINDOW, MORE_THAN_A_WINDOW));
        let mut agent = scene.agent.ledger.lock().unwrap();
        assert_eq!(agent.of(stream).acked, MORE_THAN_A_WINDOW);
    }
}

async fn a_surplus_ack_reaches_neither_side(set: Set) {
    let mut scene = Scene::new(set).await;
    scene.start("c").await;
    scene.device_sends("c", "one").await;
    scene.until("the frame", |ledger, _| (ledger.of("c").got == b"one").then_some(())).await;
    // Two more than are owed, and some for a stream that nobody knows. The ledgers count what arrives.
    for stream in ["c", "c", "unknown"] {
        scene.operator.say(&packet("ack", stream)).await;
    }
    scene.operator_sends("c", "two").await;
    scene.agent_until("the frame", |agent| agent.got("c") == b"two").await;
    let sid = scene.agent.sid("c");
    for stream in ["c", "c", "unknown"] {
        scene.device.say(&packet("ack", stream).sid(&sid)).await;
    }
    scene.settle().await;

    assert_eq!(scene.ledger.of("c").acked, 1);
    assert_eq!(scene.agent.ledger.lock().unwrap().of("c").acked, 1);
    assert_eq!(scene.agent.ledger.lock().unwrap().of("unknown").acked, 0);
    // Both go on.
    scene.operator_sends("c", "three").await;
    scene.agent_until("the frame", |agent| agent.got("c") == b"twothree").await;
}

async fn what_was_said_before_an_end_arrives_before_it(set: Set) {
    let mut scene = Scene::new(set).await;
    scene.start("down").await;
    scene.start("up").await;
    let mut pattern = Pattern::new(2);

    // The device sends as fast as it gets acks, ends, and the operator reads only then.
    let mut wanted = Vec::new();
    for _ in 0..10 {
        let frame = pattern.take(4000);
        scene.device_sends("down", &frame).await;
        wanted.extend(frame);
        let total = scene.agent.ledger.lock().unwrap().of("down").sent;
        scene.agent_until("an ack", |agent| agent.ledger.lock().unwrap().of("down").acked == total).await;
    }
    let sid = scene.agent.sid("down");
    scene.device.say(&packet("stop", "down").sid(&sid)).await;
    scene.until("the end", |ledger, _| ledger.of("down").has_ended.then_some(())).await;
    assert!(scene.ledger.of("down").got == wanted);

    let mut wanted = Vec::new();
    for _ in 0..10 {
        let frame = pattern.take(4000);
        scene.operator_sends("up", &frame).await;
        wanted.extend(frame);
    }
    scene.operator.say(&packet("stop", "up")).await;
    scene.agent_until("the end", |agent| agent.ledger.lock().unwrap().of("up").has_ended).await;
    assert!(scene.agent.got("up") == wanted);
}

async fn a_refused_dial_ends_its_own_stream_and_no_other(set: Set) {
    let mut scene = Scene::new(set).await;
    for stream in ["first", "refused", "third"] {
        scene.operator.say(&packet("new", stream).body(target())).await;
    }
    // The agent says what went wrong and not with which stream.
    let mut seen = 0;
    while seen < 3 {
        let heard = scene.device.hear_for(3, "new", LIMIT).await;
        let stream = heard.text("connection_id").unwrap().to_owned();
        if stream == "refused" {
            // {err: "dial tcp: refused", msgtype: "new"}
            let body = [
                harness::msgpack::hex("82 a3657272 b1"),
                b"dial tcp: refused".to_vec(),
                harness::msgpack::hex("a76d736774797065 a36e6577"),
            ];
            scene.device.say(&Packet::new(3, "error").sid(heard.sid()).body(body.concat())).await;
        } else {
            for answer in scene.agent.answer(&heard) {
                scene.device.say(&answer).await;
            }
        }
        seen += 1;
    }
    scene
        .until("the end of the refused stream", |ledger, heard| {
            let stream = heard.text("connection_id").unwrap_or("refused");
            assert!(!["error", "stop"].contains(&heard.typ()) || stream == "refused", "{heard:?}");
            ledger.of("refused").has_ended.then_some(())
        })
        .await;
    for stream in ["first", "third"] {
        scene.operator_sends(stream, stream).await;
        scene.agent_until("the frame", |agent| agent.got(stream) == stream.as_bytes()).await;
        assert!(!scene.ledger.of(stream).has_ended);
    }
}

async fn a_stream_whose_reader_stalls_is_in_no_other_s_way(set: Set) {
    let mut scene = Scene::new(set).await;
    for stream in ["stalled", "other"] {
        scene.start(stream).await;
    }
    // The operator does not acknowledge one stream. The device gets no ack for what is beyond the window.
    let mut unacked = 0;
    for _ in 0..MORE_THAN_A_WINDOW {
        scene.device_sends("stalled", [b's'; 4096]).await;
        scene.device_sends("other", [b'o'; 4096]).await;
        let total = scene.agent.ledger.lock().unwrap().of("other").sent;
        // The operator reads all, and acknowledges only the other one.
        let waiting = async {
            while scene.agent.ledger.lock().unwrap().of("other").acked < total {
                tokio::select! {
                    event = scene.device.next() => {
                        let harness::Event::Message(heard) = event else { panic!("the device hears {event:?}") };
                        for answer in scene.agent.answer(&heard) {
                            scene.device.say(&answer).await;
                        }
                    }
                    event = scene.operator.next() => {
                        let harness::Event::Message(heard) = event else { panic!("the operator hears {event:?}") };
                        match scene.ledger.hear(&heard) {
                            Some(ack) if heard.text("connection_id") == Some("other") => {
                                scene.operator.say(&ack).await;
                            }
                            Some(_) => unacked += 1,
                            None => {}
                        }
                    }
                }
            }
        };
        within(LIMIT, "an ack for the other stream", waiting).await;
        scene.device_hears_all().await;
        if scene.owed_to_device("stalled") > 0 {
            // It is held back now, and an agent would send no more.
            break;
        }
    }
    assert_eq!(scene.owed_to_device("stalled"), 1, "a stalled stream is never held back");
    for _ in 0..MORE_THAN_A_WINDOW {
        scene.device_sends("other", [b'o'; 4096]).await;
        let total = scene.agent.ledger.lock().unwrap().of("other").sent;
        let all = scene.ledger.of("other").got.len() + 4096;
        scene
            .until("a frame of the other stream", |ledger, _| (ledger.of("other").got.len() >= all).then_some(()))
            .await;
        scene.agent_until("its ack", |agent| agent.ledger.lock().unwrap().of("other").acked == total).await;
    }
    // The reader comes back, and so does the stream.
    for _ in 0..unacked {
        scene.operator.say(&packet("ack", "stalled")).await;
    }
    let total = scene.agent.ledger.lock().unwrap().of("stalled").sent;
    scene
        .until("the rest of the stalled stream", |ledger, _| {
            (ledger.of("stalled").got.len() == total * 4096).then_some(())
        })
        .await;
    scene.agent_until("its last ack", |agent| agent.ledger.lock().unwrap().of("stalled").acked == total).await;
    assert_eq!(scene.user.status(&scene.id).await, "connected");
}

// What people see, with the unmodified programs.

/// A real device and somebody at a prompt.
struct Place {
    hub: TestHub,
    user: TestUser,
    device: RealDevice,
    id: String,
}

impl Place {
    async fn new(set: Set) -> Self {
        let hub = set.hub().await;
        let user = hub.user().await;
        let device = RealDevice::start(&hub).await;
        let id = device.join(&user).await;
        Self { hub, user, device, id }
    }

    async fn cli(&self, door: &Door) -> MenderCli {
        let cli = MenderCli::new(door);
        cli.log_in(ADMIN_EMAIL, ADMIN_PASSWORD).await;
        cli
    }

    /// The real agent has not connected again since it did first: nothing that it heard made it leave.
    fn never_left(&self) {
        assert_eq!(self.device.connections(), 1, "the agent left its connection");
    }
}

/// `PORT:127.0.0.1:PORT` for a server beside the device; the first port.
fn mapping(protocol: &str, port: u16) -> (u16, String) {
    let local = free_port();
    let prefix = if protocol == "udp" { "udp/" } else { "" };
    (local, format!("{prefix}{local}:127.0.0.1:{port}"))
}

async fn dial(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the forwarded port listens");
    stream.set_nodelay(true).unwrap();
    stream
}

/// `mooring forward` with these mappings, once they listen.
async fn mooring_forward(door: &Door, id: &str, mappings: &[String]) -> Process {
    let mooring = Mooring::alone();
    let server = door.url();
    let login = ["login", "--server", &server, "--user", ADMIN_EMAIL, "--password-stdin"];
    let login = mooring.run(&login, &format!("{ADMIN_PASSWORD}\n")).await;
    assert!(login.status.success(), "{login:?}");
    let mut arguments = vec!["forward", id];
    arguments.extend(mappings.iter().map(String::as_str));
    arguments.extend(["--server", &server]);
    let process = Process::start(&mooring.command(&arguments), &temporary_directory().join("forward.log"));
    for mapping in mappings {
        let (protocol, rest) = mapping.split_once('/').unwrap_or(("tcp", mapping));
        listens(protocol, rest.split(':').next().unwrap().parse().unwrap()).await;
    }
    process
}

/// Bytes per second.
fn rate(bytes: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "it is printed")]
    let bytes = bytes as f64;
    bytes / time.as_secs_f64().max(1e-9)
}

/// This much in each direction, at the same time, through streams of their own.
async fn goes_both_ways(place: &Place, length: u64, limit: Duration) {
    let source = Peer::tcp(Behaviour::Send(11, length)).await;
    let mut sink = Peer::tcp(Behaviour::TakeExactly(length)).await;
    let (down_port, down) = mapping("tcp", source.port());
    let (up_port, up) = mapping("tcp", sink.port());
    let cli = place.cli(&place.hub).await;
    let mut forwarding = cli.port_forward(&place.id, &[down, up]).await;

    let started = Instant::now();
    let receiving = async {
        let mut stream = dial(down_port).await;
        (receive(&mut stream, length).await, started.elapsed())
    };
    let sending = async {
        let mut stream = dial(up_port).await;
        let sent = send_pattern(&mut stream, 12, length).await.expect("the forwarded port takes it");
        stream.shutdown().await.unwrap();
        (sent, sink.taken(limit).await, started.elapsed())
    };
    let both = async { tokio::join!(receiving, sending) };
    let ((received, down_time), (sent, taken, up_time)) = within(limit, "the bytes in both directions", both).await;

    assert_eq!(taken, sent, "to the device");
    assert_eq!(received, pattern_digest(11, length).await, "from the device");
    eprintln!(
        "{} MiB each way at once: {:.1} MB/s from the device, {:.1} MB/s to it",
        length / MIB,
        rate(length, down_time) / 1e6,
        rate(length, up_time) / 1e6
    );
    place.never_left();
    forwarding.signal("INT");
    assert!(forwarding.end(LIMIT).await.success(), "{}", forwarding.log());
}

#[tokio::test]
async fn sixty_four_mebibytes_each_way_arrive_intact_through_the_real_programs() {
    let _turn = harness::turn_of_the_heavy().await;
    let place = Place::new(Set::Embedded).await;
    goes_both_ways(&place, 64 * MIB, Duration::from_mins(3)).await;
}

/// `cargo test --release -p tests --test e2e -- --ignored --nocapture a_gibibyte_each_way`
#[tokio::test]
#[ignore = "takes minutes; run it by its name"]
async fn a_gibibyte_each_way_arrives_intact_through_the_real_programs() {
    let place = Place::new(Set::Production).await;
    goes_both_ways(&place, 1024 * MIB, Duration::from_hours(1)).await;
}

#[tokio::test]
async fn the_real_programs_forward_tcp_and_udp_and_tell_a_refused_dial() {
    let place = Place::new(Set::Production).await;
    let echo = Peer::tcp(Behaviour::Echo).await;
    let datagrams = Peer::udp_echo().await;
    let nobody = free_port();
    let (tcp_port, tcp) = mapping("tcp", echo.port());
    let (udp_port, udp) = mapping("udp", datagrams.port());
    let (refused_port, refused) = mapping("tcp", nobody);
    let cli = place.cli(&place.hub).await;
    let mut forwarding = cli.port_forward(&place.id, &[tcp, udp, refused]).await;

    // Several connections at once, each with its own bytes.
    let echoes = (0..8_u64).map(|seed| async move {
        let mut stream = dial(tcp_port).await;
        let (mut reads, mut writes) = stream.split();
        let (sent, got) = tokio::join!(send_pattern(&mut writes, seed, 256 * 1024), receive(&mut reads, 256 * 1024));
        assert_eq!(got, sent.unwrap());
    });
    within(LIMIT * 2, "the echoes", futures_util::future::join_all(echoes)).await;

    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(("127.0.0.1", udp_port)).await.unwrap();
    for (number, length) in [1, 512, 1400, 4096].into_iter().enumerate() {
        let sent = Pattern::new(number as u64).take(length);
        socket.send(&sent).await.unwrap();
        let mut got = vec![0; 8192];
        let length = within(LIMIT, "a datagram", socket.recv(&mut got)).await.unwrap();
        assert!(got[..length] == sent, "a datagram was changed");
    }

    // The client itself says nothing about it: the hub ends the stream, and the client the local connection or not; what
    // counts is that everybody else goes on.
    let mut stream = dial(refused_port).await;
    stream.write_all(b"anybody?").await.unwrap();
    let mut other = dial(tcp_port).await;
    other.write_all(b"still here").await.unwrap();
    let mut got = [0; 10];
    within(LIMIT, "an echo", other.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"still here");
    place.never_left();
    forwarding.signal("INT");
    assert!(forwarding.end(LIMIT).await.success(), "{}", forwarding.log());
}

#[tokio::test]
async fn our_own_client_forwards_and_closes_the_connection_of_a_refused_dial() {
    let place = Place::new(Set::Embedded).await;
    let echo = Peer::tcp(Behaviour::Echo).await;
    let source = Peer::tcp(Behaviour::Send(5, MIB)).await;
    let mut sink = Peer::tcp(Behaviour::Take).await;
    let (echo_port, to_echo) = mapping("tcp", echo.port());
    let (source_port, to_source) = mapping("tcp", source.port());
    let (sink_port, to_sink) = mapping("tcp", sink.port());
    let (refused_port, refused) = mapping("tcp", free_port());
    let mut forwarding = mooring_forward(&place.hub, &place.id, &[to_echo, to_source, to_sink, refused]).await;

    // The far side ends, and the near side hears all before it.
    let mut stream = dial(source_port).await;
    let got = within(LIMIT, "the end of what is sent", receive(&mut stream, u64::MAX)).await;
    assert_eq!(got, pattern_digest(5, MIB).await);
    // The near side ends, and the far side has heard all before it. The protocol knows the end of both directions only.
    let mut stream = dial(sink_port).await;
    let sent = send_pattern(&mut stream, 6, MIB).await.unwrap();
    drop(stream);
    assert_eq!(sink.taken(LIMIT).await, sent);
    // The refused connection ends, and this one alone.
    let mut bystander = dial(echo_port).await;
    let mut stream = dial(refused_port).await;
    let ended = within(LIMIT, "the end of a refused connection", receive(&mut stream, u64::MAX)).await;
    assert_eq!(ended.length, 0);
    bystander.write_all(b"still here").await.unwrap();
    let mut got = [0; 10];
    within(LIMIT, "an echo", bystander.read_exact(&mut got)).await.unwrap();
    place.never_left();
    forwarding.signal("INT");
    forwarding.end(LIMIT).await;
}

/// How long this many bytes take from the device, after a first few that open the way.
async fn time_from_device(port: u16, length: u64) -> Duration {
    let mut stream = dial(port).await;
    within(LIMIT, "first bytes", receive(&mut stream, 4096)).await;
    let started = Instant::now();
    let got = within(LIMIT * 4, "bytes from the device", receive(&mut stream, length)).await;
    assert_eq!(got.length, length);
    started.elapsed()
}

/// How long this many bytes take to the device, through a connection whose far side counts them.
async fn time_to_device(port: u16, sink: &mut Peer, length: u64) -> Duration {
    let mut stream = dial(port).await;
    let started = Instant::now();
    let sent = send_pattern(&mut stream, 3, length).await.unwrap();
    assert_eq!(sink.taken(LIMIT * 4).await, sent);
    started.elapsed()
}

/// One direction of the operator's line: a round trip takes twice that.
const LEG: Duration = Duration::from_millis(50);

/// Bytes that one frame at a time carries over the line in about three seconds.
const SLOW: u64 = 30 * 4096;

/// Rates with the line's delay, as ratios to a relay that has one frame in flight.
#[derive(Debug)]
struct Ratios {
    stock_down: f64,
    ours_down: f64,
    ours_up: f64,
}

async fn over_a_slow_line(place: &Place, fast: u64) -> Ratios {
    let source = Peer::tcp(Behaviour::Send(1, u64::MAX)).await;
    // client ── near relay ── line ── far relay ── hub: each direction has a relay where its frames leave for the line.
    let line = DelayProxy::to(&place.hub, LEG).await;
    let far = OneInFlight::to(&place.hub).await;
    let slow_line = DelayProxy::to(far.door(), LEG).await;
    let near = OneInFlight::to(slow_line.door()).await;

    let cli = place.cli(&place.hub).await;
    let stock = async |door: &Door, length: u64| {
        let (port, mapping) = mapping("tcp", source.port());
        let _forwarding = cli.at(door).port_forward(&place.id, &[mapping]).await;
        rate(length, time_from_device(port, length).await)
    };
    let ours = async |door: &Door, length: u64| {
        let mut sink = Peer::tcp(Behaviour::TakeExactly(length)).await;
        let (from_port, from) = mapping("tcp", source.port());
        let (to_port, to) = mapping("tcp", sink.port());
        let _forwarding = mooring_forward(door, &place.id, &[from, to]).await;
        let from = rate(length, time_from_device(from_port, length).await);
        (from, rate(length, time_to_device(to_port, &mut sink, length).await))
    };
    let (stock_slow, stock_fast) = (stock(near.door(), SLOW).await, stock(line.door(), fast).await);
    let (ours_slow, ours_fast) = (ours(near.door(), SLOW).await, ours(line.door(), fast).await);
    let ratios = Ratios {
        stock_down: stock_fast / stock_slow,
        ours_down: ours_fast.0 / ours_slow.0,
        ours_up: ours_fast.1 / ours_slow.1,
    };
    let kilobytes = |rate: f64| rate / 1e3;
    eprintln!("100 ms on the operator's line, one frame in flight and the hub, kB/s:");
    eprintln!(
        "  mender-cli from the device       {:8.0} {:8.0}  ratio {:.1}",
        kilobytes(stock_slow),
        kilobytes(stock_fast),
        ratios.stock_down
    );
    eprintln!(
        "  mooring forward from the device  {:8.0} {:8.0}  ratio {:.1}",
        kilobytes(ours_slow.0),
        kilobytes(ours_fast.0),
        ratios.ours_down
    );
    eprintln!(
        "  mooring forward to the device    {:8.0} {:8.0}  ratio {:.1}",
        kilobytes(ours_slow.1),
        kilobytes(ours_fast.1),
        ratios.ours_up
    );
    ratios
}

#[tokio::test]
async fn a_slow_line_does_not_decide_the_speed() {
    let place = Place::new(Set::Embedded).await;
    // The figures are printed; what they have to be is asserted where nothing else runs.
    over_a_slow_line(&place, 2 * MIB).await;
    place.never_left();
}

/// `cargo test --release -p tests --test e2e -- --ignored --nocapture a_slow_line_costs_less_than_a_tenth`
#[tokio::test]
#[ignore = "a measurement; run it by its name and alone"]
async fn a_slow_line_costs_less_than_a_tenth_of_what_one_frame_in_flight_costs() {
    let place = Place::new(Set::Embedded).await;
    let ratios = over_a_slow_line(&place, 32 * MIB).await;
    let all = [ratios.stock_down, ratios.ours_down, ratios.ours_up];
    assert!(all.iter().all(|ratio| *ratio >= 10.0), "{ratios:?}");
}

#[tokio::test]
async fn a_stalled_stream_of_a_real_device_slows_no_other() {
    const LENGTH: u64 = 2 * MIB;
    let _turn = harness::turn_of_the_heavy().await;
    let place = Place::new(Set::Embedded).await;
    let source = Peer::tcp(Behaviour::Send(1, u64::MAX)).await;
    let mut sink = Peer::tcp(Behaviour::TakeExactly(LENGTH)).await;
    let stalled = Peer::tcp(Behaviour::Stall).await;
    let (from_port, from) = mapping("tcp", source.port());
    let (to_port, to) = mapping("tcp", sink.port());
    let (stalled_port, to_stalled) = mapping("tcp", stalled.port());
    let cli = place.cli(&place.hub).await;
    let _forwarding = cli.port_forward(&place.id, &[from, to, to_stalled]).await;
    let before = (time_from_device(from_port, LENGTH).await, time_to_device(to_port, &mut sink, LENGTH).await);

    // A reader on this side stops: the device's stream is full.
    let unread = dial(from_port).await;
    unread.readable().await.unwrap();
    full(&unread).await;
    let local = (time_from_device(from_port, LENGTH).await, time_to_device(to_port, &mut sink, LENGTH).await);
    // And one on the far side: the agent waits for it and answers nothing else in that session.
    let mut filling = dial(stalled_port).await;
    let (chunk, mut filled) = (vec![b'x'; 64 * 1024], 0);
    while let Ok(count) = tokio::time::timeout(Duration::from_secs(1), filling.write(&chunk)).await {
        filled += count.unwrap();
        assert!(filled < 64 * 1024 * 1024, "a stalled reader takes everything");
    }
    let remote = (time_from_device(from_port, LENGTH).await, time_to_device(to_port, &mut sink, LENGTH).await);

    let ratio = |after: Duration, before: Duration| before.as_secs_f64() / after.as_secs_f64();
    eprintln!(
        "speed beside a stalled stream, to before: local reader stalled {:.2} from the device and {:.2} to it, \
         remote reader too {:.2} and {:.2}",
        ratio(local.0, before.0),
        ratio(local.1, before.1),
        ratio(remote.0, before.0),
        ratio(remote.1, before.1)
    );
    assert_eq!(place.user.status(&place.id).await, "connected");
    place.never_left();
}

/// Waits until a connection that is not read has had the same bytes waiting for a while: nobody sends more.
async fn full(stream: &TcpStream) {
    let mut bytes = vec![0; 16 * 1024 * 1024];
    let mut last = (0, Instant::now());
    wait_until(LIMIT, "a stream to be full", async || {
        let waiting = stream.peek(&mut bytes).await.unwrap();
        if waiting != last.0 {
            last = (waiting, Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(300)).then_some(())
    })
    .await;
}

/// Ten minutes without a byte, as nearly as can be: the websocket is kept by pings, the agent's session by control pings.
/// After 600 s the agent itself closes a connection on which its side said nothing.
/// `cargo test -p tests --test e2e -- --ignored an_idle_forward_stays_up`
#[tokio::test]
#[ignore = "takes ten minutes; run it by its name"]
async fn an_idle_forward_stays_up_for_ten_minutes() {
    an_idle_forward(Duration::from_secs(590)).await;
}

/// The agent asks after 48 s without a message, and gives up a session that does not answer within 12 s.
#[tokio::test]
async fn an_idle_forward_outlives_the_agent_s_own_question() {
    an_idle_forward(Duration::from_secs(75)).await;
}

async fn an_idle_forward(idle: Duration) {
    let place = Place::new(Set::Embedded).await;
    let echo = Peer::tcp(Behaviour::Echo).await;
    let (port, mapping) = mapping("tcp", echo.port());
    let cli = place.cli(&place.hub).await;
    let mut forwarding = cli.port_forward(&place.id, &[mapping]).await;
    let mut stream = dial(port).await;
    let mut says = async |text: &[u8; 6]| {
        stream.write_all(text).await.unwrap();
        let mut got = [0; 6];
        within(LIMIT, "an echo", stream.read_exact(&mut got)).await.unwrap();
        assert_eq!(&got, text);
    };
    says(b"before").await;

    let started = Instant::now();
    wait_until(idle * 2, "the time to pass", async || {
        assert!(forwarding.ended().is_none(), "{}", forwarding.log());
        (started.elapsed() > idle).then_some(())
    })
    .await;

    says(b"after!").await;
    assert_eq!(forwarding.log().matches("Forwarding from").count(), 1, "it has started over: {}", forwarding.log());
    place.never_left();
}
