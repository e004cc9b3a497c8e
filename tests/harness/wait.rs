//! Waiting for conditions, with a limit.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard};

/// How long anything may take for which nobody promised a time. Generous: the machine may be busy with other tests.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until the answer is something.
///
/// # Panics
/// When the limit passes first; `what` says what was waited for.
pub async fn wait_until<T>(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = condition().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain for {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// The outcome of something that has to happen within `limit`.
///
/// # Panics
/// When it does not.
pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    let Ok(outcome) = tokio::time::timeout(limit, future).await else { panic!("waited {limit:?} in vain for {what}") };
    outcome
}

/// A turn among the tests that use much of the machine: they take it one after the other, beside the light ones.
pub async fn turn_of_the_heavy() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}
