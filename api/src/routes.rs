//! Every URL we serve, on one screen. Which token each needs stands in [`crate::gateway`].

use actix_web::web::ServiceConfig;

use crate::endpoint::Endpoint as E;
use crate::{
    alert_rules, artifacts, audit_log, channels, connections, deployments, device_config, device_connect, devices,
    events, exposition, file_transfer, health, internal, inventory, jobs, monitoring, recordings, reporting, sessions,
    triggers, users, web_ui,
};

/// Where whoever has a password gets a token.
pub const LOGIN: &str = "/api/management/v1/useradm/auth/login";

/// Routes that only ask something, although their method says otherwise: a long question needs a body. Every other request
/// of a user that is no GET is a change, and written down as one.
pub const QUESTIONS: &[&str] = &[
    "/api/management/v2/devauth/devices/search",
    "/api/management/v2/inventory/filters/search",
    "/api/management/v2alpha1/inventory/identities/search",
    "/api/management/v1/reporting/devices/search",
    "/api/management/v1/reporting/devices/aggregate",
    "/api/management/v1/reporting/deployments/devices/search",
    "/api/management/v1/reporting/deployments/devices/aggregate",
    "/api/management/v1/deployments/deployments/statistics/list",
    "/api/internal/v1/deployments/tenants/{tenant:[^/]*}/devices/deployments/last",
    "/api/internal/v1/inventory/tenants/{tenant:[^/]*}/test/devices/groups",
    "/api/internal/v2/inventory/tenants/{tenant:[^/]*}/filters/search",
    "/api/internal/v1/reporting/tenants/{tenant:[^/]*}/devices/search",
];

