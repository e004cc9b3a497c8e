//! `mooring demo`: everything on one machine, to see it work within a minute.
//!
//! A hub, its first user, and a device that is this machine: its shell, files and ports are those of the person who runs
//! the demo. All of it lives in one folder; a second run finds the same user and the same device.

use super::{
    operator::{Operator, TokenStore},
    private_file,
};
use crate::{
    Config, Hub,
    config::{LogConfig, LogFormat, create_private_directory},
    shutdown::Signals,
    telemetry,
};
use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use loadtest::{
    DeviceHandle, DeviceKey, DeviceSettings, PtyCommand, Server, Services, Shell, SimulatedDevice,
    operator::Operator as Admitter,
};
use rand::distr::{Alphanumeric, SampleString};
use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use url::Url;

const EMAIL: &str = "demo@mooring.local";
const DEVICE_NAME: &str = "demo";
const PASSWORD_LENGTH: usize = 24;
/// The usual port, and so many after it are tried.
const FIRST_PORT: u16 = 8080;
const PORTS_TRIED: u16 = 100;
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// How long shells may take to end when the demo does.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);

/// How to run the demo.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Folder for everything the demo keeps [default: ~/.local/share/mooring/demo]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Runs the demo until SIGINT or SIGTERM.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let directory = arguments.data_dir.clone().map_or_else(default_directory, Ok)?;
    create_private_directory(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let _lock = lock(&directory)?;
    let filter = std::env::var("MOORING_LOG").unwrap_or_else(|_| "warn".to_owned());
    telemetry::start_logging(&LogConfig { filter, format: LogFormat::Human })?;
    let signals = Signals::catch()?;

    let (hub, port) = start_hub(&directory)?;

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.context("cannot start a runtime for the demo's device")?;
    let demo = runtime.block_on(set_up(&hub, &directory))?;
    print!("{}", demo.introduction(port, &directory));
    signals.wait();
    println!("stopping …");
    hub.stop();
    drop(demo);
    runtime.shutdown_timeout(GOODBYE_LIMIT);
    Ok(())
}

struct Demo {
    base: Url,
    device: String,
    _running: DeviceHandle,
}

async fn set_up(hub: &Hub, directory: &Path) -> anyhow::Result<Demo> {
    let base = Url::parse(&format!("http://{}", hub.address())).context("cannot make a URL of the hub's address")?;
    let password =
        kept_secret(&directory.join("password"), || Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_LENGTH))?;
    let operator = match Operator::log_in_with(base.clone(), EMAIL, &password).await {
        Ok(operator) => operator,
        Err(_no_such_user_yet) => {
            hub.accounts()
                .add_user(EMAIL, &password, None)
                .await
                .with_context(|| format!("cannot add {EMAIL}; to start afresh, remove {}", directory.display()))?;
            Operator::log_in_with(base.clone(), EMAIL, &password).await?
        }
    };
    TokenStore::of(&base)?.write(operator.token())?;

    let server = Server::at(base.as_str()).await?;
    let settings = Arc::new(DeviceSettings {
        shells_per_user: loadtest::terminals::SHELLS_PER_DEVICE,
        services: Services::of_this_machine(),
        join_interval: Duration::from_secs(1),
        longest_wait: Duration::from_secs(5),
        ..DeviceSettings::new(server.clone(), Shell::Pty(PtyCommand::of_this_user()))
    });
    let device = SimulatedDevice::new(settings.clone(), identity(directory)?, device_key(directory)?, None);
    let admitter = Admitter::log_in(&server, EMAIL, &password).await?;
    let id = admitter.admit(device.identity(), &device.public_pem()).await?;
    let running = device.start();
    let connected = settings.progress.wait_until(|progress| progress.connected() == 1);
    if tokio::time::timeout(CONNECT_LIMIT, connected).await.is_err() {
        let trouble = settings.progress.last_trouble().unwrap_or_else(|| "it does not say why".to_owned());
        bail!("the demo device does not connect: {trouble}");
    }
    Ok(Demo { base, device: id, _running: running })
}

impl Demo {
    fn introduction(&self, port: u16, directory: &Path) -> String {
        let program = how_to_call_this_program();
        let (busy, server) = if port == FIRST_PORT {
            (String::new(), String::new())
        } else {
            let busy = format!("Port {FIRST_PORT} is taken, so the hub listens on {port}.\n");
            (busy, format!(" --server {}", self.base.as_str().trim_end_matches('/')))
        };
        format!(
            "
{busy}The demo runs: a hub at {hub}, and one device, {DEVICE_NAME} ({device}),
which is this machine: its shell, its files and its ports, with your rights.

Try this now, in another terminal:

    {program} terminal {DEVICE_NAME}{server}

  `exit` leaves, Ctrl-] opens a menu. You are logged in already; also try

    {program} devices{server}

  User {EMAIL}, password in {password}.
  Everything is kept in {directory}.

Ctrl-C here stops the demo.
",
            hub = self.base,
            device = self.device,
            password = directory.join("password").display(),
            directory = directory.display(),
        )
    }
}

