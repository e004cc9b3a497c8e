//! What the stories in `tests/e2e` are told with: hubs, and everybody who talks to them.
//!
//! ```text
//!   Set ──▶ Site ──▶ TestHub          a hub in this process, or `mooring serve` as a child
//!                      ▲
//!     TestUser ────────┤ HTTP         real clients, speaking only the wire
//!     TestDevice ──────┤ HTTP, websocket with the raw bytes in the test's hands
//!     RealDevice ──────┤ unmodified mender-client and mender-connect
//!     MenderCli ───────┘ unmodified mender-cli, with artifacts of an unmodified mender-artifact
//!     MailServer, Receiver: where the hub sends alerts
//! ```
//!
//! A [`Set`] says which backends: the embedded ones, or private Postgres, Redis, NATS and S3 servers that live as long as the
//! test process. A [`Site`] is one fresh place in them, so no test sees another's data.

mod answer;
mod artifact;
mod backends;
mod balancer;
mod cluster;
mod cutting_proxy;
mod delay_proxy;
mod device;
mod door;
mod event_stream;
mod file_agent;
mod hub;
mod issuer;
mod kept_terminal;
mod key;
mod load_test;
mod mail_server;
mod mender_cli;
mod message;
mod mooring;
pub mod msgpack;
mod one_in_flight;
mod ports;
mod process;
mod raw_http;
mod real_device;
mod receiver;
mod rollout;
mod s3_server;
mod shell;
mod site;
mod socket;
mod terminal_screen;
mod tls;
pub mod traffic;
mod user;
mod wait;
mod workspace;

pub use answer::Answer;
pub use artifact::{ARTIFACTS, ArtifactRecipe, Parts, id_of};
pub use backends::{Backend, OwnServers, Set};
pub use balancer::Balancer;
pub use cluster::Cluster;
pub use cutting_proxy::CuttingProxy;
pub use delay_proxy::DelayProxy;
pub use device::{AuthRequest, TestDevice};
pub use door::Door;
pub use event_stream::{EventStream, ServerEvent};
pub use file_agent::{Fault, File, FileAgent, Incoming};
pub use hub::{TestHub, WrittenConnection};
pub use issuer::Issuer;
pub use kept_terminal::{HUB, KeptTerminal, attach_path};
pub use key::Key;
pub use load_test::{filled_database, load_test, load_test_floor, try_load_test};
pub use mail_server::{MailServer, Received};
pub use mender_cli::MenderCli;
pub use message::{Heard, Packet, Prop};
pub use mooring::Mooring;
pub use one_in_flight::OneInFlight;
pub use ports::free_port;
pub use process::{Output, Process};
pub use raw_http::raw_request;
pub use real_device::RealDevice;
pub use receiver::{Delivery, Receiver};
pub use rollout::DEPLOYMENTS;
pub use s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
pub use shell::{Shell, answer_like_a_shell};
pub use site::{ADMIN_EMAIL, ADMIN_PASSWORD, Settings, Site};
pub use socket::{Closed, Event, Socket};
pub use terminal_screen::TerminalScreen;
pub use tls::Certificate;
pub use user::{TestUser, claims, part};
pub use wait::{LIMIT, turn_of_the_heavy, wait_until, within};
pub use workspace::{repository, temporary_directory};

/// Runs stories against both sets of backends: each story `async fn story(set: Set)` becomes the tests
/// `embedded::story` and `production::story`.
#[macro_export]
macro_rules! both_sets {
    ([$($story:ident),+ $(,)?]) => {
        mod embedded {
            $(#[tokio::test] async fn $story() { super::$story($crate::Set::Embedded).await; })+
        }
        mod production {
            $(#[tokio::test] async fn $story() { super::$story($crate::Set::Production).await; })+
        }
    };
}
