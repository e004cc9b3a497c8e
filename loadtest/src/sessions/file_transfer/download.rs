//! A file on its way to the hub: 20 chunks ahead of the last ack, and no further.

use super::{CHUNK, Failure, Outlet, offset, os_error, report};
use crate::{
    handover::Taker,
    message::{FILE_TRANSFER, Message},
};
use tokio::{fs::File, io::AsyncReadExt};

/// How far the device is ahead of the last ack at most, in bytes.
const WINDOW: i64 = 20 * 4096;

pub(super) async fn run(file: File, request: Message, acks: Taker<Message>, outlet: Outlet) {
    let mut download = Download { file, acks, outlet, session: request.session_id().to_owned(), sent: 0, acked: 0 };
    if let Err(failure) = download.send().await {
        report(failure, &request, &download.outlet).await;
    }
}

struct Download {
    file: File,
    acks: Taker<Message>,
    outlet: Outlet,
    session: String,
    sent: i64,
    acked: i64,
}

impl Download {
    async fn send(&mut self) -> Result<(), Failure> {
        let mut chunk = [0; CHUNK];
        loop {
            let room = self.acked.saturating_sub(self.sent).saturating_add(WINDOW);
            let Some(room) = usize::try_from(room).ok().filter(|&room| room > 0) else {
                self.wait_for_ack().await?;
                continue;
            };
            let read = self.file.read(&mut chunk[..room.min(CHUNK)]).await.map_err(|error| {
                Failure::Told(format!("failed to copy file chunk to session: {}", os_error(&error)))
            })?;
            // Without a body it says that the file ends here.
            self.outlet.say(self.message().with_body(&chunk[..read])).await?;
            if read == 0 {
                break;
            }
            self.sent += i64::try_from(read).unwrap_or(i64::MAX);
        }
        while self.acked < self.sent {
            self.wait_for_ack().await?;
        }
        Ok(())
    }

    fn message(&self) -> Message {
        Message::new(FILE_TRANSFER, "file_chunk").session(&self.session).wide("offset", self.sent)
    }

    async fn wait_for_ack(&mut self) -> Result<(), Failure> {
        let message = self.acks.take().await.ok_or(Failure::Silent)?;
        let why = match (message.kind(), offset(&message)) {
            ("ack", Some(offset)) => {
                self.acked = offset;
                return Ok(());
            }
            ("ack", None) if message.property("offset").is_some() => {
                "invalid offset data type: require int64".to_owned()
            }
            ("ack", None) => "ack message: offset property cannot be blank".to_owned(),
            ("error", _) => return Err(Failure::Silent),
            (other, _) => format!("received unexpected message type '{other}'; expected 'ack'"),
        };
        Err(Failure::Blamed(why, Box::new(message)))
    }
}