/// Tells the router, which tries the patterns in this order: what devices ask all day long stands first.
pub fn routes(service: &mut ServiceConfig) {
    use devices::device::ask_to_join;
    use devices::management as admission;
    use users::{personal_tokens, plans, settings};

    // What devices ask.
    let attributes = E::at("/api/devices/v1/inventory/device/attributes");
    let next = E::at("/api/devices/v1/deployments/device/deployments/next");
    service
        .service(next.get(deployments::device::next).post(deployments::device::next_with_provides))
        .service(E::at("/api/devices/v2/deployments/device/deployments/next").post(deployments::device::next_v2))
        .service(attributes.put(inventory::replace_attributes).patch(inventory::merge_attributes))
        .service(E::at("/api/devices/v1/authentication/auth_requests").post(ask_to_join))
        .service(
            E::at("/api/devices/v1/deployments/device/deployments/{id}/status").put(deployments::device::report_status),
        )
        .service(E::at("/api/devices/v1/deployments/device/deployments/{id}/log").put(deployments::device::send_log))
        .service(E::at("/api/devices/v1/deviceconnect/connect").get(device_connect::device_without_socket))
        .service(E::at("/api/devices/v1/devicemonitor/alert").post(monitoring::device::report_alerts))
        .service(E::at("/api/devices/v1/devicemonitor/config").post(monitoring::device::report_checks))
        .service(
            E::at("/api/devices/v1/deviceconfig/configuration")
                .get(device_config::device::get)
                .put(device_config::device::report),
        );

    // Who may join.
    let status = E::at("/api/management/v2/devauth/devices/{id}/auth/{set}/status");
    service
        .service(E::at("/api/management/v2/devauth/devices").get(admission::list).post(admission::preauthorize))
        .service(E::at("/api/management/v2/devauth/devices/search").post(admission::search))
        .service(E::at("/api/management/v2/devauth/devices/count").get(admission::count))
        .service(E::at("/api/management/v2/devauth/devices/{id}").get(admission::get).delete(admission::decommission))
        .service(E::at("/api/management/v2/devauth/devices/{id}/auth/{set}").delete(admission::delete_set))
        .service(status.get(admission::get_status).put(admission::set_status))
        .service(E::at("/api/management/v2/devauth/tokens/{set}").delete(admission::revoke_token))
        .service(E::at("/api/management/v2/devauth/limits/{name}").get(admission::limit));

    // Users.
    let me = E::at("/api/management/v1/useradm/users/me");
    let user = E::at("/api/management/v1/useradm/users/{id}");
    let tokens = E::at("/api/management/v1/useradm/settings/tokens");
    service
        .service(E::at(LOGIN).post(users::log_in))
        .service(E::at("/api/management/v1/useradm/auth/logout").post(users::log_out))
        .service(E::at("/api/management/v1/useradm/users").get(users::list).post(users::add))
        .service(me.get(users::me).put(users::update_me).delete(users::remove_me))
        .service(user.get(users::get).put(users::update).delete(users::remove))
        .service(E::at("/api/management/v2/useradm/users/me").put(users::update_own_password))
        .service(tokens.get(personal_tokens::list).post(personal_tokens::issue))
        .service(E::at("/api/management/v1/useradm/settings/tokens/{id}").delete(personal_tokens::revoke))
        .service(E::at("/api/management/v1/useradm/settings").get(settings::get).post(settings::replace))
        .service(E::at("/api/management/v1/useradm/settings/me").get(settings::get_own).post(settings::replace_own))
        .service(E::at("/api/management/v1/useradm/plans").get(plans::list))
        .service(E::at("/api/management/v1/useradm/plan_binding").get(plans::binding));

    fleet_routes(service);

    // What devices are told to be.
    let config = E::at("/api/management/v1/deviceconfig/configurations/device/{id}");
    service.service(config.get(device_config::management::get).put(device_config::management::set)).service(
        E::at("/api/management/v1/deviceconfig/configurations/device/{id}/deploy")
            .post(device_config::management::deploy),
    );

    // Whether devices are connected.
    service
        .service(E::at("/api/management/v1/deviceconnect/devices/{id}").get(device_connect::status))
        .service(
            E::at("/api/management/v1/deviceconnect/devices/{id}/connect").get(device_connect::user_without_socket),
        )
        .service(E::at("/api/management/v1/deviceconnect/devices/{id}/check-update").post(triggers::check_update))
        .service(E::at("/api/management/v1/deviceconnect/devices/{id}/send-inventory").post(triggers::send_inventory))
        .service(E::at("/api/management/v1/mooring/devices/{id}/flow").get(device_connect::flow))
        .service(E::at("/api/management/v1/mooring/devices/{id}/terminal").get(device_connect::user_without_socket))
        .service(
            E::at("/api/management/v1/mooring/sessions/{id}/attach").get(device_connect::attachment_without_socket),
        );

    // What sessions showed.
    let playback = E::at("/api/management/v1/deviceconnect/sessions/{id}/playback");
    let recording = E::at("/api/management/v1/mooring/sessions/{id}/recording");
    service
        .service(playback.get(recordings::playback_without_socket))
        .service(recording.get(recordings::download).delete(recordings::delete));

    // What happens, and what has happened.
    service
        .service(E::at("/api/management/v1/mooring/events").get(events::stream_events))
        .service(E::at("/api/management/v1/mooring/devices/{id}/connections").get(connections::list))
        .service(E::at("/api/management/v1/mooring/sessions").get(sessions::list))
        .service(E::at("/api/management/v1/mooring/sessions/{id}").get(sessions::get));

    monitoring_routes(service);

    // Files from and to devices.
    let download = E::at("/api/management/v1/deviceconnect/devices/{id}/download");
    let file = E::at("/api/management/v1/mooring/devices/{id}/files");
    service
        .service(download.get(file_transfer::download).head(file_transfer::download))
        .service(E::at("/api/management/v1/deviceconnect/devices/{id}/upload").put(file_transfer::upload))
        .service(file.get(file_transfer::file).head(file_transfer::file));

    artifact_routes(service);
    deployment_routes(service);

    // For machines.
    service
        .service(E::at("/health/live").get(health::live).head(health::live))
        .service(E::at("/health/ready").get(health::ready).head(health::ready))
        .service(E::at("/metrics").get(exposition::public));

    // The web UI.
    service
        .service(E::at("/").get(web_ui::enter).head(web_ui::enter))
        .service(E::at("/ui").get(web_ui::enter).head(web_ui::enter))
        .service(E::at("/ui/{path:.*}").get(web_ui::page).head(web_ui::page))
        .service(E::at("/tags.json").get(web_ui::no_hints))
        .service(E::at("/versions.json").get(web_ui::no_hints))
        .service(E::at("/{page:[A-Za-z0-9]+}").get(web_ui::shortcut).head(web_ui::shortcut));
}

