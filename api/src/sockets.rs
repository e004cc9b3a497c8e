//! Websockets of devices and operators, owned from the upgrade on.
//!
//! ```text
//!            upgrade.rs  authenticates, answers 101, starts the actor on the raw socket
//!                │
//!  TCP/TLS ◀──▶ pump.rs  frames in and out: bounds, pings, deadlines, close
//!                │            ▲
//!   SocketEvent  ▼            │ frames
//!       device.rs, operator.rs, playback.rs   one actor per socket; what it does next is decided in `actors`
//! ```
//!
//! Nothing outside this module names the websocket crates. The framework's own websocket service keeps a whole HTTP
//! dispatcher per connection and buffers without bound when the peer stalls; here a connection costs about 2 kB and
//! nothing grows beyond a stated bound.

mod device;
mod operator;
mod playback;
mod pump;
mod turns;
mod upgrade;

use std::time::Duration;

#[doc(hidden)]
pub use pump::fuzzing;
use serde::{Deserialize, Serialize};
pub use upgrade::{SocketCount, SocketState, upgrade};

/// Deadlines and bounds of sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often the hub pings a socket, however busy it is. Agents give up a connection after 60 s without a ping or pong.
    #[serde(with = "storage::units::duration")]
    pub ping_every: Duration,
    /// A peer from which nothing was heard for this long is gone.
    #[serde(with = "storage::units::duration")]
    pub silence_limit: Duration,
    /// A peer that takes nothing for this long is gone.
    #[serde(with = "storage::units::duration")]
    pub stall_limit: Duration,
    /// Largest message a peer may send, all its fragments together.
    #[serde(with = "storage::units::size")]
    pub message_limit: usize,
    /// Sockets that may be open on this node at once; more are refused with 503.
    pub sockets_limit: usize,
    /// Over how long the devices of a node that stops are sent away.
    #[serde(with = "storage::units::duration")]
    pub drain_window: Duration,
}

impl Config {
    /// What is wrong with these settings, in a sentence that begins with the key; `None` if nothing is.
    pub(crate) fn fault(&self) -> Option<String> {
        for (key, value) in
            [("ping_every", self.ping_every), ("silence_limit", self.silence_limit), ("stall_limit", self.stall_limit)]
        {
            if value < Duration::from_millis(100) {
                return Some(format!("{key} is {value:?}: expected at least \"100ms\""));
            }
        }
        if self.silence_limit <= self.ping_every {
            return Some(format!(
                "silence_limit is {:?}: expected more than ping_every, which is {:?}",
                self.silence_limit, self.ping_every
            ));
        }
        (self.message_limit < 8192)
            .then(|| format!("message_limit is {}: expected at least \"8 KiB\"", self.message_limit))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ping_every: Duration::from_secs(25),
            silence_limit: Duration::from_mins(1),
            stall_limit: Duration::from_secs(30),
            message_limit: 8 * 1024 * 1024,
            sockets_limit: 500_000,
            drain_window: Duration::from_secs(10),
        }
    }
}
