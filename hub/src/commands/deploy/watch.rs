//! Looks on until a deployment is over: bars on a terminal, a line for every change otherwise.

use super::deployment::{Deployment, in_words};
use crate::commands::artifact::printable;
use crate::commands::devices::to_seconds;
use crate::commands::operator::{Interrupts, Operator};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::IsTerminal,
    process::ExitCode,
    time::{Duration, Instant},
};
use storage::clock;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// A hub that does not answer for this long is given up.
const PATIENCE: Duration = Duration::from_mins(5);
/// Length of a bar.
const BAR: usize = 30;
/// Not every device has what it was to have.
const NOT_ALL: u8 = 1;
/// The deployment is paused, and nobody waits for it to go on.
const PAUSED: u8 = 3;

/// What to do when a deployment is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenPaused {
    /// Wait until it goes on.
    Wait,
    /// End.
    Leave,
}

/// How it ended, for the shell. Ctrl-C leaves the deployment as it is; `flags` are what a command needs to speak to the
/// same hub.
pub async fn watch(operator: &Operator, id: &str, flags: &str, when_paused: WhenPaused) -> anyhow::Result<ExitCode> {
    let mut interrupts = Interrupts::catch()?;
    let mut screen = Screen::new();
    tokio::select! {
        end = until_over(operator, id, &mut screen, when_paused) => {
            let deployment = end?;
            screen.clear();
            println!("{}", summary(&deployment, flags));
            Ok(exit_code(&deployment))
        }
        interrupt = interrupts.next() => {
            screen.clear();
            eprintln!("mooring: the deployment goes on\n{}", hints(id, flags));
            Ok(interrupt.exit_code())
        }
    }
}

fn exit_code(deployment: &Deployment) -> ExitCode {
    match (deployment.is_finished(), deployment.has_succeeded()) {
        (false, _) => ExitCode::from(PAUSED),
        (true, false) => ExitCode::from(NOT_ALL),
        (true, true) => ExitCode::SUCCESS,
    }
}

async fn until_over(
    operator: &Operator,
    id: &str,
    screen: &mut Screen,
    when_paused: WhenPaused,
) -> anyhow::Result<Deployment> {
    let mut answered = Instant::now();
    loop {
        match Deployment::read(operator, id).await {
            Ok(deployment) => {
                answered = Instant::now();
                screen.show(&deployment);
                let is_left = deployment.paused.is_some() && when_paused == WhenPaused::Leave;
                if deployment.is_finished() || is_left {
                    return Ok(deployment);
                }
            }
            // A hub that restarts is away for a moment; one that refuses will do so again.
            Err(error) if error.downcast_ref::<reqwest::Error>().is_some() && answered.elapsed() < PATIENCE => {
                screen.say("the hub does not answer; trying again");
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Where it is shown how far it is.
enum Screen {
    /// Drawn anew each time.
    Bars(ProgressBar),
    /// Line by line; the last one, so that none comes twice.
    Lines(String),
}

impl Screen {
    fn new() -> Self {
        if !std::io::stdout().is_terminal() {
            return Self::Lines(String::new());
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self::Bars(bar)
    }

    fn show(&mut self, deployment: &Deployment) {
        match self {
            Self::Bars(bar) => bar.set_message(bars(deployment)),
            Self::Lines(_) => self.say(&line(deployment)),
        }
    }

    fn say(&mut self, text: &str) {
        match self {
            Self::Bars(bar) => bar.set_message(format!("{}\n{text}", bar.message().lines().next().unwrap_or_default())),
            Self::Lines(last) if last != text => {
                println!("{}  {text}", to_seconds(&clock::now().rfc3339()));
                text.clone_into(last);
            }
            Self::Lines(_) => {}
        }
    }

    fn clear(&self) {
        if let Self::Bars(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// How far it is, on one line.
fn line(deployment: &Deployment) -> String {
    let mut line = format!("{}: {}", deployment.state(), in_words(&deployment.counts()));
    if let Some(pause) = &deployment.paused {
        line = format!("paused, {}; {line}", printable(&pause.reason));
    }
    line
}

/// How far it is: a bar for each status in which there is a device.
fn bars(deployment: &Deployment) -> String {
    let (name, artifact) = (printable(&deployment.name), printable(&deployment.artifact_name));
    let mut lines = vec![format!("{artifact} for {name}: {}", deployment.state())];
    if let Some(pause) = &deployment.paused {
        lines.push(format!("paused, {}", printable(&pause.reason)));
    }
    let all = deployment.devices().max(1);
    for (status, count) in deployment.counts() {
        lines.push(format!("{status:<23} {} {count:>6} {:>4} %", bar(count, all), count * 100 / all));
    }
    lines.join("\n")
}

fn bar(count: u64, all: u64) -> String {
    // Whatever there is can be seen.
    let filled = usize::try_from(count * BAR as u64 / all).unwrap_or(BAR).clamp(usize::from(count > 0), BAR);
    format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled))
}

/// How it ended, and what may be done about it.
fn summary(deployment: &Deployment, flags: &str) -> String {
    let counts = in_words(&deployment.counts());
    let id = &deployment.id;
    if !deployment.is_finished() {
        let reason = deployment.paused.as_ref().map_or_else(String::new, |pause| printable(&pause.reason));
        return format!(
            "paused, {reason}: {counts}\n  mooring deploy resume {id}{flags}\n  mooring deploy abort {id}{flags}"
        );
    }
    let mut summary = format!("finished: {counts}");
    if deployment.failed() > 0 {
        summary = format!("{summary}\n  mooring deploy show {id}{flags}");
    }
    summary
}

fn hints(id: &str, flags: &str) -> String {
    format!("  mooring deploy watch {id}{flags}     to look on again\n  mooring deploy abort {id}{flags}     to end it")
}

#[cfg(test)]
mod tests {
    use super::super::deployment::tests::deployment;
    use super::*;
    use serde_json::json;

    #[test]
    fn there_is_a_bar_for_each_status_that_has_a_device() {
        let mut shown =
            deployment("inprogress", 200, &json!({"success": 100, "failure": 1, "pending": 99, "aborted": 0}));
        shown.name = "hall\u{1b}[2J".to_owned();
        let text = bars(&shown);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "app-2.1 for hall\u{fffd}[2J: in progress");
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].starts_with("success ") && lines[1].ends_with("100   50 %"), "{text}");
        assert_eq!(lines[1].matches('█').count(), 15);
        // One of many can still be seen.
        assert_eq!(lines[2].matches('█').count(), 1);
    }

    #[test]
    fn a_pause_is_shown_with_its_reason() {
        let mut shown = deployment("inprogress", 2, &json!({"failure": 1, "pending": 1}));
        shown.paused =
            serde_json::from_value(json!({"reason": "more than 5 % failed", "since": "2026-08-01T10:00:00Z"}))
                .expect("a pause");
        assert_eq!(line(&shown), "paused, more than 5 % failed; in progress: 1 failure, 1 pending");
        assert!(bars(&shown).contains("\npaused, more than 5 % failed\n"));
        let end = summary(&shown, " --server http://hub");
        assert!(end.contains("mooring deploy resume 6b1d --server http://hub"), "{end}");
    }

    #[test]
    fn the_end_says_what_came_of_it() {
        let of = |devices, counts| summary(&deployment("finished", devices, &counts), "");
        assert_eq!(of(2, json!({"success": 2})), "finished: 2 success");
        assert_eq!(
            of(2, json!({"success": 1, "failure": 1})),
            "finished: 1 success, 1 failure\n  mooring deploy show 6b1d"
        );
        assert_eq!(of(0, json!({})), "finished: no devices");
    }
}
