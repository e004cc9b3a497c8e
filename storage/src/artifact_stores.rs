//! Where the files of artifacts are: in the hub's own object store, or in one that was set for them while the hub runs.
//!
//! Every object has an address: its path and, if it is not in the hub's own store, the id of its store and a colon in front.
//! A store that was set may be replaced at any time, and what is in it stays there: it is remembered as long as an
//! artifact or an upload has an address in it.
//!
//! (Mender API: deployments, internal, storage settings)

mod settings;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use url::Url;

use crate::database::{Database, Transaction, in_transaction, on_reader};
use crate::objects::{self, S3};
use crate::{Config, Objects, StorageError, StoreId, Timestamp};

pub use settings::{SettingsFault, StoreSettings};

/// Stores that are remembered at the same time.
const STORES: usize = 20;

/// How long a store is remembered at least after it was replaced: an upload may have begun that has not been written down yet.
const GRACE: Duration = Duration::from_hours(24);

/// How long a node goes on with credentials that another one may have replaced.
const FRESH: Duration = Duration::from_secs(10);

/// All stores of artifacts. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct ArtifactStores {
    db: Database,
    own: Objects,
    allow_http: bool,
    opened: Arc<Mutex<HashMap<StoreId, Opened>>>,
}

/// A store as this node uses it.
#[derive(Debug, Clone)]
struct Opened {
    objects: Objects,
    settings: StoreSettings,
    /// When the settings were read.
    read: Instant,
}

/// Why settings were not taken.
#[derive(Debug, thiserror::Error)]
pub enum StoreRefusal {
    /// They make no sense.
    #[error(transparent)]
    Fault(#[from] SettingsFault),
    /// The store does not do what is asked of it.
    #[error("cannot use this store")]
    Unusable(#[source] StorageError),
    /// Artifacts are in too many stores already.
    #[error(
        "artifacts are in {STORES} stores already: go on with one of those, or remove the artifacts in one of them; \
         it is forgotten a day later"
    )]
    TooMany,
    /// See [`StorageError`].
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl ArtifactStores {
    pub(crate) fn new(db: Database, own: Objects, config: &Config) -> Self {
        Self { db, own, allow_http: config.objects_allow_http, opened: Arc::default() }
    }

    /// The settings of the store that new artifacts go to; `None`: the hub's own.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn settings(&self) -> Result<Option<StoreSettings>, StorageError> {
        let found: Option<(StoreId, String)> = on_reader!(self.db, |pool| {
            sqlx::query_as("SELECT id, settings FROM artifact_stores WHERE is_current").fetch_optional(pool).await
        })?;
        found.map(|(id, settings)| parse(id, &settings)).transpose()
    }

    /// From now on new artifacts go to this store, which is tried first, or to the hub's own. Those that are there stay where
    /// they are. The same place with other credentials is the same store.
    ///
    /// # Errors
    /// See [`StoreRefusal`]; everything is as it was then.
    pub async fn set(&self, settings: Option<&StoreSettings>, at: Timestamp) -> Result<(), StoreRefusal> {
        if let Some(settings) = settings {
            let objects = Objects::in_s3(&settings.s3(self.allow_http)?).map_err(StoreRefusal::Unusable)?;
            objects.probe().await.map_err(StoreRefusal::Unusable)?;
        }
        let written = async {
            let mut transaction = self.db.begin().await?;
            transaction.lock_artifacts().await?;
            in_transaction!(&mut transaction, |connection| {
                sqlx::query("UPDATE artifact_stores SET is_current = FALSE, changed = $1 WHERE is_current")
                    .bind(at)
                    .execute(connection)
                    .await
                    .map(drop)
            })?;
            forget_empty(&mut transaction, at.minus(GRACE)).await?;
            if let Some(settings) = settings {
                write(&mut transaction, settings, at).await?;
            }
            let count: i64 = in_transaction!(&mut transaction, |connection| {
                sqlx::query_scalar("SELECT COUNT(*) FROM artifact_stores").fetch_one(connection).await
            })?;
            if count.unsigned_abs() > STORES as u64 {
                return Ok(false);
            }
            transaction.commit().await?;
            Ok(true)
        };
        let is_written: bool = self.db.within(Box::pin(written)).await?;
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if is_written { Ok(()) } else { Err(StoreRefusal::TooMany) }
    }

