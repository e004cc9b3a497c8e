//! Recordings and artifacts: whole objects under paths, in a directory or in S3.
//!
//! An object is written as a whole or not at all: a directory gets a temporary file that is renamed once it is on the
//! disk, S3 keeps nothing of a request that broke off. Whoever reads never sees half of one.

mod link;
mod pieces;

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::signer::Signer;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};
use url::{Host, Url};

use crate::{Config, Secret, StorageError};

pub use link::{LinkTo, attachment};
pub use pieces::ObjectWriter;

/// How long S3 may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long S3 may take over one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// How long S3 may take to make one object of its parts: several minutes for large ones. (Amazon S3 API:
/// `CompleteMultipartUpload`)
const COMPLETION_LIMIT: Duration = Duration::from_mins(15);

/// A request is repeated this often by itself, for this long: what an overloaded S3 asks of its clients. Longer outages
/// are for the caller, who knows what can wait.
const RETRIES: usize = 2;
const RETRY_LIMIT: Duration = Duration::from_secs(5);

/// What S3 calls it when a bucket or our key is wrong. (Amazon S3 API: error responses)
const REFUSALS: [&str; 4] = ["NoSuchBucket", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"];

/// A path under which nothing is ever kept: asking for it tells whether the store answers.
const NOTHING: &str = "ping";

/// Where objects are for a moment that only show that the store works.
const PROBES: &str = "probes";

/// The object store. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// Where a local store is: it would answer even if its directory were gone.
    directory: Option<Arc<FilePath>>,
    /// What only a server can do.
    remote: Option<Remote>,
}

/// The same store again, for what not every store can do.
#[derive(Clone)]
struct Remote {
    /// Makes objects of their parts.
    completing: Arc<dyn MultipartStore>,
    /// Writes objects in parts.
    parts: Arc<dyn MultipartStore>,
    /// Signs links, with the address under which everybody reaches the store.
    signer: Arc<dyn Signer>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Remote").finish_non_exhaustive()
    }
}

/// A place on a server, and how to get in.
#[derive(Debug, Clone)]
pub(crate) struct S3 {
    pub(crate) bucket: String,
    /// What every path is below.
    pub(crate) prefix: Path,
    pub(crate) region: String,
    /// Without one it is Amazon's.
    pub(crate) endpoint: Option<String>,
    /// Where everybody else reaches it, if that is not the same.
    pub(crate) public_endpoint: Option<String>,
    /// Key and secret; without them, those of the environment.
    pub(crate) credentials: Option<(String, Secret)>,
    pub(crate) session_token: Option<Secret>,
    /// Whether the bucket is in the name of the host, which an endpoint then says itself, and not in the path.
    pub(crate) is_virtual_hosted: bool,
}

/// What a setting's URL asks for.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Directory(&'a FilePath),
    S3 { bucket: String, prefix: Path },
    Memory,
}

impl Objects {
    /// Opens the store that the settings name. A directory is made; a server is not asked yet, see [`Objects::ping`].
    ///
    /// # Errors
    /// `Other` if the settings make no sense or the directory cannot be made.
    pub fn open(config: &Config) -> Result<Self, StorageError> {
        if let Some(fault) = fault(config) {
            return Err(StorageError::other("cannot open the object store", fault));
        }
        match place(&config.objects_url).map_err(|fault| StorageError::other("cannot open the object store", fault))? {
            Place::Memory => Ok(Self { store: Arc::new(InMemory::new()), directory: None, remote: None }),
            Place::Directory(path) => open_directory(path),
            Place::S3 { bucket, prefix } => Self::in_s3(&S3 {
                bucket,
                prefix,
                region: config.objects_region.clone(),
                endpoint: config.objects_endpoint.clone(),
                public_endpoint: config.objects_public_endpoint.clone(),
                credentials: config.objects_access_key.clone().zip(config.objects_secret_key.clone()),
                session_token: None,
                is_virtual_hosted: false,
            }),
        }
    }

