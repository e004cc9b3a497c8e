//! A hub under test: in this process, or `mooring serve` as a child.

use std::net::IpAddr;
use std::ops::Deref;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use crate::device::TestDevice;
use crate::door::Door;
use crate::mooring::Mooring;
use crate::ports::free_port;
use crate::process::Process;
use crate::site::{ADMIN_EMAIL, ADMIN_PASSWORD, Settings, Site};
use crate::tls::Certificate;
use crate::user::TestUser;
use crate::wait::{LIMIT, wait_until, within};
use crate::workspace::program;

/// A connection of a device as it is written down.
#[derive(Debug, PartialEq, Eq)]
pub struct WrittenConnection {
    /// Where it came from.
    pub address: Option<IpAddr>,
    /// Bytes of messages from the device and to it.
    pub bytes: (i64, i64),
    /// Whether the device answered a ping.
    pub has_round_trip: bool,
    /// Why it ended, if it has.
    pub reason: Option<String>,
}

/// A running hub. Dropping it ends it.
pub struct TestHub {
    door: Door,
    site: Site,
    running: Running,
}

enum Running {
    Inside(Option<Box<hub::Hub>>),
    Process(Process),
}

impl TestHub {
    pub(crate) async fn inside(site: Site, config: hub::Config, certificate: Option<Certificate>) -> Self {
        let hub = tokio::task::spawn_blocking(move || hub::Hub::start(config)).await.expect("the start does not panic");
        let hub = hub.unwrap_or_else(|error| panic!("the hub does not start: {error:#}"));
        let door = match certificate {
            Some(certificate) => Door::tls(hub.address(), certificate),
            None => Door::plain(hub.address()),
        };
        let this = Self { door, running: Running::Inside(Some(Box::new(hub))), site };
        this.ensure_admin().await;
        this
    }

    pub(crate) async fn process(site: Site, settings: &Settings) -> Self {
        Self::process_at(site, free_port(), settings).await
    }

    pub(crate) async fn process_at(site: Site, port: u16, settings: &Settings) -> Self {
        let address = ([127, 0, 0, 1], port).into();
        let mut command = Command::new(program("mooring"));
        command.args(["serve", "--listen", &format!("127.0.0.1:{port}")]);
        command.envs(site.environment()).envs(settings.iter().copied());
        command.env("MOORING_LOG", "info");
        let mut process = Process::start(&command, &site.directory().join(format!("serve-{port}.log")));
        let door = Door::plain(address);
        wait_until(LIMIT, "a hub in a child process", async || {
            assert!(process.ended().is_none(), "the hub does not start:\n{}", process.log());
            (door.is_open().await && door.get("/health/live").await.status == 200).then_some(())
        })
        .await;
        let this = Self { door, site, running: Running::Process(process) };
        this.ensure_admin().await;
        this
    }

    async fn ensure_admin(&self) {
        if !self.site.needs_admin() {
            return;
        }
        match &self.running {
            Running::Inside(hub) => {
                let accounts = hub.as_ref().expect("it runs").accounts().clone();
                accounts.add_user(ADMIN_EMAIL, ADMIN_PASSWORD, None).await.expect("the first user can be made");
            }
            // Also shows that users can be added while the hub runs.
            Running::Process(_) => {
                Mooring::in_site(&self.site).add_user(ADMIN_EMAIL, ADMIN_PASSWORD).await;
            }
        }
    }

    /// Where it listens.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// Where it serves its internal API.
    ///
    /// # Panics
    /// When the hub is not in this process, or has none.
    pub fn internal_door(&self) -> Door {
        Door::plain(self.hub().internal_address().expect("the hub has an internal API"))
    }

    /// The place it keeps things in.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The user that is always there, logged in.
    pub async fn user(&self) -> TestUser {
        TestUser::log_in(&self.door, ADMIN_EMAIL, ADMIN_PASSWORD).await
    }

    /// Another user, made by the first one and logged in.
    pub async fn another_user(&self, email: &str) -> TestUser {
        let admin = self.user().await;
        admin.add_user(email, ADMIN_PASSWORD).await;
        TestUser::log_in(&self.door, email, ADMIN_PASSWORD).await
    }

    /// A device that has not asked yet, with an identity and an Ed25519 key of its own.
    pub fn device(&self) -> TestDevice {
        TestDevice::new(&self.door)
    }

    /// A device that was accepted and holds a token.
    pub async fn accepted_device(&self) -> TestDevice {
        self.accepted_by(&self.user().await).await
    }

    /// The same, for stories that have a user already.
    pub async fn accepted_by(&self, user: &TestUser) -> TestDevice {
        let mut device = self.device();
        device.join(user).await;
        device
    }

    /// Puts an object where the hub keeps its own.
    ///
    /// # Panics
    /// When the hub is not in this process, or its store does not take it.
    pub async fn keep_object(&self, path: &str, content: Vec<u8>) {
        let objects = self.hub().storage().objects.clone();
        objects.put(path, content.into()).await.expect("the store takes it");
    }

