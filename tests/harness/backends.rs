//! The two sets of backends, and the private servers behind the second one.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::ports::free_port;
use crate::process::Process;
use crate::site::Site;
use crate::workspace::temporary_directory;
use crate::{Settings, TestHub};

/// Which backends a story runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// What a hub without any settings has: `SQLite` and everything else in the process.
    Embedded,
    /// Postgres, Redis, NATS and S3.
    Production,
}

impl Set {
    /// A fresh place for hubs of one story.
    pub async fn site(self) -> Site {
        // Starting servers and making databases blocks.
        tokio::task::spawn_blocking(move || Site::new(self)).await.expect("a fresh place can be made")
    }

    /// A hub in this process, in a place of its own.
    pub async fn hub(self) -> TestHub {
        self.hub_with(|_| {}).await
    }

    /// The same, with settings changed.
    pub async fn hub_with(self, change: impl FnOnce(&mut hub::Config)) -> TestHub {
        self.site().await.hub_with(change).await
    }

    /// A hub as a child process, in a place of its own.
    pub async fn process(self, settings: &Settings) -> TestHub {
        self.site().await.process(settings).await
    }
}

/// The private servers, started by the first story that needs them.
pub struct Servers {
    postgres: Process,
    postgres_port: u16,
    redis_port: u16,
    nats_port: u16,
    _redis: Process,
    _nats: Process,
}

impl Servers {
    /// Those of this test process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Servers> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn start() -> Self {
        let directory = temporary_directory();
        let [postgres_port, redis_port, nats_port] = [free_port(), free_port(), free_port()];
        init_postgres(&directory);
        let postgres = start_postgres(&directory, postgres_port);
        let redis = start_redis(&directory, redis_port);
        let nats = start_nats(&directory, nats_port);
        Self { postgres, postgres_port, redis_port, nats_port, _redis: redis, _nats: nats }
    }

    /// A fresh database.
    pub fn create_database(&self, name: &str) -> String {
        self.administer("createdb", &["--template=template0", name]);
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.postgres_port)
    }

    /// Removes a database, whoever still uses it.
    pub fn drop_database(&self, name: &str) {
        self.administer("dropdb", &["--force", name]);
    }

    fn administer(&self, program: &str, arguments: &[&str]) {
        let port = self.postgres_port.to_string();
        let output = Command::new(postgres_program(program))
            .args(["--host=127.0.0.1", "--username=postgres", "--port", &port])
            .args(arguments)
            .output()
            .expect("the Postgres clients are installed (tests/setup.sh)");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {errors}\n{}", self.postgres.log());
    }

    /// A Redis of which nothing else uses the numbered database.
    pub fn redis_url(&self, database: u32) -> String {
        format!("redis://127.0.0.1:{}/{database}", self.redis_port)
    }

    /// The NATS server.
    pub fn nats_url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.nats_port)
    }
}

/// Where the servers of a place are.
pub struct ServerUrls {
    pub(crate) database: String,
    pub(crate) redis: String,
    pub(crate) nats: String,
}

/// A server that can be away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The database.
    Postgres,
    /// Presence.
    Redis,
    /// The bus between nodes.
    Nats,
}

/// Servers of one story's own, which it may end and start again.
pub struct OwnServers {
    directory: PathBuf,
    ports: [u16; 3],
    running: [Option<Process>; 3],
}

impl OwnServers {
    /// Starts them.
    ///
    /// # Panics
    /// When one does not start.
    pub async fn start() -> Self {
        let starting = tokio::task::spawn_blocking(|| {
            let directory = temporary_directory();
            init_postgres(&directory);
            let mut this =
                Self { directory, ports: [free_port(), free_port(), free_port()], running: [None, None, None] };
            for backend in [Backend::Postgres, Backend::Redis, Backend::Nats] {
                this.run(backend);
            }
            this
        });
        starting.await.expect("the servers start")
    }

    /// A fresh place in them. There can be one.
    pub fn site(&self) -> Site {
        let [postgres, redis, nats] = self.ports;
        Site::in_servers(ServerUrls {
            database: format!("postgres://postgres@127.0.0.1:{postgres}/postgres"),
            redis: format!("redis://127.0.0.1:{redis}/0"),
            nats: format!("nats://127.0.0.1:{nats}"),
        })
    }

    fn run(&mut self, backend: Backend) {
        let port = self.ports[backend as usize];
        let process = match backend {
            Backend::Postgres => start_postgres(&self.directory, port),
            Backend::Redis => start_redis(&self.directory, port),
            Backend::Nats => start_nats(&self.directory, port),
        };
        self.running[backend as usize] = Some(process);
    }

    /// Ends a server at once, without letting it put anything in order.
    ///
    /// # Panics
    /// When it is not running.
    pub async fn kill(&mut self, backend: Backend) {
        let mut process = self.running[backend as usize].take().expect("it runs");
        if backend == Backend::Postgres {
            // Takes its children with it, which would outlive a plain kill and keep its memory.
            process.signal("QUIT");
            process.end(START_LIMIT).await;
        } else {
            process.kill();
        }
    }

