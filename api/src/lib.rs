//! How the outside asks a Mooring hub, and what it gets back: parse, ask, render. Nothing is decided here.
//!
//! ```text
//! listener (server.rs)
//! ├─ upgrade requests ─▶ sockets/     authenticate, then an actor on the raw socket
//! └─ all others ───────▶ middleware/  name, envelope, token, limits
//!                        └▶ routes    one handler per URL and method
//! ```
//!
//! | start here | for |
//! |---|---|
//! | [`routes`] | every URL |
//! | [`gateway`] | which token each path calls for |
//! | [`middleware`] | what happens to every request |
//! | [`devices`], [`users`] | who may join, and who may manage |
//! | [`inventory`], [`reporting`] | what is known about devices, and what finds them |
//! | [`device_connect`], [`file_transfer`], [`recordings`], [`triggers`] | what operators do with connected devices |
//! | [`device_config`] | what devices are told to be |
//! | [`artifacts`] | artifacts and releases |
//! | [`events`], [`connections`], [`sessions`] | what happens, and what has happened |
//! | [`alert_rules`], [`audit_log`] | alerts of the hub's own, and who changed what |
//! | [`monitoring`], [`channels`] | what is the matter with devices, and who is told |
//! | [`jobs`] | background work |
//! | [`internal`] | what other services of an installation ask, on a listener of its own |
//! | [`error`] | everything that can go wrong, and its status |
//! | [`sockets`] | devices' and operators' websockets |

// A test that cannot go on should say where, and that is all `unwrap` does.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod config;
pub mod server;
pub mod state;

pub mod endpoint;
pub mod gateway;
pub mod middleware;
pub mod routes;

pub mod alert_rules;
pub mod artifacts;
pub mod audit_log;
pub mod channels;
pub mod connections;
pub mod deployments;
pub mod device_config;
pub mod device_connect;
pub mod devices;
pub mod events;
pub mod exposition;
pub mod file_transfer;
pub mod health;
pub mod internal;
pub mod inventory;
pub mod jobs;
pub mod monitoring;
pub mod recordings;
pub mod reporting;
pub mod sessions;
pub mod sockets;
pub mod triggers;
pub mod users;
pub mod web_ui;

pub mod address_limiter;
pub mod auth;
pub mod body;
pub mod client_address;
pub mod error;
pub mod form;
pub mod headers;
pub mod metrics;
pub mod paging;
pub mod rate_limits;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::middleware::{Compress, from_fn};
use actix_web::web::{self, ServiceConfig};
use actix_web::{App, Error, HttpResponse};
pub use config::Config;
pub use error::ApiError;
pub use state::ApiState;

/// The application that serves these [`routes`] to requests that are no upgrades: [`routes::routes`] to everybody,
/// [`routes::private_routes`] and
/// [`routes::internal_routes`] to machines. Its layers are in [`middleware`]'s order; the framework wants the innermost first.
pub fn app(
    state: ApiState,
    routes: fn(&mut ServiceConfig),
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody>,
        Error = Error,
        InitError = (),
    >,
> {
    App::new()
        .app_data(web::Data::new(state))
        .configure(routes)
        .default_service(web::to(no_such_route))
        .wrap(from_fn(middleware::limit_body))
        .wrap(from_fn(middleware::audit))
        .wrap(from_fn(middleware::authenticate))
        .wrap(from_fn(middleware::canonicalise_path))
        .wrap(from_fn(middleware::compression::mark_plain))
        .wrap(Compress::default())
        .wrap(from_fn(middleware::compression::unmark_plain))
        .wrap(from_fn(middleware::write_envelope))
        .wrap(from_fn(middleware::add_security_headers))
        .wrap(from_fn(middleware::catch_panics))
        .wrap(from_fn(middleware::observe))
}

async fn no_such_route() -> Result<HttpResponse, ApiError> {
    Err(ApiError::not_found())
}
