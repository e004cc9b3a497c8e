//! The operator's commands as a person meets them: `forward`, `cp`, `terminal`, `sessions`, `play`.

use harness::{LIMIT, Mooring, Output, TerminalScreen, free_port, temporary_directory, wait_until, within};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// `mooring demo`, and a person with a terminal.
struct Demo {
    mooring: Mooring,
    screen: TerminalScreen,
    server: String,
    data: PathBuf,
}

impl Demo {
    async fn start() -> Self {
        let mooring = Mooring::alone();
        let data = temporary_directory();
        let screen = TerminalScreen::run(&mooring.command(&["demo", "--data-dir", data.to_str().unwrap()])).await;
        screen.shows("Try this now", LIMIT).await;
        let text = screen.text();
        let server = text.split("a hub at ").nth(1).and_then(|rest| rest.split([',', ' ', '\n']).next()).unwrap();
        let server = server.trim_end_matches('/').to_owned();
        Self { mooring, screen, server, data }
    }

    async fn run(&self, arguments: &[&str], input: &str) -> Output {
        self.mooring.run(&[arguments, &["--server", &self.server]].concat(), input).await
    }

    async fn on_a_screen(&self, arguments: &[&str]) -> TerminalScreen {
        TerminalScreen::run(&self.mooring.command(&[arguments, &["--server", &self.server]].concat())).await
    }

    async fn stop(self) {
        self.screen.press("C-c");
        self.screen.ended(LIMIT).await;
    }
}

/// Says back what it hears, on a port that the demo's device can reach, since that is on this machine.
async fn echo(tasks: &mut JoinSet<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reading, mut writing) = stream.split();
                let _ended = tokio::io::copy(&mut reading, &mut writing).await;
            });
        }
    });
    port
}

async fn said_back(address: SocketAddr, text: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text).await.unwrap();
    let mut answer = vec![0; text.len()];
    within(LIMIT, "the echo", stream.read_exact(&mut answer)).await.unwrap();
    answer
}

/// The local address after `Forwarding`.
async fn forwarded(screen: &TerminalScreen) -> SocketAddr {
    wait_until(LIMIT, "the port to be forwarded", async || {
        let text = screen.text();
        text.split("Forwarding ").nth(1)?.split(' ').next()?.parse().ok()
    })
    .await
}

#[tokio::test]
async fn a_port_of_a_device_is_a_port_of_this_machine_until_it_is_interrupted() {
    let demo = Demo::start().await;
    let mut tasks = JoinSet::new();
    let port = echo(&mut tasks).await;
    let closed = free_port();

    let mappings = [format!("0:{port}"), format!("0:127.0.0.1:{closed}")];
    let forward = demo.on_a_screen(&["forward", "demo", &mappings[0], &mappings[1]]).await;
    let address = forwarded(&forward).await;
    forward.shows(&format!("→ demo:{port} (tcp)"), LIMIT).await;
    forward.shows(&format!("→ 127.0.0.1:{closed} through demo (tcp)"), LIMIT).await;
    let text: Vec<u8> = (0..200_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
    assert!(said_back(address, &text).await == text);
    forward.shows("sent", LIMIT).await;

    // A port nobody listens on.
    let refused = forward.text().split("Forwarding ").nth(2).unwrap().split(' ').next().unwrap().to_owned();
    let mut stream = TcpStream::connect(&refused).await.unwrap();
    assert!(within(LIMIT, "the reset", stream.read(&mut [0; 1])).await.is_err());
    forward.shows("the device cannot connect to 127.0.0.1:", LIMIT).await;

    forward.press("C-c");
    assert_eq!(forward.ended(LIMIT).await, 0, "{}", forward.text());
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
    demo.stop().await;
}

#[tokio::test]
async fn what_cannot_be_forwarded_is_told_in_one_line() {
    let demo = Demo::start().await;
    let wrong = demo.run(&["forward", "demo", "ssh:22"], "").await;
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("no IP address"), "{wrong:?}");

    let unknown = demo.run(&["forward", "nobody", "8022:22"], "").await;
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    assert!(unknown.stderr.contains("no device \"nobody\""), "{unknown:?}");
    assert_eq!(unknown.stderr.lines().count(), 1, "{unknown:?}");

    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mapping = format!("{}:22", taken.local_addr().unwrap().port());
    let busy = demo.run(&["forward", "demo", &mapping], "").await;
    assert_eq!(busy.status.code(), Some(1), "{busy:?}");
    assert!(busy.stderr.contains("cannot listen on 127.0.0.1:"), "{busy:?}");
    demo.stop().await;
}