/// What is known about devices, and how they are found.
fn fleet_routes(service: &mut ServiceConfig) {
    let tags = E::at("/api/management/v1/inventory/devices/{id}/tags");
    let group = E::at("/api/management/v1/inventory/devices/{id}/group");
    let members = E::at("/api/management/v1/inventory/groups/{name}/devices");
    let filters = E::at("/api/management/v2/inventory/filters");
    let filter = E::at("/api/management/v2/inventory/filters/{id}");
    service
        .service(E::at("/api/management/v2/inventory/filters/search").post(inventory::search::search))
        .service(E::at("/api/management/v1/inventory/devices").get(inventory::list::list))
        .service(E::at("/api/management/v1/inventory/devices/{id}").get(inventory::get).delete(inventory::clear))
        .service(tags.put(inventory::tags::replace).patch(inventory::tags::merge))
        .service(group.get(inventory::groups::get).put(inventory::groups::join))
        .service(E::at("/api/management/v1/inventory/devices/{id}/group/{name}").delete(inventory::groups::leave))
        .service(E::at("/api/management/v1/inventory/groups").get(inventory::groups::list))
        .service(E::at("/api/management/v1/inventory/groups/{name}").delete(inventory::groups::dissolve))
        .service(
            members
                .get(inventory::groups::members)
                .patch(inventory::groups::add_devices)
                .delete(inventory::groups::remove_devices),
        )
        .service(E::at("/api/management/v2/inventory/statistics").get(inventory::overview::statistics))
        .service(E::at("/api/management/v2/inventory/filters/attributes").get(inventory::overview::attributes))
        .service(filters.get(inventory::saved_filters::list).post(inventory::saved_filters::add))
        .service(
            filter
                .get(inventory::saved_filters::get)
                .put(inventory::saved_filters::change)
                .delete(inventory::saved_filters::remove),
        )
        .service(E::at("/api/management/v2/inventory/filters/{id}/search").get(inventory::saved_filters::search))
        .service(
            E::at("/api/management/v2alpha1/inventory/identities/search").post(inventory::search::search_identities),
        )
        .service(
            E::at("/api/management/v2alpha1/inventory/devices/{id}/components").get(inventory::overview::components),
        );

    // The same in the words of reporting.
    let parts = E::at("/api/management/v1/reporting/deployments/devices/aggregate");
    service
        .service(E::at("/api/management/v1/reporting/devices/search").post(reporting::search))
        .service(E::at("/api/management/v1/reporting/devices/aggregate").post(reporting::aggregate))
        .service(E::at("/api/management/v1/reporting/deployments/devices/search").post(reporting::deployments::search))
        .service(parts.post(reporting::deployments::aggregate))
        .service(E::at("/api/management/v1/reporting/devices/attributes").get(reporting::attributes))
        .service(E::at("/api/management/v1/reporting/devices/search/attributes").get(reporting::search_attributes));
}

