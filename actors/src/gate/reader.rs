//! Reads what storage says about tokens: those that are asked for while it is busy with others are read together.
//!
//! A lone device is asked about at once. When thousands come back together, after a time away in which what was
//! remembered of them has grown old, one statement answers for all that have gathered while the one before it ran. An
//! answer is never older than its question: a statement begins after everybody has asked whom it answers.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use storage::{AuthSetId, DeviceToken, Devices, StorageError};
use tokio::sync::oneshot;

/// Tokens read by one statement at most.
const BATCH: usize = 512;

/// Reads the tokens of devices. Whoever asks waits, so what gathers is bounded by how many requests there may be.
#[derive(Clone)]
pub(super) struct TokenReader(Arc<Shared>);

struct Shared {
    devices: Devices,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asked: Vec<Question>,
    is_reading: bool,
}

struct Question {
    set: AuthSetId,
    answer: oneshot::Sender<Result<Option<DeviceToken>, StorageError>>,
}

impl TokenReader {
    pub(super) fn new(devices: Devices) -> Self {
        Self(Arc::new(Shared { devices, state: Mutex::default() }))
    }

    /// The stored token of a set, as [`Devices::token`] has it.
    pub(super) async fn read(&self, set: AuthSetId) -> Result<Option<DeviceToken>, StorageError> {
        let (answer, answered) = oneshot::channel();
        let begins = {
            let mut state = self.0.state.lock();
            state.asked.push(Question { set, answer });
            !std::mem::replace(&mut state.is_reading, true)
        };
        if begins {
            // On its own, since others depend on it: whoever asked first may hang up.
            tokio::spawn(Reading { shared: self.0.clone(), is_over: false }.read_all());
        }
        answered.await.unwrap_or_else(|gone| Err(StorageError::Unavailable(gone.into())))
    }
}

/// Reads until nobody asks any more.
struct Reading {
    shared: Arc<Shared>,
    is_over: bool,
}

impl Reading {
    async fn read_all(mut self) {
        while let Some(batch) = self.next_batch() {
            self.shared.answer(batch).await;
        }
    }

    /// Those who have asked; with nobody left this is over, in the same step.
    fn next_batch(&mut self) -> Option<Vec<Question>> {
        let mut state = self.shared.state.lock();
        // Who has hung up needs no answer.
        state.asked.retain(|question| !question.answer.is_closed());
        if state.asked.is_empty() {
            *state = State::default();
            self.is_over = true;
            return None;
        }
        let size = state.asked.len().min(BATCH);
        let rest = state.asked.split_off(size);
        Some(std::mem::replace(&mut state.asked, rest))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if !self.is_over {
            // It panicked, or its thread ends. Who waits hears that it is not known; the next one who asks begins anew.
            *self.shared.state.lock() = State::default();
        }
    }
}

impl Shared {
    async fn answer(&self, batch: Vec<Question>) {
        let read = match batch.as_slice() {
            [question] => self.devices.token(question.set).await.map(|token| token.into_iter().collect()),
            batch => self.devices.tokens(&batch.iter().map(|question| question.set).collect::<Vec<_>>()).await,
        };
        match read {
            Ok(tokens) => {
                let tokens: HashMap<AuthSetId, DeviceToken> =
                    tokens.into_iter().map(|token| (token.auth_set, token)).collect();
                for Question { set, answer } in batch {
                    // Whoever asked may have left.
                    let _ = answer.send(Ok(tokens.get(&set).copied()));
                }
            }
            Err(error) if error.is_unavailable() || batch.len() == 1 => {
                let text = error.to_string();
                let mut cause = Some(error);
                for question in batch {
                    let error = cause.take().unwrap_or_else(|| StorageError::Unavailable(text.clone().into()));
                    let _ = question.answer.send(Err(error));
                }
            }
            // One of them cannot be read; it must not take the others with it.
            Err(_) => {
                for Question { set, answer } in batch {
                    let _ = answer.send(self.devices.token(set).await);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use storage::{Config, Storage};

    use super::*;

    async fn reader() -> TokenReader {
        let storage = Storage::open(&Config::in_memory()).await.unwrap();
        TokenReader::new(storage.devices)
    }

    /// A question that nobody reads yet.
    fn ask(reader: &TokenReader) -> oneshot::Receiver<Result<Option<DeviceToken>, StorageError>> {
        let (answer, answered) = oneshot::channel();
        reader.0.state.lock().asked.push(Question { set: AuthSetId::random(), answer });
        answered
    }

    #[tokio::test]
    async fn what_gathers_is_read_in_batches_and_who_hung_up_is_left_out() {
        let reader = reader().await;
        let waiting: Vec<_> = (0..BATCH + 3).map(|_| ask(&reader)).collect();
        drop(ask(&reader));
        let mut reading = Reading { shared: reader.0.clone(), is_over: false };
        let sizes: Vec<usize> = std::iter::from_fn(|| reading.next_batch()).map(|batch| batch.len()).collect();
        assert_eq!(sizes, [BATCH, 3]);
        assert!(reading.is_over && reader.0.state.lock().asked.capacity() == 0);
        // Nobody answered, in this test.
        assert!(join_all(waiting).await.iter().all(Result::is_err));
    }

    #[tokio::test]
    async fn a_reading_that_breaks_off_leaves_nobody_waiting() {
        let reader = reader().await;
        let waiting = ask(&reader);
        reader.0.state.lock().is_reading = true;
        drop(Reading { shared: reader.0.clone(), is_over: false });
        assert!(waiting.await.is_err());
        assert_eq!(reader.read(AuthSetId::random()).await.unwrap(), None);
    }
}
