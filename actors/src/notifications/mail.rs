//! Alerts by e-mail, over SMTP.
//!
//! One message per alert and recipient. Its `Message-ID` is the notification's, the same at every attempt.

use std::time::Duration;

use lettre::message::{Mailbox, Message, MultiPart};
use lettre::transport::smtp::AsyncSmtpTransport;
use lettre::{AsyncTransport, Tokio1Executor};
use serde_json::json;
use storage::inventory::SYSTEM;
use storage::{DeviceId, Job, JobId, SecretUrl, Storage, Timestamp};
use url::Url;

use super::mail_text::{Mail, about_alert, about_many};
use super::{AlertInput, DigestInput, channel};
use crate::jobs::{self, Failure};
use crate::monitor::AlertBody;

/// How long the mail server may take for one command.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// Alerts that a digest names; of more it says how many.
const NAMED: u32 = 100;

/// Sends e-mails.
pub(super) struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Mailer {
    pub(super) fn new(url: &SecretUrl, from: &str) -> Result<Self, String> {
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose())
            .map_err(|error| format!("cannot use the mail server: {error}"))?
            .timeout(Some(COMMAND_LIMIT))
            .build();
        let from = from.parse().map_err(|error| format!("cannot send e-mails from {from:?}: {error}"))?;
        Ok(Self { transport, from })
    }

    async fn send(&self, id: JobId, to: &str, mail: Mail) -> Result<(), Failure> {
        let hopeless = |error: &dyn std::fmt::Display| Failure::Hopeless(format!("cannot write the e-mail: {error}"));
        let to: Mailbox = to.parse().map_err(|error| hopeless(&error))?;
        let message = Message::builder()
            .from(self.from.clone())
            .bcc(to)
            // It has one recipient, who may see it.
            .keep_bcc()
            .message_id(Some(format!("<{id}@{}>", self.from.email.domain())))
            .subject(mail.subject)
            .multipart(MultiPart::alternative_plain_html(mail.plain, mail.html))
            .map_err(|error| hopeless(&error))?;
        // Also a refusal may be a matter of the server's settings, which are mended sooner or later.
        self.transport.send(message).await.map(drop).map_err(|error| Failure::Again(describe(&error)))
    }
}

/// Sends one alert to one recipient.
pub(super) async fn send_alert(mailer: &Mailer, storage: &Storage, job: &Job) -> Result<(), Failure> {
    let input: AlertInput = jobs::input(job)?;
    channel(storage, input.channel).await?;
    let to = input.to.as_deref().ok_or_else(|| Failure::Hopeless("it has no recipient".to_owned()))?;
    let group = group(storage, input.device).await?;
    let checks = storage.alerts.checks(input.device).await?;
    let checks = checks.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    mailer.send(job.id, to, about_alert(&input.alert, input.device, group.as_deref(), &checks)).await
}

/// Sends what was too much for single e-mails.
pub(super) async fn send_digest(mailer: &Mailer, storage: &Storage, job: &Job) -> Result<(), Failure> {
    let input: DigestInput = jobs::input(job)?;
    channel(storage, input.channel).await?;
    let group = group(storage, input.device).await?;
    let (from, until) = (Timestamp(input.from), Timestamp(input.until));
    let (alerts, total) = storage.alerts.arrived(input.device, from, until, NAMED).await?;
    let alerts: Vec<_> = alerts.iter().map(|alert| json!(AlertBody(alert))).collect();
    mailer.send(job.id, &input.to, about_many(&alerts, total, input.device, group.as_deref())).await
}

/// The static group a device is in.
async fn group(storage: &Storage, device: DeviceId) -> Result<Option<String>, Failure> {
    let Some(found) = storage.inventory.find(device).await? else { return Ok(None) };
    let group = found.attributes.into_iter().find(|attribute| attribute.scope == SYSTEM && attribute.name == "group");
    Ok(group.and_then(|attribute| attribute.value.as_str().map(str::to_owned)))
}

fn describe(error: &lettre::transport::smtp::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("the mail server: {error}: {cause}"),
        None => format!("the mail server: {error}"),
    }
}

/// Why this cannot be the URL of a mail server; `None` if it can.
pub(super) fn url_fault(url: &SecretUrl) -> Option<&'static str> {
    const EXPECTED: &str = "expected smtp://host:port or smtps://user:password@host";
    let Ok(parsed) = url.expose().parse::<Url>() else { return Some(EXPECTED) };
    if !matches!(parsed.scheme(), "smtp" | "smtps") || !parsed.has_host() {
        return Some(EXPECTED);
    }
    AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose()).is_err().then_some(EXPECTED)
}

/// Why nobody can be called that; `None` if somebody can.
pub(super) fn sender_fault(from: &str) -> Option<&'static str> {
    from.parse::<Mailbox>().is_err().then_some("expected an address such as \"Mooring <no-reply@example.com>\"")
}

/// Whether e-mails can be sent to this address.
pub fn is_address(text: &str) -> bool {
    text.parse::<lettre::Address>().is_ok()
}
