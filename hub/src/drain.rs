//! Sending everybody away before a hub stops, without making them all come back in the same second.

use std::collections::HashMap;
use std::time::Duration;

use actors::bus::DisconnectReason;
use actors::session::attachment::{ToAttached, ToSession};
use actors::session::{SessionEnd, ToDevice};
use actors::tree::Tree;
use rand::seq::SliceRandom;
use storage::SessionId;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

/// How long a session may take to be asked for by another node, and then to find its device, before that is closed as well.
const MOVE_LIMIT: Duration = Duration::from_secs(2);
const FIND_LIMIT: Duration = Duration::from_millis(500);

/// Ends every session, then closes the devices' connections in random order, spread evenly over `window`, and waits until
/// they are gone, and until the sessions that are kept were asked for by the nodes to which their clients went.
/// (`deviceconnect-46`)
pub async fn send_everybody_away(tree: &Tree, window: Duration) {
    tree.start_draining();
    let moving = kept_with_their_devices(tree);
    end_sessions(tree);
    await_moves(tree, moving).await;
    let mut devices = tree.registry.devices();
    devices.shuffle(&mut rand::rng());
    let started = Instant::now();
    let count = u32::try_from(devices.len()).unwrap_or(u32::MAX).max(1);
    for (turn, (_, connection)) in (0_u32..).zip(devices) {
        sleep_until(started + window.mul_f64(f64::from(turn) / f64::from(count))).await;
        let _ = connection.to.try_send(ToDevice::Close { why: DisconnectReason::NodeShutdown });
    }
    let deadline = Instant::now() + crate::GOODBYE_LIMIT;
    let is_empty = |tree: &Tree| {
        tree.registry.device_count() == 0
            && tree.registry.operators().is_empty()
            && (tree.bus.is_alone() || tree.registry.sessions().iter().all(|(_, hosted)| hosted.host.is_none()))
    };
    while !is_empty(tree) {
        if Instant::now() > deadline {
            warn!(devices = tree.registry.device_count(), "some connections are cut instead of closed");
            return;
        }
        // Those whose handshake was under way are here only now.
        end_sessions(tree);
        for (_, connection) in tree.registry.devices() {
            let _ = connection.to.try_send(ToDevice::Close { why: DisconnectReason::NodeShutdown });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sessions here whose device is here too: what it has printed and nobody has taken goes with its connection.
fn kept_with_their_devices(tree: &Tree) -> Vec<SessionId> {
    let sessions = tree.registry.sessions().into_iter();
    sessions
        .filter(|(_, hosted)| hosted.host.is_some() && tree.registry.find(hosted.device).is_some())
        .map(|(session, _)| session)
        .collect()
}

/// Waits until these sessions, if other nodes go on with them, are bound to their devices from there.
async fn await_moves(tree: &Tree, mut moving: Vec<SessionId>) {
    if tree.bus.is_alone() {
        return;
    }
    let began = Instant::now();
    let mut gone_since: HashMap<SessionId, Instant> = HashMap::new();
    loop {
        let now = Instant::now();
        moving.retain(|session| {
            if tree.registry.find_session(*session).is_some() {
                return true;
            }
            let since = *gone_since.entry(*session).or_insert(now);
            tree.registry.find_guest(*session).is_none() && now - since < FIND_LIMIT
        });
        if moving.is_empty() || now - began > MOVE_LIMIT {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Sessions that are kept send their operators away and wait until another node asks for them.
fn end_sessions(tree: &Tree) {
    for (_, hosted) in tree.registry.sessions() {
        if let Some(host) = hosted.host {
            // One that takes nothing any more is on its way out.
            let _ = host.try_send(ToSession::End { why: SessionEnd::NodeShutdown });
        }
    }
    for (_, operator) in tree.registry.operators() {
        if operator.host_node.is_some() {
            let _ = operator.to.try_send(ToAttached::End { why: SessionEnd::NodeShutdown });
        }
    }
}
