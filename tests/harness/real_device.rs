//! A device made of the unmodified `mender-client` and `mender-connect` packages, headless.
//!
//! Three processes: a D-Bus daemon of its own, `mender-connect`, `mender`. The client reads three files from fixed places;
//! it gets them in a mount namespace of its own, so that the machine keeps its files and devices do not share theirs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backends::is_root;
use crate::door::Door;
use crate::key::Key;
use crate::process::{Process, run};
use crate::tls::Certificate;
use crate::user::TestUser;
use crate::wait::{LIMIT, wait_until};
use crate::workspace::temporary_directory;

/// The places of the client's fixed files, and what our copies are called.
const FIXED: [(&str, &str); 4] = [
    ("etc", "/etc/mender"),
    ("identity", "/usr/share/mender/identity"),
    ("inventory", "/usr/share/mender/inventory"),
    ("modules", MODULES),
];

/// Where the package has what installs updates.
const MODULES: &str = "/usr/share/mender/modules/v3";

/// The agent may wait for ten seconds twice before it looks whether it could connect.
const CONNECT_LIMIT: Duration = Duration::from_mins(1);

/// Between two questions of a client that is to notice by itself what there is.
const EAGER: Duration = Duration::from_secs(5);

/// Where the client keeps its key, and how large the one is that it makes.
const KEY: &str = "data/mender-agent.pem";
const KEY_BITS: u32 = 3072;

/// Name of the file with the configuration of a device.
const CONFIGURATION: &str = "device-config.json";

/// Keeps a configuration as it came, and the one before in case that has to come back.
const CONFIGURE: &str = r#"#!/bin/sh
set -e
case "$1" in
SupportsRollback) echo Yes ;;
ArtifactInstall)
    [ ! -e CONFIGURATION ] || cp CONFIGURATION "$2/before"
    cp "$2/header/meta-data" CONFIGURATION
    ;;
ArtifactRollback) [ ! -e "$2/before" ] || cp "$2/before" CONFIGURATION ;;
esac
"#;

/// Sends the configuration where the client's own requests go, with the client's token.
const REPORT: &str = r#"#!/bin/sh
set -e
[ -e CONFIGURATION ] || exit 0
reply=$(dbus-send --system --print-reply --dest=io.mender.AuthenticationManager \
    /io/mender/AuthenticationManager io.mender.Authentication1.GetJwtToken | sed -n 's/^ *string "\(.*\)"$/\1/p')
token=$(echo "$reply" | sed -n 1p)
server=$(echo "$reply" | sed -n 2p)
curl -sSf -X PUT -H "Authorization: Bearer $token" -H "Content-Type: application/json" -d @CONFIGURATION \
    "$server/api/devices/v1/deviceconfig/configuration" >&2
"#;

/// A running device.
pub struct RealDevice {
    directory: PathBuf,
    mac: String,
    client: Process,
    connect: Process,
    _bus: Process,
}

impl RealDevice {
    /// Starts one that knows this address.
    pub async fn start(door: &Door) -> Self {
        Self::start_with(door, None, &json!({}), EAGER).await
    }

    /// Starts one that has no key yet and makes its own, for which it may take minutes on a busy machine.
    pub async fn start_without_key(door: &Door) -> Self {
        Self::start_in(temporary_directory(), door, None, &json!({}), EAGER).await
    }

    /// Starts one that asks for updates, and sends its inventory, every half hour, as it does unless it is told otherwise.
    pub async fn start_patient(door: &Door) -> Self {
        Self::start_with(door, None, &json!({}), Duration::from_mins(30)).await
    }

    /// Starts one that trusts this certificate.
    pub async fn start_trusting(door: &Door, certificate: &Certificate) -> Self {
        Self::start_with(door, Some(certificate), &json!({}), EAGER).await
    }

    /// Starts one whose `mender-connect` has these settings beside the usual ones.
    pub async fn start_configured(door: &Door, settings: &Value) -> Self {
        Self::start_with(door, None, settings, EAGER).await
    }

    async fn start_with(door: &Door, certificate: Option<&Certificate>, settings: &Value, interval: Duration) -> Self {
        let directory = temporary_directory();
        let key = directory.join(KEY);
        std::fs::create_dir_all(key.parent().expect("a folder")).expect("a directory can be made");
        Key::rsa(KEY_BITS).save(&key);
        Self::start_in(directory, door, certificate, settings, interval).await
    }

    async fn start_in(
        directory: PathBuf,
        door: &Door,
        certificate: Option<&Certificate>,
        settings: &Value,
        interval: Duration,
    ) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mac = format!("06:00:00:00:{:02x}:{:02x}", number >> 8 & 0xff, number & 0xff);
        write_files(&directory, &client_settings(&directory, door, certificate, interval), settings);