/// Artifacts, the releases they make up, and links to their files.
fn artifact_routes(service: &mut ServiceConfig) {
    let artifact = E::at("/api/management/v1/deployments/artifacts/{id}");
    let complete = E::at("/api/management/v1/deployments/artifacts/directupload/{id}/complete");
    let releases = E::at("/api/management/v2/deployments/deployments/releases");
    let release = E::at("/api/management/v2/deployments/deployments/releases/{name}");
    let fetch = E::at("/api/devices/v1/deployments/download/objects/{id}");
    let configuration = E::at("/api/devices/v1/deployments/download/configuration/{deployment}/{device_type}/{device}");
    service
        .service(
            E::at("/api/management/v1/deployments/artifacts")
                .get(artifacts::listing::list_all)
                .post(artifacts::upload::upload),
        )
        .service(E::at("/api/management/v1/deployments/artifacts/list").get(artifacts::listing::list))
        .service(E::at("/api/management/v1/deployments/artifacts/generate").post(artifacts::upload::generate))
        .service(E::at("/api/management/v1/deployments/artifacts/directupload").post(artifacts::upload::announce))
        .service(complete.post(artifacts::upload::complete))
        .service(E::at("/api/management/v1/deployments/artifacts/{id}/download").get(artifacts::listing::download))
        .service(
            artifact.get(artifacts::listing::get).put(artifacts::listing::describe).delete(artifacts::listing::delete),
        )
        .service(E::at("/api/management/v1/deployments/limits/{name}").get(artifacts::listing::limit))
        .service(E::at("/api/management/v1/deployments/deployments/releases").get(artifacts::releases::list_all_v1))
        .service(E::at("/api/management/v1/deployments/deployments/releases/list").get(artifacts::releases::list_v1))
        .service(E::at("/api/management/v2/deployments/artifacts").get(artifacts::listing::list_v2))
        .service(releases.get(artifacts::releases::list_v2).delete(artifacts::releases::delete))
        .service(release.get(artifacts::releases::get).patch(artifacts::releases::annotate))
        .service(E::at("/api/management/v2/deployments/deployments/releases/{name}/tags").put(artifacts::releases::tag))
        .service(E::at("/api/management/v2/deployments/releases/all/tags").get(artifacts::releases::all_tags))
        .service(E::at("/api/management/v2/deployments/releases/all/types").get(artifacts::releases::all_types))
        .service(E::at("/api/management/v1alpha1/deployments/software").get(artifacts::releases::software))
        .service(E::at("/api/management/v1alpha1/deployments/software/tags").get(artifacts::releases::software_tags))
        .service(E::at("/api/management/v1/mooring/artifacts/uploads/{id}").get(artifacts::upload::status))
        .service(E::at("/api/management/v1/mooring/artifacts/{id}").get(artifacts::listing::details))
        .service(fetch.get(artifacts::links::fetch).head(artifacts::links::fetch))
        .service(configuration.get(artifacts::links::fetch_configuration).head(artifacts::links::fetch_configuration))
        .service(E::at("/api/devices/v1/deployments/download/uploads/{id}").put(artifacts::links::bring));
}

/// Deployments. What is not an id stands before what may be one, and releases have routes of their own before these.
fn deployment_routes(service: &mut ServiceConfig) {
    use deployments::{devices, listing, making, steering};

    let all = E::at("/api/management/v1/deployments/deployments");
    let by_filter = E::at("/api/management/v2/deployments/deployments");
    let device = E::at("/api/management/v1/deployments/deployments/devices/{device}");
    let log = E::at("/api/management/v1/deployments/deployments/{id}/devices/{device}/log");
    let statistics = E::at("/api/management/v1/deployments/deployments/statistics/list");
    service
        .service(all.get(listing::list).post(making::create))
        .service(by_filter.get(listing::list_v2).post(making::create_by_filter))
        .service(statistics.post(listing::list_statistics))
        .service(E::at("/api/management/v1/deployments/deployments/group/{name}").post(making::create_for_group))
        .service(device.get(devices::history).delete(making::abort_device))
        .service(
            E::at("/api/management/v1/deployments/deployments/devices/{device}/history").delete(making::delete_history),
        )
        .service(E::at("/api/management/v1/deployments/deployments/{id}").get(listing::get))
        .service(E::at("/api/management/v1/deployments/deployments/{id}/status").put(making::abort))
        .service(E::at("/api/management/v1/mooring/deployments/{id}").get(steering::get))
        .service(E::at("/api/management/v1/mooring/deployments/{id}/pause").put(steering::pause))
        .service(E::at("/api/management/v1/mooring/deployments/{id}/resume").put(steering::resume))
        .service(E::at("/api/management/v1/deployments/deployments/{id}/statistics").get(listing::get_statistics))
        .service(E::at("/api/management/v1/deployments/deployments/{id}/devices").get(devices::list_all))
        .service(E::at("/api/management/v1/deployments/deployments/{id}/devices/list").get(devices::list))
        .service(E::at("/api/management/v1/deployments/deployments/{id}/device_list").get(devices::list_ids))
        .service(log.get(devices::log));
}

