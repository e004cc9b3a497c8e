//! The worker of one session: one message at a time, and whether anybody is still there.

use super::{Outlet, Services, file_transfer::FileTransfer, port_forward::PortForward};
use crate::{
    handover::Taker,
    message::{CONTROL, FILE_TRANSFER, Message, PORT_FORWARD, STATUS_ERROR, STATUS_NORMAL, UPDATE_CLIENT, pack},
    update_client::UpdateClient,
};
use serde::Deserialize;
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};

pub(super) struct Worker {
    session: String,
    services: Arc<Services>,
    update_client: Arc<UpdateClient>,
    outlet: Outlet,
    transfer: FileTransfer,
    forward: PortForward,
}

/// Whether the session goes on after a message.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

impl Worker {
    pub(super) fn new(
        session: String,
        services: Arc<Services>,
        update_client: Arc<UpdateClient>,
        outlet: Outlet,
    ) -> Self {
        Self {
            transfer: FileTransfer::new(services.files.clone().unwrap_or_default(), outlet.clone()),
            forward: PortForward::new(session.clone(), services.port_timeout, outlet.clone()),
            session,
            services,
            update_client,
            outlet,
        }
    }

    /// Returns when the session is over. What it has started ends with `self`.
    pub(super) async fn run(mut self, mut messages: Taker<Message>) {
        let silence = self.services.session_timeout * 4 / 5;
        let grace = self.services.session_timeout / 5;
        let mut asked = false;
        let mut timer = Instant::now() + silence;
        loop {
            let message = tokio::select! {
                message = messages.take() => message,
                () = sleep_until(timer) => {
                    if asked {
                        let _offline = self.outlet.say(control_error(&self.session, "session timeout", true, None)).await;
                        return;
                    }
                    if self.outlet.say(Message::new(CONTROL, "ping").session(&self.session)).await.is_err() {
                        return;
                    }
                    asked = true;
                    timer = Instant::now() + grace;
                    continue;
                }
            };
            let Some(message) = message else { return };
            asked = false;
            timer = Instant::now() + silence;
            if self.handle(message).await == Next::End {
                return;
            }
        }
    }

    async fn handle(&mut self, message: Message) -> Next {
        match message.header.proto {
            CONTROL => {
                let (reply, next) = control(&message, &self.services);
                if let Some(reply) = reply
                    && self.outlet.say(reply).await.is_err()
                {
                    return Next::End;
                }
                return next;
            }
            FILE_TRANSFER if self.services.files.is_some() => self.transfer.hear(message).await,
            PORT_FORWARD if self.services.ports => self.forward.hear(&message).await,
            UPDATE_CLIENT if self.services.update_client => self.command(&message).await,
            proto => {
                let why = format!("no handler registered for protocol: 0x{proto:04X}");
                let _offline = self.outlet.say(control_error(&self.session, &why, false, Some(&message))).await;
            }
        }
        Next::GoOn
    }

    async fn command(&self, message: &Message) {
        let done = match message.kind() {
            "check-update" => self.update_client.check_update().await,
            "send-inventory" => self.update_client.send_inventory().await,
            _ => Err("unknown message type".to_owned()),
        };
        let reply = Message::new(UPDATE_CLIENT, message.kind()).session(message.session_id());
        let reply = match done {
            Ok(()) => reply.integer("status", STATUS_NORMAL),
            Err(why) => reply.integer("status", STATUS_ERROR).with_body(why),
        };
        let _offline = self.outlet.say(reply).await;
    }
}

/// The answer to a message of session control.
fn control(message: &Message, services: &Services) -> (Option<Message>, Next) {
    #[derive(Deserialize)]
    struct Open {
        versions: Vec<i64>,
    }
    #[derive(Deserialize)]
    struct Failure {
        #[serde(default)]
        close: bool,
    }
    let session = message.session_id();
    match message.kind() {
        "open" => match rmp_serde::from_slice::<Open>(message.body()) {
            Ok(open) if open.versions.contains(&1) => {
                let accept = Message::new(CONTROL, "accept").session(session).with_body(accept_body(services));
                (Some(accept), Next::GoOn)
            }
            _ => {
                let why = "handshake rejected: require version 1";
                (Some(control_error(session, why, true, Some(message))), Next::End)
            }
        },
        "ping" => (Some(Message::new(CONTROL, "pong").session(session)), Next::GoOn),
        "pong" => (None, Next::GoOn),
        "close" => (None, Next::End),
        "error" => {
            let closes = rmp_serde::from_slice::<Failure>(message.body()).is_ok_and(|failure| failure.close);
            (None, if closes { Next::End } else { Next::GoOn })
        }
        other => {
            let why = format!("session: control type message not understood: '{other}'");
            (Some(control_error(session, &why, false, Some(message))), Next::GoOn)
        }
    }
}

fn accept_body(services: &Services) -> Vec<u8> {
    let protocols: Vec<u16> = services.protocols().collect();
    let mut body = vec![];
    pack::map(&mut body, 2);
    pack::text(&mut body, "version");
    pack::integer(&mut body, 1);
    pack::text(&mut body, "protocols");
    pack::array(&mut body, protocols.len());
    for protocol in protocols {
        pack::uint16(&mut body, protocol);
    }
    body
}

/// An error of the session itself; `of` is the message that led to it.
fn control_error(session: &str, why: &str, close: bool, of: Option<&Message>) -> Message {
    let mut body = serde_json::json!({ "err": why, "close": close });
    if let Some(of) = of {
        body["msgproto"] = of.header.proto.into();
        body["msgtype"] = of.kind().into();
        if let Some(id) = of.text_property("msgid") {
            body["msgid"] = id.into();
        }
    }
    let body = rmp_serde::to_vec_named(&body).expect("JSON always has a form in MessagePack");
    Message::new(CONTROL, "error").session(session).with_body(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Accept {
        version: i64,
        protocols: Vec<u16>,
    }

    fn open(version: i64) -> Message {
        let body = rmp_serde::to_vec_named(&serde_json::json!({ "versions": [version] })).expect("packed");
        Message::new(CONTROL, "open").session("s").with_body(body)
    }

    #[test]
    fn an_open_with_version_1_is_accepted_and_names_what_is_on_offer() {
        for (services, expected) in [(Services::none(), &[1][..]), (Services::of_this_machine(), &[1, 2, 3, 4])] {
            let (answer, next) = control(&open(1), &services);
            let answer = answer.expect("an answer");
            let accept: Accept = rmp_serde::from_slice(answer.body()).expect("a body");
            assert_eq!((answer.kind(), answer.session_id(), accept.version), ("accept", "s", 1));
            assert_eq!((accept.protocols.as_slice(), next), (expected, Next::GoOn));
        }
    }

    #[test]
    fn an_open_without_version_1_ends_the_session() {
        let (answer, next) = control(&open(2), &Services::none());
        assert!(String::from_utf8_lossy(answer.expect("an answer").body()).contains("require version 1"));
        assert_eq!(next, Next::End);
    }

    #[test]
    fn a_ping_is_answered_a_pong_is_not_and_a_close_ends_the_session() {
        let react = |kind| control(&Message::new(CONTROL, kind), &Services::none());
        assert_eq!(react("ping").0.expect("an answer").kind(), "pong");
        assert_eq!(react("pong"), (None, Next::GoOn));
        assert_eq!(react("close"), (None, Next::End));
        assert_eq!(react("nonsense").0.expect("an answer").kind(), "error");
    }
}
