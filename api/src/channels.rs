//! Where alerts are sent, and what is muted. Not part of the Mender API.

use actix_web::{HttpResponse, web};
use actors::notifications::{is_address, is_secret, new_secret, url_fault};
use serde::{Deserialize, Serialize};
use storage::config::without_password;
use storage::{Added, Channel, ChannelId, ChannelKind, DeviceId, Mute, MuteId, Secret, Timestamp, UserId, clock};

use crate::auth::AuthenticatedUser;
use crate::body::{RawJson, answer_json};
use crate::error::ApiError;
use crate::state::ApiState;

/// Bytes of a name, and of a comment.
const NAME_LIMIT: usize = 256;

/// Addresses one channel sends to.
const RECIPIENTS: usize = 50;

/// How often a change is begun again because there was another meanwhile.
pub(crate) const ATTEMPTS: usize = 3;

#[derive(Debug, Serialize)]
struct ChannelBody {
    id: ChannelId,
    kind: &'static str,
    name: String,
    enabled: bool,
    /// Whether it is always there.
    builtin: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// Whom an e-mail goes to; nobody named: all users.
    #[serde(skip_serializing_if = "Option::is_none")]
    recipients: Option<Vec<String>>,
    /// What a webhook signs with: shown when it is new, and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    created: Timestamp,
    updated: Timestamp,
}

impl ChannelBody {
    fn new(channel: Channel) -> Self {
        Self {
            id: channel.id,
            kind: channel.kind.as_str(),
            name: channel.name,
            enabled: channel.enabled,
            builtin: channel.builtin,
            url: channel.url.as_deref().map(without_password),
            recipients: (channel.kind == ChannelKind::Email).then_some(channel.recipients),
            secret: None,
            created: channel.created,
            updated: channel.updated,
        }
    }
}

/// What a channel is to be. On a change, what is not mentioned stays as it is.
#[derive(Debug, Clone, Default, Deserialize)]
struct ChannelWish {
    kind: Option<String>,
    name: Option<String>,
    enabled: Option<bool>,
    url: Option<String>,
    secret: Option<String>,
    recipients: Option<Vec<String>>,
}

/// `GET /channels`.
///
/// # Errors
/// When the database cannot be asked.
pub async fn list(_: AuthenticatedUser, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    let channels = state.storage.channels.list().await?;
    Ok(answer_json(&mut HttpResponse::Ok(), &channels.into_iter().map(ChannelBody::new).collect::<Vec<_>>()))
}

/// `GET /channels/{id}`.
///
/// # Errors
/// 404 for an unknown channel.
pub async fn get(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    Ok(answer_json(&mut HttpResponse::Ok(), &ChannelBody::new(find(&state, &id).await?)))
}

/// `POST /channels`: a webhook (`url`, and a `secret` unless one is to be made) or an e-mail (`recipients`, or all users).
///
/// # Errors
/// 400 for a wish against the rules, 409 for a name that is taken, 422 when there are as many as there may be.
pub async fn add(_: AuthenticatedUser, state: web::Data<ApiState>, body: RawJson) -> Result<HttpResponse, ApiError> {
    let wish: ChannelWish = body.object("failed to decode channel")?;
    let channel = made(wish, clock::now())?;
    match state.storage.channels.add(&channel).await? {
        Added::Added => {}
        Added::TooMany => return Err(ApiError::Unprocessable("there are too many channels".into())),
    }
    let secret = channel.secret.as_ref().map(|secret| secret.expose().to_owned());
    let body = ChannelBody { secret, ..ChannelBody::new(channel) };
    let location = format!("/api/management/v1/mooring/channels/{}", body.id);
    Ok(answer_json(HttpResponse::Created().insert_header(("Location", location)), &body))
}

/// `PATCH /channels/{id}`.
///
/// # Errors
/// As [`add`], 404 for an unknown channel, and 409 if others change it all the time.
pub async fn change(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let wish: ChannelWish = body.object("failed to decode channel")?;
    for _ in 0..ATTEMPTS {
        let channel = changed(find(&state, &id).await?, wish.clone())?;
        if state.storage.channels.update(&channel, clock::now()).await? {
            return Ok(HttpResponse::NoContent().finish());
        }
    }
    Err(ApiError::Conflict("the channel is being changed by others".into()))
}

