//! The command against something that answers like a hub with a device behind it.

use super::{tunnel::NoTunnel, *};
use crate::commands::operator::{
    message::{CONTROL, Incoming, Outgoing, PORT_FORWARD, Prop},
    stand_in::{LIMIT, Opened, StandIn},
};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

async fn accept(hub: &StandIn, protocols: &[u16]) -> Opened {
    let mut socket = hub.websocket().await;
    assert_eq!(socket.hears("open").await.proto, CONTROL);
    let body = rmp_serde::to_vec_named(&serde_json::json!({ "version": 1, "protocols": protocols })).expect("a body");
    socket.say(Outgoing::new(CONTROL, "accept").carrying(&body)).await;
    socket
}

async fn say(socket: &mut Opened, typ: &str, connection: &str, body: &[u8]) {
    let props = [("connection_id", Prop::from(connection))];
    socket.say(Outgoing::new(PORT_FORWARD, typ).with(&props).carrying(body)).await;
}

fn connection(message: &Incoming) -> String {
    message.text("connection_id").expect("a connection").to_owned()
}

/// Forwards while the story is told.
async fn while_forwarding<T>(mappings: &[&str], device: impl AsyncFnOnce(Opened, Vec<SocketAddr>) -> T) -> T {
    let (hub, operator) = StandIn::start().await;
    let carried = Arc::new(Carried::default());
    let (tunnel, socket) = tokio::join!(Tunnel::open(&operator, "d", &carried), accept(&hub, &[1, 3]));
    let mut tunnel = tunnel.expect("a tunnel");
    let mappings: Vec<Mapping> = mappings.iter().map(|text| text.parse().expect("a mapping")).collect();
    let mut local = Local::open(&mappings).await.expect("ports");
    let addresses = local.ports.iter().map(|port| port.address).collect();
    let status = Status::new();
    tokio::select! {
        why = tunnel.serve(&mut local, &status) => panic!("the tunnel is lost: {why}"),
        told = tokio::time::timeout(LIMIT, device(socket, addresses)) => told.expect("in time"),
    }
}

#[tokio::test]
async fn bytes_go_both_ways_within_the_window_and_every_frame_is_acknowledged_once() {
    const SIZE: usize = 1 << 20;
    while_forwarding(&["0:22"], async |mut socket, ports| {
        let sent: Vec<u8> = (0..SIZE).map(|at| u8::try_from(at % 251).expect("small")).collect();
        let expected = sent.clone();
        let program = async {
            let stream = TcpStream::connect(ports[0]).await.expect("connected");
            let (mut reading, mut writing) = stream.into_split();
            let mut echoed = vec![0; SIZE];
            let (written, read) = tokio::join!(writing.write_all(&sent), reading.read_exact(&mut echoed));
            written.expect("written");
            read.expect("read");
            echoed
        };
        // Says back whatever comes, keeps a window of its own, and acknowledges in bursts.
        let device = async {
            let new = socket.hears("new").await;
            let id = connection(&new);
            say(&mut socket, "new", &id, b"").await;
            let (mut owed, mut unacknowledged, mut received) = (0, 0, 0);
            let mut waiting: std::collections::VecDeque<Vec<u8>> = std::collections::VecDeque::new();
            while received < SIZE || unacknowledged > 0 || !waiting.is_empty() {
                let message = socket.hear().await.expect("more");
                match message.typ.as_str() {
                    "forward" => {
                        assert!(message.body.len() <= 4096);
                        received += message.body.len();
                        owed += 1;
                        assert!(owed <= stream::WINDOW, "more than a window is unacknowledged");
                        waiting.push_back(message.body);
                        if owed == stream::WINDOW || received == SIZE {
                            for _ in 0..owed {
                                say(&mut socket, "ack", &id, b"").await;
                            }
                            owed = 0;
                        }
                    }
                    "ack" => {
                        assert!(unacknowledged > 0, "one acknowledgement for one frame");
                        unacknowledged -= 1;
                    }
                    other => panic!("{other}"),
                }
                if owed > 0 && waiting.len() > 5 {
                    for _ in 0..owed {
                        say(&mut socket, "ack", &id, b"").await;
                    }
                    owed = 0;
                }
                while unacknowledged < 20
                    && let Some(body) = waiting.pop_front()
                {
                    say(&mut socket, "forward", &id, &body).await;
                    unacknowledged += 1;
                }
            }
        };
        let (echoed, ()) = tokio::join!(program, device);
        assert!(echoed == expected);
    })
    .await;
}

