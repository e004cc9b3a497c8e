//! What Mooring remembers, and where.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | which database, which Redis and which object store, in the settings file |
//! | [`id`], [`clock`], [`units`] | small types for everybody: ids, points in time, durations and sizes in text |
//! | [`error`] | the one error of this crate, by what a caller would do about it |
//! | [`devices`] | devices, their keys, their tokens, the device limit; `change` is the only way to alter them |
//! | [`users`] | people, their sessions, personal access tokens and settings |
//! | [`inventory`] | what is known about devices, and what finds them |
//! | [`saved_filters`] | questions about devices that somebody gave a name |
//! | [`connections`] | whether a device is connected, as last written down, and its connections before |
//! | [`sessions`] | sessions between operators and devices, open ones and past ones |
//! | [`events`] | what happened, in one order for all who watch |
//! | [`device_configs`] | what devices are told to be, and what they say they are |
//! | [`alerts`] | what devices' monitoring reports, and what it comes to |
//! | [`alert_rules`] | by which rules the hub raises alerts itself |
//! | [`audit`] | who changed what, when, from where |
//! | [`channels`] | where alerts are sent, and what is muted |
//! | [`jobs`] | background work, done at least once |
//! | [`keys`] | the signing keys all nodes share |
//! | [`objects`] | recordings and artifacts, as objects in a directory or in S3 |
//! | [`artifacts`], [`uploads`] | artifacts, the releases they make up, and what is on its way to become one |
//! | [`artifact_stores`] | where artifacts' files are, if not in the hub's own object store |
//! | [`deployments`] | what is to be installed where, and how far each device is |
//! | [`presence`] | which node holds a device right now, node leases, counters: memory or Redis |
//!
//! Durable state is in `SQLite` or Postgres (`database.rs`): every statement is written once and
//! runs on both, and the few differences are named in `dialect.rs`. Migrations are compiled in and run when the storage
//! opens.

pub mod alert_rules;
pub mod alerts;
pub mod artifact_stores;
pub mod artifacts;
pub mod audit;
pub mod channels;
pub mod clock;
pub mod config;
pub mod connections;
mod database;
pub mod deployments;
pub mod device_configs;
pub mod devices;
mod dialect;
pub mod error;
pub mod events;
pub mod id;
pub mod inventory;
pub mod jobs;
pub mod keys;
pub mod objects;
pub mod presence;
mod rows;
pub mod saved_filters;
pub mod sessions;
pub mod units;
pub mod uploads;
pub mod users;

pub use alert_rules::{AlertRule, AlertRules, Comparison, Condition, RuleState};
pub use alerts::{
    Alert, AlertCounts, AlertFilter, AlertLevel, AlertReport, Alerts, Details, Folded, FollowUp, MailCount, NewAlert,
    Recorded, RecordedAlert, SubjectsOf,
};
pub use artifact_stores::{ArtifactStores, SettingsFault, StoreRefusal, StoreSettings};
pub use artifacts::{
    Alteration, ArtifactFilter, ArtifactSort, Artifacts, Direction, Insertion, NewArtifact, Release, ReleaseFilter,
    ReleaseSort, StoredArtifact, TagsOutcome, TextMatch,
};
pub use audit::{Actor, AuditEntry, AuditFilter, AuditLog, NewAuditEntry};
pub use channels::{Added, Channel, ChannelKind, Channels, Mute};
pub use clock::Timestamp;
pub use config::{Config, Secret, SecretUrl};
pub use connections::{Connection, ConnectionChange, Connections, PastConnection};
pub use deployments::{
    Abortion, Counts, Creation, Deployment, DeploymentFilter, DeploymentKind, DeploymentState, Deployments,
    DeviceDeployment, DeviceLog, DeviceState, GoingOn, LastStatus, NewDeployment, NewPhase, Offer, Pause, Phase, Plan,
    Poll, Safety, StateReport, StateReported, Steered, Targets,
};
pub use device_configs::{
    Configuration, ConfigurationFault, Deployed, DeployedConfiguration, DeviceConfig, DeviceConfigs, Merged,
    Provisioned,
};
pub use devices::{
    AuthSet, Decision, Device, DeviceChange, DeviceFilter, DeviceKey, DeviceStatus, DeviceToken, Devices, Fleet,
    IssuedToken, Repaired, SetStatus,
};
pub use error::StorageError;
pub use events::{Event, Events, NewEvent};
pub use id::{
    AlertId, ArtifactId, AttachmentId, AuthSetId, ChannelId, DeploymentId, DeviceDeploymentId, DeviceId, Epoch,
    FilterId, JobId, MuteId, NodeId, PhaseId, RuleId, SessionId, StoreId, TokenId, UploadId, UserId,
};
pub use inventory::{Attribute, DeviceReport, Inventory, InventoryDevice, Report, Reported};
pub use jobs::{Job, JobFilter, JobOutcome, JobState, JobWish, Jobs, NewJob};
pub use keys::SigningKeys;
pub use objects::{LinkTo, ObjectWriter, Objects};
pub use presence::{Claim, Presence, Route};
pub use saved_filters::{FilterSaved, SavedFilter, SavedFilters};
pub use sessions::{
    OpenedSession, Participant, ParticipantRole, SessionChange, SessionFigures, SessionFilter, SessionKind,
    SessionRecord, Sessions,
};
pub use uploads::{Upload, UploadKind, UploadState, Uploads};
pub use users::{Removal, SettingsDocument, SettingsOwner, User, UserChange, UserToken, Users};

