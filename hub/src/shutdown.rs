//! Signals: the first asks the hub to stop in good order, the second ends it at once.

use anyhow::Context;
use std::sync::mpsc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a shell reports for a process that a signal ended is 128 and the signal's number.
const EXIT_AFTER_SIGNAL: i32 = 128;

/// SIGINT and SIGTERM, caught from the moment this exists.
#[derive(Debug)]
pub struct Signals {
    tell: mpsc::Sender<Wake>,
    first: mpsc::Receiver<Wake>,
}

/// Why a program that waits for signals goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// This signal came.
    Signal(&'static str),
    /// What it ran has ended by itself.
    Over,
}

impl Signals {
    /// Catches the signals from now on; a second one then ends the process without ceremony.
    ///
    /// # Errors
    /// When the process may not catch signals.
    pub fn catch() -> anyhow::Result<Self> {
        let (tell, first) = mpsc::channel();
        let (ready, caught) = mpsc::channel();
        let teller = tell.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || listen(&teller, &ready))
            .context("cannot start the thread that listens for signals")?;
        caught.recv().context("the thread that listens for signals ended")??;
        Ok(Self { tell, first })
    }

    /// The end of this channel counts like a signal from now on.
    pub fn also_wait_for(&self, over: mpsc::Receiver<()>) {
        let tell = self.tell.clone();
        std::thread::spawn(move || {
            // Nothing is ever sent: it ends with its sender.
            let _ended = over.recv();
            let _nobody_waits = tell.send(Wake::Over);
        });
    }

    /// Waits for the first signal, or the end of what else is waited for.
    pub fn wait(&self) -> Wake {
        // We hold a sender ourselves, so the channel stays open.
        self.first.recv().unwrap_or(Wake::Over)
    }
}

fn listen(tell: &mpsc::Sender<Wake>, ready: &mpsc::Sender<anyhow::Result<()>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime.context("cannot start a runtime for signals") {
        Ok(runtime) => runtime,
        Err(error) => {
            let _starter_gone = ready.send(Err(error));
            return;
        }
    };
    runtime.block_on(async {
        let both = signal(SignalKind::interrupt()).and_then(|int| Ok((int, signal(SignalKind::terminate())?)));
        let (mut interrupt, mut terminate) = match both.context("cannot catch signals") {
            Ok(both) => both,
            Err(error) => {
                let _starter_gone = ready.send(Err(error));
                return;
            }
        };
        let _starter_gone = ready.send(Ok(()));
        let (name, _) = next(&mut interrupt, &mut terminate).await;
        let _nobody_waits = tell.send(Wake::Signal(name));
        let (name, number) = next(&mut interrupt, &mut terminate).await;
        eprintln!("mooring: {name} again, ending at once");
        std::process::exit(EXIT_AFTER_SIGNAL + number);
    });
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) -> (&'static str, i32) {
    tokio::select! {
        _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
        _ = terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
    }
}