    /// An address for a new object with this path, in the store that new artifacts go to.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn address(&self, path: &str) -> Result<String, StorageError> {
        let current: Option<StoreId> = on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT id FROM artifact_stores WHERE is_current").fetch_optional(pool).await
        })?;
        Ok(current.map_or_else(|| path.to_owned(), |id| format!("{id}:{path}")))
    }

    /// The store that an address is in, and the path in that store.
    ///
    /// # Errors
    /// `Corrupt` if there is no such store, `Unavailable`, `Other`.
    pub async fn at<'a>(&self, address: &'a str) -> Result<(Objects, &'a str), StorageError> {
        let Some((id, path)) = address.split_once(':') else { return Ok((self.own.clone(), address)) };
        let unknown = || StorageError::Corrupt(format!("the object {address} is in a store that nobody knows"));
        let id: StoreId = id.parse().map_err(|_| unknown())?;
        if let Some(objects) = self.opened(id, |opened| opened.read.elapsed() < FRESH) {
            return Ok((objects, path));
        }
        let settings: Option<String> = on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT settings FROM artifact_stores WHERE id = $1").bind(id).fetch_optional(pool).await
        })?;
        let settings = parse(id, &settings.ok_or_else(unknown)?)?;
        Ok((self.open(id, settings)?, path))
    }

    /// Every store there is, each with an address of this path in it.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, `Other`.
    pub async fn all(&self, path: &str) -> Result<Vec<String>, StorageError> {
        let ids: Vec<StoreId> = on_reader!(self.db, |pool| {
            sqlx::query_scalar("SELECT id FROM artifact_stores ORDER BY id").fetch_all(pool).await
        })?;
        Ok(std::iter::once(path.to_owned()).chain(ids.into_iter().map(|id| format!("{id}:{path}"))).collect())
    }

    /// A store that this node has opened, if it is as wanted.
    fn opened(&self, id: StoreId, is_wanted: impl FnOnce(&Opened) -> bool) -> Option<Objects> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.get(&id).filter(|opened| is_wanted(opened)).map(|opened| opened.objects.clone())
    }

    /// Connections are kept while the settings are the same.
    fn open(&self, id: StoreId, settings: StoreSettings) -> Result<Objects, StorageError> {
        let objects = if let Some(objects) = self.opened(id, |opened| opened.settings == settings) {
            objects
        } else {
            let s3 = settings.s3(self.allow_http);
            Objects::in_s3(&s3.map_err(|fault| StorageError::other("cannot open a store of artifacts", fault))?)?
        };
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        // Ids that are forgotten go as well: there are never more than the rows.
        if opened.len() >= STORES && !opened.contains_key(&id) {
            opened.clear();
        }
        opened.insert(id, Opened { objects: objects.clone(), settings, read: Instant::now() });
        Ok(objects)
    }
}

/// Makes a store current that may have been there before.
async fn write(transaction: &mut Transaction, settings: &StoreSettings, at: Timestamp) -> Result<(), StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query(
            "INSERT INTO artifact_stores (id, place, settings, is_current, changed) VALUES ($1, $2, $3, TRUE, $4) \
             ON CONFLICT (place) DO UPDATE SET settings = excluded.settings, is_current = TRUE, changed = excluded.changed",
        )
        .bind(StoreId::random())
        .bind(settings.place())
        .bind(settings.to_json())
        .bind(at)
        .execute(connection)
        .await
        .map(drop)
    })
}

/// Forgets the stores that were replaced before this and that nothing is in.
async fn forget_empty(transaction: &mut Transaction, before: Timestamp) -> Result<(), StorageError> {
    let replaced: Vec<StoreId> = in_transaction!(&mut *transaction, |connection| {
        sqlx::query_scalar("SELECT id FROM artifact_stores WHERE NOT is_current AND changed < $1")
            .bind(before)
            .fetch_all(connection)
            .await
    })?;
    for id in replaced {
        let pattern = format!("{id}:%");
        in_transaction!(&mut *transaction, |connection| {
            sqlx::query(
                "DELETE FROM artifact_stores WHERE id = $1 \
                 AND NOT EXISTS (SELECT 1 FROM artifacts WHERE object LIKE $2) \
                 AND NOT EXISTS (SELECT 1 FROM uploads WHERE object LIKE $2)",
            )
            .bind(id)
            .bind(&pattern)
            .execute(connection)
            .await
            .map(drop)
        })?;
    }
    Ok(())
}

fn parse(id: StoreId, settings: &str) -> Result<StoreSettings, StorageError> {
    StoreSettings::from_json(settings)
        .map_err(|error| StorageError::Corrupt(format!("the settings of artifact store {id}: {error}")))
}

/// The endpoint that a text names; one without a scheme is asked by HTTPS.
fn endpoint(text: &str, allow_http: bool) -> Option<Url> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url = Url::parse(&whole).ok()?;
    let has_credentials = !url.username().is_empty() || url.password().is_some();
    (!has_credentials && objects::is_safe_endpoint(&url, allow_http)).then_some(url)
}

