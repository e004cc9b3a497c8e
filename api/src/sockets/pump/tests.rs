use actors::figures::Traffic;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::super::turns;
use super::*;

const LIMIT: usize = 256 * 1024;

fn config() -> Config {
    Config { message_limit: LIMIT, ..Config::default() }
}

fn socket() -> (Halves<DuplexStream>, DuplexStream) {
    let (ours, peers) = duplex(64 * 1024);
    (Halves::new(ours, BytesMut::new(), Bytes::from_static(b"101"), &config(), SocketCount::up_to(1)), peers)
}

/// A frame as a client sends it, with a mask of zeros.
fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first_byte, payload.len() as u64);
    frame.extend(payload);
    frame
}

fn header(first_byte: u8, len: u64) -> Vec<u8> {
    let mut header = vec![first_byte];
    match len {
        0..=125 => header.push(0x80 | u8::try_from(len).unwrap()),
        126..=0xffff => {
            header.push(0x80 | 0x7e);
            header.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        _ => {
            header.push(0x80 | 0x7f);
            header.extend(len.to_be_bytes());
        }
    }
    header.extend([0; 4]);
    header
}

async fn next(inbound: &mut Inbound<DuplexStream>) -> SocketEvent {
    tokio::time::timeout(Duration::from_secs(10), inbound.next()).await.expect("in time").expect("an event")
}

#[tokio::test]
async fn fragments_are_joined_and_pings_between_them_do_no_harm() {
    let (halves, mut peer) = socket();
    let mut inbound = halves.inbound();
    for part in [frame(0x02, b"one "), frame(0x89, b"60"), frame(0x00, b"two "), frame(0x80, b"three")] {
        peer.write_all(&part).await.unwrap();
    }
    assert!(matches!(next(&mut inbound).await, SocketEvent::Message(message) if message == "one two three"));
    assert_eq!(halves.wire.borrow().pong.as_deref(), Some(&b"60"[..]));
}

#[tokio::test]
async fn a_frame_that_announces_more_than_the_limit_is_not_gathered() {
    let (halves, mut peer) = socket();
    let mut inbound = halves.inbound();
    tokio::spawn(async move {
        peer.write_all(&header(0x82, 1 << 40)).await.unwrap();
        // Ends with an error when the other side has had enough.
        while peer.write_all(&[0; 4096]).await.is_ok() {}
    });
    assert!(matches!(next(&mut inbound).await, SocketEvent::Ended(End::TooLarge)));
    assert!(halves.wire.borrow().incoming.len() <= LIMIT + LONGEST_FRAME_HEADER + READ_SIZE);
}

#[tokio::test]
async fn fragments_beyond_the_limit_are_refused() {
    let (halves, mut peer) = socket();
    let mut inbound = halves.inbound();
    tokio::spawn(async move {
        peer.write_all(&frame(0x02, &vec![0; 60_000])).await.unwrap();
        while peer.write_all(&frame(0x00, &vec![0; 60_000])).await.is_ok() {}
    });
    assert!(matches!(next(&mut inbound).await, SocketEvent::Ended(End::TooLarge)));
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_socket() {
    for (bytes, why) in [
        (frame(0x80, b"last"), "a continuation of nothing"),
        ([frame(0x02, b"a"), frame(0x82, b"b")].concat(), "a message within a message"),
        (vec![0x82, 0x01, b'x'], "a frame without a mask"),
    ] {
        let (halves, mut peer) = socket();
        peer.write_all(&bytes).await.unwrap();
        let event = next(&mut halves.inbound()).await;
        assert!(matches!(event, SocketEvent::Ended(End::Broken)), "{why}: {event:?}");
    }
}

#[tokio::test]
async fn any_close_frame_is_a_close_even_one_with_a_reserved_code() {
    let (halves, mut peer) = socket();
    peer.write_all(&frame(0x88, &[&1006_u16.to_be_bytes()[..], b"unexpected EOF"].concat())).await.unwrap();
    assert!(matches!(next(&mut halves.inbound()).await, SocketEvent::Ended(End::Closed)));
}

#[tokio::test]
async fn a_paused_socket_is_not_read() {
    let (halves, mut peer) = socket();
    let mut inbound = halves.inbound();
    halves.flow.pause();
    peer.write_all(&frame(0x82, b"later")).await.unwrap();
    assert!(futures_util::poll!(inbound.next()).is_pending());
    halves.flow.resume();
    assert!(matches!(next(&mut inbound).await, SocketEvent::Message(message) if message == "later"));
}

/// An actor that says as much as it may, for ever.
fn chatterbox(flow: Rc<Flow>) -> impl Stream<Item = Result<Bytes, actix_web::Error>> + Unpin {
    futures_util::stream::poll_fn(move |_| {
        if flow.unwritten() > 16 * 1024 {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Bytes::from(frame(0x82, &[b'x'; 1000])))))
    })
}

