//! Who is told of alerts, and how.
//!
//! [`follow_up`] decides, purely, which notifications follow from alerts; they are jobs in the transaction that stores the
//! alerts. What each kind of job does is in `mail.rs` and `webhook.rs`. The id of a job is the id of its notification: it is
//! the same at every attempt, so whoever gets one twice can tell.

mod addresses;
mod config;
mod mail;
mod mail_text;
mod webhook;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use storage::{
    Alert, Channel, ChannelId, ChannelKind, DeviceId, FollowUp, JobId, MailCount, NewJob, Recorded, Storage, Timestamp,
};

use crate::events;
use crate::jobs::{Failure, JobKind};
use crate::monitor::AlertBody;
pub use config::Config;
pub use mail::is_address;
pub use webhook::{is_secret, new_secret, url_fault};

const WEBHOOK: &str = "webhook";
const EMAIL: &str = "email";
const DIGEST: &str = "email-digest";

/// An alert that takes more than this as JSON goes into a notification without the lines around its match.
const WHOLE_ALERT: usize = 64 * 1024;

const HOUR: Duration = Duration::from_hours(1);

/// What it takes to send notifications. Cloning is cheap.
#[derive(Clone)]
pub struct Notifications(Arc<Parts>);

struct Parts {
    config: Config,
    storage: Storage,
    webhooks: webhook::Client,
    mails: Option<mail::Mailer>,
}

impl Notifications {
    /// Notifications of what is in `storage`.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(storage: &Storage, config: &Config) -> Result<Self, String> {
        let mails = config.smtp_url.as_ref().map(|url| mail::Mailer::new(url, &config.mail_from)).transpose()?;
        let webhooks = webhook::Client::new(config)?;
        Ok(Self(Arc::new(Parts { config: config.clone(), storage: storage.clone(), webhooks, mails })))
    }

    /// The kinds of work that send them.
    pub fn job_kinds(&self) -> Vec<JobKind> {
        let kind = |name, run| JobKind { name, time_limit: self.0.config.time_limit.saturating_mul(3), run };
        let [webhooks, mails, digests] = [self.clone(), self.clone(), self.clone()];
        vec![
            kind(
                WEBHOOK,
                Arc::new(move |job| {
                    let this = webhooks.clone();
                    Box::pin(async move { webhook::send(&this.0.webhooks, &this.0.storage, &job).await })
                }),
            ),
            kind(
                EMAIL,
                Arc::new(move |job| {
                    let this = mails.clone();
                    Box::pin(async move { mail::send_alert(this.mailer()?, &this.0.storage, &job).await })
                }),
            ),
            kind(
                DIGEST,
                Arc::new(move |job| {
                    let this = digests.clone();
                    Box::pin(async move { mail::send_digest(this.mailer()?, &this.0.storage, &job).await })
                }),
            ),
        ]
    }

    fn mailer(&self) -> Result<&mail::Mailer, Failure> {
        self.0.mails.as_ref().ok_or_else(|| Failure::Again("no mail server is set".to_owned()))
    }
}

/// What a notification of one alert needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct AlertInput {
    channel: ChannelId,
    device: DeviceId,
    /// When the alert arrived, in microseconds.
    received: i64,
    /// The alert as clients see it.
    alert: Value,
    /// Whom an e-mail goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<String>,
}

/// What an e-mail about many alerts needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct DigestInput {
    channel: ChannelId,
    device: DeviceId,
    to: String,
    /// The span in which the alerts arrived, in microseconds.
    from: i64,
    until: i64,
}

/// The events that follow from alerts, and the notifications for which there is room.
pub fn follow_up(recorded: &Recorded, how: &Notifications, room: usize, now: Timestamp) -> FollowUp {
    let sends_mail = how.0.mails.is_some();
    decide(recorded, sends_mail, how.0.config.mails_per_hour, room, now)
}

