//! What another process uses, read from `/proc`.

use anyhow::Context;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Memory counts as settled when this many samples, one each second, differ by less than [`SETTLED_WITHIN`].
const SETTLED_SAMPLES: usize = 5;
/// One part in two hundred.
const SETTLED_WITHIN: u64 = 200;

/// Memory of a process at one moment, in bytes of user memory: what the kernel keeps for its sockets is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Everything resident (`VmRSS`).
    pub resident_bytes: u64,
    /// The part that belongs to it alone: heap and stacks (`RssAnon`).
    pub anonymous_bytes: u64,
}

/// The memory of the process `pid`.
///
/// # Errors
/// When there is no such process.
pub fn memory(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_status(&status).with_context(|| format!("{path} tells no memory"))
}

/// Waits until the memory of the process stays the same for a few seconds, but no longer than `limit`.
///
/// # Errors
/// When there is no such process.
pub async fn settled_memory(pid: u32, limit: Duration) -> anyhow::Result<Memory> {
    let start = Instant::now();
    let mut samples = vec![memory(pid)?];
    while start.elapsed() < limit {
        tokio::time::sleep(Duration::from_secs(1)).await;
        samples.push(memory(pid)?);
        let recent = samples.iter().rev().take(SETTLED_SAMPLES).map(|sample| sample.resident_bytes);
        let (low, high) = recent.fold((u64::MAX, 0), |(low, high), bytes| (low.min(bytes), high.max(bytes)));
        if samples.len() >= SETTLED_SAMPLES && high - low <= high / SETTLED_WITHIN {
            break;
        }
    }
    memory(pid)
}

/// How many files, sockets among them, a process has open.
///
/// # Errors
/// When there is no such process, or it is somebody else's.
pub fn open_files(pid: u32) -> anyhow::Result<usize> {
    let path = format!("/proc/{pid}/fd");
    Ok(std::fs::read_dir(&path).with_context(|| format!("cannot read {path}"))?.count())
}

/// Processor time the process has used so far, user and system.
///
/// # Errors
/// When there is no such process.
pub fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_stat(&stat).with_context(|| format!("{path} tells no processor time"))
}

/// The same to the nanosecond, as the scheduler has counted it for the threads that there are now; for what takes less than
/// a few ticks of [`processor_time`].
///
/// # Errors
/// When there is no such process, or its kernel does not count.
pub fn scheduled_time(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/task");
    let mut total = 0;
    for thread in std::fs::read_dir(&path).with_context(|| format!("cannot read {path}"))? {
        // A thread may end in between.
        let Ok(counted) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        let nanoseconds = counted.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
        total += nanoseconds.context("the kernel does not count the time of threads")?;
    }
    Ok(Duration::from_nanos(total))
}

fn parse_status(status: &str) -> Option<Memory> {
    let kibibytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Memory { resident_bytes: kibibytes("VmRSS")? * 1024, anonymous_bytes: kibibytes("RssAnon")? * 1024 })
}

fn parse_stat(stat: &str) -> Option<Duration> {
    // The name stands in parentheses and may hold anything; the fields are counted from its end.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    // A tick is 10 ms in every kernel that people run; asking would take a C call.
    Some(Duration::from_millis((user + system) * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_status_file() {
        let memory = parse_status("Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t    1024 kB\n").expect("memory");
        assert_eq!(memory, Memory { resident_bytes: 2 << 20, anonymous_bytes: 1 << 20 });
    }

    #[test]
    fn processor_time_is_read_past_a_name_with_blanks_and_parentheses() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 9 9 9";
        assert_eq!(parse_stat(stat), Some(Duration::from_secs(2)));
    }

    #[test]
    fn this_process_uses_the_processor() {
        let spent = || scheduled_time(std::process::id()).expect("a time");
        let before = spent();
        // The kernel may count late, by a tick of its clock at most: a billion additions take far longer.
        let rounds = (0..100_000_u64).find(|_| {
            std::hint::black_box((0..10_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n)));
            spent() > before
        });
        assert!(rounds.is_some(), "{before:?} it was, and is");
    }

    #[test]
    fn this_process_has_memory() {
        assert!(memory(std::process::id()).expect("memory").resident_bytes > 0);
        assert!(open_files(std::process::id()).expect("files") >= 3);
    }
}