use std::error::Error;

use database::Database;
use tracing::warn;

/// Everything a hub remembers, in handles that can be given out one by one. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Devices, their authentication sets and tokens, the device limit.
    pub devices: Devices,
    /// Users, their sessions.
    pub users: Users,
    /// What is known about devices.
    pub inventory: Inventory,
    /// Questions about devices that somebody gave a name.
    pub filters: SavedFilters,
    /// Last known connection of every device, and those before.
    pub connections: Connections,
    /// Sessions between operators and devices.
    pub sessions: Sessions,
    /// What happened, for those who watch.
    pub events: Events,
    /// What devices are told to be, and what they say they are.
    pub device_configs: DeviceConfigs,
    /// What devices' monitoring reports.
    pub alerts: Alerts,
    /// Where alerts are sent.
    pub channels: Channels,
    /// By which rules the hub raises alerts itself.
    pub alert_rules: AlertRules,
    /// Who changed what.
    pub audit: AuditLog,
    /// Background work.
    pub jobs: Jobs,
    /// Private keys that all nodes sign with.
    pub keys: SigningKeys,
    /// Artifacts and releases.
    pub artifacts: Artifacts,
    /// What is to be installed where.
    pub deployments: Deployments,
    /// Artifacts on their way in.
    pub uploads: Uploads,
    /// The hub's own object store: recordings, and artifacts unless they have a store of theirs.
    pub objects: Objects,
    /// Where artifacts are.
    pub artifact_stores: ArtifactStores,
    /// Which node holds which device now.
    pub presence: Presence,
    database: Database,
}

impl Storage {
    /// Opens the database, the presence store and the object store, and brings the schema up to date.
    ///
    /// Safe to call on several nodes at once: migrations run under a lock.
    ///
    /// # Errors
    /// `Unavailable` if a server cannot be reached, `Other` if an URL makes no sense or a migration fails. An object store
    /// that cannot be reached is no error, one that turns us away is: devices stay within reach without recordings, but
    /// wrong credentials never get better.
    pub async fn open(config: &Config) -> Result<Self, StorageError> {
        let database = Database::open(config).await?;
        database.migrate().await?;
        let inventory = Inventory::new(database.clone(), config.search_limit);
        while inventory.index_some().await? > 0 {}
        let presence = Presence::open(config).await?;
        let objects = Objects::open(config)?;
        match objects.ping().await {
            Err(error) if error.is_unavailable() => warn!(error = &error as &dyn Error, "the object store is away"),
            outcome => outcome?,
        }
        Ok(Self {
            devices: Devices::new(database.clone()),
            users: Users::new(database.clone()),
            inventory,
            filters: SavedFilters::new(database.clone()),
            connections: Connections::new(database.clone()),
            sessions: Sessions::new(database.clone()),
            events: Events::new(database.clone()),
            device_configs: DeviceConfigs::new(database.clone()),
            alerts: Alerts::new(database.clone()),
            alert_rules: AlertRules::new(database.clone()),
            audit: AuditLog::new(database.clone()),
            channels: Channels::new(database.clone()),
            jobs: Jobs::new(database.clone()),
            keys: SigningKeys::new(database.clone()),
            artifacts: Artifacts::new(database.clone()),
            deployments: Deployments::new(database.clone(), config.search_limit),
            uploads: Uploads::new(database.clone()),
            artifact_stores: ArtifactStores::new(database.clone(), objects.clone(), config),
            objects,
            presence,
            database,
        })
    }

    /// Brings the schema up to date and nothing else (`mooring migrate`).
    ///
    /// # Errors
    /// As [`Storage::open`].
    pub async fn migrate(config: &Config) -> Result<(), StorageError> {
        let database = Database::open(config).await?;
        let outcome = database.migrate().await;
        database.close().await;
        outcome
    }

    /// Asks every backend of this storage whether it answers: `"database"`, `"redis"` if one is in use, and `"objects"`.
    pub async fn ping(&self) -> Vec<(&'static str, Result<(), StorageError>)> {
        let mut answers = vec![("database", self.database.ping().await)];
        if let Presence::Redis(redis) = &self.presence {
            answers.push(("redis", redis.ping().await));
        }
        answers.push(("objects", self.objects.ping().await));
        answers
    }

    /// Closes the database connections; calls made after this fail with `Unavailable`.
    pub async fn close(&self) {
        self.database.close().await;
    }
}
