//! Settings of notifications: the `[actors.notifications]` section.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage::{SecretUrl, units};

use super::mail;

/// How notifications are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `smtp://[user:password@]host[:port]`, with `?tls=required` for STARTTLS, or `smtps://…`. Without it no e-mail is
    /// sent.
    pub smtp_url: Option<SecretUrl>,
    /// Whom e-mails come from.
    pub mail_from: String,
    /// E-mails about one device in an hour; further alerts come together in one more at its end.
    pub mails_per_hour: u32,
    /// Whether webhooks may go to addresses of private networks and of this machine. Link-local ones, where clouds keep
    /// their credentials, never.
    pub webhook_private_networks: bool,
    /// How long a receiver or a mail server may take.
    #[serde(with = "units::duration")]
    pub time_limit: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            smtp_url: None,
            mail_from: "Mooring <no-reply@localhost>".to_owned(),
            mails_per_hour: 60,
            webhook_private_networks: false,
            time_limit: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// What is wrong with these settings, in a sentence that begins with the key; `None` if nothing is.
    pub fn fault(&self) -> Option<String> {
        if self.time_limit.is_zero() {
            return Some("time_limit is 0: expected a duration such as \"10s\"".to_owned());
        }
        if let Some(fault) = mail::sender_fault(&self.mail_from) {
            return Some(format!("mail_from is {:?}: {fault}", self.mail_from));
        }
        let url = self.smtp_url.as_ref()?;
        mail::url_fault(url).map(|fault| format!("smtp_url is {url:?}: {fault}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_server_and_sender_that_cannot_be_are_refused() {
        assert_eq!(Config::default().fault(), None);
        let with = |url: &str| Config { smtp_url: Some(url.into()), ..Config::default() }.fault();
        for fine in ["smtp://localhost:2525", "smtps://me:secret@mail.example.com", "smtp://mail?tls=required"] {
            assert_eq!(with(fine), None, "{fine}");
        }
        for wrong in ["http://mail.example.com", "mail.example.com", "smtp://me:hunter2@mail:99999"] {
            let fault = with(wrong).unwrap_or_else(|| panic!("{wrong} is taken"));
            assert!(fault.starts_with("smtp_url is ") && !fault.contains("hunter2"), "{fault}");
        }
        let sender = Config { mail_from: "nobody".to_owned(), ..Config::default() };
        assert!(sender.fault().is_some_and(|fault| fault.starts_with("mail_from is \"nobody\"")));
    }
}
