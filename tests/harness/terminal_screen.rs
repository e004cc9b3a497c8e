//! A terminal with a program in it, as a person would see it: tmux holds the screen.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::Process;
use crate::workspace::temporary_directory;

/// A screen of 100 columns and 30 lines.
pub struct TerminalScreen {
    socket: String,
    /// Where the program's exit status is written when it has ended.
    status: PathBuf,
    _server: Process,
}

impl TerminalScreen {
    /// Runs the command in a fresh terminal.
    ///
    /// # Panics
    /// When tmux is not installed (tests/setup.sh).
    pub async fn run(command: &Command) -> Self {
        let directory = temporary_directory();
        let socket = directory.join("tmux.sock").display().to_string();
        // In the foreground, so that it ends with the tests like every other program.
        let mut server = Command::new("tmux");
        server.args(["-S", &socket, "-f", "/dev/null", "-D"]);
        let server = Process::start(&server, &directory.join("tmux.log"));
        let this = Self { socket, status: directory.join("status"), _server: server };
        crate::wait::wait_until(crate::LIMIT, "tmux", async || {
            std::path::Path::new(&this.socket).exists().then_some(())
        })
        .await;
        // The screen stays readable after the program has ended. Tmux could tell the status too, but forgets it at times.
        let script =
            r#"trap : INT; status=$1; shift; "$@"; echo $? >"$status.new"; mv "$status.new" "$status"; sleep 86400"#;
        let mut line: Vec<String> = ["sh", "-c", script, "sh"].map(str::to_owned).to_vec();
        line.extend([this.status.display().to_string(), "env".to_owned()]);
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                line.push(format!("{}={}", name.to_string_lossy(), value.to_string_lossy()));
            }
        }
        line.push(command.get_program().to_string_lossy().into_owned());
        line.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
        let mut start = vec!["new-session", "-d", "-x", "100", "-y", "30", "--"];
        start.extend(line.iter().map(String::as_str));
        this.tmux(&start);
        this
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux").args(["-S", &self.socket]).args(arguments).output();
        let output = output.expect("tmux is installed (tests/setup.sh)");
        assert!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What is on the screen.
    pub fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Types text, then Enter.
    pub fn type_line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", "--", text]);
        self.tmux(&["send-keys", "Enter"]);
    }

    /// Presses a key by its name in tmux: `C-]`, `Enter`.
    pub fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// Changes the size of the window.
    pub fn resize(&self, columns: u16, lines: u16) {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &lines.to_string()]);
    }

    /// Waits until the text is on the screen.
    pub async fn shows(&self, text: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.text().contains(text) {
            assert!(Instant::now() < deadline, "{text:?} is not on the screen:\n{}", self.text());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the program has ended; its exit status.
    pub async fn ended(&self, limit: Duration) -> i32 {
        let deadline = Instant::now() + limit;
        loop {
            if let Ok(status) = std::fs::read_to_string(&self.status) {
                return status.trim().parse().expect("an exit status");
            }
            assert!(Instant::now() < deadline, "the program does not end:\n{}", self.text());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