    /// Every file that the hub's object store keeps of artifacts: whole ones, raw files, parts and temporary files.
    ///
    /// # Panics
    /// When the store's directory cannot be read.
    pub async fn objects(&self) -> Vec<String> {
        let site = self.site.clone();
        let looking = tokio::task::spawn_blocking(move || site.object_files(&["artifacts", "uploads"]));
        looking.await.expect("the search does not panic")
    }

    /// A deployment of this name, as far as artifacts know of deployments; its id.
    ///
    /// # Panics
    /// When the hub is not in this process, or its database does not answer.
    pub async fn begin_use_of_artifacts(&self, name: &str) -> String {
        let deployment = hub::DeploymentId::random();
        self.hub().storage().artifacts.begin_use(deployment, name).await.expect("it answers");
        deployment.to_string()
    }

    /// The end of such a deployment.
    ///
    /// # Panics
    /// When the hub is not in this process, or its database does not answer.
    pub async fn end_use_of_artifacts(&self, deployment: &str) {
        let deployment = deployment.parse().expect("an id");
        self.hub().storage().artifacts.end_use(deployment).await.expect("it answers");
    }

    /// What the hub does every now and then about uploads that nobody works on, as if it were this much later.
    ///
    /// # Panics
    /// When the hub is not in this process, or its database does not answer.
    pub async fn clean_uploads(&self, later: Duration) {
        self.hub().clean_uploads(later).await.expect("it answers");
    }

    /// Makes the actor of a connected device panic.
    ///
    /// # Panics
    /// When the hub is not in this process, or the device not connected to it.
    pub fn crash_device(&self, id: &str) {
        let id = id.parse().expect("a device id");
        assert!(self.hub().faults().crash_device(id), "the device is not connected");
    }

    /// The names of the hub's services.
    pub fn services(&self) -> Vec<&'static str> {
        self.hub().faults().services()
    }

    /// Makes a service panic.
    pub fn crash_service(&self, name: &str) {
        assert!(self.hub().faults().crash_service(name), "there is no service {name}");
    }

    /// How often a service was restarted.
    pub fn restarts(&self, name: &str) -> u64 {
        self.hub().faults().restarts(name).expect("there is such a service")
    }

    /// The connections of a device as the hub has written them down, newest first.
    ///
    /// # Panics
    /// When the hub is not in this process, or its database does not answer.
    pub async fn written_connections(&self, device: &str) -> Vec<WrittenConnection> {
        let connections = self.hub().storage().connections.clone();
        let history = connections.history(device.parse().expect("a device's id"), 100).await.expect("it answers");
        history
            .into_iter()
            .map(|past| WrittenConnection {
                address: past.address,
                bytes: (past.bytes_in, past.bytes_out),
                has_round_trip: past.round_trip.is_some(),
                reason: past.reason,
            })
            .collect()
    }

    /// The stored hash of a user's password.
    ///
    /// # Panics
    /// When the hub is not in this process, or there is no such user.
    pub async fn password_hash(&self, email: &str) -> String {
        let found = self.hub().storage().users.find_by_email(email).await.expect("it answers");
        found.expect("there is such a user").password_hash
    }

    fn hub(&self) -> &hub::Hub {
        match &self.running {
            Running::Inside(hub) => hub.as_deref().expect("it runs"),
            Running::Process(_) => panic!("only a hub in this process can be broken from the inside"),
        }
    }

    /// Stops it in good order and waits until it has stopped.
    pub async fn stop(mut self) -> Site {
        match &mut self.running {
            Running::Inside(hub) => {
                let hub = hub.take().expect("it runs");
                let stopping = tokio::task::spawn_blocking(move || hub.stop());
                within(LIMIT, "the hub to stop", stopping).await.expect("the stop does not panic");
            }
            Running::Process(process) => {
                process.signal("TERM");
                process.end(LIMIT).await;
            }
        }
        self.site.clone()
    }

    /// The child process.
    ///
    /// # Panics
    /// When the hub is in this process.
    pub fn child(&mut self) -> &mut Process {
        match &mut self.running {
            Running::Process(process) => process,
            Running::Inside(_) => panic!("this hub is no child process"),
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child().kill();
    }

    /// Waits until the child process has ended by itself.
    pub async fn end(&mut self, limit: Duration) -> ExitStatus {
        self.child().end(limit).await
    }

    /// Memory of the child process that no file backs, in bytes: its heap and stacks.
    pub fn anonymous_memory(&mut self) -> u64 {
        let path = format!("/proc/{}/status", self.child().pid());
        let status = std::fs::read_to_string(path).expect("the hub runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel says so");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kilobytes * 1024
    }
}

impl Deref for TestHub {
    type Target = Door;

    fn deref(&self) -> &Door {
        &self.door
    }
}

impl Drop for TestHub {
    fn drop(&mut self) {
        let Running::Inside(hub) = &mut self.running else { return };
        let Some(hub) = hub.take() else { return };
        // The site's database goes next, so this waits; but not for ever, since a hub that does not stop is a finding.
        let (done, stopped) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(hub);
            // Whoever waited may have given up.
            let _ = done.send(());
        });
        let in_time = stopped.recv_timeout(LIMIT).is_ok();
        // A second panic would end all tests.
        assert!(in_time || std::thread::panicking(), "the hub does not stop");
    }
}
