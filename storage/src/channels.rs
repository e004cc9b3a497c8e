//! Where alerts are sent, and what is kept from being sent.

use sqlx::QueryBuilder;

use crate::database::{Database, Transaction, in_transaction, on_reader, on_writer};
use crate::dialect::without_nul;
use crate::{Alert, ChannelId, DeviceId, MuteId, Secret, StorageError, Timestamp, UserId};

/// Channels there may be.
pub const CHANNELS: i64 = 50;

/// Mutes there may be.
pub const MUTES: i64 = 1_000;

/// How a channel sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChannelKind {
    /// By a request to a URL.
    Webhook,
    /// By e-mail.
    Email,
}

impl ChannelKind {
    /// The word on the wire and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Email => "email",
        }
    }

    /// The kind a word stands for.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        [Self::Webhook, Self::Email].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// A place alerts are sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Which.
    pub id: ChannelId,
    /// How it sends.
    pub kind: ChannelKind,
    /// What it is called; unique.
    pub name: String,
    /// Whether it sends.
    pub enabled: bool,
    /// Whether it is always there.
    pub builtin: bool,
    /// Where a webhook sends to.
    pub url: Option<String>,
    /// What a webhook signs with.
    pub secret: Option<Secret>,
    /// Addresses an e-mail goes to; none means all users.
    pub recipients: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
}

impl Channel {
    /// Whether it sends to whoever is a user.
    #[must_use]
    pub fn is_for_all_users(&self) -> bool {
        self.kind == ChannelKind::Email && self.recipients.is_empty()
    }
}

/// A reason not to send some alerts; `None` stands for any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mute {
    /// Which.
    pub id: MuteId,
    /// Of this device.
    pub device: Option<DeviceId>,
    /// About subjects of this type.
    pub subject_type: Option<String>,
    /// About subjects of this name.
    pub subject_name: Option<String>,
    /// To this channel.
    pub channel: Option<ChannelId>,
    /// Until when; `None`: for good.
    pub until: Option<Timestamp>,
    /// Why.
    pub comment: Option<String>,
    /// Who said so.
    pub created_by: UserId,
    /// When.
    pub created: Timestamp,
}

impl Mute {
    /// Whether it keeps this alert from being sent to this channel.
    #[must_use]
    pub fn covers(&self, alert: &Alert, channel: ChannelId) -> bool {
        self.device.is_none_or(|device| device == alert.device)
            && self.subject_type.as_ref().is_none_or(|kind| *kind == alert.said.subject_type)
            && self.subject_name.as_ref().is_none_or(|name| *name == alert.said.subject_name)
            && self.channel.is_none_or(|muted| muted == channel)
    }
}

/// What became of something that was to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is there.
    Added,
    /// There are as many as there may be.
    TooMany,
}

/// The columns of a [`ChannelRow`].
macro_rules! channel_columns {
    () => {
        "id, kind, name, enabled, builtin, url, secret, recipients, created_at, updated_at"
    };
}

/// The columns of a [`MuteRow`].
macro_rules! mute_columns {
    () => {
        "id, device, subject_type, subject_name, channel, until, comment, created_by, created_at"
    };
}

/// All channels and mutes.
#[derive(Debug, Clone)]
pub struct Channels {
    db: Database,
}

impl Channels {
    pub(crate) const fn new(db: Database) -> Self {
        Self { db }
    }

    /// Adds a channel.
    ///
    /// # Errors
    /// `Conflict("name")`, `Unavailable`, `Other`.
    pub async fn add(&self, channel: &Channel) -> Result<Added, StorageError> {
        let added = on_writer!(self.db, |pool| {
            sqlx::query(
                "INSERT INTO channels (id, kind, name, enabled, builtin, url, secret, recipients, created_at, updated_at) \
                 SELECT $1, $2, $3, $4, FALSE, $5, $6, $7, $8, $8 WHERE (SELECT COUNT(*) FROM channels) < $9",
            )
            .bind(channel.id)
            .bind(channel.kind.as_str())
            .bind(without_nul(&channel.name))
            .bind(channel.enabled)
            .bind(channel.url.as_deref().map(without_nul))
            .bind(channel.secret.as_ref().map(Secret::expose))
            .bind(recipients_text(channel))
            .bind(channel.created)
            .bind(CHANNELS)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        });
        Ok(if taken(added)? > 0 { Added::Added } else { Added::TooMany })
    }