/// What is the matter with devices, and who is told; who changed what; background work.
fn monitoring_routes(service: &mut ServiceConfig) {
    let email_status = E::at("/api/management/v1/devicemonitor/settings/global/channel/alerts/{channel}/status");
    let channel = E::at("/api/management/v1/mooring/channels/{id}");
    service
        .service(E::at("/api/management/v1/devicemonitor/devices/{id}/alerts").get(monitoring::management::alerts))
        .service(
            E::at("/api/management/v1/devicemonitor/devices/{id}/alerts/latest").get(monitoring::management::latest),
        )
        .service(E::at("/api/management/v1/devicemonitor/devices/{id}/config").get(monitoring::management::checks))
        .service(email_status.put(monitoring::management::switch_channel))
        .service(E::at("/api/management/v1/mooring/channels").get(channels::list).post(channels::add))
        .service(channel.get(channels::get).patch(channels::change).delete(channels::remove))
        .service(E::at("/api/management/v1/mooring/mutes").get(channels::mutes).post(channels::mute))
        .service(E::at("/api/management/v1/mooring/mutes/{id}").delete(channels::unmute));

    let rule = E::at("/api/management/v1/mooring/alert-rules/{id}");
    service
        .service(E::at("/api/management/v1/mooring/alert-rules").get(alert_rules::list).post(alert_rules::add))
        .service(rule.get(alert_rules::get).patch(alert_rules::change).delete(alert_rules::remove));

    // Who changed what.
    service
        .service(E::at("/api/management/v1/mooring/auditlog").get(audit_log::list))
        .service(E::at("/api/management/v1/mooring/auditlog/export").get(audit_log::export));

    // Background work.
    service
        .service(E::at("/api/management/v1/mooring/jobs").get(jobs::list))
        .service(E::at("/api/management/v1/mooring/jobs/{id}").get(jobs::get))
        .service(E::at("/api/management/v1/mooring/jobs/{id}/retry").post(jobs::retry))
        .service(E::at("/api/management/v1/mooring/jobs/{id}/cancel").post(jobs::cancel));
}

/// The URLs of the listener for machines alone.
pub fn private_routes(service: &mut ServiceConfig) {
    service
        .service(E::at("/health/live").get(health::live).head(health::live))
        .service(E::at("/health/ready").get(health::ready).head(health::ready))
        .service(E::at("/metrics").get(exposition::private));
}

/// The internal API, for the other services of an installation. `{tenant}` is empty: there is one, and it has no name.
pub fn internal_routes(service: &mut ServiceConfig) {
    let device = E::at("/api/internal/v1/deviceconnect/tenants/{tenant:[^/]*}/devices/{id}");
    let check_update = E::at("/api/internal/v1/deviceconnect/tenants/{tenant:[^/]*}/devices/{id}/check-update");
    let send_inventory = E::at("/api/internal/v1/deviceconnect/tenants/{tenant:[^/]*}/devices/{id}/send-inventory");
    service
        .service(E::at("/api/internal/v1/deviceconnect/alive").get(internal::alive))
        .service(E::at("/api/internal/v1/deviceconnect/health").get(internal::health))
        .service(E::at("/api/internal/v1/deviceconnect/shutdown").get(internal::shut_down))
        .service(E::at("/api/internal/v1/deviceconnect/tenants/{tenant:[^/]*}/devices").post(internal::provision))
        .service(device.delete(internal::forget))
        .service(check_update.post(internal::check_update))
        .service(send_inventory.post(internal::send_inventory))
        // A slash at the end has been taken away by then.
        .service(E::at("/api/internal/v1/deviceconnect/tenants").delete(internal::wipe))
        .service(E::at("/api/internal/v1/deviceconnect/tenants/{tenant}").delete(internal::wipe_another));
    internal_device_auth(service);
    internal_users(service);
    internal_fleet(service);
    internal_config(service);
    internal_monitoring(service);
    internal_deployments(service);
}

