//! Real Postgres and Redis servers, started by this binary for itself.
//!
//! Each server is the child of a shell that waits for the end of its input and then kills it. The pipe closes when the
//! handle is dropped, and also when this process ends in whatever way, so no server outlives the tests.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to accept connections.
const START_LIMIT: Duration = Duration::from_mins(1);

/// Runs the command given as arguments until its standard input ends. A line `freeze` or `thaw` there stops or
/// continues it.
const GUARD: &str = r#"
"$@" </dev/null >"$GUARD_LOG" 2>&1 &
child=$!
while read -r word; do
  case $word in
    freeze) kill -STOP $child ;;
    thaw) kill -CONT $child ;;
  esac
done
kill -CONT $child 2>/dev/null
kill -"$GUARD_SIGNAL" $child 2>/dev/null
wait $child
if [ -n "$GUARD_REMOVE" ]; then rm -rf "$GUARD_REMOVE"; fi
"#;

/// A process that ends with this handle, at the latest with the tests.
struct Guarded {
    shell: Child,
}

impl Guarded {
    fn start(command: &[&str], signal: &str, directory: &Path, remove: bool) -> Self {
        let shell = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .args(command)
            .env("GUARD_LOG", directory.join("log"))
            .env("GUARD_SIGNAL", signal)
            .env("GUARD_REMOVE", if remove { directory.as_os_str() } else { "".as_ref() })
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell starts");
        Self { shell }
    }

    fn say(&mut self, word: &str) {
        let input = self.shell.stdin.as_mut().expect("the shell's input is a pipe");
        writeln!(input, "{word}").expect("the shell listens");
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// A Postgres server with its own data, reached through a socket in its own directory.
pub struct Postgres {
    directory: PathBuf,
    /// Statics are never dropped: the guard of the shared server cleans up.
    is_shared: bool,
    server: Option<Guarded>,
}

impl Postgres {
    /// The server that cases share; each has a database of its own in it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::make(true))
    }

    /// Another server, for a case that stops it.
    pub fn start() -> Self {
        Self::make(false)
    }

    fn make(is_shared: bool) -> Self {
        let directory = TempDir::with_prefix("mooring-postgres-").expect("a temporary directory").keep();
        allow_everybody(&directory);
        let data = directory.join("data");
        let mut initdb = as_server_user(&[&postgres_binary("initdb"), "-D", text(&data)], &directory);
        initdb.args(["-U", "mooring", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]);
        let made = initdb.output().expect("initdb starts");
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        let mut postgres = Self { directory, is_shared, server: None };
        postgres.resume();
        postgres
    }

    /// Starts it again after [`Postgres::stop`].
    pub fn resume(&mut self) {
        let data = self.directory.join("data");
        let binary = postgres_binary("postgres");
        let mut command = server_user_prefix();
        command.extend([binary.as_str(), "-D", text(&data), "-k", text(&self.directory)]);
        command.extend(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200"]);
        command.extend(["-c", "shared_buffers=64MB"]);
        // The signal of a fast shutdown: clients are cut off, nothing waits for them.
        self.server = Some(Guarded::start(&command, "INT", &self.directory, self.is_shared));
        let ready = || {
            let mut ask = Command::new(postgres_binary("pg_isready"));
            ask.args(["-h", text(&self.directory)]).output().expect("pg_isready starts").status.success()
        };
        wait_until("postgres accepts connections", &self.directory, ready);
    }

    /// Stops it at once; connections break.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// URL of a new, empty database in it.
    pub fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("case_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut create = Command::new(postgres_binary("createdb"));
        create.args(["-h", text(&self.directory), "-U", "mooring", &name]);
        let created = create.output().expect("createdb starts");
        assert!(created.status.success(), "createdb failed: {}", String::from_utf8_lossy(&created.stderr));
        format!("postgres://mooring@localhost/{name}?host={}", text(&self.directory))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A Redis server of one case, reached through a socket in its own directory. It keeps nothing when it stops.
pub struct Redis {
    directory: TempDir,
    server: Option<Guarded>,
}

impl Redis {
    pub fn start() -> Self {
        let directory = TempDir::with_prefix("mooring-redis-").expect("a temporary directory");
        let mut redis = Self { directory, server: None };
        redis.resume();
        redis
    }

    /// Starts it again after [`Redis::stop`].
    pub fn resume(&mut self) {
        let socket = self.socket();
        let directory = self.directory.path();
        let command = ["redis-server", "--port", "0", "--unixsocket", text(&socket), "--dir", text(directory)];
        let command = [&command[..], &["--save", "", "--appendonly", "no"]].concat();
        self.server = Some(Guarded::start(&command, "KILL", directory, false));
        let ready = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
        wait_until("redis accepts connections", directory, ready);
    }

    /// Kills it; connections break and everything in it is lost.
    pub fn stop(&mut self) {
        self.server = None;
        let _ = std::fs::remove_file(self.socket());
    }

    /// Keeps it from answering, with its connections open.
    pub fn freeze(&mut self) {
        self.server.as_mut().expect("it runs").say("freeze");
    }

    /// Lets it go on.
    pub fn thaw(&mut self) {
        self.server.as_mut().expect("it runs").say("thaw");
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", text(&self.socket()))
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }
}

fn wait_until(what: &str, directory: &Path, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        let log = || std::fs::read_to_string(directory.join("log")).unwrap_or_default();
        assert!(begun.elapsed() < START_LIMIT, "waited in vain until {what}; its log:\n{}", log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Where a Postgres program is: in the path, or where Debian puts it. A missing one is a failure, not a reason to skip.
fn postgres_binary(name: &str) -> String {
    let mut places: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    versions.sort();
    places.extend(versions.into_iter().rev());
    let found = places.into_iter().map(|place| place.join(name)).find(|binary| binary.is_file());
    let found = found.unwrap_or_else(|| panic!("{name} is neither in the path nor in /usr/lib/postgresql/*/bin"));
    text(&found).to_owned()
}

/// Postgres refuses to run as root.
fn server_user_prefix() -> Vec<&'static str> {
    static USER: OnceLock<Option<String>> = OnceLock::new();
    let user = USER.get_or_init(|| {
        let output = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().expect("id starts");
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let is_root = output("id", &["-u"]).as_deref() == Some("0");
        let candidate = ["postgres", "nobody"].into_iter().find(|name| output("id", &["-u", name]).is_some());
        is_root.then(|| candidate.expect("a user other than root").to_owned())
    });
    match user {
        Some(user) => vec!["setpriv", "--reuid", user.as_str(), "--clear-groups", "--"],
        None => Vec::new(),
    }
}

fn as_server_user(arguments: &[&str], directory: &Path) -> Command {
    let words: Vec<&str> = server_user_prefix().into_iter().chain(arguments.iter().copied()).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(directory);
    command
}

/// The server's user writes its data and its socket into this directory.
fn allow_everybody(directory: &Path) {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o777)).expect("own directory");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}