#[tokio::test]
async fn a_refused_connection_is_reset_whether_or_not_the_hub_names_it() {
    for is_named in [true, false] {
        while_forwarding(&["0:22"], async |mut socket, ports| {
            let mut program = TcpStream::connect(ports[0]).await.expect("connected");
            let id = connection(&socket.hears("new").await);
            let body = serde_json::json!({ "err": "dial tcp: connection refused", "msgtype": "new" });
            let body = rmp_serde::to_vec_named(&body).expect("a body");
            socket.say(Outgoing::new(PORT_FORWARD, "error").carrying(&body)).await;
            if is_named {
                say(&mut socket, "stop", &id, b"").await;
            }
            let error = program.read(&mut [0; 10]).await.expect_err("reset");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        })
        .await;
    }
}

#[tokio::test]
async fn a_program_that_has_said_everything_still_gets_the_answer() {
    while_forwarding(&["0:22"], async |mut socket, ports| {
        let mut program = TcpStream::connect(ports[0]).await.expect("connected");
        program.write_all(b"question").await.expect("written");
        program.shutdown().await.expect("shut down");
        let id = connection(&socket.hears("new").await);
        assert_eq!(socket.hears("forward").await.body, b"question");
        for body in [&b"long "[..], b"answer"] {
            say(&mut socket, "forward", &id, body).await;
            socket.hears("ack").await;
        }
        say(&mut socket, "stop", &id, b"").await;
        let mut answer = String::new();
        program.read_to_string(&mut answer).await.expect("the end, and not a reset");
        assert_eq!(answer, "long answer");
    })
    .await;
}

#[tokio::test]
async fn the_device_is_told_when_a_program_is_gone() {
    while_forwarding(&["0:22"], async |mut socket, ports| {
        let program = TcpStream::connect(ports[0]).await.expect("connected");
        let id = connection(&socket.hears("new").await);
        say(&mut socket, "new", &id, b"").await;
        drop(program);
        assert_eq!(connection(&socket.hears("stop").await), id);
    })
    .await;
}

#[tokio::test]
async fn datagrams_go_both_ways_and_every_sender_has_a_connection_of_its_own() {
    while_forwarding(&["udp/0:53"], async |mut socket, ports| {
        let mut connections = Vec::new();
        for question in [b"one", b"two"] {
            let program = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
            program.send_to(&[0; 5000], ports[0]).await.expect("sent, and dropped");
            program.send_to(question, ports[0]).await.expect("sent");
            let new = socket.hears("new").await;
            let id = connection(&new);
            say(&mut socket, "new", &id, b"").await;
            assert_eq!(socket.hears("forward").await.body, question);
            say(&mut socket, "ack", &id, b"").await;
            say(&mut socket, "forward", &id, b"answer").await;
            let mut answer = [0; 10];
            let (length, from) = program.recv_from(&mut answer).await.expect("an answer");
            assert_eq!((&answer[..length], from), (&b"answer"[..], ports[0]));
            assert_eq!(connection(&socket.hears("ack").await), id);
            connections.push(id);
        }
        assert_ne!(connections[0], connections[1]);
    })
    .await;
}

