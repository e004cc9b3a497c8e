//! What the local end of one forwarded connection and the tunnel share.

use super::wire::{Say, encode};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_tungstenite::tungstenite::Message as Frame;
use uuid::Uuid;

/// Frames that may be on their way without an `ack`: with 4,096 bytes each, 80 KiB.
pub const WINDOW: usize = 20;
/// Bytes that may wait for a slow local program. A hub keeps to a window as we do, so more than this is a fault.
const MOST_WAITING: usize = 1 << 20;
/// What a message costs beside its bytes: one without any takes a place too.
const MESSAGE: usize = 64;

/// What the device says to the local end.
#[derive(Debug, PartialEq, Eq)]
pub enum FromDevice {
    /// Bytes.
    Data(Vec<u8>),
    /// It has ended, after everything before.
    Stopped,
    /// It never connected.
    Refused(String),
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The device ended it.
    Stopped,
    /// The local program ended it.
    LocalEnded,
    /// The device did not connect.
    Refused(String),
    /// The way to the device broke.
    Lost,
}

/// Bytes carried since the command started.
#[derive(Debug, Default)]
pub struct Carried {
    up: AtomicU64,
    down: AtomicU64,
}

impl Carried {
    /// To the device, and from it.
    pub fn both(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }
}

#[derive(Debug)]
struct Shared {
    room: Semaphore,
    unacknowledged: AtomicUsize,
    waiting: AtomicUsize,
}

/// The tunnel's end.
#[derive(Debug)]
pub struct TunnelEnd {
    shared: Arc<Shared>,
    from_device: mpsc::UnboundedSender<FromDevice>,
}

/// The local program's end.
#[derive(Debug)]
pub struct LocalEnd {
    id: Uuid,
    shared: Arc<Shared>,
    // Bounded by bytes, as `MOST_WAITING` says.
    from_device: mpsc::UnboundedReceiver<FromDevice>,
    upwards: Upwards,
}

/// The way to the device.
#[derive(Debug, Clone)]
pub struct Upwards {
    id: Uuid,
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Frame>,
    carried: Arc<Carried>,
}

/// The two ends of a new connection.
pub fn pair(id: Uuid, outgoing: mpsc::Sender<Frame>, carried: Arc<Carried>) -> (TunnelEnd, LocalEnd) {
    let shared = Arc::new(Shared {
        room: Semaphore::new(WINDOW),
        unacknowledged: AtomicUsize::new(0),
        waiting: AtomicUsize::new(0),
    });
    // Bounded by `TunnelEnd::hear`: no more data than `MOST_WAITING`, and one last word, with which the tunnel lets go of it.
    let (to_local, from_device) = mpsc::unbounded_channel();
    let upwards = Upwards { id, shared: shared.clone(), outgoing, carried };
    (TunnelEnd { shared: shared.clone(), from_device: to_local }, LocalEnd { id, shared, from_device, upwards })
}

impl TunnelEnd {
    /// Passes on what the device says; `false` if the hub sends more than it may.
    pub fn hear(&self, said: FromDevice) -> bool {
        if let FromDevice::Data(bytes) = &said {
            let cost = bytes.len() + MESSAGE;
            let waiting = self.shared.waiting.fetch_add(cost, Ordering::Relaxed) + cost;
            if waiting > MOST_WAITING {
                return false;
            }
        }
        // A local program that has just left hears nothing more.
        let _left = self.from_device.send(said);
        true
    }

    /// One of our frames was taken. More acknowledgements than frames do not widen the window.
    pub fn acknowledged(&self) {
        let one_less = |frames: usize| frames.checked_sub(1);
        if self.shared.unacknowledged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            self.shared.room.add_permits(1);
        }
    }
}

impl LocalEnd {
    /// The next word of the device; `None` when the way to it is lost.
    pub async fn hear(&mut self) -> Option<FromDevice> {
        self.from_device.recv().await
    }

    /// A message with so many bytes of the device was handed to the local program: the hub may send as many again.
    pub async fn delivered(&self, length: usize) {
        self.shared.waiting.fetch_sub(length + MESSAGE, Ordering::Relaxed);
        self.upwards.carried.down.fetch_add(length as u64, Ordering::Relaxed);
        let _lost = self.upwards.say(Say::Ack(self.id)).await;
    }

    /// The way to the device.
    pub fn upwards(&self) -> Upwards {
        self.upwards.clone()
    }
}

impl Upwards {
    /// Waits until a frame may be sent.
    pub async fn room(&self) {
        let permit = self.shared.room.acquire().await.expect("nobody closes the window");
        permit.forget();
    }

    /// Whether a frame may be sent now; if so, its place is taken.
    pub fn has_room(&self) -> bool {
        self.shared.room.try_acquire().map(tokio::sync::SemaphorePermit::forget).is_ok()
    }

    /// Sends a frame for which there is room; `false` if the way is lost.
    pub async fn forward(&self, bytes: &[u8]) -> bool {
        self.shared.unacknowledged.fetch_add(1, Ordering::Relaxed);
        self.carried.up.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.say(Say::Forward(self.id, bytes)).await
    }

    /// Ends the connection for the device.
    pub async fn stop(&self) {
        /// A hub that does not listen for this long is about to be given up.
        const LIMIT: Duration = Duration::from_secs(10);
        let _in_time = tokio::time::timeout(LIMIT, self.say(Say::Stop(self.id))).await;
    }

    async fn say(&self, say: Say<'_>) -> bool {
        self.outgoing.send(Frame::Binary(encode(say).into())).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_than_a_window_is_unacknowledged_and_surplus_acks_do_not_widen_it() {
        let (outgoing, mut sent) = mpsc::channel(100);
        let (tunnel, local) = pair(Uuid::nil(), outgoing, Arc::default());
        let up = local.upwards();
        tunnel.acknowledged();
        for _ in 0..WINDOW {
            assert!(up.has_room());
            assert!(up.forward(b"x").await);
        }
        assert!(!up.has_room());
        tunnel.acknowledged();
        assert!(up.has_room() && !up.has_room());
        drop((local, up));
        let mut frames = 0;
        while sent.recv().await.is_some() {
            frames += 1;
        }
        assert_eq!(frames, WINDOW);
    }

    #[tokio::test]
    async fn a_hub_that_floods_a_connection_is_found_out() {
        let (outgoing, _sent) = mpsc::channel(100);
        let (tunnel, mut local) = pair(Uuid::nil(), outgoing, Arc::default());
        let frame = || FromDevice::Data(vec![0; 4096]);
        for _ in 0..MOST_WAITING / (4096 + MESSAGE) {
            assert!(tunnel.hear(frame()));
        }
        assert!(!tunnel.hear(frame()));
        let (tunnel, _local) = pair(Uuid::nil(), local.upwards.outgoing.clone(), Arc::default());
        let empty = (0..MOST_WAITING).take_while(|_| tunnel.hear(FromDevice::Data(vec![]))).count();
        assert_eq!(empty, MOST_WAITING / MESSAGE, "those without bytes are counted too");
        // What is delivered makes room.
        let (tunnel, mut other) = pair(Uuid::nil(), local.upwards.outgoing.clone(), Arc::default());
        std::mem::swap(&mut local, &mut other);
        for _ in 0..10 {
            assert!(tunnel.hear(frame()));
            assert_eq!(local.hear().await, Some(frame()));
            local.delivered(4096).await;
        }
        assert_eq!(local.shared.waiting.load(Ordering::Relaxed), 0);
    }
}
