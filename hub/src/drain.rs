//! Sending everybody away before a hub stops, without making them all come back in the same second.

use std::time::Duration;

use actors::bus::DisconnectReason;
use actors::session::attachment::{ToAttached, ToSession};
use actors::session::{SessionEnd, ToDevice};
use actors::tree::Tree;
use rand::seq::SliceRandom;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

/// Ends every session, then closes the devices' connections in random order, spread evenly over `window`, and waits until
/// they are gone, and until the sessions that are kept were asked for by the nodes to which their clients went.
/// (`deviceconnect-46`)
pub async fn send_everybody_away(tree: &Tree, window: Duration) {
    tree.start_draining();
    end_sessions(tree);
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
