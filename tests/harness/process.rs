//! Programs that end with the tests, whatever happens to the tests.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::wait::wait_until;

/// A running program. It is killed when this is dropped, and by the kernel when the test process dies first.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a program that has ended left behind.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Process {
    /// Starts a program; its output goes to the file `log`.
    ///
    /// # Panics
    /// When it cannot be started: everything the tests need is installed by `tests/setup.sh`.
    pub fn start(command: &Command, log: &Path) -> Self {
        Self::launch(command, log, Stdio::null())
    }

    /// Starts a program that is typed to, see [`Process::type_in`].
    pub fn start_interactive(command: &Command, log: &Path) -> Self {
        Self::launch(command, log, Stdio::piped())
    }

    fn launch(command: &Command, log: &Path, stdin: Stdio) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let output = File::create(log).expect("the log file can be made");
        let mut bound = bound_to_us(command);
        bound.stdin(stdin).stdout(output.try_clone().expect("a file handle")).stderr(output);
        let child = spawn(bound).unwrap_or_else(|error| panic!("cannot start {name}: {error} (run tests/setup.sh)"));
        Self { name, child, log: log.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Types into its standard input.
    pub fn type_in(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("it was started to be typed to");
        // A program that is gone already takes nothing; the test will see that by its output.
        let _ = stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush());
    }

    /// Sends it a signal by name: `KILL`, `TERM`, `USR1`.
    pub fn signal(&self, name: &str) {
        // The shell's own command: the program of that name is not everywhere.
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.pid())]).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot send {name} to {}", self.name);
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) {
        // It may have ended by itself, which is just as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// Waits until it has ended by itself.
    pub async fn end(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}; so far it said:\n{}", self.name, self.log());
        wait_until(limit, &what, async || self.ended()).await
    }

    /// Waits until it has printed something.
    pub async fn printed(&self, text: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "{} did not print {text:?} but:\n{}", self.name, self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a program to its end, with this on its standard input.
///
/// # Panics
/// When it cannot be started or does not end in time.
pub async fn run(command: &Command, input: &str, limit: Duration) -> Output {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut bound = bound_to_us(command);
    bound.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    let waiting = tokio::task::spawn_blocking(move || {
        let mut child = spawn(bound)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input to the end closes it.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    });
    let output = crate::wait::within(limit, &format!("the end of {name}"), waiting).await;
    let output = output.expect("the wait does not panic").unwrap_or_else(|error| panic!("cannot run {name}: {error}"));
    Output {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Removes `directory` once this process is gone: nobody calls the destructors of statics.
pub fn remove_after_us(directory: &Path) {
    // The pipe to its input closes when we die, by whatever cause; servers that die with us get a moment.
    let mut command = Command::new("sh");
    command.args(["-c", "cat >/dev/null; sleep 1; rm -rf \"$1\"", "sh"]).arg(directory);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    match spawn(command) {
        Ok(child) => std::mem::forget(child),
        Err(error) => eprintln!("cannot arrange for {} to be removed: {error}", directory.display()),
    }
}

/// The same command, killed by the kernel when we die.
fn bound_to_us(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        bound.current_dir(directory);
    }
    // Settings of the person who runs the tests are not the tests' settings.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
        if !command.get_envs().any(|(given, _)| given == name) {
            bound.env_remove(name);
        }
    }
    bound
}

fn is_ours(variable: &OsStr) -> bool {
    variable.to_string_lossy().starts_with("MOORING_")
}

/// Spawns on a thread that never ends: the kernel takes the end of the spawning *thread* for the death of the parent.
fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                // Whoever ordered waits for the reply.
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (reply, answer) = mpsc::channel();
    spawner.lock().expect("nobody panics with the lock").send((command, reply)).expect("the spawner never ends");
    answer.recv().expect("the spawner answers")
}