    /// Every channel, by name.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn list(&self) -> Result<Vec<Channel>, StorageError> {
        let rows: Vec<ChannelRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(concat!("SELECT ", channel_columns!(), " FROM channels ORDER BY name")).fetch_all(pool).await
        })?;
        rows.into_iter().map(TryInto::try_into).collect()
    }

    /// The channel with this id.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn find(&self, id: ChannelId) -> Result<Option<Channel>, StorageError> {
        let row: Option<ChannelRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(concat!("SELECT ", channel_columns!(), " FROM channels WHERE id = $1"))
                .bind(id)
                .fetch_optional(pool)
                .await
        })?;
        row.map(TryInto::try_into).transpose()
    }

    /// Writes what a channel is called, whether it sends, and where to. `false` if there is none, or it is not any more as
    /// it was read.
    ///
    /// # Errors
    /// `Conflict("name")`, `Unavailable`, `Other`.
    pub async fn update(&self, channel: &Channel, now: Timestamp) -> Result<bool, StorageError> {
        let written = on_writer!(self.db, |pool| {
            sqlx::query(
                "UPDATE channels SET name = $2, enabled = $3, url = $4, secret = $5, recipients = $6, updated_at = $7 \
                 WHERE id = $1 AND updated_at = $8",
            )
            .bind(channel.id)
            .bind(without_nul(&channel.name))
            .bind(channel.enabled)
            .bind(channel.url.as_deref().map(without_nul))
            .bind(channel.secret.as_ref().map(Secret::expose))
            .bind(recipients_text(channel))
            .bind(now.after(channel.updated))
            .bind(channel.updated)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        });
        Ok(taken(written)? > 0)
    }

    /// Switches every built-in channel of a kind on or off. `false` if there is none.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn switch_builtin(&self, kind: ChannelKind, on: bool, now: Timestamp) -> Result<bool, StorageError> {
        let written = on_writer!(self.db, |pool| {
            sqlx::query(
                "UPDATE channels SET enabled = $2, \
                 updated_at = CASE WHEN updated_at < $3 THEN $3 ELSE updated_at + 1 END WHERE kind = $1 AND builtin",
            )
            .bind(kind.as_str())
            .bind(on)
            .bind(now)
            .execute(pool)
            .await
            .map(|done| done.rows_affected())
        })?;
        Ok(written > 0)
    }

    /// Removes a channel and its mutes; a built-in one stays. `false` if there is nothing to remove.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn remove(&self, id: ChannelId) -> Result<bool, StorageError> {
        let removed = on_writer!(self.db, |pool| {
            sqlx::query("DELETE FROM channels WHERE id = $1 AND NOT builtin")
                .bind(id)
                .execute(pool)
                .await
                .map(|done| done.rows_affected())
        })?;
        Ok(removed > 0)
    }

    /// Adds a mute, and removes those that are over.
    ///
    /// # Errors
    /// `Unavailable`, `Other` (also if its channel does not exist).
    pub async fn mute(&self, mute: &Mute) -> Result<Added, StorageError> {
        let muted = async {
            let mut transaction = self.db.begin().await?;
            in_transaction!(&mut transaction, |connection| {
                sqlx::query("DELETE FROM mutes WHERE until <= $1")
                    .bind(mute.created)
                    .execute(connection)
                    .await
                    .map(drop)
            })?;
            let added = in_transaction!(&mut transaction, |connection| {
                sqlx::query(
                    "INSERT INTO mutes (id, device, subject_type, subject_name, channel, until, comment, created_by, \
                     created_at) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 WHERE (SELECT COUNT(*) FROM mutes) < $10",
                )
                .bind(mute.id)
                .bind(mute.device)
                .bind(mute.subject_type.as_deref().map(without_nul))
                .bind(mute.subject_name.as_deref().map(without_nul))
                .bind(mute.channel)
                .bind(mute.until)
                .bind(mute.comment.as_deref().map(without_nul))
                .bind(mute.created_by.as_str())
                .bind(mute.created)
                .bind(MUTES)
                .execute(connection)
                .await
                .map(|done| done.rows_affected())
            })?;
            transaction.commit().await?;
            Ok(if added > 0 { Added::Added } else { Added::TooMany })
        };
        self.db.within(muted).await
    }

    /// The mutes that are not over, newest first.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn mutes(&self, now: Timestamp) -> Result<Vec<Mute>, StorageError> {
        let rows: Vec<MuteRow> = on_reader!(self.db, |pool| {
            sqlx::query_as(concat!(
                "SELECT ",
                mute_columns!(),
                " FROM mutes WHERE until IS NULL OR until > $1 ORDER BY created_at DESC, id"
            ))
            .bind(now)
            .fetch_all(pool)
            .await
        })?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// Removes a mute. `false` if there is none.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn unmute(&self, id: MuteId) -> Result<bool, StorageError> {
        let removed = on_writer!(self.db, |pool| {
            sqlx::query("DELETE FROM mutes WHERE id = $1").bind(id).execute(pool).await.map(|done| done.rows_affected())
        })?;
        Ok(removed > 0)
    }
}

