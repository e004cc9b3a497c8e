//! A program in a pseudo terminal.

use super::{OUTPUT_PIECE, Reporter};
use pty_process::{OwnedReadPty, OwnedWritePty, Size};
use std::{ffi::OsString, path::PathBuf, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Child,
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Keystroke messages and window sizes that may wait for a program that does not read.
const INPUT_CAPACITY: usize = 1024;
/// How long a program may take to leave after its terminal hung up, before it is killed.
const HANG_UP_GRACE: Duration = Duration::from_millis(500);
/// How long output is still collected after the program has ended; a background job may hold the terminal for ever.
const DRAIN_TIME: Duration = Duration::from_millis(300);

/// Which program to run in the terminal.
#[derive(Debug, Clone)]
pub struct PtyCommand {
    /// The program, a path or a name in `PATH`.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Where it starts.
    pub directory: Option<PathBuf>,
}

impl PtyCommand {
    /// The shell of the person who runs this process: `$SHELL`, or `/bin/sh`, in their home directory.
    pub fn of_this_user() -> Self {
        let set = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
        Self {
            program: set("SHELL").unwrap_or_else(|| "/bin/sh".into()),
            arguments: vec![],
            directory: set("HOME").map(PathBuf::from).filter(|home| home.is_dir()),
        }
    }
}

#[derive(Debug)]
enum Input {
    Keys(Vec<u8>),
    Resize(Size),
}

/// A running program. Dropping it hangs up the terminal and ends the program.
#[derive(Debug)]
pub(super) struct PtyShell {
    input: mpsc::Sender<Input>,
    _hang_up: oneshot::Sender<()>,
}

impl PtyShell {
    /// Starts the program; it reports through `reporter`.
    pub(super) fn start(
        command: &PtyCommand,
        width: u16,
        height: u16,
        reporter: Reporter,
    ) -> Result<Self, pty_process::Error> {
        let (pty, terminal) = pty_process::open()?;
        pty.resize(Size::new(height, width))?;
        let mut program = pty_process::Command::new(&command.program)
            .args(&command.arguments)
            .env("TERM", "xterm-256color")
            .kill_on_drop(true);
        if let Some(directory) = &command.directory {
            program = program.current_dir(directory);
        }
        let child = program.spawn(terminal)?;
        let (screen, keyboard) = pty.into_split();
        let (input, keys) = mpsc::channel(INPUT_CAPACITY);
        let (hang_up, operator_left) = oneshot::channel();
        tokio::spawn(run(child, screen, keyboard, keys, operator_left, reporter));
        Ok(Self { input, _hang_up: hang_up })
    }

    /// Types; the error says why the keys are lost.
    pub(super) fn type_in(&self, keys: &[u8]) -> Result<(), &'static str> {
        use mpsc::error::TrySendError;
        self.input.try_send(Input::Keys(keys.to_vec())).map_err(|error| match error {
            TrySendError::Full(_) => "the program does not read its input",
            TrySendError::Closed(_) => "session not found",
        })
    }

    /// Changes the size of the window.
    pub(super) fn resize(&self, width: u16, height: u16) {
        // A size that finds the queue full is followed by another as soon as the person moves the window again.
        let _full = self.input.try_send(Input::Resize(Size::new(height, width)));
    }
}

async fn run(
    mut child: Child,
    screen: OwnedReadPty,
    mut keyboard: OwnedWritePty,
    mut keys: mpsc::Receiver<Input>,
    mut operator_left: oneshot::Receiver<()>,
    reporter: Reporter,
) {
    let (tell_ended, child_ended) = oneshot::channel();
    let mut printing = tokio::spawn(print(screen, reporter, child_ended));
    let typing = async {
        while let Some(input) = keys.recv().await {
            let written = match input {
                Input::Keys(bytes) => keyboard.write_all(&bytes).await.is_ok(),
                Input::Resize(size) => keyboard.resize(size).is_ok(),
            };
            if !written {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let ended_by_itself = tokio::select! {
        _status = child.wait() => true,
        _hang_up = &mut operator_left => false,
        () = typing => false,
    };
    if ended_by_itself {
        let _printing_has_ended = tell_ended.send(());
        tokio::select! {
            _reported = &mut printing => {}
            _hang_up = &mut operator_left => printing.abort(),
        }
        return;
    }
    // Closing our side hangs up the terminal: the kernel sends SIGHUP to the shell and its foreground job.
    printing.abort();
    drop(keyboard);
    if timeout(HANG_UP_GRACE, child.wait()).await.is_err() {
        let _already_gone = child.kill().await;
    }
}

/// Passes on what the program prints, to the last byte, and then tells that it has ended.
async fn print(mut screen: OwnedReadPty, reporter: Reporter, mut child_ended: oneshot::Receiver<()>) {
    let mut piece = [0; OUTPUT_PIECE];
    let mut draining = false;
    loop {
        let read = tokio::select! {
            biased;
            _ended = &mut child_ended, if !draining => {
                draining = true;
                continue;
            }
            read = screen.read(&mut piece) => read,
            () = tokio::time::sleep(DRAIN_TIME), if draining => break,
        };
        match read {
            Ok(length @ 1..) => {
                if !reporter.printed(&piece[..length]).await {
                    return;
                }
            }
            // The last program has let go of the terminal.
            Ok(_) | Err(_) => break,
        }
    }
    if draining || child_ended.await.is_ok() {
        // What the kernel tells the reader of a terminal whose last program has gone.
        reporter.ended("read /dev/ptmx: input/output error".to_owned()).await;
    }
}