fn decide(recorded: &Recorded, sends_mail: bool, mails_per_hour: u32, room: usize, now: Timestamp) -> FollowUp {
    let mut follow = FollowUp::default();
    let mut digests: HashSet<String> = HashSet::new();
    let mut mails: HashMap<DeviceId, MailCount> = recorded.mails.clone();
    let mut left_out = 0_u64;
    for new in &recorded.alerts {
        follow.events.push(events::of_alert(new));
        let alert = &new.alert;
        let channels: Vec<&Channel> = recorded
            .channels
            .iter()
            .filter(|channel| channel.kind != ChannelKind::Email || sends_mail)
            .filter(|channel| !recorded.mutes.iter().any(|mute| mute.covers(alert, channel.id)))
            .collect();
        if channels.is_empty() {
            continue;
        }
        if follow.jobs.len() >= room {
            left_out += 1;
            continue;
        }
        let body = bounded_body(alert);
        let mut mailed = None;
        for channel in channels {
            match channel.kind {
                ChannelKind::Webhook => follow.jobs.push(of_alert(WEBHOOK, alert, channel, None, &body, now)),
                ChannelKind::Email => {
                    // Counted once, whatever the number of channels and recipients.
                    let may = *mailed.get_or_insert_with(|| count(&mut mails, alert.device, mails_per_hour, now));
                    for to in recipients(channel, recorded) {
                        if may {
                            follow.jobs.push(of_alert(EMAIL, alert, channel, Some(to), &body, now));
                            continue;
                        }
                        let key = digest_key(alert.device, channel.id, to, now);
                        if !digests.contains(&key) {
                            follow.jobs.push(digest(key.clone(), alert, channel, to, now));
                            digests.insert(key);
                        }
                    }
                }
            }
        }
        if follow.jobs.len() > room {
            // Some of those who were to hear of this alert do not.
            follow.jobs.truncate(room);
            left_out += 1;
        }
    }
    if left_out > 0 {
        metrics::counter!(crate::metrics::NOTIFICATIONS_LEFT_OUT).increment(left_out);
    }
    mails.retain(|device, count| recorded.mails.get(device) != Some(count));
    follow.mails = mails;
    follow
}

/// Whether another e-mail about this device may be sent within the hour; it counts then.
fn count(mails: &mut HashMap<DeviceId, MailCount>, device: DeviceId, most: u32, now: Timestamp) -> bool {
    let hour = hour_of(now);
    let count = mails.entry(device).or_default();
    if count.hour != hour {
        *count = MailCount { hour, mails: 0 };
    }
    if count.mails >= i64::from(most) {
        return false;
    }
    count.mails += 1;
    true
}

fn hour_of(at: Timestamp) -> i64 {
    at.seconds().div_euclid(3600)
}

fn recipients<'a>(channel: &'a Channel, recorded: &'a Recorded) -> Vec<&'a str> {
    if channel.is_for_all_users() {
        recorded.users.iter().map(|(_, address)| address.as_str()).collect()
    } else {
        channel.recipients.iter().map(String::as_str).collect()
    }
}

fn of_alert(kind: &str, alert: &Alert, channel: &Channel, to: Option<&str>, body: &Value, now: Timestamp) -> NewJob {
    let input = AlertInput {
        channel: channel.id,
        device: alert.device,
        received: alert.received.0,
        alert: body.clone(),
        to: to.map(str::to_owned),
    };
    NewJob {
        id: JobId::random(),
        key: Some(format!("{kind}/{}/{}/{}", alert.id, channel.id, to.unwrap_or_default())),
        kind: kind.to_owned(),
        input: json!(input),
        due: now,
    }
}

/// What makes the digests of an hour one.
fn digest_key(device: DeviceId, channel: ChannelId, to: &str, now: Timestamp) -> String {
    format!("{DIGEST}/{device}/{}/{channel}/{to}", hour_of(now))
}

/// One e-mail at the end of the hour for everything that was too much.
fn digest(key: String, alert: &Alert, channel: &Channel, to: &str, now: Timestamp) -> NewJob {
    let end = Timestamp::from_seconds(hour_of(now) * 3600).plus(HOUR);
    let input = DigestInput { channel: channel.id, device: alert.device, to: to.to_owned(), from: now.0, until: end.0 };
    NewJob { id: JobId::random(), key: Some(key), kind: DIGEST.to_owned(), input: json!(input), due: end }
}

/// The alert as clients see it, without its lines if it would not fit into a job with them.
fn bounded_body(alert: &Alert) -> Value {
    let mut body = json!(AlertBody(alert));
    if body.to_string().len() > WHOLE_ALERT {
        let details = body.get_mut("subject").and_then(|subject| subject.as_object_mut());
        if let Some(subject) = details {
            subject.remove("details");
            subject.insert("details_omitted".to_owned(), Value::Bool(true));
        }
    }
    body
}

/// The channel of a notification, if it still sends.
async fn channel(storage: &Storage, id: ChannelId) -> Result<Channel, Failure> {
    match storage.channels.find(id).await? {
        Some(channel) if channel.enabled => Ok(channel),
        Some(_) => Err(Failure::Hopeless("its channel is switched off".to_owned())),
        None => Err(Failure::Hopeless("its channel was removed".to_owned())),
    }
}

#[cfg(test)]
mod tests;
