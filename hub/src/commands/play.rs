//! `mooring play`: a recorded terminal, as it went.

mod cast;

use super::{
    operator::{self, Interrupts, Operator, refusal},
    sessions,
    terminal::Surface,
};
use anyhow::{Context, bail};
use cast::{Event, Pace, Reader};
use reqwest::{Method, Response, StatusCode};
use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

/// A hub that sends nothing for so long is gone.
const STALL_LIMIT: Duration = Duration::from_mins(1);

/// Shown under the options of `mooring play --help`.
pub const EXAMPLES: &str = "Examples:
  mooring play 6b1d                          As it went
  mooring play --speed 4 --idle-limit 2 6b1d Four times as fast, and no wait over 2 s of its time
  mooring play 6b1d --output session.cast    The recording as a file (asciicast v2)

`mooring sessions --all` has the ids. Ctrl-C stops with status 130.";

/// What to play, and how.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The session's id, or the beginning of it
    session: String,
    /// So many times as fast
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = factor)]
    speed: f64,
    /// Cut waits to so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    idle_limit: Option<Duration>,
    /// Write the recording to this file instead of playing it; - is standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    operator: operator::OperatorArguments,
}

fn factor(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor: &f64| (0.01..=1000.0).contains(factor));
    factor.ok_or_else(|| "expected a number from 0.01 to 1000".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "expected a number of seconds such as 2.5".to_owned())
}

/// Plays it, or writes it to a file.
pub async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let operator = Operator::arrive(&arguments.operator).await?;
    let session = sessions::find(&operator, &arguments.session).await?;
    let path = format!("/api/management/v1/mooring/sessions/{session}/recording");
    let answer = operator.transfer(Method::GET, &path)?.send().await;
    let answer = answer.with_context(|| format!("cannot reach the hub at {}", operator.base()))?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => bail!("session {session} is unknown, or was not recorded, or no longer kept"),
        _ => return Err(refusal(answer).await),
    }
    let mut interrupts = Interrupts::catch()?;
    let mut surface = Surface::default();
    let played = async {
        match &arguments.output {
            Some(path) if path.as_os_str() == "-" => copy_to_output(answer).await,
            Some(path) => save(answer, path).await,
            None => play(answer, Pace::new(arguments.speed, arguments.idle_limit), &mut surface).await,
        }
    };
    let ended = tokio::select! {
        played = played => played.map(|()| ExitCode::SUCCESS),
        interrupt = interrupts.next() => Ok(interrupt.exit_code()),
    };
    if arguments.output.is_none() && std::io::stdout().is_terminal() {
        tidy(&surface);
    }
    ended
}

async fn play(mut answer: Response, mut pace: Pace, surface: &mut Surface) -> anyhow::Result<()> {
    let mut reader = Reader::default();
    // Waits are counted from when the event before should have been shown, so that small delays do not add up.
    let mut shown = tokio::time::Instant::now();
    loop {
        let piece = next_piece(&mut answer).await?;
        let events = match &piece {
            Some(piece) => reader.feed(piece)?,
            None => reader.finish()?,
        };
        for event in events {
            match event {
                Event::Started { width, height } => warn_of_size(width, height),
                Event::Printed(at, bytes) => {
                    shown += pace.wait_until(at);
                    tokio::time::sleep_until(shown).await;
                    let mut output = std::io::stdout().lock();
                    output
                        .write_all(&bytes)
                        .and_then(|()| output.flush())
                        .context("cannot write to standard output")?;
                    surface.feed(&bytes);
                }
                Event::Resized(at, width, height) => {
                    shown += pace.wait_until(at);
                    if !surface.has_whole_screen() && surface.is_at_rest() {
                        warn_of_size(width, height);
                    }
                }
            }
        }
        if piece.is_none() {
            return Ok(());
        }
    }
}

fn warn_of_size(width: u16, height: u16) {
    if !std::io::stdout().is_terminal() {
        return;
    }
    if let Ok((columns, rows)) = crossterm::terminal::size()
        && (columns < width || rows < height)
    {
        eprintln!("\x1b[2m[mooring] recorded with {width} columns and {height} rows; this window is smaller\x1b[22m");
    }
}

async fn save(mut answer: Response, path: &std::path::Path) -> anyhow::Result<()> {
    let mut draft = super::cp::Draft::of(path, 0o600).await?;
    while let Some(piece) = next_piece(&mut answer).await? {
        draft.write(&piece).await?;
    }
    draft.finish(None, (None, None)).await
}

async fn copy_to_output(mut answer: Response) -> anyhow::Result<()> {
    while let Some(piece) = next_piece(&mut answer).await? {
        let mut output = std::io::stdout().lock();
        output.write_all(&piece).and_then(|()| output.flush()).context("cannot write to standard output")?;
    }
    Ok(())
}

async fn next_piece(answer: &mut Response) -> anyhow::Result<Option<bytes::Bytes>> {
    let piece = tokio::time::timeout(STALL_LIMIT, answer.chunk()).await.context("the hub has fallen silent")?;
    piece.context("the connection to the hub broke")
}

/// Gives back what the recording may have taken.
fn tidy(surface: &Surface) {
    let whole_screen = if surface.has_whole_screen() { "\x1b[?1049l" } else { "" };
    // In the middle of a sequence, CAN ends it.
    let middle = if surface.is_at_rest() { "" } else { "\x18" };
    let line = if surface.is_in_a_line() { "\r\n" } else { "" };
    print!("{middle}{whole_screen}\x1b[0m\x1b[?25h{line}");
    let _ = std::io::stdout().flush();
}
