//! Every metric of this crate: name, unit, meaning.

use metrics::{Unit, describe_counter, describe_histogram};

/// Requests answered, by `route` (the pattern, never the path), `method` and `status` class.
pub const REQUESTS: &str = "mooring_http_requests_total";
/// Time from the end of a request's head to its answer, by `route`.
pub const REQUEST_SECONDS: &str = "mooring_http_request_seconds";
/// Handlers that panicked.
pub const PANICS: &str = "mooring_http_panics_total";
/// Requests refused because their address asked too often, by `door`.
pub const ADDRESS_REFUSALS: &str = "mooring_address_refusals_total";
/// Calls that should have been counted against a quota when the counter could not be reached.
pub const UNCOUNTED_CALLS: &str = "mooring_uncounted_calls_total";

/// Registers the descriptions with the recorder.
pub fn describe() {
    describe_counter!(REQUESTS, Unit::Count, "requests answered, by route, method and status class");
    describe_histogram!(REQUEST_SECONDS, Unit::Seconds, "time to answer a request, by route");
    describe_counter!(PANICS, Unit::Count, "request handlers that panicked");
    describe_counter!(ADDRESS_REFUSALS, Unit::Count, "requests refused because their address asked too often");
    describe_counter!(UNCOUNTED_CALLS, Unit::Count, "calls not counted because the counter was out of reach");
}