    /// Opens a store on a server, which is not asked yet.
    ///
    /// # Errors
    /// `Other` if the settings make no sense.
    pub(crate) fn in_s3(settings: &S3) -> Result<Self, StorageError> {
        let endpoint = settings.endpoint.as_deref();
        let store = |endpoint, limit| -> Result<_, StorageError> {
            Ok(Arc::new(PrefixStore::new(settings.open(endpoint, limit)?, settings.prefix.clone())))
        };
        let ours = store(endpoint, REQUEST_LIMIT)?;
        let public = match &settings.public_endpoint {
            Some(endpoint) => store(Some(endpoint), REQUEST_LIMIT)?,
            None => Arc::clone(&ours),
        };
        let completing = store(endpoint, COMPLETION_LIMIT)?;
        let remote = Remote { parts: Arc::clone(&ours) as _, completing, signer: public };
        Ok(Self { store: ours, directory: None, remote: Some(remote) })
    }

    /// Writes an object, in the place of any with this path. When this returns it is kept.
    ///
    /// # Errors
    /// `Unavailable` if it may work later; nothing was written then. `Other` if the store refuses.
    pub async fn put(&self, path: &str, content: Bytes) -> Result<(), StorageError> {
        let failed = |error| failure(format!("cannot write object {path}"), error);
        self.store.put(&Path::from(path), content.into()).await.map_err(failed)?;
        Ok(())
    }

    /// The object with this path, `None` if there is none.
    ///
    /// # Errors
    /// `Corrupt` if it is larger than `limit` bytes, `Unavailable`, `Other`.
    pub async fn get(&self, path: &str, limit: u64) -> Result<Option<Bytes>, StorageError> {
        let failed = |error| failure(format!("cannot read object {path}"), error);
        let found = match self.store.get(&Path::from(path)).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            outcome => outcome.map_err(failed)?,
        };
        if found.meta.size > limit {
            return Err(StorageError::Corrupt(format!(
                "object {path} has {} bytes, where at most {limit} were expected",
                found.meta.size
            )));
        }
        found.bytes().await.map(Some).map_err(failed)
    }

    /// Whether there is an object with this path.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn contains(&self, path: &str) -> Result<bool, StorageError> {
        match self.store.head(&Path::from(path)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failure(format!("cannot look for object {path}"), error)),
        }
    }

    /// The paths of all objects below `prefix`, sorted. A prefix ends where a name ends: `a/b` covers `a/b/c`, not `a/bc`.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let found = self.store.list(Some(&Path::from(prefix)));
        let paths: Result<Vec<String>, _> = found.map_ok(|object| object.location.to_string()).try_collect().await;
        let mut paths = paths.map_err(|error| failure(format!("cannot list objects below {prefix}"), error))?;
        paths.sort_unstable();
        Ok(paths)
    }

    /// Removes an object; that there is none is as good.
    ///
    /// # Errors
    /// `Unavailable`, `Other`.
    pub async fn delete(&self, path: &str) -> Result<(), StorageError> {
        match self.store.delete(&Path::from(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failure(format!("cannot remove object {path}"), error)),
        }
    }

    /// Removes all objects below `prefix` and says how many there were.
    ///
    /// # Errors
    /// `Unavailable`, `Other`. Some may be gone then; repeating the call is safe.
    pub async fn delete_all(&self, prefix: &str) -> Result<usize, StorageError> {
        let paths = self.list(prefix).await?;
        let count = paths.len();
        let locations = stream::iter(paths.into_iter().map(|path| Ok(Path::from(path)))).boxed();
        let mut removed = self.store.delete_stream(locations);
        while let Some(outcome) = removed.next().await {
            match outcome {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failure(format!("cannot remove objects below {prefix}"), error)),
            }
        }
        Ok(count)
    }

    /// Lists, writes, reads, removes and makes a link: whether the store lets us. It has to be carried through to its end, or
    /// an object of a few bytes stays.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer, `Other` if it refuses, `Corrupt` if it does not keep what it is given.
    pub async fn probe(&self) -> Result<(), StorageError> {
        self.ping().await?;
        let path = format!("{PROBES}/{}", uuid::Uuid::new_v4());
        let content = Bytes::from_static(b"mooring");
        self.put(&path, content.clone()).await?;
        let kept = self.get(&path, content.len() as u64).await;
        self.delete(&path).await?;
        self.link(&path, &LinkTo::Bring, Duration::from_mins(1)).await?;
        if kept? == Some(content) {
            return Ok(());
        }
        Err(StorageError::Corrupt("the object store does not keep what it is given".to_owned()))
    }

    /// Asks whether the store answers, and whether it lets us in.
    ///
    /// # Errors
    /// `Unavailable` if it does not answer, `Other` if it refuses.
    pub async fn ping(&self) -> Result<(), StorageError> {
        let attempt = "cannot reach the object store";
        if let Some(directory) = &self.directory {
            let found = tokio::fs::metadata(&**directory).await;
            found.map_err(|error| StorageError::unavailable(attempt, error))?;
        }
        match self.store.list(Some(&Path::from(NOTHING))).next().await {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(failure(attempt.to_owned(), error)),
        }
    }
}