    /// Lets a server say and hear nothing until [`Self::thaw`]: it is there, but does not answer. Not for Postgres, which
    /// is many processes.
    ///
    /// # Panics
    /// When it is not running.
    pub fn freeze(&self, backend: Backend) {
        self.running[backend as usize].as_ref().expect("it runs").signal("STOP");
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When it is not running.
    pub fn thaw(&self, backend: Backend) {
        self.running[backend as usize].as_ref().expect("it runs").signal("CONT");
    }

    /// Starts a server again, where it was and with what is on its disk.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(mut self, backend: Backend) -> Self {
        let starting = tokio::task::spawn_blocking(move || {
            self.run(backend);
            self
        });
        starting.await.expect("the server starts")
    }
}

/// How long a server may take to start.
const START_LIMIT: Duration = Duration::from_mins(1);

/// Redis databases of one server: one per site.
pub const REDIS_DATABASES: u32 = 4096;

/// A command of Postgres, which refuses to run as root.
fn as_postgres(program: &str, data: &Path) -> Command {
    let is_root = is_root();
    let mut command = Command::new(if is_root { PathBuf::from("setpriv") } else { postgres_program(program) });
    if is_root {
        let (user, group) = (format!("--reuid={}", postgres_user()), format!("--regid={}", postgres_group()));
        command.args([&user, &group, "--clear-groups", "--pdeathsig", "KILL"]);
        command.arg(postgres_program(program));
    }
    command.current_dir(data);
    command
}

fn init_postgres(directory: &Path) {
    let data = directory.join("postgres");
    std::fs::create_dir(&data).expect("a directory can be made");
    if is_root() {
        let status = Command::new("chown").arg(postgres_user()).arg(&data).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot give {} to {}", data.display(), postgres_user());
    }
    let init = as_postgres("initdb", &data)
        .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--pgdata"])
        .arg(&data)
        .output()
        .expect("Postgres is installed (tests/setup.sh)");
    assert!(init.status.success(), "initdb: {}", String::from_utf8_lossy(&init.stderr));
}

fn start_postgres(directory: &Path, port: u16) -> Process {
    let data = directory.join("postgres");
    let mut server = as_postgres("postgres", &data);
    server.arg("-D").arg(&data).args(["-p", &port.to_string(), "-k", "", "-h", "127.0.0.1"]);
    // Nothing here has to survive a power failure; what was committed does survive the death of the server.
    for setting in ["fsync=off", "full_page_writes=off", "max_connections=400"] {
        server.args(["-c", setting]);
    }
    let process = Process::start(&server, &directory.join("postgres.log"));
    wait_for_listener("postgres", port, &process);
    // It listens before it serves.
    let deadline = Instant::now() + START_LIMIT;
    let ready = || {
        Command::new(postgres_program("pg_isready"))
            .args(["--quiet", "--host=127.0.0.1", "--port", &port.to_string()])
            .status()
            .is_ok_and(|status| status.success())
    };
    while !ready() {
        assert!(Instant::now() < deadline, "Postgres does not get ready:\n{}", process.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    process
}

fn start_redis(directory: &Path, port: u16) -> Process {
    let mut server = Command::new("redis-server");
    server.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()]);
    server.args(["--databases", &REDIS_DATABASES.to_string()]).current_dir(directory);
    let process = Process::start(&server, &directory.join("redis.log"));
    wait_for_listener("redis-server", port, &process);
    process
}

fn start_nats(directory: &Path, port: u16) -> Process {
    let mut server = Command::new("nats-server");
    server.args(["-a", "127.0.0.1", "-p", &port.to_string()]).current_dir(directory);
    let process = Process::start(&server, &directory.join("nats.log"));
    wait_for_listener("nats-server", port, &process);
    process
}

fn wait_for_listener(name: &str, port: u16, process: &Process) {
    let deadline = Instant::now() + START_LIMIT;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "{name} does not listen:\n{}", process.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Debian keeps the servers out of the path, one folder per version.
pub fn postgres_program(name: &str) -> PathBuf {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin").join(name)).collect())
        .unwrap_or_default();
    versions.retain(|path| path.is_file());
    versions.sort();
    versions.pop().unwrap_or_else(|| PathBuf::from(name))
}

/// Whether we may do what only root may.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|ourselves| ourselves.uid() == 0)
}

fn has_user(name: &str) -> bool {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    users.lines().any(|line| line.split(':').next() == Some(name))
}

fn postgres_user() -> &'static str {
    if has_user("postgres") { "postgres" } else { "nobody" }
}

fn postgres_group() -> &'static str {
    if has_user("postgres") { "postgres" } else { "nogroup" }
}
