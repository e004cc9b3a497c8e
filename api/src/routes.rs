//! Every URL we serve, on one screen. Which token each needs stands in [`crate::gateway`].

use actix_web::web::ServiceConfig;

use crate::endpoint::Endpoint as E;
use crate::{
    artifacts, connections, device_connect, devices, events, exposition, file_transfer, health, internal, inventory,
    recordings, sessions, triggers, users, web_ui,
};

/// Tells the router, which tries the patterns in this order: what devices ask all day long stands first.
pub fn routes(service: &mut ServiceConfig) {
    use devices::device::ask_to_join;
    use devices::management as admission;

    // What devices ask.
    let attributes = E::at("/api/devices/v1/inventory/device/attributes");
    service
        .service(attributes.put(inventory::replace_attributes).patch(inventory::merge_attributes))
        .service(E::at("/api/devices/v1/authentication/auth_requests").post(ask_to_join))
        .service(E::at("/api/devices/v1/deviceconnect/connect").get(device_connect::device_without_socket));

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
    service
        .service(E::at("/api/management/v1/useradm/auth/login").post(users::log_in))
        .service(E::at("/api/management/v1/useradm/auth/logout").post(users::log_out))
        .service(E::at("/api/management/v1/useradm/users").get(users::list).post(users::add))
        .service(E::at("/api/management/v1/useradm/users/me").get(users::me))
        .service(E::at("/api/management/v1/useradm/users/{id}").get(users::get));

    // What is known about devices, and whether they are connected.
    service
        .service(E::at("/api/management/v1/inventory/devices").get(inventory::list))
        .service(E::at("/api/management/v1/inventory/devices/{id}").get(inventory::get))
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

    // Files from and to devices.
    let download = E::at("/api/management/v1/deviceconnect/devices/{id}/download");
    let file = E::at("/api/management/v1/mooring/devices/{id}/files");
    service
        .service(download.get(file_transfer::download).head(file_transfer::download))
        .service(E::at("/api/management/v1/deviceconnect/devices/{id}/upload").put(file_transfer::upload))
        .service(file.get(file_transfer::file).head(file_transfer::file));

    // Artifacts and releases.
    let artifact = E::at("/api/management/v1/deployments/artifacts/{id}");
    let complete = E::at("/api/management/v1/deployments/artifacts/directupload/{id}/complete");
    let releases = E::at("/api/management/v2/deployments/deployments/releases");
    let release = E::at("/api/management/v2/deployments/deployments/releases/{name}");
    let fetch = E::at("/api/devices/v1/deployments/download/objects/{id}");
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
        .service(E::at("/api/devices/v1/deployments/download/uploads/{id}").put(artifacts::links::bring));

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
}

#[cfg(test)]
mod tests;