fn open_directory(path: &FilePath) -> Result<Objects, StorageError> {
    use std::os::unix::fs::DirBuilderExt;
    let failed = |error| StorageError::other(format!("cannot make the directory of objects {}", path.display()), error);
    // Recordings show what operators saw: nobody else on this machine reads them.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let store = LocalFileSystem::new_with_prefix(path)
        .map_err(|error| StorageError::other(format!("cannot use the directory of objects {}", path.display()), error))?
        .with_fsync(true)
        .with_automatic_cleanup(true);
    Ok(Objects { store: Arc::new(store), directory: Some(path.into()), remote: None })
}

impl S3 {
    fn open(&self, endpoint: Option<&str>, limit: Duration) -> Result<AmazonS3, StorageError> {
        let options = ClientOptions::new()
            .with_connect_timeout(CONNECT_LIMIT)
            .with_timeout(limit)
            // Whoever read the settings has decided whether that is allowed.
            .with_allow_http(true);
        let retry = RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_LIMIT, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.bucket)
            .with_region(&self.region)
            .with_virtual_hosted_style_request(self.is_virtual_hosted)
            .with_client_options(options)
            .with_retry(retry);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
        }
        if let Some((key, secret)) = &self.credentials {
            builder = builder.with_access_key_id(key).with_secret_access_key(secret.expose());
        }
        if let Some(token) = &self.session_token {
            builder = builder.with_token(token.expose());
        }
        builder.build().map_err(|error| StorageError::other("cannot use the S3 settings", error))
    }
}

/// What is wrong with the settings of the object store, in a sentence that begins with the key; `None` if nothing is.
pub(crate) fn fault(config: &Config) -> Option<String> {
    if let Err(fault) = place(&config.objects_url) {
        return Some(fault);
    }
    match (&config.objects_access_key, &config.objects_secret_key) {
        (Some(_), None) => {
            return Some("objects_secret_key is not set, but objects_access_key is: expected both".into());
        }
        (None, Some(_)) => {
            return Some("objects_access_key is not set, but objects_secret_key is: expected both".into());
        }
        _ => {}
    }
    for (key, endpoint) in
        [("objects_endpoint", &config.objects_endpoint), ("objects_public_endpoint", &config.objects_public_endpoint)]
    {
        if let Some(fault) = endpoint.as_deref().and_then(|endpoint| endpoint_fault(config, key, endpoint)) {
            return Some(fault);
        }
    }
    None
}

fn endpoint_fault(config: &Config, key: &str, endpoint: &str) -> Option<String> {
    let expected =
        |what: &str| Some(format!("{key} is {:?}: expected {what}", crate::config::without_password(endpoint)));
    match Url::parse(endpoint) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            expected("no credentials in it, but in objects_access_key and objects_secret_key")
        }
        Ok(url) if is_safe_endpoint(&url, config.objects_allow_http) => None,
        Ok(url) if url.scheme() == "http" => expected("https, or objects_allow_http = true"),
        _ => expected("an URL such as \"https://s3.example.com\""),
    }
}

/// Whether what is sent there stays between the two: plain HTTP is for this machine alone, unless the settings say otherwise.
pub(crate) fn is_safe_endpoint(url: &Url, allow_http: bool) -> bool {
    match url.scheme() {
        "https" => url.has_host(),
        "http" => is_loopback(url) || allow_http,
        _ => false,
    }
}

