//! NATS servers of the tests' own, on free ports of the loopback address.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The server shared by all cases. It ends with the test process (see [`Private`]).
pub fn url() -> String {
    static SHARED: OnceLock<Private> = OnceLock::new();
    SHARED.get_or_init(Private::start).url().to_owned()
}

/// A server that one test may stop and start.
pub struct Private {
    port: u16,
    url: String,
    child: Child,
}

impl Private {
    pub fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { port, url: format!("nats://127.0.0.1:{port}"), child: spawn(port) }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.port);
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16) -> Child {
    let (sender, spawned) = std::sync::mpsc::channel();
    // `setpriv --pdeathsig` ends the server with the tests even when they are killed, since statics are never dropped. The
    // signal is sent when the thread that spawned it ends, hence a thread that does not.
    std::thread::spawn(move || {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "nats-server", "-a", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        sender.send(child).expect("the test waits for its server");
        loop {
            std::thread::park();
        }
    });
    let child =
        spawned.recv().expect("the thread answers").expect("nats-server and setpriv are installed (tests/setup.sh)");
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "nats-server does not listen on port {port}");
        std::thread::yield_now();
    }
    child
}