/// Reads the frames of [`chatterbox`] and of the pump itself until a ping or pong comes.
async fn first_control_frame(peer: &mut DuplexStream) -> (u8, Vec<u8>) {
    let mut answer = [0; 3];
    peer.read_exact(&mut answer).await.unwrap();
    loop {
        let first_byte = peer.read_u8().await.unwrap();
        let second_byte = peer.read_u8().await.unwrap();
        let len = match second_byte & 0x7f {
            126 => usize::from(peer.read_u16().await.unwrap()),
            short => usize::from(short),
        };
        let mut payload = vec![0; len + if second_byte & 0x80 == 0 { 0 } else { 4 }];
        peer.read_exact(&mut payload).await.unwrap();
        if first_byte & 0x08 != 0 {
            return (first_byte, payload);
        }
        assert_eq!(first_byte, 0x82, "a frame came in the middle of another");
    }
}

#[tokio::test]
async fn pings_come_on_time_however_busy_the_socket_is() {
    let (halves, mut peer) = socket();
    let config = Config { ping_every: Duration::from_millis(50), ..config() };
    halves.wire.borrow_mut().next_ping = Instant::now();
    let actor = chatterbox(Rc::clone(&halves.flow));
    let pump = halves.run(actor, &config);
    let ping = async { first_control_frame(&mut peer).await };
    let (first_byte, payload) = tokio::select! {
        ping = ping => ping,
        () = pump => panic!("the pump ended"),
    };
    assert_eq!((first_byte, &payload[..]), (0x89, PING));
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_given_up_and_gathers_no_pings() {
    let (halves, peer) = socket();
    let mut inbound = halves.inbound();
    let config = Config {
        ping_every: Duration::from_millis(10),
        stall_limit: Duration::from_millis(200),
        silence_limit: Duration::from_mins(1),
        ..config()
    };
    let wire = Rc::clone(&halves.wire);
    wire.borrow_mut().next_ping = Instant::now();
    wire.borrow_mut().queue(Bytes::from(vec![0; 128 * 1024]));
    let queued = wire.borrow().outgoing_len;
    let pump = halves.run(futures_util::stream::pending::<Result<Bytes, actix_web::Error>>(), &config);
    let event = tokio::select! {
        event = next(&mut inbound) => event,
        () = pump => panic!("the pump ended"),
    };
    assert!(matches!(event, SocketEvent::Ended(End::Stalled)), "{event:?}");
    assert!(wire.borrow().outgoing_len <= queued, "pings were gathered");
    drop(peer);
}

#[tokio::test]
async fn bytes_and_round_trips_are_measured() {
    let (halves, mut peer) = socket();
    let (mut inbound, flow) = (halves.inbound(), Rc::clone(&halves.flow));
    for part in [frame(0x82, b"four"), frame(0x8a, b"nobody asked"), frame(0x82, b"seven..")] {
        peer.write_all(&part).await.unwrap();
    }
    for _ in 0..2 {
        assert!(matches!(next(&mut inbound).await, SocketEvent::Message(_)));
    }
    flow.hand_over(100);
    assert_eq!(
        (flow.received(), flow.sent()),
        (Traffic { messages: 2, bytes: 11 }, Traffic { messages: 1, bytes: 100 })
    );
    assert_eq!(flow.round_trip(), None);

    flow.pinged.set(Some(Instant::now().checked_sub(Duration::from_millis(5)).unwrap()));
    peer.write_all(&[frame(0x8a, PING), frame(0x82, b"x")].concat()).await.unwrap();
    assert!(matches!(next(&mut inbound).await, SocketEvent::Message(_)));
    assert!(flow.round_trip().is_some_and(|time| time >= Duration::from_millis(5)), "{:?}", flow.round_trip());
}

#[actix_rt::test]
async fn an_idle_socket_waits_in_line_with_others_and_one_with_a_session_does_not() {
    let (idle, mut idle_peer) = socket();
    let (busy, mut busy_peer) = socket();
    let (mut idle_inbound, mut busy_inbound) = (idle.inbound(), busy.inbound());
    idle.flow.set_idle(true);
    let _others = turns::crowd(100_000);
    for peer in [&mut idle_peer, &mut busy_peer] {
        peer.write_all(&frame(0x82, b"said")).await.unwrap();
    }
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut idle_inbound).poll_next(&mut cx).is_pending());
    assert!(idle.flow.is_unheard() && !busy.flow.is_unheard());
    idle.flow.ask_for_room();
    assert!(matches!(next(&mut busy_inbound).await, SocketEvent::Message(message) if message == "said"));

    let (flow, waiting) = (
        Rc::clone(&idle.flow),
        actix_rt::spawn(async move { [next(&mut idle_inbound).await, next(&mut idle_inbound).await] }),
    );
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    flow.set_idle(false);
    let heard = waiting.await.unwrap();
    assert!(matches!(&heard, [SocketEvent::Message(message), SocketEvent::Room] if message == "said"), "{heard:?}");
    assert!(!flow.is_unheard());
    assert!(turns::in_line() > 0, "it did not wait until it was called");
}

#[actix_rt::test]
async fn where_places_are_scarce_nobody_waits_in_line() {
    let (ours, mut peer) = duplex(1024);
    let places = SocketCount::up_to(1);
    assert!(places.enter());
    let halves = Halves::new(ours, BytesMut::new(), Bytes::new(), &config(), places);
    halves.flow.set_idle(true);
    let _others = turns::crowd(100_000);
    peer.shutdown().await.unwrap();
    assert!(matches!(next(&mut halves.inbound()).await, SocketEvent::Ended(End::Lost)));
    assert!(turns::in_line() > 0, "it did not wait until it was called");
}
