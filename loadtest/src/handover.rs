//! A channel without a buffer: an item changes hands when the taker is free for it, and until then the giver waits.
//!
//! mender-connect's goroutines hand messages on like this. It is why one busy session holds up the reading of the
//! whole websocket, and a simulated device has to be held up in the same places.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Hands items to one [`Taker`].
#[derive(Debug)]
pub(crate) struct Giver<T> {
    turn: Arc<Semaphore>,
    items: mpsc::Sender<(T, OwnedSemaphorePermit)>,
}

impl<T> Clone for Giver<T> {
    fn clone(&self) -> Self {
        Self { turn: self.turn.clone(), items: self.items.clone() }
    }
}

/// Takes one item after the other.
#[derive(Debug)]
pub(crate) struct Taker<T> {
    turn: Arc<Semaphore>,
    items: mpsc::Receiver<(T, OwnedSemaphorePermit)>,
    /// Held while the taker is busy with an item.
    busy: Option<OwnedSemaphorePermit>,
}

/// Why an item was not handed over at once; it comes back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotNow<T> {
    /// The taker is busy.
    Busy(T),
    /// There is no taker any more.
    Gone(T),
}

/// A channel whose taker is free.
pub(crate) fn channel<T>() -> (Giver<T>, Taker<T>) {
    let turn = Arc::new(Semaphore::new(1));
    let (sender, items) = mpsc::channel(1);
    (Giver { turn: turn.clone(), items: sender }, Taker { turn, items, busy: None })
}

impl<T> Giver<T> {
    /// Hands over if the taker is free.
    pub(crate) fn try_give(&self, item: T) -> Result<(), NotNow<T>> {
        use mpsc::error::TrySendError;
        match self.turn.clone().try_acquire_owned() {
            // A turn is a free place in the channel, too.
            Ok(turn) => self.items.try_send((item, turn)).map_err(|refused| match refused {
                TrySendError::Full((item, _)) => NotNow::Busy(item),
                TrySendError::Closed((item, _)) => NotNow::Gone(item),
            }),
            Err(tokio::sync::TryAcquireError::NoPermits) => Err(NotNow::Busy(item)),
            Err(tokio::sync::TryAcquireError::Closed) => Err(NotNow::Gone(item)),
        }
    }

    /// Whether there is no taker any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.turn.is_closed()
    }

    /// Waits for the taker; the item comes back if it is gone.
    pub(crate) async fn give(&self, item: T) -> Result<(), T> {
        let Ok(turn) = self.turn.clone().acquire_owned().await else { return Err(item) };
        self.items.send((item, turn)).await.map_err(|refused| refused.0.0)
    }
}

impl<T> Taker<T> {
    /// The next item, or `None` when nobody will give one any more. From here on the taker is free, and busy again once
    /// it has the item. May be cancelled without losing an item.
    pub(crate) async fn take(&mut self) -> Option<T> {
        self.busy = None;
        let (item, turn) = self.items.recv().await?;
        self.busy = Some(turn);
        Some(item)
    }

    /// The item of a giver who is waiting, without waiting for one.
    pub(crate) async fn take_waiting(&mut self) -> Waiting<T> {
        self.busy = None;
        tokio::task::yield_now().await;
        if let Ok(turn) = self.turn.clone().try_acquire_owned() {
            self.busy = Some(turn);
            return if self.items.is_closed() || self.items.sender_strong_count() == 0 {
                Waiting::Gone
            } else {
                Waiting::Nobody
            };
        }
        // The turn went to a giver, or its item is here.
        self.take().await.map_or(Waiting::Gone, Waiting::Item)
    }
}

impl<T> Drop for Taker<T> {
    fn drop(&mut self) {
        self.turn.close();
    }
}

/// What [`Taker::take_waiting`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Waiting<T> {
    /// Somebody waited with this.
    Item(T),
    /// Nobody waits.
    Nobody,
    /// Nobody is left to give.
    Gone,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_item_waits_until_the_taker_is_done_with_the_first() {
        let (giver, mut taker) = channel();
        assert_eq!(giver.try_give(1), Ok(()));
        assert_eq!(giver.try_give(2), Err(NotNow::Busy(2)));
        assert_eq!(taker.take().await, Some(1));
        assert_eq!(giver.try_give(2), Err(NotNow::Busy(2)));

        let giving = tokio::spawn({
            let giver = giver.clone();
            async move { giver.give(2).await }
        });
        tokio::task::yield_now().await;
        assert!(!giving.is_finished());
        assert_eq!(taker.take().await, Some(2));
        assert_eq!(giving.await.expect("no panic"), Ok(()));
    }

    #[tokio::test]
    async fn only_who_waits_already_is_heard_without_waiting() {
        let (giver, mut taker) = channel();
        assert_eq!(taker.take_waiting().await, Waiting::Nobody);
        assert_eq!(giver.try_give(1), Err(NotNow::Busy(1)), "the taker is not waiting");

        let giving = tokio::spawn({
            let giver = giver.clone();
            async move { giver.give(1).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(taker.take_waiting().await, Waiting::Item(1));
        assert_eq!(giving.await.expect("no panic"), Ok(()));

        drop(giver);
        assert_eq!(taker.take_waiting().await, Waiting::Gone);
        assert_eq!(taker.take().await, None);
    }

    #[tokio::test]
    async fn an_item_for_nobody_comes_back() {
        let (giver, taker) = channel();
        drop(taker);
        assert_eq!(giver.try_give(1), Err(NotNow::Gone(1)));
        assert_eq!(giver.give(1).await, Err(1));
    }
}
