//! What the bus promises, in this process and over NATS: the same cases on both.

#![expect(clippy::unwrap_used, reason = "a test that is surprised has failed")]

mod nats_server;

use std::time::Duration;

use actors::bus::{Bus, BusError, DisconnectReason, Event, Incoming, LocalBus, NatsBus, NodeMessage};
use actors::session::{Binding, DeviceSays};
use bytes::Bytes;
use storage::{DeviceId, Epoch, NodeId, SessionId};
use tokio::sync::mpsc::Receiver;

const LIMIT: Duration = Duration::from_secs(10);

async fn hear(listener: &mut Receiver<Incoming>) -> Incoming {
    let hearing = async {
        loop {
            // Also heard when the first connection is made a moment after the listening began.
            match listener.recv().await.expect("the bus is open") {
                Incoming::LinkBack => {}
                heard => return heard,
            }
        }
    };
    tokio::time::timeout(LIMIT, hearing).await.expect("heard nothing in time")
}

fn displace(epoch: i64) -> NodeMessage {
    NodeMessage::Displace { device: DeviceId::from_uuid(uuid::Uuid::from_u128(7)), epoch: Epoch(epoch) }
}

async fn reaches_the_named_node_only(one: Bus, two: Bus) {
    let (mut at_one, mut at_two) = (one.listen().await.unwrap(), two.listen().await.unwrap());
    one.send(two.node(), displace(1)).unwrap();
    two.send(one.node(), displace(2)).unwrap();
    assert_eq!(hear(&mut at_two).await, Incoming::Message(displace(1)));
    assert_eq!(hear(&mut at_one).await, Incoming::Message(displace(2)));
}

async fn keeps_the_order_of_messages(one: Bus, two: Bus) {
    let mut at_two = two.listen().await.unwrap();
    for epoch in 0..2000 {
        one.send(two.node(), displace(epoch)).unwrap();
    }
    for epoch in 0..2000 {
        assert_eq!(hear(&mut at_two).await, Incoming::Message(displace(epoch)));
    }
}

async fn carries_a_session_s_bytes_unchanged(one: Bus, two: Bus) {
    let mut at_two = two.listen().await.unwrap();
    let message = Bytes::from((0..=255_u8).cycle().take(8192).collect::<Vec<_>>());
    let sent = NodeMessage::FromDevice {
        session: SessionId::random(),
        binding: Binding::ONLY,
        says: DeviceSays::Deliver { number: 3, message },
    };
    one.send(two.node(), sent.clone()).unwrap();
    assert_eq!(hear(&mut at_two).await, Incoming::Message(sent));
}

async fn events_reach_every_other_node(one: Bus, two: Bus) {
    let (mut at_one, mut at_two) = (one.listen().await.unwrap(), two.listen().await.unwrap());
    let event = Event::DeviceRefused { device: DeviceId::random(), why: DisconnectReason::Decommissioned };
    one.announce(&event).unwrap();
    assert_eq!(hear(&mut at_two).await, Incoming::Event(event));
    // What the announcer hears next is what was sent after, not its own event.
    two.send(one.node(), displace(1)).unwrap();
    assert_eq!(hear(&mut at_one).await, Incoming::Message(displace(1)));
}

async fn a_second_listener_takes_over(one: Bus, two: Bus) {
    drop(two.listen().await.unwrap());
    let mut again = two.listen().await.unwrap();
    one.send(two.node(), displace(1)).unwrap();
    assert_eq!(hear(&mut again).await, Incoming::Message(displace(1)));
}

async fn answers_a_ping(one: Bus, two: Bus) {
    one.ping().await.unwrap();
    two.ping().await.unwrap();
}

macro_rules! contract_tests {
    ($backend:ident, [$($case:ident),+ $(,)?]) => {
        mod $backend {
            $(
                #[tokio::test]
                async fn $case() {
                    let (one, two) = super::backends::$backend().await;
                    super::$case(one, two).await;
                }
            )+
        }
    };
}

mod backends {
    use super::*;

    pub async fn local() -> (Bus, Bus) {
        let one = LocalBus::new(NodeId::random());
        let two = one.join(NodeId::random());
        (Bus::Local(one), Bus::Local(two))
    }

    pub async fn nats() -> (Bus, Bus) {
        let url = nats_server::url();
        let prefix = format!("case-{}", uuid::Uuid::new_v4());
        let connect = || NatsBus::connect(&url, &prefix, NodeId::random());
        (Bus::from(connect().await.unwrap()), Bus::from(connect().await.unwrap()))
    }
}

contract_tests!(
    local,
    [
        reaches_the_named_node_only,
        keeps_the_order_of_messages,
        carries_a_session_s_bytes_unchanged,
        events_reach_every_other_node,
        a_second_listener_takes_over,
        answers_a_ping,
    ]
);
contract_tests!(
    nats,
    [
        reaches_the_named_node_only,
        keeps_the_order_of_messages,
        carries_a_session_s_bytes_unchanged,
        events_reach_every_other_node,
        a_second_listener_takes_over,
        answers_a_ping,
    ]
);

#[tokio::test]
async fn in_one_process_an_unknown_node_is_refused_at_once() {
    let bus = Bus::alone(NodeId::random());
    assert!(matches!(bus.send(NodeId::random(), displace(1)), Err(BusError::NoSuchNode)));
}

#[tokio::test]
async fn a_listener_that_takes_nothing_is_refused_beyond_the_bound() {
    let one = LocalBus::new(NodeId::random());
    let two = Bus::Local(one.join(NodeId::random()));
    let one = Bus::Local(one);
    let _unread = two.listen().await.unwrap();
    let refused =
        std::iter::repeat_n((), actors::bus::INBOX_LIMIT + 1).find_map(|()| one.send(two.node(), displace(1)).err());
    assert!(matches!(refused, Some(BusError::Full)));
}

#[tokio::test]
async fn a_lost_server_is_noticed_by_listeners_and_forgiven_when_it_is_back() {
    let mut server = nats_server::Private::start();
    let connect = || NatsBus::connect(server.url(), "lost", NodeId::random());
    let (one, two) = (Bus::from(connect().await.unwrap()), Bus::from(connect().await.unwrap()));
    let mut at_two = two.listen().await.unwrap();
    server.restart();
    assert_eq!(hear(&mut at_two).await, Incoming::LinkLost);
    let heard = async {
        loop {
            // Messages to a server that is not back yet may be lost; that is what LinkLost says.
            one.send(two.node(), displace(1)).unwrap();
            if let Ok(Some(Incoming::Message(message))) =
                tokio::time::timeout(Duration::from_millis(200), at_two.recv()).await
            {
                return message;
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), heard).await.expect("the bus works again"), displace(1));
}