#[tokio::test]
async fn files_are_copied_to_a_device_and_back() {
    let demo = Demo::start().await;
    let (here, there) = (temporary_directory(), temporary_directory());
    let content: Vec<u8> = (0..300_000_u32).map(|at| u8::try_from(at % 253).unwrap()).collect();
    let source = here.join("app.bin");
    fs::write(&source, &content).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o640)).unwrap();

    let up = demo.run(&["cp", source.to_str().unwrap(), &format!("demo:{}/copy.bin", there.display())], "").await;
    assert!(up.status.success(), "{up:?}");
    assert!(up.stdout.contains("sha256 "), "{up:?}");
    assert!(fs::read(there.join("copy.bin")).unwrap() == content);
    assert_eq!(fs::metadata(there.join("copy.bin")).unwrap().permissions().mode() & 0o777, 0o640);

    // A directory takes the name of the other side.
    let down = demo.run(&["cp", &format!("demo:{}/copy.bin", there.display()), here.to_str().unwrap()], "").await;
    assert!(down.status.success(), "{down:?}");
    assert!(fs::read(here.join("copy.bin")).unwrap() == content);
    let sum = |output: &Output| output.stdout.split("sha256 ").nth(1).map(|sum| sum.trim().to_owned());
    assert_eq!(sum(&up), sum(&down));

    // Through pipes, with a mode of one's own.
    let note = format!("demo:{}/note", there.display());
    let piped = demo.run(&["cp", "--mode", "600", "-", &note], "hello\n").await;
    assert!(piped.status.success(), "{piped:?}");
    assert_eq!(fs::metadata(there.join("note")).unwrap().permissions().mode() & 0o777, 0o600);
    let shown = demo.run(&["cp", &note, "-"], "").await;
    assert_eq!((shown.stdout.as_str(), shown.status.code()), ("hello\n", Some(0)), "{shown:?}");

    let missing = demo.run(&["cp", "demo:/nowhere/at/all", "-"], "").await;
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert!(
        missing.stderr.contains("no such file or directory") || missing.stderr.contains("No such file"),
        "{missing:?}"
    );
    assert_eq!(missing.stderr.lines().count(), 1, "{missing:?}");
    let neither = demo.run(&["cp", "a", "b"], "").await;
    assert!(neither.stderr.contains("neither side is on a device"), "{neither:?}");
    demo.stop().await;
}

#[tokio::test]
async fn an_interrupted_copy_leaves_nothing() {
    let demo = Demo::start().await;
    let there = temporary_directory();
    // It waits for what is typed.
    let copy = demo.on_a_screen(&["cp", "-", &format!("demo:{}/half", there.display())]).await;
    copy.shows("half 0 B", LIMIT).await;
    copy.type_line("the first half");
    copy.shows("half 15 B", LIMIT).await;
    copy.press("C-c");
    assert_eq!(copy.ended(LIMIT).await, 130, "{}", copy.text());
    wait_until(LIMIT, "the device to remove its half", async || {
        (fs::read_dir(&there).unwrap().count() == 0).then_some(())
    })
    .await;
    demo.stop().await;
}

/// A way to the hub that can be cut.
struct Wire {
    address: SocketAddr,
    cut: tokio::sync::broadcast::Sender<()>,
    _relay: JoinSet<()>,
}

impl Wire {
    async fn to(hub: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, _) = tokio::sync::broadcast::channel(1);
        let mut relay = JoinSet::new();
        let cuts = cut.clone();
        relay.spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (hub, mut is_cut) = (hub.clone(), cuts.subscribe());
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(&hub).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = is_cut.recv() => {}
                    }
                });
            }
        });
        Self { address, cut, _relay: relay }
    }

    fn cut(&self) {
        self.cut.send(()).expect("somebody is connected");
    }
}