/// `DELETE /channels/{id}`.
///
/// # Errors
/// 404 for an unknown channel, 409 for one that is built in.
pub async fn remove(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let channel = find(&state, &id).await?;
    if channel.builtin {
        return Err(ApiError::Conflict("a built-in channel cannot be removed, only switched off".into()));
    }
    state.storage.channels.remove(channel.id).await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn find(state: &ApiState, id: &str) -> Result<Channel, ApiError> {
    let id: ChannelId = id.parse().map_err(|_| not_found())?;
    state.storage.channels.find(id).await?.ok_or_else(not_found)
}

fn not_found() -> ApiError {
    ApiError::unknown("channel not found")
}

fn made(wish: ChannelWish, now: Timestamp) -> Result<Channel, ApiError> {
    let kind = wish.kind.as_deref().and_then(ChannelKind::named);
    let kind = kind.ok_or_else(|| ApiError::bad_request("kind must be webhook or email"))?;
    let is_webhook = kind == ChannelKind::Webhook;
    if wish.name.is_none() || (is_webhook && wish.url.is_none()) {
        return Err(ApiError::bad_request("name, and the url of a webhook, must be given"));
    }
    let channel = Channel {
        id: ChannelId::random(),
        kind,
        name: String::new(),
        enabled: true,
        builtin: false,
        url: None,
        secret: is_webhook.then(new_secret),
        recipients: vec![],
        created: now,
        updated: now,
    };
    changed(channel, ChannelWish { kind: None, ..wish })
}

fn changed(mut channel: Channel, wish: ChannelWish) -> Result<Channel, ApiError> {
    let bad = |text: &'static str| Err(ApiError::bad_request(text));
    if wish.kind.is_some_and(|kind| kind != channel.kind.as_str()) {
        return bad("kind cannot be changed");
    }
    if let Some(name) = wish.name {
        if name.is_empty() || name.len() > NAME_LIMIT {
            return bad("name must be 1 to 256 bytes long");
        }
        channel.name = name;
    }
    if let Some(enabled) = wish.enabled {
        channel.enabled = enabled;
    }
    let is_webhook = channel.kind == ChannelKind::Webhook;
    if let Some(url) = wish.url {
        if !is_webhook {
            return bad("only a webhook has a url");
        }
        if let Some(fault) = url_fault(&url) {
            return bad(fault);
        }
        channel.url = Some(url);
    }
    if let Some(secret) = wish.secret {
        if !is_webhook || !is_secret(&secret) {
            return bad("the secret of a webhook must be whsec_ and 16 to 64 bytes in base64");
        }
        channel.secret = Some(Secret::from(secret.as_str()));
    }
    if let Some(recipients) = wish.recipients {
        if is_webhook || channel.builtin {
            return bad("only an email channel of yours has recipients");
        }
        if recipients.len() > RECIPIENTS || !recipients.iter().all(|address| is_address(address)) {
            return bad("recipients must be e-mail addresses, at most 50");
        }
        channel.recipients = recipients;
    }
    Ok(channel)
}

#[derive(Debug, Serialize)]
struct MuteBody {
    id: MuteId,
    device_id: Option<DeviceId>,
    subject_type: Option<String>,
    subject_name: Option<String>,
    channel_id: Option<ChannelId>,
    until: Option<Timestamp>,
    comment: Option<String>,
    created_by: UserId,
    created: Timestamp,
}

/// What is to be muted; what is not mentioned stands for any.
#[derive(Debug, Default, Deserialize)]
struct MuteWish {
    device_id: Option<DeviceId>,
    subject_type: Option<String>,
    subject_name: Option<String>,
    channel_id: Option<ChannelId>,
    until: Option<Timestamp>,
    comment: Option<String>,
}

impl MuteBody {
    fn new(mute: Mute) -> Self {
        Self {
            id: mute.id,
            device_id: mute.device,
            subject_type: mute.subject_type,
            subject_name: mute.subject_name,
            channel_id: mute.channel,
            until: mute.until,
            comment: mute.comment,
            created_by: mute.created_by,
            created: mute.created,
        }
    }
}

/// `GET /mutes`: those that are not over.
///
/// # Errors
/// When the database cannot be asked.
pub async fn mutes(_: AuthenticatedUser, state: web::Data<ApiState>) -> Result<HttpResponse, ApiError> {
    let mutes = state.storage.channels.mutes(clock::now()).await?;
    Ok(answer_json(&mut HttpResponse::Ok(), &mutes.into_iter().map(MuteBody::new).collect::<Vec<_>>()))
}

/// `POST /mutes`: alerts of a device, a subject, or both are not sent, to one channel or to any.
///
/// # Errors
/// 400 for a wish against the rules, 404 for an unknown channel, 422 when there are as many as there may be.
pub async fn mute(
    AuthenticatedUser(user): AuthenticatedUser,
    state: web::Data<ApiState>,
    body: RawJson,
) -> Result<HttpResponse, ApiError> {
    let wish: MuteWish = body.object("failed to decode mute")?;
    let texts = [&wish.subject_type, &wish.subject_name, &wish.comment];
    if texts.into_iter().flatten().any(|text| text.is_empty() || text.len() > 4 * NAME_LIMIT) {
        return Err(ApiError::bad_request("texts must be 1 to 1024 bytes long"));
    }
    let now = clock::now();
    if wish.until.is_some_and(|until| until <= now) {
        return Err(ApiError::bad_request("until must be in the future"));
    }
    if let Some(channel) = wish.channel_id {
        state.storage.channels.find(channel).await?.ok_or_else(not_found)?;
    }
    let mute = Mute {
        id: MuteId::random(),
        device: wish.device_id,
        subject_type: wish.subject_type,
        subject_name: wish.subject_name,
        channel: wish.channel_id,
        until: wish.until,
        comment: wish.comment,
        created_by: user.user,
        created: now,
    };
    match state.storage.channels.mute(&mute).await? {
        Added::Added => Ok(answer_json(&mut HttpResponse::Created(), &MuteBody::new(mute))),
        Added::TooMany => Err(ApiError::Unprocessable("there are too many mutes".into())),
    }
}

/// `DELETE /mutes/{id}`.
///
/// # Errors
/// 404 for an unknown mute.
pub async fn unmute(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let unknown = || ApiError::unknown("mute not found");
    let id: MuteId = id.parse().map_err(|_| unknown())?;
    if state.storage.channels.unmute(id).await? { Ok(HttpResponse::NoContent().finish()) } else { Err(unknown()) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wish(value: Value) -> ChannelWish {
        serde_json::from_value(value).unwrap()
    }

    fn fault(value: Value) -> String {
        made(wish(value), Timestamp(1)).unwrap_err().to_string()
    }

    #[test]
    fn a_webhook_gets_a_secret_that_is_shown_once() {
        let made = made(wish(json!({"kind": "webhook", "name": "ops", "url": "https://example.com/x"})), Timestamp(1));
        let made = made.unwrap();
        assert!(is_secret(made.secret.as_ref().unwrap().expose()));
        let shown = serde_json::to_value(ChannelBody::new(made)).unwrap();
        assert_eq!((shown.get("secret"), shown.get("recipients")), (None, None));
    }

    #[test]
    fn wishes_against_the_rules_are_refused() {
        for wrong in [
            json!({"kind": "pigeon", "name": "x"}),
            json!({"kind": "webhook", "name": "x"}),
            json!({"kind": "webhook", "url": "https://example.com"}),
            json!({"kind": "webhook", "name": "", "url": "https://example.com"}),
            json!({"kind": "webhook", "name": "x", "url": "file:///etc/passwd"}),
            json!({"kind": "webhook", "name": "x", "url": "https://example.com", "secret": "guess"}),
            json!({"kind": "webhook", "name": "x", "url": "https://example.com", "recipients": ["a@x.org"]}),
            json!({"kind": "email", "name": "x", "url": "https://example.com"}),
            json!({"kind": "email", "name": "x", "recipients": ["nobody"]}),
            json!({"kind": "email", "name": "x", "recipients": vec!["a@x.org"; RECIPIENTS + 1]}),
        ] {
            assert!(!fault(wrong.clone()).is_empty(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_mentioned_stays() {
        let first = made(wish(json!({"kind": "email", "name": "x", "recipients": ["a@x.org"]})), Timestamp(1)).unwrap();
        let second = changed(first.clone(), wish(json!({"enabled": false}))).unwrap();
        assert_eq!(second, Channel { enabled: false, ..first.clone() });
        assert!(changed(first, wish(json!({"kind": "webhook"}))).is_err());
    }
}
