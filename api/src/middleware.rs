//! What happens to every request before and after its handler, outermost first. Each file is one layer.
//!
//! | layer | going in | coming out |
//! |---|---|---|
//! | [`mod@observe`] | names the request, opens its span | its id as a header, metrics |
//! | [`panics`] | | a handler's panic becomes a 500 |
//! | [`security_headers`] | | headers for browsers |
//! | [`envelope`] | | the JSON body of every error |
//! | [`compression`] | | compresses what is worth it |
//! | [`canonical_path`] | one spelling of each path; removes forged headers | |
//! | [`mod@authenticate`] | the token that the path calls for; quotas | |
//! | [`mod@audit`] | writes down a change before it is made | what came of it |
//! | [`body_limit`] | refuses a body that announces itself as too large | |

pub mod audit;
pub mod authenticate;
pub mod body_limit;
pub mod canonical_path;
pub mod compression;
pub mod envelope;
pub mod observe;
pub mod panics;
pub mod security_headers;

pub use audit::audit;
pub use authenticate::authenticate;
pub use body_limit::limit_body;
pub use canonical_path::canonicalise_path;
pub use envelope::write_envelope;
pub use observe::observe;
pub use panics::catch_panics;
pub use security_headers::add_security_headers;
