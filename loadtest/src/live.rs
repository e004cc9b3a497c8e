//! What is going on while it does: one line on a terminal, and the same numbers over time for the report.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::process;

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often that is told where nobody watches a terminal.
const TELL_EVERY: u32 = 10;

/// Points of a series; when there are more, every other is left out.
const POINTS: usize = 2_000;

/// A number over time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// Its unit; empty for a count.
    pub unit: String,
    /// Seconds since the beginning, and the number.
    pub points: Vec<(f64, f64)>,
}

type Read = Box<dyn FnMut(Duration) -> f64 + Send>;

/// A number that is looked at.
pub struct Gauge {
    name: String,
    unit: &'static str,
    /// Given the time since the last look.
    read: Read,
}

impl std::fmt::Debug for Gauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gauge").field("name", &self.name).field("unit", &self.unit).finish_non_exhaustive()
    }
}

impl Gauge {
    /// A number as it is.
    pub fn level(name: &str, unit: &'static str, mut read: impl FnMut() -> f64 + Send + 'static) -> Self {
        Self { name: name.to_owned(), unit, read: Box::new(move |_| read()) }
    }

    /// How much a count grows in a second.
    pub fn rate(name: &str, unit: &'static str, count: impl Fn() -> u64 + Send + 'static) -> Self {
        let mut before = count();
        let read = move |passed: Duration| {
            let now = count();
            let grown = now.saturating_sub(std::mem::replace(&mut before, now));
            as_f64(grown) / passed.as_secs_f64().max(1e-9)
        };
        Self { name: name.to_owned(), unit, read: Box::new(read) }
    }

    /// Memory and processor of these processes together; of none, no gauges.
    pub fn of_processes(pids: &[u32]) -> Vec<Self> {
        if pids.is_empty() {
            return Vec::new();
        }
        let memory_of = pids.to_vec();
        let memory = Self::level("hub memory", "MB", move || {
            let resident = memory_of.iter().filter_map(|pid| process::memory(*pid).ok());
            as_f64(resident.map(|memory| memory.resident_bytes).sum::<u64>()) / 1e6
        });
        let time_of = pids.to_vec();
        let processor = Self::rate("hub processor", "% of a core", move || {
            let used = time_of.iter().filter_map(|pid| process::processor_time(*pid).ok());
            // In hundredths of a second, so that growth in a second is a percentage.
            u64::try_from(used.sum::<Duration>().as_millis() / 10).unwrap_or(u64::MAX)
        });
        vec![memory, processor]
    }
}

/// Looks at gauges until it is finished.
#[derive(Debug)]
pub struct Watch {
    task: JoinHandle<()>,
    bar: ProgressBar,
    series: Arc<Mutex<Vec<Series>>>,
}

impl Watch {
    /// Begins to look, every second; `length` is how long it will take, if that is known.
    pub fn start(title: &str, length: Option<Duration>, gauges: Vec<Gauge>) -> Self {
        Self::looking(LOOK_EVERY, title, length, gauges)
    }

    fn looking(every: Duration, title: &str, length: Option<Duration>, gauges: Vec<Gauge>) -> Self {
        let bar = bar(title, length);
        let named = gauges.iter().map(|gauge| Series {
            name: gauge.name.clone(),
            unit: gauge.unit.to_owned(),
            points: Vec::new(),
        });
        let series = Arc::new(Mutex::new(named.collect::<Vec<_>>()));
        let task = tokio::spawn(look(every, title.to_owned(), bar.clone(), gauges, series.clone()));
        Self { task, bar, series }
    }