impl StoreSettings {
    /// What the object store needs to know.
    fn s3(&self, allow_http: bool) -> Result<S3, SettingsFault> {
        self.check()?;
        let url = |member: &'static str, text: &Option<String>| {
            match text {
            None => Ok(None),
            Some(text) => endpoint(text, allow_http).map(Some).ok_or(SettingsFault::new(
                member,
                "must be the address of a server, with https (plain HTTP is for this machine, or with objects_allow_http)",
            )),
        }
        };
        let (ours, public) = (url("uri", &self.uri)?, url("external_uri", &self.external_uri)?);
        let is_literal = self.literal_bucket_uri.unwrap_or(false);
        let is_accelerated = self.use_accelerate.unwrap_or(false);
        let is_in_path = self.force_path_style.unwrap_or(true);
        let accelerated = format!("https://{}.s3-accelerate.amazonaws.com", self.bucket);
        let of_bucket = |url: Url| match (is_literal || is_in_path, url.host_str()) {
            (false, Some(host)) => {
                let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
                format!("{}://{}.{host}{port}{}", url.scheme(), self.bucket, url.path().trim_end_matches('/'))
            }
            _ => url.to_string(),
        };
        if is_literal && ours.is_none() {
            return Err(SettingsFault::new("literal_bucket_uri", "needs the uri of the bucket"));
        }
        if is_accelerated && (ours.is_some() || public.is_some()) {
            return Err(SettingsFault::new("use_accelerate", "is for Amazon's own servers: leave out the uris"));
        }
        Ok(S3 {
            bucket: self.bucket.clone(),
            prefix: object_store::path::Path::default(),
            region: self.region.clone(),
            endpoint: if is_accelerated { Some(accelerated) } else { ours.map(of_bucket) },
            public_endpoint: public.map(of_bucket),
            credentials: Some((self.key.clone(), self.secret.as_str().into())),
            session_token: self.token.as_deref().map(Into::into),
            is_virtual_hosted: is_accelerated || is_literal || !is_in_path,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(change: impl FnOnce(&mut StoreSettings)) -> StoreSettings {
        let mut settings = StoreSettings {
            region: "eu-west-1".to_owned(),
            bucket: "fleet".to_owned(),
            key: "mooring".to_owned(),
            secret: "hunter2".to_owned(),
            ..StoreSettings::default()
        };
        change(&mut settings);
        settings
    }

    fn endpoints(change: impl FnOnce(&mut StoreSettings)) -> Result<(Option<String>, Option<String>, bool), String> {
        let s3 = settings(change).s3(false).map_err(|fault| fault.to_string())?;
        Ok((s3.endpoint, s3.public_endpoint, s3.is_virtual_hosted))
    }

    #[test]
    fn a_bucket_is_in_the_path_or_in_the_name_of_the_host() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(endpoints(|_| ()), Ok((None, None, false)));
        assert_eq!(endpoints(|it| it.force_path_style = Some(false)), Ok((None, None, true)));
        let uris = |it: &mut StoreSettings| {
            (it.uri, it.external_uri) = (some("s3.local:9000"), some("https://s3.example.com"));
        };
        assert_eq!(endpoints(uris), Ok((some("https://s3.local:9000/"), some("https://s3.example.com/"), false)));
        let hosted = |it: &mut StoreSettings| {
            uris(it);
            it.force_path_style = Some(false);
        };
        let named = (some("https://fleet.s3.local:9000"), some("https://fleet.s3.example.com"), true);
        assert_eq!(endpoints(hosted), Ok(named));
        let literal =
            |it: &mut StoreSettings| (it.uri, it.literal_bucket_uri) = (some("https://files.example.com"), Some(true));
        assert_eq!(endpoints(literal), Ok((some("https://files.example.com/"), None, true)));
        let accelerated = (some("https://fleet.s3-accelerate.amazonaws.com"), None, true);
        assert_eq!(endpoints(|it| it.use_accelerate = Some(true)), Ok(accelerated));
    }

    #[test]
    fn addresses_that_lead_nowhere_are_refused() {
        let refused = |change: fn(&mut StoreSettings), what: &str| {
            let fault = endpoints(change).unwrap_err();
            assert!(fault.starts_with(what), "{fault}");
        };
        refused(|it| it.uri = Some("http://s3.example.com".to_owned()), "uri: must be the address of a server");
        refused(|it| it.uri = Some("https://a:hunter2@s3.example.com".to_owned()), "uri: must be the address");
        refused(|it| it.external_uri = Some("ftp://s3.example.com".to_owned()), "external_uri: must be");
        refused(|it| it.literal_bucket_uri = Some(true), "literal_bucket_uri: needs");
        refused(
            |it| (it.use_accelerate, it.uri) = (Some(true), Some("https://s3.example.com".to_owned())),
            "use_accelerate: is for",
        );
        assert!(settings(|it| it.uri = Some("http://10.0.0.7:9000".to_owned())).s3(true).is_ok());
    }

    #[test]
    fn other_credentials_are_no_other_place() {
        let place = |change: fn(&mut StoreSettings)| settings(change).place();
        assert_eq!(place(|_| ()), place(|it| (it.key, it.secret) = ("another".to_owned(), "hunter3".to_owned())));
        assert_ne!(place(|_| ()), place(|it| it.bucket = "fleet-2".to_owned()));
        assert_ne!(place(|_| ()), place(|it| it.uri = Some("https://s3.example.com".to_owned())));
        assert!(!place(|_| ()).contains("hunter2"));
    }
}
