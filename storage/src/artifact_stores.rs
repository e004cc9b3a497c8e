//! Where the files of artifacts are: in the hub's own object store, or in one that was set for them while the hub runs.
//!
//! Every object has an address: its path and, if it is not in the hub's own store, the id of its store and a colon in front.
//! A store that was set may be replaced at any time, and what is in it stays there: it is remembered as long as an
//! artifact or an upload has an address in it. In its bucket, which others may use as well, everything is below its id.
//!
//! A node of a version that knows only its own store cannot find what is in another: nothing should be set before the last of
//! those is gone.
//!
//! (Mender API: deployments, internal, storage settings)

mod settings;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use object_store::path::Path;
use url::{Host, Url};

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
            settings.check()?;
            let objects = Objects::in_s3(&settings.s3(None, self.allow_http)?).map_err(StoreRefusal::Unusable)?;
            // To its end, whoever waits for it: nothing of the trial is to stay behind.
            let trial = tokio::spawn(async move { objects.probe().await });
            let tried = trial.await.unwrap_or_else(|error| Err(StorageError::Other(error.into())));
            tried.map_err(StoreRefusal::Unusable)?;
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
                write(&mut transaction, settings, &settings.place(self.allow_http), at).await?;
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

    /// Which store an address is in; `None`: the hub's own.
    #[must_use]
    pub fn store_of(address: &str) -> Option<StoreId> {
        address.split_once(':').and_then(|(id, _)| id.parse().ok())
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
            let s3 = settings.s3(Some(id), self.allow_http);
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
async fn write(
    transaction: &mut Transaction,
    settings: &StoreSettings,
    place: &str,
    at: Timestamp,
) -> Result<(), StorageError> {
    in_transaction!(transaction, |connection| {
        sqlx::query(
            "INSERT INTO artifact_stores (id, place, settings, is_current, changed) VALUES ($1, $2, $3, TRUE, $4) \
             ON CONFLICT (place) DO UPDATE SET settings = excluded.settings, is_current = TRUE, changed = excluded.changed",
        )
        .bind(StoreId::random())
        .bind(place)
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

/// The address of a server that a text names; without a scheme it is asked by HTTPS.
fn endpoint(text: &str, allow_http: bool) -> Option<Url> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url = Url::parse(&whole).ok()?;
    let is_plain =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    (is_plain && objects::is_safe_endpoint(&url, allow_http)).then_some(url)
}

/// The address of a bucket whose name is part of the host's: not every host has names below it.
fn host_of_bucket(bucket: &str, url: &Url) -> Option<Url> {
    let Some(Host::Domain(host)) = url.host() else { return None };
    let mut of_bucket = url.clone();
    of_bucket.set_host(Some(&format!("{bucket}.{host}"))).ok()?;
    Some(of_bucket)
}

impl StoreSettings {
    /// What the object store needs to know.
    fn s3(&self, id: Option<StoreId>, allow_http: bool) -> Result<S3, SettingsFault> {
        let is_literal = self.literal_bucket_uri.unwrap_or(false);
        let is_accelerated = self.use_accelerate.unwrap_or(false);
        let is_in_path = self.force_path_style.unwrap_or(true);
        let url = |member: &'static str, text: &Option<String>| {
            let Some(text) = text else { return Ok(None) };
            let url = endpoint(text, allow_http).ok_or(SettingsFault::new(
                member,
                "must be the address of a server, with https (plain HTTP is for this machine, or with objects_allow_http)",
            ))?;
            let url = if is_literal || is_in_path { Some(url) } else { host_of_bucket(&self.bucket, &url) };
            let no_host =
                SettingsFault::new(member, "has no name that the bucket's could stand before: force_path_style");
            url.ok_or(no_host).map(|url| Some(url.as_str().trim_end_matches('/').to_owned()))
        };
        let (ours, public) = (url("uri", &self.uri)?, url("external_uri", &self.external_uri)?);
        if is_literal && ours.is_none() {
            return Err(SettingsFault::new("literal_bucket_uri", "needs the uri of the bucket"));
        }
        if is_accelerated && (ours.is_some() || public.is_some()) {
            return Err(SettingsFault::new("use_accelerate", "is for Amazon's own servers: leave out the uris"));
        }
        let accelerated = format!("https://{}.s3-accelerate.amazonaws.com", self.bucket);
        Ok(S3 {
            bucket: self.bucket.clone(),
            prefix: id.map(|id| Path::from(id.to_string())).unwrap_or_default(),
            region: self.region.clone(),
            endpoint: if is_accelerated { Some(accelerated) } else { ours },
            public_endpoint: public,
            credentials: Some((self.key.clone(), self.secret.as_str().into())),
            session_token: self.token.as_deref().map(Into::into),
            is_virtual_hosted: is_accelerated || is_literal || !is_in_path,
        })
    }

    /// What makes it another store: the server and the bucket, however their address is written. Amazon knows a bucket by its
    /// region as well.
    fn place(&self, allow_http: bool) -> String {
        let server = self.uri.as_ref().map(|uri| match endpoint(uri, allow_http) {
            Some(url) => url.as_str().trim_end_matches('/').to_owned(),
            None => uri.clone(),
        });
        let place = (server.as_ref().unwrap_or(&self.region), &self.bucket, self.literal_bucket_uri.unwrap_or(false));
        serde_json::to_string(&place).expect("texts have a JSON form")
    }
}

#[cfg(test)]
mod tests {
    use super::settings::tests::settings;
    use super::*;

    fn endpoints(change: impl FnOnce(&mut StoreSettings)) -> Result<(Option<String>, Option<String>, bool), String> {
        let s3 = settings(change).s3(None, false).map_err(|fault| fault.to_string())?;
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
        assert_eq!(endpoints(uris), Ok((some("https://s3.local:9000"), some("https://s3.example.com"), false)));
        let hosted = |it: &mut StoreSettings| {
            uris(it);
            it.force_path_style = Some(false);
        };
        let named = (some("https://fleet.s3.local:9000"), some("https://fleet.s3.example.com"), true);
        assert_eq!(endpoints(hosted), Ok(named));
        let literal =
            |it: &mut StoreSettings| (it.uri, it.literal_bucket_uri) = (some("https://files.example.com"), Some(true));
        assert_eq!(endpoints(literal), Ok((some("https://files.example.com"), None, true)));
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
        refused(|it| it.uri = Some("https://s3.example.com/?a=b".to_owned()), "uri: must be the address");
        let hosted = |it: &mut StoreSettings| {
            (it.force_path_style, it.external_uri) = (Some(false), Some("https://203.0.113.5".to_owned()));
        };
        refused(hosted, "external_uri: has no name");
        refused(
            |it| (it.force_path_style, it.uri) = (Some(false), Some("http://[::1]:9".to_owned())),
            "uri: has no name",
        );
        refused(|it| it.literal_bucket_uri = Some(true), "literal_bucket_uri: needs");
        refused(
            |it| (it.use_accelerate, it.uri) = (Some(true), Some("https://s3.example.com".to_owned())),
            "use_accelerate: is for",
        );
        assert!(settings(|it| it.uri = Some("http://10.0.0.7:9000".to_owned())).s3(None, true).is_ok());
    }

    #[test]
    fn other_credentials_are_no_other_place() {
        let place = |change: fn(&mut StoreSettings)| settings(change).place(false);
        let at = |uri: &str, region: &str| {
            let change = |it: &mut StoreSettings| (it.uri, it.region) = (Some(uri.to_owned()), region.to_owned());
            settings(change).place(false)
        };
        assert_eq!(place(|_| ()), place(|it| (it.key, it.secret) = ("another".to_owned(), "hunter3".to_owned())));
        assert_ne!(place(|_| ()), place(|it| it.bucket = "fleet-2".to_owned()));
        assert_ne!(place(|_| ()), place(|it| it.region = "eu-west-2".to_owned()));
        assert_ne!(place(|_| ()), at("https://s3.example.com", "eu-west-1"));
        for same in ["s3.example.com", "https://S3.example.com/", "https://s3.example.com:443"] {
            assert_eq!(at(same, "another"), at("https://s3.example.com", "eu-west-1"), "{same}");
        }
        assert!(!place(|_| ()).contains("hunter2"));
    }
}