#[tokio::test]
async fn a_silent_sender_of_datagrams_is_forgotten() {
    let (outgoing, mut sent) = tokio::sync::mpsc::channel(10);
    let (_tunnel, local) = stream::pair(uuid::Uuid::nil(), outgoing, Arc::default());
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
    let program = socket.local_addr().expect("an address");
    let (_datagrams, queue) = tokio::sync::mpsc::channel(1);
    let end = udp::carry(socket, program, queue, local, Duration::from_millis(20)).await;
    assert_eq!(end, stream::End::LocalEnded);
    let stop = sent.recv().await.expect("a message").into_data();
    assert_eq!(Incoming::decode(&stop).expect("a message").typ, "stop");
}

#[tokio::test]
async fn the_devices_question_whether_somebody_is_there_is_answered() {
    while_forwarding(&["0:22"], async |mut socket, _ports| {
        socket.say(Outgoing::new(CONTROL, "ping")).await;
        assert_eq!(socket.hears("pong").await.proto, CONTROL);
    })
    .await;
}

#[tokio::test]
async fn connections_break_with_the_tunnel_and_the_next_one_waits_for_another() {
    let (hub, operator) = StandIn::start().await;
    let carried = Arc::new(Carried::default());
    let (tunnel, mut socket) = tokio::join!(Tunnel::open(&operator, "d", &carried), accept(&hub, &[3]));
    let mut tunnel = tunnel.expect("a tunnel");
    let mut local = Local::open(&["0:22".parse().expect("a mapping")]).await.expect("ports");
    let port = local.ports[0].address;
    let status = Status::new();
    let story = async {
        let program = TcpStream::connect(port).await.expect("connected");
        socket.hears("new").await;
        drop(socket);
        program
    };
    let (_why, mut program) = tokio::join!(tunnel.serve(&mut local, &status), story);
    assert_eq!(tunnel.break_connections().await, 1);
    let error = program.read(&mut [0; 1]).await.expect_err("reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    let mut waiting = TcpStream::connect(port).await.expect("the port is still open");
    let mut backoff = Backoff::default();
    let again = reconnect(&operator, "d", "demo", &mut backoff, &carried);
    let (tunnel, mut socket) = tokio::join!(again, accept(&hub, &[3]));
    let mut tunnel = tunnel.expect("a tunnel");
    let story = async {
        let id = connection(&socket.hears("new").await);
        say(&mut socket, "forward", &id, b"hello").await;
        waiting.read_exact(&mut [0; 5]).await.expect("read");
    };
    tokio::select! {
        why = tunnel.serve(&mut local, &status) => panic!("{why}"),
        () = story => {}
    }
}

#[tokio::test]
async fn what_will_never_work_is_not_tried_again() {
    let (hub, operator) = StandIn::start().await;
    let carried = Arc::new(Carried::default());
    let disabled = tokio::join!(Tunnel::open(&operator, "d", &carried), accept(&hub, &[1, 2])).0;
    let disabled = disabled.expect_err("refused");
    assert!(
        matches!(&disabled, NoTunnel::Disabled(why) if why.contains("port forwarding is disabled")),
        "{disabled:?}"
    );

    let mut backoff = Backoff::default();
    let revoked = async { hub.refuse(401, "revoked").await };
    let (gone, _) = tokio::join!(reconnect(&operator, "d", "demo", &mut backoff, &carried), revoked);
    assert!(gone.expect_err("refused").to_string().contains("mooring login"));

    let unknown = async {
        // First away, then unknown.
        hub.refuse(404, "device disconnected").await;
        let asked = hub.request().await;
        assert!(asked.line.contains("/devauth/devices/d "), "{}", asked.line);
        asked.answer(200, &[], b"{}").await;
        hub.refuse(404, "device disconnected").await;
        hub.refuse(404, "no such device").await;
    };
    let (gone, ()) = tokio::join!(reconnect(&operator, "d", "demo", &mut backoff, &carried), unknown);
    assert!(gone.expect_err("refused").to_string().contains("no longer knows demo"));
}
