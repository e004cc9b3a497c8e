//! How far a copy has got: a bar on a terminal, nothing but the last line otherwise.

use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest, Sha256};
use std::{
    fmt::Write as _,
    io::Write as _,
    time::{Duration, Instant},
};

/// Counts, and digests what it counts.
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
    bytes: u64,
    digest: Sha256,
}

impl Progress {
    /// Of something with this name and, if it is known, this size.
    pub fn of(name: &str, size: Option<u64>) -> Self {
        // Hides itself if standard error is no terminal.
        let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr());
        let template = match size {
            Some(_) => "{prefix} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
            None => "{prefix} {binary_bytes}, {binary_bytes_per_sec}",
        };
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(name.to_owned());
        Self { bar, started: Instant::now(), bytes: 0, digest: Sha256::new() }
    }

    /// These bytes were copied.
    pub fn add(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        self.bar.set_position(self.bytes);
    }

    /// So many bytes were copied.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All that was copied counts no more: it starts again.
    pub fn start_again(&mut self) {
        self.bytes = 0;
        self.digest = Sha256::new();
        self.bar.set_position(0);
    }

    /// A line of its own.
    pub fn say(&self, line: &str) {
        // Without a place to say it there is nothing to do about it.
        self.bar.suspend(|| drop(writeln!(std::io::stderr(), "mooring: {line}")));
    }

    /// The SHA-256 of what was copied.
    pub fn sha256(&self) -> [u8; 32] {
        self.digest.clone().finalize().into()
    }

    /// What was done, on one line, which takes the place of the bar.
    pub fn summary(&self) -> String {
        self.bar.finish_and_clear();
        let took = self.started.elapsed();
        let how_long = if took < Duration::from_mins(1) {
            format!("{:.1} s", took.as_secs_f64())
        } else {
            HumanDuration(took).to_string()
        };
        format!("{} in {how_long}, sha256 {}", BinaryBytes(self.bytes), hex(&self.sha256()))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Two digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        // Writing to a text cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_copied_is_counted_and_digested() {
        let mut progress = Progress::of("x", Some(3));
        progress.add(b"zzz");
        progress.start_again();
        progress.add(b"a");
        progress.add(b"bc");
        let summary = progress.summary();
        assert!(summary.starts_with("3 B in "), "{summary}");
        assert!(summary.ends_with("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"), "{summary}");
    }
}