fn internal_deployments(service: &mut ServiceConfig) {
    use deployments::internal as rollout;

    let device = E::at("/api/internal/v1/deployments/tenants/{tenant:[^/]*}/deployments/devices/{id}");
    let last = E::at("/api/internal/v1/deployments/tenants/{tenant:[^/]*}/devices/deployments/last");
    let parts = E::at("/api/internal/v1/deployments/tenants/{tenant:[^/]*}/deployments/devices");
    let upload = E::at("/api/internal/v1/deployments/tenants/{tenant:[^/]*}/artifacts");
    let store = E::at("/api/internal/v1/deployments/tenants/{tenant:[^/]*}/storage/settings");
    service
        .service(E::at("/api/internal/v1/deployments/alive").get(internal::alive))
        .service(E::at("/api/internal/v1/deployments/health").get(internal::health))
        .service(E::at("/api/internal/v1/deployments/tenants").post(rollout::add_tenant))
        .service(E::at("/api/internal/v1/deployments/tenants/{tenant:[^/]*}/deployments").get(rollout::list))
        .service(parts.get(rollout::parts))
        .service(device.get(rollout::history).delete(rollout::forget_device))
        .service(upload.post(artifacts::upload::upload_for_service))
        .service(store.get(deployments::storage_settings::read).put(deployments::storage_settings::write))
        .service(last.post(rollout::last_statuses));
}

fn internal_device_auth(service: &mut ServiceConfig) {
    use internal::device_auth;

    let limit = E::at("/api/internal/v1/devauth/tenant/{tenant:[^/]*}/limits/{name}");
    let device = E::at("/api/internal/v1/devauth/tenants/{tenant:[^/]*}/devices/{id}");
    let verify = E::at("/api/internal/v1/devauth/tokens/verify");
    service
        .service(E::at("/api/internal/v1/devauth/alive").get(internal::alive))
        .service(E::at("/api/internal/v1/devauth/health").get(internal::health))
        .service(verify.get(device_auth::verify).post(device_auth::verify))
        .service(E::at("/api/internal/v1/devauth/tokens").delete(device_auth::revoke_tokens))
        .service(limit.get(device_auth::limit).put(device_auth::set_limit).delete(device_auth::lift_limit))
        .service(E::at("/api/internal/v1/devauth/tenants").post(device_auth::add_tenant))
        .service(E::at("/api/internal/v1/devauth/tenants/{tenant:[^/]*}/devices").get(device_auth::list))
        .service(E::at("/api/internal/v1/devauth/tenants/{tenant:[^/]*}/devices/count").get(device_auth::count))
        .service(E::at("/api/internal/v1/devauth/tenants/{tenant:[^/]*}/devices/{id}/status").get(device_auth::status))
        .service(device.patch(device_auth::update).delete(device_auth::remove));
}

fn internal_users(service: &mut ServiceConfig) {
    use internal::{device_auth, users};

    let verify = E::at("/api/internal/v1/useradm/auth/verify");
    let list = E::at("/api/internal/v1/useradm/tenants/{tenant:[^/]*}/users");
    service
        .service(E::at("/api/internal/v1/useradm/alive").get(internal::alive))
        .service(E::at("/api/internal/v1/useradm/health").get(internal::health))
        .service(verify.get(users::verify).post(users::verify))
        .service(E::at("/api/internal/v1/useradm/tokens").delete(device_auth::revoke_tokens))
        .service(E::at("/api/internal/v1/useradm/tenants").post(users::add_tenant))
        .service(list.get(users::list).post(users::add))
        .service(E::at("/api/internal/v1/useradm/tenants/{tenant:[^/]*}/users/{id}").delete(users::remove));
}