#[tokio::test]
async fn a_terminal_goes_on_when_its_connection_was_cut() {
    let demo = Demo::start().await;
    let wire = Wire::to(demo.server.trim_start_matches("http://").to_owned()).await;
    let server = format!("http://{}", wire.address);
    let password = fs::read_to_string(demo.data.join("password")).unwrap();
    let login = ["login", "--server", &server, "--user", "demo@mooring.local", "--password-stdin"];
    let logged_in = demo.mooring.run(&login, &password).await;
    assert!(logged_in.status.success(), "{logged_in:?}");

    let terminal = TerminalScreen::run(&demo.mooring.command(&["terminal", "demo", "--server", &server])).await;
    terminal.type_line("mark=kept; echo sum-$((40+2))");
    terminal.shows("sum-42", LIMIT).await;
    wire.cut();
    // What is typed meanwhile is not lost, and the shell is the same one.
    terminal.type_line("echo $mark-$((41+2))");
    terminal.shows("kept-43", LIMIT).await;
    terminal.shows("connected again", LIMIT).await;
    terminal.type_line("exit");
    assert_eq!(terminal.ended(LIMIT).await, 0, "{}", terminal.text());
    demo.stop().await;
}

#[tokio::test]
async fn a_shell_is_left_found_again_watched_and_taken_over() {
    let demo = Demo::start().await;
    let first = demo.on_a_screen(&["terminal", "demo"]).await;
    first.type_line("mark=kept; echo sum-$((40+2))");
    first.shows("sum-42", LIMIT).await;
    first.press("C-]");
    first.shows("d detach, q end the shell", LIMIT).await;
    first.press("d");
    assert_eq!(first.ended(LIMIT).await, 0, "{}", first.text());
    first.shows("mooring terminal --attach ", LIMIT).await;
    let text = first.text();
    let session = text.split("--attach ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();

    let listed = demo.run(&["sessions"], "").await;
    assert!(listed.stdout.contains(&session), "{listed:?}");

    let again = demo.on_a_screen(&["terminal", "--attach", &session]).await;
    again.type_line("echo $mark-$((41+2))");
    again.shows("kept-43", LIMIT).await;
    let in_use = demo.run(&["terminal", "--attach", &session], "").await;
    assert!(in_use.stderr.contains("--take-over"), "{in_use:?}");

    let watching = demo.on_a_screen(&["terminal", "--watch", &session]).await;
    watching.shows("kept-43", LIMIT).await;
    again.shows("is watching", LIMIT).await;
    watching.type_line("echo nobody-$((1+1))");
    again.type_line("echo both-$((43+1))");
    watching.shows("both-44", LIMIT).await;
    assert!(!again.text().contains("nobody-2"), "{}", again.text());
    watching.press("C-]");
    watching.press("q");
    assert_eq!(watching.ended(LIMIT).await, 0, "{}", watching.text());
    again.shows("has left", LIMIT).await;

    let other = demo.on_a_screen(&["terminal", "--take-over", &session]).await;
    again.shows("you are watching", LIMIT).await;
    other.type_line("echo mine-$((44+1))");
    again.shows("mine-45", LIMIT).await;
    other.press("C-]");
    other.shows("s who is here", LIMIT).await;
    other.press("q");
    assert_eq!(other.ended(LIMIT).await, 0, "{}", other.text());
    again.ended(LIMIT).await;
    demo.stop().await;
}

#[tokio::test]
async fn a_recorded_terminal_is_played_again() {
    let demo = Demo::start().await;
    let terminal = demo.on_a_screen(&["terminal", "demo"]).await;
    terminal.type_line("echo sum-$((40+2))");
    terminal.shows("sum-42", LIMIT).await;
    terminal.type_line("exit");
    assert_eq!(terminal.ended(LIMIT).await, 0, "{}", terminal.text());

    let session = wait_until(LIMIT, "the session to be listed", async || {
        let listed = demo.run(&["sessions", "--all", "demo"], "").await;
        let line = listed.stdout.lines().find(|line| line.contains("terminal"))?.to_owned();
        line.split_whitespace().next().map(str::to_owned)
    })
    .await;
    let played = wait_until(LIMIT, "the whole recording", async || {
        let played = demo.run(&["play", "--speed", "100", &session], "").await;
        played.stdout.contains("sum-42").then_some(played)
    })
    .await;
    assert!(played.status.success(), "{played:?}");
    let file = temporary_directory().join("session.cast");
    let saved = demo.run(&["play", &session, "--output", file.to_str().unwrap()], "").await;
    assert!(saved.status.success(), "{saved:?}");
    assert!(fs::read_to_string(&file).unwrap().starts_with("{\"version\""));
    demo.stop().await;
}