    /// Ends; the numbers over time.
    pub fn finish(self) -> Vec<Series> {
        let series = std::mem::take(&mut *self.series.lock().unwrap_or_else(PoisonError::into_inner));
        series.into_iter().filter(|series| !series.points.is_empty()).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}

fn bar(title: &str, length: Option<Duration>) -> ProgressBar {
    let bar = match length {
        Some(length) => ProgressBar::new(length.as_secs().max(1)),
        None => ProgressBar::new_spinner(),
    };
    // Hides itself where there is no terminal.
    bar.set_draw_target(ProgressDrawTarget::stderr());
    let template = match length {
        Some(_) => "{prefix:.bold} {bar:24.cyan/dim} {elapsed_precise}  {wide_msg}",
        None => "{prefix:.bold} {spinner:.cyan} {elapsed_precise}  {wide_msg}",
    };
    bar.set_style(ProgressStyle::with_template(template).expect("a template without mistakes").progress_chars("━━─"));
    bar.set_prefix(title.to_owned());
    bar
}

async fn look(
    every: Duration,
    title: String,
    bar: ProgressBar,
    mut gauges: Vec<Gauge>,
    series: Arc<Mutex<Vec<Series>>>,
) {
    let begun = Instant::now();
    let mut last = begun;
    let mut interval = tokio::time::interval_at((begun + every).into(), every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for looks in 1_u32.. {
        interval.tick().await;
        let now = Instant::now();
        let passed = now - std::mem::replace(&mut last, now);
        let seconds = (now - begun).as_secs_f64();
        let mut told = Vec::with_capacity(gauges.len());
        let mut series = series.lock().unwrap_or_else(PoisonError::into_inner);
        for (gauge, series) in gauges.iter_mut().zip(series.iter_mut()) {
            let number = (gauge.read)(passed);
            told.push(format!("{} {}", gauge.name, with_unit(number, gauge.unit)));
            append(&mut series.points, (seconds, number));
        }
        drop(series);
        let told = told.join(" · ");
        if bar.is_hidden() {
            if looks.is_multiple_of(TELL_EVERY) {
                eprintln!("  {title} {seconds:.0} s: {told}");
            }
        } else {
            bar.set_position((now - begun).as_secs());
            bar.set_message(told);
        }
    }
}

/// Adds a point; when there are too many, every other is left out, so that a long run is kept as long as it is.
fn append(points: &mut Vec<(f64, f64)>, point: (f64, f64)) {
    points.push(point);
    if points.len() > POINTS {
        let mut index = 0;
        points.retain(|_| {
            index += 1;
            index % 2 == 1
        });
    }
}

fn with_unit(number: f64, unit: &str) -> String {
    let number =
        if number.abs() < 100.0 && number.fract() != 0.0 { format!("{number:.1}") } else { format!("{number:.0}") };
    if unit.is_empty() { number } else { format!("{number} {unit}") }
}

/// Counts here are far below 2^52, where a float is exact.
#[expect(clippy::cast_precision_loss)]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[test]
    fn a_rate_is_what_came_since_the_last_look() {
        let count = Arc::new(AtomicU64::new(100));
        let mut gauge = Gauge::rate("x", "/s", {
            let count = count.clone();
            move || count.load(Relaxed)
        });
        count.store(300, Relaxed);
        let read = |gauge: &mut Gauge, seconds| (gauge.read)(Duration::from_secs(seconds));
        assert!((read(&mut gauge, 2) - 100.0).abs() < 1e-6);
        assert!(read(&mut gauge, 2).abs() < 1e-6);
    }

    #[test]
    fn a_long_run_is_kept_whole_but_coarser() {
        let mut points = Vec::new();
        for second in 0..100_000_u32 {
            append(&mut points, (f64::from(second), 1.0));
            assert!(points.len() <= POINTS);
        }
        assert!(points[0].0.abs() < 1e-6 && points[points.len() - 1].0 > 90_000.0);
    }

    #[tokio::test]
    async fn what_was_looked_at_stands_in_the_series() {
        // It holds one for every 5 ms of this test.
        let (looked, mut looks) = tokio::sync::mpsc::unbounded_channel();
        let seven = Gauge::level("seven", "MB", move || {
            let _nobody_waits_any_more = looked.send(());
            7.0
        });
        let watch = Watch::looking(Duration::from_millis(5), "a test", None, vec![seven]);
        for _ in 0..3 {
            looks.recv().await.expect("another look");
        }
        let series = watch.finish();
        assert_eq!((series[0].name.as_str(), series[0].unit.as_str()), ("seven", "MB"));
        // The third may still be on its way into it.
        assert!(series[0].points.len() >= 2 && series[0].points[1].0 > series[0].points[0].0, "{series:?}");
    }

    #[test]
    fn of_this_process_there_are_numbers() {
        let mut gauges = Gauge::of_processes(&[std::process::id()]);
        assert!((gauges[0].read)(Duration::from_secs(1)) > 0.0);
        assert!(Gauge::of_processes(&[]).is_empty());
    }
}