/// Whether this can be the name of a bucket. (Amazon S3: bucket naming rules, of which servers know fewer.)
pub(crate) fn is_bucket(name: &str) -> bool {
    let is_plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '.');
    !name.is_empty() && name.chars().all(is_plain)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn place(url: &str) -> Result<Place<'_>, String> {
    let unknown = || {
        let shown = crate::config::without_password(url);
        format!("objects_url is {shown:?}: expected \"file:DIR\" or \"s3://bucket\", with or without a /prefix")
    };
    if url == "memory:" {
        return Ok(Place::Memory);
    }
    if let Some(path) = url.strip_prefix("file:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return if path.is_empty() { Err(unknown()) } else { Ok(Place::Directory(FilePath::new(path))) };
    }
    let rest = url.strip_prefix("s3://").ok_or_else(unknown)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if !is_bucket(bucket) {
        return Err(unknown());
    }
    let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|_| unknown())?;
    Ok(Place::S3 { bucket: bucket.to_owned(), prefix })
}

/// What the store said, by what the caller would do about it.
fn failure(attempt: String, error: object_store::Error) -> StorageError {
    use object_store::Error;
    match error {
        // Everything between us and an answer: the network, the disk, a server that is overloaded.
        Error::Generic { .. } | Error::JoinError { .. } if !refuses(&error) => {
            StorageError::unavailable(attempt, error)
        }
        _ => StorageError::other(attempt, error),
    }
}

/// Whether S3 says no. For some requests the library tells that apart from an outage in the text alone.
fn refuses(error: &object_store::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if REFUSALS.iter().any(|code| text.contains(code)) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(url: &str) -> Config {
        Config { objects_url: url.to_owned(), ..Config::default() }
    }

    #[test]
    fn urls_name_places() {
        assert_eq!(place("file:objects"), Ok(Place::Directory(FilePath::new("objects"))));
        assert_eq!(place("file:/srv/objects"), Ok(Place::Directory(FilePath::new("/srv/objects"))));
        assert_eq!(place("file:///srv/objects"), Ok(Place::Directory(FilePath::new("/srv/objects"))));
        let s3 = |bucket: &str, prefix: &str| Ok(Place::S3 { bucket: bucket.to_owned(), prefix: Path::from(prefix) });
        assert_eq!(place("s3://fleet"), s3("fleet", ""));
        assert_eq!(place("s3://fleet/"), s3("fleet", ""));
        assert_eq!(place("s3://fleet/hub/one/"), s3("fleet", "hub/one"));
        for url in
            ["", "objects", "file:", "s3://", "s3:///prefix", "s3://Fleet", "s3://key:secret@fleet", "gs://fleet"]
        {
            let fault = place(url).unwrap_err();
            assert!(fault.starts_with("objects_url is ") && !fault.contains("secret"), "{fault}");
        }
    }

    #[test]
    fn plain_http_is_for_this_machine_alone() {
        let at = |endpoint: &str| Config { objects_endpoint: Some(endpoint.to_owned()), ..with("s3://fleet") };
        for endpoint in
            ["https://s3.example.com", "http://127.0.0.1:9000", "http://[::1]:9000", "http://localhost:9000/"]
        {
            assert_eq!(fault(&at(endpoint)), None, "{endpoint}");
        }
        for endpoint in
            ["http://10.0.0.7:9000", "http://127.0.0.1.example.com", "s3.example.com", "ftp://s3.example.com"]
        {
            assert!(fault(&at(endpoint)).is_some_and(|fault| fault.starts_with("objects_endpoint is")), "{endpoint}");
        }
        assert_eq!(fault(&Config { objects_allow_http: true, ..at("http://10.0.0.7:9000") }), None);
        let with_secret = fault(&at("https://mooring:hunter2@s3.example.com")).unwrap();
        assert!(with_secret.contains("objects_secret_key") && !with_secret.contains("hunter2"), "{with_secret}");
    }

    #[test]
    fn half_of_the_credentials_is_a_fault() {
        let key = Config { objects_access_key: Some("key".to_owned()), ..with("s3://fleet") };
        assert!(fault(&key).is_some_and(|fault| fault.starts_with("objects_secret_key")));
        let secret = Config { objects_secret_key: Some("hunter2".into()), ..with("s3://fleet") };
        assert!(fault(&secret).is_some_and(|fault| fault.starts_with("objects_access_key")));
    }
}
