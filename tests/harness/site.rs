//! One fresh place in a set of backends, where the hubs of one story keep what they remember.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::backends::{REDIS_DATABASES, ServerUrls, Servers, Set};
use crate::door::Door;
use crate::hub::TestHub;
use crate::s3_server::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::tls::Certificate;
use crate::workspace::{files_below, temporary_directory};

/// Address of the user that exists in every site.
pub const ADMIN_EMAIL: &str = "admin@example.com";

/// That user's password.
pub const ADMIN_PASSWORD: &str = "correct horse battery staple";

/// The bucket of a site.
const BUCKET: &str = "site";

/// Settings of a hub in a child process: environment variables and their values.
pub type Settings = [(&'static str, &'static str)];

/// A place for hubs. Several hubs in the same site are nodes of one cluster, or one hub that was restarted.
#[derive(Clone)]
pub struct Site {
    place: Arc<Place>,
}

struct Place {
    set: Set,
    directory: PathBuf,
    database: Option<String>,
    database_url: String,
    redis_url: Option<String>,
    nats_url: Option<String>,
    nats_prefix: String,
    objects_url: String,
    /// Of its own: parts of objects do not say which bucket they are for.
    objects_server: Option<S3Server>,
    has_admin: Mutex<bool>,
}

impl Site {
    pub(crate) fn new(set: Set) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = temporary_directory();
        let nats_prefix = format!("site-{number}");
        let place = match set {
            Set::Embedded => Place {
                set,
                database: None,
                database_url: format!("sqlite:{}", directory.join("mooring.db").display()),
                redis_url: None,
                nats_url: None,
                nats_prefix,
                objects_url: format!("file:{}", directory.join("objects").display()),
                objects_server: None,
                has_admin: Mutex::default(),
                directory,
            },
            Set::Production => {
                let servers = Servers::shared();
                let database = format!("site_{number}");
                let objects_server = S3Server::start(&directory.join("s3"));
                objects_server.make_bucket(BUCKET);
                assert!(number < REDIS_DATABASES, "more sites than Redis databases");
                Place {
                    set,
                    database_url: servers.create_database(&database),
                    database: Some(database),
                    redis_url: Some(servers.redis_url(number)),
                    nats_url: Some(servers.nats_url()),
                    nats_prefix,
                    objects_url: format!("s3://{BUCKET}"),
                    objects_server: Some(objects_server),
                    has_admin: Mutex::default(),
                    directory,
                }
            }
        };
        Self { place: Arc::new(place) }
    }

    /// A place in servers of the story's own.
    pub(crate) fn in_servers(urls: ServerUrls) -> Self {
        let directory = temporary_directory();
        let place = Place {
            set: Set::Production,
            objects_url: format!("file:{}", directory.join("objects").display()),
            objects_server: None,
            directory,
            // Goes with its server.
            database: None,
            database_url: urls.database,
            redis_url: Some(urls.redis),
            nats_url: Some(urls.nats),
            nats_prefix: "site".to_owned(),
            has_admin: Mutex::default(),
        };
        Self { place: Arc::new(place) }
    }

    /// Which backends it is in.
    pub fn set(&self) -> Set {
        self.place.set
    }

    /// Its directory.
    pub fn directory(&self) -> &std::path::Path {
        &self.place.directory
    }

    /// Every file that the object store keeps in these folders: of objects, and of what is not a whole object yet.
    pub(crate) fn object_files(&self, folders: &[&str]) -> Vec<String> {
        if let Some(server) = &self.place.objects_server {
            return server.files(BUCKET, folders);
        }
        let objects = self.place.directory.join("objects");
        folders.iter().flat_map(|folder| files_below(&objects, folder)).collect()
    }

    /// Where its object store listens, if it is a server.
    pub fn objects_door(&self) -> Option<Door> {
        self.place.objects_server.as_ref().map(S3Server::door)
    }

    /// A hub in this process.
    pub async fn hub(&self) -> TestHub {
        self.hub_with(|_| {}).await
    }

    /// A hub in this process, with settings changed.
    pub async fn hub_with(&self, change: impl FnOnce(&mut hub::Config)) -> TestHub {
        let mut config = self.config();
        change(&mut config);
        TestHub::inside(self.clone(), config, None).await
    }

    /// A hub in this process that speaks TLS with this certificate.
    pub async fn tls_hub(&self, certificate: &Certificate) -> TestHub {
        let mut config = self.config();
        config.api.tls_cert = Some(certificate.file());
        config.api.tls_key = Some(certificate.key_file());
        TestHub::inside(self.clone(), config, Some(certificate.clone())).await
    }

    /// A hub as a child process: it can be killed, and its memory measured.
    pub async fn process(&self, settings: &Settings) -> TestHub {
        TestHub::process(self.clone(), settings).await
    }

    /// The same at a port, where one that has ended may have been before.
    pub async fn process_at(&self, port: u16, settings: &Settings) -> TestHub {
        TestHub::process_at(self.clone(), port, settings).await
    }

    /// The settings of a hub in this place.
    fn config(&self) -> hub::Config {
        let place = &*self.place;
        let mut config = hub::Config::default();
        config.data_dir.clone_from(&place.directory);
        config.api.listen = ([127, 0, 0, 1], 0).into();
        // A test that stops its hub has few devices, and none that would come back all at once.
        config.api.sockets.drain_window = Duration::from_millis(100);
        config.storage.database_url.clone_from(&place.database_url);
        config.storage.pool_size = 5;
        // A busy machine is not an outage.
        config.storage.acquire_timeout = Duration::from_secs(20);
        config.storage.redis_url = place.redis_url.as_deref().map(Into::into);
        config.storage.objects_url.clone_from(&place.objects_url);
        if let Some(server) = &place.objects_server {
            config.storage.objects_endpoint = Some(server.endpoint());
            config.storage.objects_access_key = Some(ACCESS_KEY.to_owned());
            config.storage.objects_secret_key = Some(SECRET_KEY.into());
        }
        config.actors.nats_url = place.nats_url.as_deref().map(Into::into);
        config.actors.nats_prefix.clone_from(&place.nats_prefix);
        config
    }

    /// The same settings as environment variables.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let place = &*self.place;
        let mut variables = vec![
            ("MOORING_DATA_DIR".to_owned(), place.directory.display().to_string()),
            ("MOORING_DATABASE_URL".to_owned(), place.database_url.clone()),
            ("MOORING_OBJECTS_URL".to_owned(), place.objects_url.clone()),
            ("MOORING_API__SOCKETS__DRAIN_WINDOW".to_owned(), "100ms".to_owned()),
            ("MOORING_STORAGE__ACQUIRE_TIMEOUT".to_owned(), "20s".to_owned()),
            ("MOORING_STORAGE__POOL_SIZE".to_owned(), "5".to_owned()),
            ("MOORING_ACTORS__NATS_PREFIX".to_owned(), place.nats_prefix.clone()),
        ];
        variables.extend(place.redis_url.clone().map(|url| ("MOORING_REDIS_URL".to_owned(), url)));
        if let Some(server) = &place.objects_server {
            variables.push(("MOORING_OBJECTS_ENDPOINT".to_owned(), server.endpoint()));
            variables.push(("MOORING_OBJECTS_ACCESS_KEY".to_owned(), ACCESS_KEY.to_owned()));
            variables.push(("MOORING_OBJECTS_SECRET_KEY".to_owned(), SECRET_KEY.to_owned()));
        }
        variables.extend(place.nats_url.clone().map(|url| ("MOORING_NATS_URL".to_owned(), url)));
        variables
    }

    /// Whether the caller is the first to ask, and therefore has to make the first user.
    pub(crate) fn needs_admin(&self) -> bool {
        !std::mem::replace(&mut *self.place.has_admin.lock().expect("nobody panics with the lock"), true)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(database) = &self.database {
            // A failed test leaves its database: it may be wanted, and the server goes in a moment anyway.
            if !std::thread::panicking() {
                Servers::shared().drop_database(database);
            }
        }
    }
}
