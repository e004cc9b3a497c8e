//! A real mail server (aiosmtpd), which puts what it takes into a mail directory.

use std::path::PathBuf;
use std::process::Command;

use crate::ports::free_port;
use crate::process::Process;
use crate::wait::{LIMIT, wait_until};
use crate::workspace::temporary_directory;

/// A mail server. Stopped and started again it has the same address, and keeps what it took.
pub struct MailServer {
    port: u16,
    directory: PathBuf,
    running: Option<Process>,
}

/// An e-mail as the server took it.
#[derive(Debug, Clone)]
pub struct Received {
    /// Headers and body, as they came.
    pub source: String,
}

impl MailServer {
    /// One that runs.
    pub async fn start() -> Self {
        let mut this = Self::stopped();
        this.begin().await;
        this
    }

    /// One that does not run yet.
    pub fn stopped() -> Self {
        Self { port: free_port(), directory: temporary_directory().join("mail"), running: None }
    }

    /// What a hub calls it.
    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port)
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn begin(&mut self) {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-m", "aiosmtpd", "-n", "-l", &format!("127.0.0.1:{}", self.port)]);
        command.args(["-c", "aiosmtpd.handlers.Mailbox"]).arg(&self.directory);
        let mut process = Process::start(&command, &self.directory.with_extension("log"));
        wait_until(LIMIT, "a mail server", async || {
            assert!(process.ended().is_none(), "the mail server does not start:\n{}", process.log());
            tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok()
        })
        .await;
        self.running = Some(process);
    }

    /// Kills it.
    pub fn end(&mut self) {
        self.running = None;
    }

    /// Every e-mail so far.
    ///
    /// # Panics
    /// When its directory cannot be read.
    pub fn mails(&self) -> Vec<Received> {
        let Ok(entries) = std::fs::read_dir(self.directory.join("new")) else { return vec![] };
        entries
            .map(|entry| {
                let source = std::fs::read(entry.expect("an entry").path()).expect("an e-mail can be read");
                Received { source: String::from_utf8_lossy(&source).replace("\r\n", "\n") }
            })
            .collect()
    }

    /// Waits until there are this many different e-mails.
    pub async fn receives(&self, count: usize) -> Vec<Received> {
        wait_until(LIMIT, &format!("{count} e-mails"), async || {
            let mut mails = self.mails();
            mails.sort_by_key(|mail| mail.header("Message-ID"));
            mails.dedup_by_key(|mail| mail.header("Message-ID"));
            (mails.len() >= count).then_some(mails)
        })
        .await
    }
}

impl Received {
    /// A header's value, unfolded; empty if it is absent.
    pub fn header(&self, name: &str) -> String {
        let head = self.source.split("\n\n").next().unwrap_or_default().replace("\n ", " ");
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned()).unwrap_or_default()
    }

    /// Everything after the headers, with soft line ends of quoted-printable taken out.
    pub fn body(&self) -> String {
        let body = self.source.split_once("\n\n").map(|(_, body)| body).unwrap_or_default();
        body.replace("=\n", "").replace("=3D", "=")
    }
}