/// What other services ask and tell about the fleet.
fn internal_fleet(service: &mut ServiceConfig) {
    let device = E::at("/api/internal/v1/inventory/tenants/{tenant:[^/]*}/devices/{id}");
    let scope = E::at("/api/internal/v1/inventory/tenants/{tenant:[^/]*}/device/{id}/attribute/scope/{scope}");
    let scopes = E::at("/api/internal/v1/inventory/tenants/{tenant:[^/]*}/device/{id}/attributes");
    let groups = E::at("/api/internal/v1/inventory/tenants/{tenant:[^/]*}/devices/{id}/groups");
    let test_groups = E::at("/api/internal/v1/inventory/tenants/{tenant:[^/]*}/test/devices/groups");
    let search = E::at("/api/internal/v2/inventory/tenants/{tenant:[^/]*}/filters/search");
    let statistics = E::at("/api/internal/v2/inventory/tenants/{tenant:[^/]*}/statistics");
    let reporting = E::at("/api/internal/v1/reporting/tenants/{tenant:[^/]*}/devices/search");
    service
        .service(E::at("/api/internal/v1/inventory/alive").get(internal::alive))
        .service(E::at("/api/internal/v1/inventory/health").get(internal::health))
        .service(E::at("/api/internal/v1/inventory/tenants/{tenant:[^/]*}/devices").post(inventory::internal::create))
        .service(device.delete(inventory::internal::forget))
        .service(scope.patch(inventory::internal::write_scope))
        .service(scopes.patch(inventory::internal::write_scopes))
        .service(groups.get(inventory::internal::groups_of))
        .service(test_groups.post(inventory::internal::test_groups))
        .service(search.post(inventory::internal::search))
        .service(statistics.get(inventory::internal::statistics))
        .service(E::at("/api/internal/v1/reporting/alive").get(internal::alive))
        .service(E::at("/api/internal/v1/reporting/health").get(internal::health))
        .service(reporting.post(reporting::search_internally));
}

fn internal_config(service: &mut ServiceConfig) {
    use device_config::internal as config;

    let tenants = E::at("/api/internal/v1/deviceconfig/tenants");
    let device = E::at("/api/internal/v1/deviceconfig/tenants/{tenant:[^/]*}/devices/{id}");
    let merge = E::at("/api/internal/v1/deviceconfig/tenants/{tenant:[^/]*}/configurations/device/{id}");
    let deploy = E::at("/api/internal/v1/deviceconfig/tenants/{tenant:[^/]*}/configurations/device/{id}/deploy");
    let bring = E::at(
        "/api/internal/v1/deployments/tenants/{tenant:[^/]*}/configuration/deployments/{deployment}/devices/{device}",
    );
    service
        .service(E::at("/api/internal/v1/deviceconfig/alive").get(internal::alive))
        .service(E::at("/api/internal/v1/deviceconfig/health").get(internal::health))
        .service(tenants.post(internal::device_auth::add_tenant).delete(config::wipe))
        .service(E::at("/api/internal/v1/deviceconfig/tenants/{tenant}").delete(internal::wipe_another))
        .service(E::at("/api/internal/v1/deviceconfig/tenants/{tenant:[^/]*}/devices").post(config::provision))
        .service(device.delete(config::forget))
        .service(merge.patch(config::merge))
        .service(deploy.post(config::deploy))
        .service(bring.post(config::bring));
}

fn internal_monitoring(service: &mut ServiceConfig) {
    use monitoring::internal as monitor;

    let latest = E::at("/api/internal/v1/devicemonitor/tenants/{tenant:[^/]*}/devices/{id}/alerts/latest");
    service
        .service(E::at("/api/internal/v1/devicemonitor/alive").get(internal::alive))
        .service(E::at("/api/internal/v1/devicemonitor/health").get(internal::health))
        .service(E::at("/api/internal/v1/devicemonitor/tenants/{tenant:[^/]*}/devices").get(monitor::devices))
        .service(E::at("/api/internal/v1/devicemonitor/tenants/{tenant:[^/]*}/devices/{id}").delete(monitor::forget))
        .service(latest.get(monitor::latest))
        .service(E::at("/api/internal/v1/devicemonitor/tenants").delete(monitor::wipe))
        .service(E::at("/api/internal/v1/devicemonitor/tenants/{tenant}").delete(internal::wipe_another));
}

#[cfg(test)]
mod tests;
