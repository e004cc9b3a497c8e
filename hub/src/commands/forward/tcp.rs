//! One local TCP connection.
//!
//! The protocol cannot say that one direction has ended. So when the local program has said everything but still
//! listens, the device's bytes go on being delivered until the device ends the connection; when the program is gone
//! altogether, the device is told.

use super::{
    peer,
    stream::{End, FromDevice, LocalEnd, Upwards},
    wire::LARGEST_FRAME,
};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::MissedTickBehavior,
};

/// A program that only listens, and whose existence cannot be asked about, is given up when nothing came for this long.
const LISTENS_FOR: Duration = Duration::from_mins(5);
const LOOK_AFTER_IT_EVERY: Duration = Duration::from_secs(1);
/// How long a program that still talks is listened to after the device has ended the connection. Closing at once would
/// make the kernel throw away what the program has not read yet.
const FAREWELL: Duration = Duration::from_secs(2);

/// Carries bytes both ways until one side ends it.
pub async fn carry(mut local: TcpStream, mut stream: LocalEnd) -> End {
    // Small pieces are somebody's keystrokes.
    let _no_matter = local.set_nodelay(true);
    let up = stream.upwards();
    let end = both_ways(&mut local, &mut stream, &up).await;
    match &end {
        End::Stopped => say_farewell(local).await,
        End::LocalEnded => up.stop().await,
        // The program must not take a broken connection for a finished one.
        End::Refused(_) | End::Lost => {
            let _no_matter = local.set_zero_linger();
        }
    }
    end
}

async fn both_ways(local: &mut TcpStream, stream: &mut LocalEnd, up: &Upwards) -> End {
    let addresses = local.peer_addr().ok().zip(local.local_addr().ok());
    let (reading, writing) = local.split();
    let mut last_delivered = Instant::now();
    let upwards = upwards(reading, up);
    tokio::pin!(upwards);
    let (progress, mut delivered) = tokio::sync::watch::channel(());
    let downwards = downwards(writing, stream, &progress);
    tokio::pin!(downwards);
    let mut has_said_everything = false;
    let mut looks = tokio::time::interval(LOOK_AFTER_IT_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            said = &mut upwards, if !has_said_everything => match said {
                Said::Everything => {
                    has_said_everything = true;
                    last_delivered = Instant::now();
                    looks.reset_immediately();
                }
                Said::Broken => return End::LocalEnded,
                Said::Lost => return End::Lost,
            },
            end = &mut downwards => return end,
            _ = delivered.changed(), if has_said_everything => last_delivered = Instant::now(),
            _ = looks.tick(), if has_said_everything => {
                let still_listens = addresses.and_then(|(peer, here)| peer::is_open(peer, here));
                if !still_listens.unwrap_or(last_delivered.elapsed() < LISTENS_FOR) {
                    return End::LocalEnded;
                }
            }
        }
    }
}

enum Said {
    Everything,
    Broken,
    Lost,
}

async fn upwards(mut local: ReadHalf<'_>, up: &Upwards) -> Said {
    let mut buffer = [0; LARGEST_FRAME];
    loop {
        // First the room: what cannot be sent yet stays with the program.
        up.room().await;
        match local.read(&mut buffer).await {
            Ok(0) => return Said::Everything,
            Ok(length) => {
                if !up.forward(&buffer[..length]).await {
                    return Said::Lost;
                }
            }
            Err(_gone) => return Said::Broken,
        }
    }
}

async fn downwards(mut local: WriteHalf<'_>, stream: &mut LocalEnd, progress: &tokio::sync::watch::Sender<()>) -> End {
    loop {
        match stream.hear().await {
            Some(FromDevice::Data(bytes)) => {
                let written = local.write_all(&bytes).await;
                // Also when nobody took it: every frame is owed one acknowledgement.
                stream.delivered(bytes.len()).await;
                if written.is_err() {
                    return End::LocalEnded;
                }
                progress.send_replace(());
            }
            Some(FromDevice::Stopped) => {
                let _gone = local.shutdown().await;
                return End::Stopped;
            }
            Some(FromDevice::Refused(why)) => return End::Refused(why),
            None => return End::Lost,
        }
    }
}

async fn say_farewell(mut local: TcpStream) {
    let listen = async {
        let mut unheard = [0; LARGEST_FRAME];
        while local.read(&mut unheard).await.is_ok_and(|length| length > 0) {}
    };
    let _ended = tokio::time::timeout(FAREWELL, listen).await;
}
