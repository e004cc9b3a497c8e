//! What a device asks over HTTP: to join, to be told of updates, to have its inventory stored.

use crate::{DeviceKey, Server};
use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use std::{net::IpAddr, time::Duration};

/// The hub's answer to a request to join.
#[derive(Debug, PartialEq, Eq)]
pub enum Joined {
    /// Accepted; this is the device's token.
    Token(String),
    /// Pending or rejected: the hub does not tell which.
    NotYet,
    /// The hub is busy and asks to be called later.
    Later(Duration),
}

/// Asks to join (`POST /api/devices/v1/authentication/auth_requests`), signing the body as it is sent.
///
/// # Errors
/// When the hub cannot be reached or answers what no hub should.
pub async fn ask_to_join(
    server: &Server,
    source: Option<IpAddr>,
    identity: &str,
    key: &DeviceKey,
) -> anyhow::Result<Joined> {
    let body = json!({ "id_data": identity, "pubkey": key.public_pem(), "tier": "standard" }).to_string();
    let signature = STANDARD.encode(key.sign(body.as_bytes()));
    let answer = server
        .http(source)?
        .post(server.url("/api/devices/v1/authentication/auth_requests"))
        .header("Content-Type", "application/json")
        .header("Authorization", "API_KEY")
        .header("X-MEN-Signature", signature)
        .body(body)
        .send()
        .await
        .context("cannot ask to join")?;
    let status = answer.status().as_u16();
    match status {
        200 => {
            let token = answer.text().await.context("cannot read the device's token")?;
            if token.is_empty() {
                bail!("the hub accepted the device without giving it a token");
            }
            Ok(Joined::Token(token))
        }
        401 => Ok(Joined::NotYet),
        429 | 503 => Ok(Joined::Later(retry_after(&answer))),
        _ => {
            let text = answer.text().await.unwrap_or_default();
            bail!("the hub answered {status} to a request to join: {text}")
        }
    }
}

/// Sends the device's attributes (`PUT /api/devices/v1/inventory/device/attributes`).
///
/// # Errors
/// When the hub cannot be reached or does not store them.
pub async fn send_inventory(
    server: &Server,
    source: Option<IpAddr>,
    token: &str,
    attributes: &serde_json::Value,
) -> anyhow::Result<()> {
    let answer = server
        .http(source)?
        .put(server.url("/api/devices/v1/inventory/device/attributes"))
        .bearer_auth(token)
        .json(attributes)
        .send()
        .await
        .context("cannot send the inventory")?;
    match answer.status().as_u16() {
        200 => Ok(()),
        status => bail!("the hub answered {status} to the inventory"),
    }
}

/// Asks for the next deployment (`POST /api/devices/v2/deployments/device/deployments/next`) and returns the status:
/// 204 means nothing to do, 404 that this hub has no deployments.
///
/// # Errors
/// When the hub cannot be reached.
pub async fn poll_for_update(server: &Server, source: Option<IpAddr>, token: &str) -> anyhow::Result<u16> {
    let body = json!({ "device_provides": { "device_type": "simulated", "artifact_name": "simulated-1" } });
    let answer = server
        .http(source)?
        .post(server.url("/api/devices/v2/deployments/device/deployments/next"))
        .bearer_auth(token)
        .json(&body)
        .send()
        .await
        .context("cannot poll for an update")?;
    Ok(answer.status().as_u16())
}

pub(crate) fn retry_after(answer: &reqwest::Response) -> Duration {
    let seconds = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(1);
    Duration::from_secs(std::cmp::min(seconds, 60))
}