        let socket = directory.join("bus.sock");
        let mut bus = Command::new("dbus-daemon");
        bus.arg(format!("--config-file={}/bus.conf", directory.display())).args(["--nofork", "--nopidfile"]);
        let bus = Process::start(&bus, &directory.join("bus.log"));
        wait_until(LIMIT, "the D-Bus daemon", async || socket.exists().then_some(())).await;

        // mender-connect learns the token by a signal, so it has to listen before the client speaks. Started the other
        // way round it waits ten seconds before it looks.
        let bus_address = format!("unix:path={}", socket.display());
        let mut connect = Command::new("mender-connect");
        connect.arg("--config").arg(directory.join("connect.conf")).args(["--debug", "daemon"]);
        connect.env("DBUS_SYSTEM_BUS_ADDRESS", &bus_address);
        let path = std::env::var("PATH").unwrap_or_default();
        connect.env("PATH", format!("{}:{path}", directory.join("bin").display()));
        let connect = Process::start(&connect, &directory.join("connect.log"));
        connect.printed("call to GetJWTToken", LIMIT).await;

        let client = Process::start(&client_command(&directory, &bus_address, &mac), &directory.join("client.log"));
        std::fs::write(directory.join("client.pid"), client.pid().to_string()).expect("a file can be written");
        Self { directory, mac, client, connect, _bus: bus }
    }

    /// Who it is.
    pub fn identity(&self) -> Value {
        json!({"mac": self.mac})
    }

    /// Waits until it has asked to join, lets `user` accept it, and waits until its websocket is there; its id.
    ///
    /// # Panics
    /// When it does not get that far; its log is in the message.
    pub async fn join(&self, user: &TestUser) -> String {
        let identity = self.identity();
        // Long enough for making a key on a busy machine.
        let deadline = Instant::now() + LIMIT * 4;
        while user.device_with(&identity).await.is_none() {
            assert!(Instant::now() < deadline, "a real device does not ask to join\n{}", self.client.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let id = user.accept(&identity).await;
        self.connected(user, &id, true).await;
        id
    }

    /// Waits until the hub says that it is connected, or that it is not.
    ///
    /// # Panics
    /// When that does not come; its log is in the message.
    pub async fn connected(&self, user: &TestUser, id: &str, wanted: bool) {
        let status = if wanted { "connected" } else { "disconnected" };
        let started = Instant::now();
        let mut is_told_again = false;
        loop {
            let answer = user.connection(id).await;
            if answer.status == 200 && answer.json()["status"] == status {
                return;
            }
            // On a busy machine the agent may miss the signal that there is a token, and would wait for the next for ever.
            if wanted && !is_told_again && self.connections() == 0 && started.elapsed() > CONNECT_LIMIT / 3 {
                is_told_again = true;
                self.renew_token().await;
            }
            assert!(
                started.elapsed() < CONNECT_LIMIT,
                "a real device is not {status}: {answer}\n{}\n{}",
                self.connect.log(),
                self.client.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes it send its inventory now.
    pub fn send_inventory(&self) {
        self.client.signal("USR2");
    }

    /// Makes it fetch another token. Its agent leaves its websocket for a new one because of that.
    ///
    /// # Panics
    /// When the client does not take the order.
    pub async fn renew_token(&self) {
        let manager = ["--dest=io.mender.AuthenticationManager", "/io/mender/AuthenticationManager"];
        self.order(&[manager[0], manager[1], "io.mender.Authentication1.FetchJwtToken"]).await;
    }

    /// Tells it where to wait in updates, and where to go on. (Mender: update control map.)
    ///
    /// # Panics
    /// When the client does not take the order.
    pub async fn control_updates(&self, map: &Value) {
        let manager = ["--dest=io.mender.UpdateManager", "/io/mender/UpdateManager"];
        let map = format!("string:{map}");
        self.order(&[manager[0], manager[1], "io.mender.Update1.SetUpdateControlMap", &map]).await;
    }

    async fn order(&self, arguments: &[&str]) {
        let mut command = Command::new("dbus-send");
        command.args(["--system", "--print-reply"]).args(arguments);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", self.directory.join("bus.sock").display()));
        let output = run(&command, "", LIMIT).await;
        assert!(output.status.success(), "{output:?}\n{}", self.client.log());
    }

    /// How often its agent has connected.
    pub fn connections(&self) -> usize {
        self.connect.log().matches("Connection established with").count()
    }

    /// Waits until its agent has connected more often than that; how often it has.
    ///
    /// # Panics
    /// When it does not come back; its log is in the message.
    pub async fn connected_again(&self, before: usize) -> usize {
        let deadline = Instant::now() + CONNECT_LIMIT;
        loop {
            let now = self.connections();
            if now > before {
                return now;
            }
            assert!(Instant::now() < deadline, "a real device does not come back:\n{}", self.connect.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Brings it back soon after its websocket was lost, for which its agent would wait 10 to 21 s: another token is a
    /// reason to connect at once.
    ///
    /// # Panics
    /// When it does not come back.
    pub async fn back_soon(&self, before: usize) {
        // The client notices by itself that its own connection is gone, and may be asking already.
        self.renew_token().await;
        self.connected_again(before).await;
    }

    /// `kill -9` for the program that holds the websocket.
    pub fn kill_connect(&mut self) {
        self.connect.kill();
    }

    /// What the client has logged.
    pub fn client_log(&self) -> String {
        self.client.log()
    }

    /// Waits until the client has logged this.
    pub async fn client_logs(&self, text: &str, limit: Duration) {
        self.client.printed(text, limit).await;
    }

    /// Waits until the agent that holds the websocket has logged this.
    pub async fn connect_logs(&self, text: &str, limit: Duration) {
        self.connect.printed(text, limit).await;
    }

    /// The configuration that it was brought last, as it keeps it.
    pub fn configuration(&self) -> Option<Value> {
        let text = std::fs::read(self.directory.join(CONFIGURATION)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// A file on the device, for its shell to write.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn client_command(directory: &Path, bus_address: &str, mac: &str) -> Command {
    let mounts = FIXED.map(|(ours, theirs)| format!("mount --bind {}/{ours} {theirs}", directory.display()));
    let script = format!("{} && exec mender \"$@\"", mounts.join(" && "));
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !is_root() {
        command.arg("--map-root-user");
    }
    command.args(["sh", "-c", &script, "mender"]);
    command.arg("--config").arg(directory.join("mender.conf"));
    // Keeps a stray configuration of the machine out of the test.
    command.arg("--fallback-config").arg(directory.join("none"));
    command.arg("--data").arg(directory.join("data")).args(["--no-syslog", "daemon"]);
    command.env("DBUS_SYSTEM_BUS_ADDRESS", bus_address).env("TEST_MAC", mac);
    command
}

fn client_settings(directory: &Path, door: &Door, certificate: Option<&Certificate>, interval: Duration) -> Value {
    let mut client = json!({
        "ServerURL": door.url(),
        "UpdatePollIntervalSeconds": interval.as_secs(),
        "InventoryPollIntervalSeconds": interval.as_secs(),
        "RetryPollIntervalSeconds": 1,
        "DeviceTypeFile": directory.join("device_type"),
        "TenantToken": "",
    });
    if let Some(certificate) = certificate {
        client["ServerCertificate"] = json!(certificate.file());
    }
    client
}

fn write_files(directory: &Path, client: &Value, settings: &Value) {
    for name in ["bin", "data", "etc", "identity", "inventory", "modules"] {
        std::fs::create_dir_all(directory.join(name)).expect("a directory can be made");
    }
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).expect("a file can be written");
    write("etc/artifact_info", "artifact_name=e2e-0\n");
    write("device_type", "device_type=e2e\n");
    write("identity/mender-device-identity", "#!/bin/sh\necho \"mac=$TEST_MAC\"\n");
    write("inventory/mender-inventory-e2e", "#!/bin/sh\necho 'e2e_one=1'\necho 'e2e_list=a'\necho 'e2e_list=b'\n");
    // Commands to the client (`mender check-update`) ask the service manager which process to signal; here there is none.
    write("bin/systemctl", &format!("#!/bin/sh\necho MainPID=$(cat {}/client.pid)\n", directory.display()));
    for module in std::fs::read_dir(MODULES).expect("the package has update modules").flatten() {
        std::fs::copy(module.path(), directory.join("modules").join(module.file_name())).expect("a file can be copied");
    }
    // What Debian does not ship: the installer of configurations, and what reports them.
    let configuration = directory.join(CONFIGURATION).display().to_string();
    write("modules/mender-configure", &CONFIGURE.replace("CONFIGURATION", &configuration));
    write("inventory/mender-inventory-mender-configure", &REPORT.replace("CONFIGURATION", &configuration));
    for script in [
        "identity/mender-device-identity",
        "inventory/mender-inventory-e2e",
        "inventory/mender-inventory-mender-configure",
        "modules/mender-configure",
        "bin/systemctl",
    ] {
        make_executable(&directory.join(script));
    }
    let socket = directory.join("bus.sock");
    write("bus.conf", &BUS_CONFIG.replace("SOCKET", &socket.display().to_string()));
    write("mender.conf", &client.to_string());
    let mut connect = json!({
        // Plain sh: bash would put escape sequences between the lines.
        "ShellCommand": "/bin/sh",
        "ShellArguments": [],
        "User": whoami(),
        "ReconnectIntervalSeconds": 1,
        "Sessions": {"MaxPerUser": 10},
        "Terminal": {"Width": 80, "Height": 24},
    });
    for (name, value) in settings.as_object().into_iter().flatten() {
        connect[name] = value.clone();
    }
    write("connect.conf", &connect.to_string());
}

fn whoami() -> String {
    let output = Command::new("id").arg("-un").output().expect("id is everywhere");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
}

const BUS_CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/>
    <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>
"#;