/// The channels that are switched on, as a transaction sees them.
pub(crate) async fn enabled(transaction: &mut Transaction) -> Result<Vec<Channel>, StorageError> {
    let rows: Vec<ChannelRow> = in_transaction!(transaction, |connection| {
        sqlx::query_as(concat!("SELECT ", channel_columns!(), " FROM channels WHERE enabled ORDER BY name"))
            .fetch_all(connection)
            .await
    })?;
    rows.into_iter().map(TryInto::try_into).collect()
}

/// The mutes that are not over, as a transaction sees them.
pub(crate) async fn mutes_now(transaction: &mut Transaction, now: Timestamp) -> Result<Vec<Mute>, StorageError> {
    let rows: Vec<MuteRow> = in_transaction!(transaction, |connection| {
        let mut query =
            QueryBuilder::new(concat!("SELECT ", mute_columns!(), " FROM mutes WHERE until IS NULL OR until > "));
        query.push_bind(now);
        query.build_query_as().fetch_all(connection).await
    })?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// The addresses of up to `limit` users, as a transaction sees them.
pub(crate) async fn addresses(
    transaction: &mut Transaction,
    limit: i64,
) -> Result<Vec<(UserId, String)>, StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query_as("SELECT id, email FROM users ORDER BY id LIMIT $1").bind(limit).fetch_all(connection).await
    })
}

/// Which of the unique values a refusal is about: a name, since ids are random.
fn taken<T>(written: Result<T, StorageError>) -> Result<T, StorageError> {
    written.map_err(|error| match error {
        StorageError::Conflict(_) => StorageError::Conflict("name"),
        other => other,
    })
}

fn recipients_text(channel: &Channel) -> String {
    serde_json::Value::from(channel.recipients.clone()).to_string()
}

/// A channel as the database returns it.
#[derive(sqlx::FromRow)]
struct ChannelRow {
    id: ChannelId,
    kind: String,
    name: String,
    enabled: bool,
    builtin: bool,
    url: Option<String>,
    secret: Option<String>,
    recipients: String,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl TryFrom<ChannelRow> for Channel {
    type Error = StorageError;

    fn try_from(row: ChannelRow) -> Result<Self, StorageError> {
        let corrupt = |what| StorageError::Corrupt(format!("{what} of channel {}", row.id));
        Ok(Self {
            kind: ChannelKind::named(&row.kind).ok_or_else(|| corrupt("kind"))?,
            recipients: serde_json::from_str(&row.recipients).map_err(|_| corrupt("recipients"))?,
            id: row.id,
            name: row.name,
            enabled: row.enabled,
            builtin: row.builtin,
            url: row.url,
            secret: row.secret.as_deref().map(Secret::from),
            created: row.created_at,
            updated: row.updated_at,
        })
    }
}

/// A mute as the database returns it.
#[derive(sqlx::FromRow)]
struct MuteRow {
    id: MuteId,
    device: Option<DeviceId>,
    subject_type: Option<String>,
    subject_name: Option<String>,
    channel: Option<ChannelId>,
    until: Option<Timestamp>,
    comment: Option<String>,
    created_by: UserId,
    created_at: Timestamp,
}

impl From<MuteRow> for Mute {
    fn from(row: MuteRow) -> Self {
        Self {
            id: row.id,
            device: row.device,
            subject_type: row.subject_type,
            subject_name: row.subject_name,
            channel: row.channel,
            until: row.until,
            comment: row.comment,
            created_by: row.created_by,
            created: row.created_at,
        }
    }
}