fn default_directory() -> anyhow::Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    Ok(data.context("there is no place for the demo: give --data-dir")?.join("mooring/demo"))
}

/// Two demos in one folder would fight for the same device.
fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join("demo.lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if file.try_lock().is_err() {
        bail!("a demo runs in {} already: stop it, or give another --data-dir", directory.display());
    }
    Ok(file)
}

fn start_hub(directory: &Path) -> anyhow::Result<(Hub, u16)> {
    let mut first = FIRST_PORT;
    loop {
        let port = free_port(first)?;
        let mut config = Config { data_dir: directory.to_owned(), ..Config::default() };
        config.api.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        config.settle_in()?;
        match Hub::start(config) {
            Ok(hub) => return Ok((hub, port)),
            // Somebody else was faster, such as another demo.
            Err(error) if is_about_a_taken_port(&error) => first = port + 1,
            Err(error) => return Err(error),
        }
    }
}

fn free_port(first: u16) -> anyhow::Result<u16> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let last = FIRST_PORT + PORTS_TRIED;
    (first..last).find(is_free).with_context(|| format!("no port from {FIRST_PORT} to {last} is free"))
}

fn is_about_a_taken_port(error: &anyhow::Error) -> bool {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.into_iter().any(|cause| cause.kind() == io::ErrorKind::AddrInUse)
}

/// The secret in the file, made first if it is not there.
fn kept_secret(path: &Path, make: impl FnOnce() -> String) -> anyhow::Result<String> {
    if let Some(secret) = private_file::read(path)?.filter(|secret| !secret.is_empty()) {
        return Ok(secret);
    }
    let secret = make();
    private_file::write(path, &secret)?;
    Ok(secret)
}

fn device_key(directory: &Path) -> anyhow::Result<DeviceKey> {
    let path = directory.join("device.key");
    let text = kept_secret(&path, || STANDARD.encode(DeviceKey::random().seed()))?;
    let seed = STANDARD.decode(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let seed = seed.with_context(|| format!("{} holds no key: remove it to get a new one", path.display()))?;
    Ok(DeviceKey::from_seed(seed))
}

fn identity(directory: &Path) -> anyhow::Result<String> {
    // Locally administered, so it is nobody's real address.
    let make = || {
        let random: [u8; 5] = rand::random();
        random.iter().fold("02".to_owned(), |address, byte| format!("{address}:{byte:02x}"))
    };
    let mac = kept_secret(&directory.join("device.mac"), make)?;
    Ok(serde_json::json!({ "mac": mac, "name": DEVICE_NAME }).to_string())
}

/// `mooring` where that finds this very program, otherwise its path.
fn how_to_call_this_program() -> String {
    let Ok(program) = std::env::current_exe() else { return "mooring".to_owned() };
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&search).map(|folder| folder.join("mooring")).find(|path| path.is_file());
    if found.and_then(|path| path.canonicalize().ok()) == Some(program.clone()) {
        return "mooring".to_owned();
    }
    let here = std::env::current_dir().ok().and_then(|here| program.strip_prefix(here).ok().map(Path::to_owned));
    here.unwrap_or(program).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_finds_the_same_device() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = (identity(directory.path()).expect("an identity"), device_key(directory.path()).expect("a key"));
        let second = (identity(directory.path()).expect("an identity"), device_key(directory.path()).expect("a key"));

        assert_eq!(first.0, second.0);
        assert_eq!(first.1.seed(), second.1.seed());
        assert!(first.0.contains(r#""name":"demo""#), "{}", first.0);
    }

    #[test]
    fn a_port_that_somebody_else_has_taken_is_told_from_other_errors() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let error = TcpListener::bind(taken.local_addr().expect("an address")).expect_err("taken");
        assert!(is_about_a_taken_port(&anyhow::Error::new(error).context("cannot listen")));
        assert!(!is_about_a_taken_port(&anyhow::anyhow!("cannot open the database")));
    }

    #[test]
    fn two_demos_do_not_share_a_folder() {
        let directory = tempfile::tempdir().expect("a directory");
        let _running = lock(directory.path()).expect("the first");
        assert!(lock(directory.path()).expect_err("refused").to_string().contains("already"));
    }
}
