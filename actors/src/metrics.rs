//! Every metric of this crate: name, unit, meaning.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Devices connected to this node.
pub const DEVICES_CONNECTED: &str = "mooring_devices_connected";
/// Devices on their way in that were told to come back later, by `door`.
pub const ARRIVALS_SHED: &str = "mooring_arrivals_shed_total";
/// Devices that wait in line to come in, by `door`.
pub const ARRIVALS_WAITING: &str = "mooring_arrivals_waiting";
/// Devices that are being let in, by `door`.
pub const ARRIVALS_INSIDE: &str = "mooring_arrivals_inside";
/// Devices that may be let in at once, by `door`: what the database can take now.
pub const ARRIVALS_LIMIT: &str = "mooring_arrivals_limit";
/// Devices called from the line in a second at most, by door.
pub const ARRIVALS_PACE: &str = "mooring_arrivals_pace";
/// Operators' sessions whose operator is on this node.
pub const SESSIONS_OPEN: &str = "mooring_sessions_open";
/// Connections of devices that ended, by `reason`.
pub const DISCONNECTS: &str = "mooring_device_disconnects_total";
/// Messages for another node that could not be sent.
pub const BUS_REFUSED: &str = "mooring_bus_refused_total";
/// Restarts of services after they ended unexpectedly, by `service`.
pub const RESTARTS: &str = "mooring_service_restarts_total";
/// Status changes written per batch.
pub const STATUS_BATCH: &str = "mooring_status_batch_size";
/// Batches that could not be written and are kept.
pub const STATUS_RETRIES: &str = "mooring_status_retries_total";
/// Reports of devices written per batch.
pub const REPORT_BATCH: &str = "mooring_report_batch_size";
/// Past connections that were dropped before they were written to the log, because too many waited.
pub const CONNECTIONS_UNLOGGED: &str = "mooring_connections_unlogged_total";
/// Sessions of which nothing was written down, because too many waited.
pub const SESSIONS_UNLOGGED: &str = "mooring_sessions_unlogged_total";
/// Commands that devices were told, by `command` and `outcome`.
pub const TRIGGERS: &str = "mooring_triggers_total";
/// Devices that were not told of something to install, because too many waited to be.
pub const WAKE_UPS_DROPPED: &str = "mooring_wake_ups_dropped_total";
/// Chunks of recordings that could not be written and are kept.
pub const RECORDING_RETRIES: &str = "mooring_recording_retries_total";
/// Recordings that stopped before their session did.
pub const RECORDINGS_TRUNCATED: &str = "mooring_recordings_truncated_total";
/// Attempts at background work, by `kind` and `outcome`.
pub const JOBS: &str = "mooring_jobs_total";
/// Background work that waits or runs, on all nodes together.
pub const JOBS_OPEN: &str = "mooring_jobs_open";
/// Alerts taken in.
pub const ALERTS: &str = "mooring_alerts_total";
/// Alerts that were sent back for later, because too many waited to be written.
pub const ALERTS_REFUSED: &str = "mooring_alerts_refused_total";
/// Elements of reports that were no alerts and were dropped.
pub const ALERTS_INVALID: &str = "mooring_alerts_invalid_total";
/// Alerts of which nobody was notified, because too much background work waited.
pub const NOTIFICATIONS_LEFT_OUT: &str = "mooring_notifications_left_out_total";

/// Registers the descriptions with the recorder.
pub fn describe() {
    describe_gauge!(DEVICES_CONNECTED, Unit::Count, "devices connected to this node");
    describe_counter!(ARRIVALS_SHED, Unit::Count, "devices told to come back later, by door");
    describe_gauge!(ARRIVALS_WAITING, Unit::Count, "devices that wait in line to come in, by door");
    describe_gauge!(ARRIVALS_INSIDE, Unit::Count, "devices that are being let in, by door");
    describe_gauge!(ARRIVALS_PACE, "devices called from the line in a second at most, by door");
    describe_gauge!(ARRIVALS_LIMIT, Unit::Count, "devices that may be let in at once, by door");
    describe_gauge!(SESSIONS_OPEN, Unit::Count, "operators' sessions on this node");
    describe_counter!(DISCONNECTS, Unit::Count, "device connections that ended, by reason");
    describe_counter!(BUS_REFUSED, Unit::Count, "messages for another node that could not be sent");
    describe_counter!(RESTARTS, Unit::Count, "restarts of a service after it ended unexpectedly");
    describe_histogram!(STATUS_BATCH, Unit::Count, "status changes written per batch");
    describe_histogram!(REPORT_BATCH, Unit::Count, "reports of devices written per batch");
    describe_counter!(SESSIONS_UNLOGGED, Unit::Count, "sessions that left no record, because too many waited");
    describe_counter!(TRIGGERS, Unit::Count, "commands that devices were told, by command and outcome");
    describe_counter!(WAKE_UPS_DROPPED, Unit::Count, "devices not told of work, because too many waited to be");
    describe_counter!(STATUS_RETRIES, Unit::Count, "status batches that could not be written and were kept");
    describe_counter!(CONNECTIONS_UNLOGGED, Unit::Count, "past connections dropped unwritten, because too many waited");
    describe_counter!(RECORDING_RETRIES, Unit::Count, "chunks of recordings that could not be written and were kept");
    describe_counter!(JOBS, Unit::Count, "attempts at background work, by kind and outcome");
    describe_gauge!(JOBS_OPEN, Unit::Count, "background work that waits or runs, on all nodes together");
    describe_counter!(ALERTS, Unit::Count, "alerts taken in");
    describe_counter!(ALERTS_REFUSED, Unit::Count, "alerts sent back for later, because too many waited");
    describe_counter!(ALERTS_INVALID, Unit::Count, "elements of reports that were no alerts and were dropped");
    describe_counter!(NOTIFICATIONS_LEFT_OUT, Unit::Count, "alerts nobody was notified of, because too much waited");
    describe_counter!(RECORDINGS_TRUNCATED, Unit::Count, "recordings that stopped before their session did");
}
