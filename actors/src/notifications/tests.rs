use storage::{AlertId, AlertLevel, Folded, Mute, MuteId, NewAlert, RecordedAlert, UserId};

use super::*;

const NOW: Timestamp = Timestamp(1_900_000_000_000_000);

fn channel(kind: ChannelKind, recipients: &[&str]) -> Channel {
    Channel {
        id: ChannelId::random(),
        kind,
        name: "x".to_owned(),
        enabled: true,
        builtin: false,
        url: None,
        secret: None,
        recipients: recipients.iter().map(|address| (*address).to_owned()).collect(),
        created: NOW,
        updated: NOW,
    }
}

fn recorded(alerts: usize, channels: Vec<Channel>) -> Recorded {
    let device = DeviceId::random();
    let one = |number: usize| RecordedAlert {
        alert: Alert {
            id: AlertId::random(),
            device,
            said: NewAlert {
                name: "down".to_owned(),
                level: AlertLevel::Critical,
                subject_type: "service".to_owned(),
                subject_name: number.to_string(),
                status: "x".to_owned(),
                details: None,
                at: NOW,
            },
            received: NOW,
        },
        folded: Folded::Opened,
        open: number as u64 + 1,
    };
    Recorded {
        alerts: (0..alerts).map(one).collect(),
        channels,
        mutes: vec![],
        users: vec![(UserId::new("a"), "a@x.org".to_owned()), (UserId::new("b"), "b@x.org".to_owned())],
        mails: HashMap::new(),
    }
}

fn kinds(follow: &FollowUp) -> Vec<&str> {
    follow.jobs.iter().map(|job| job.kind.as_str()).collect()
}

#[test]
fn every_alert_goes_once_to_every_channel_and_recipient() {
    let channels = vec![channel(ChannelKind::Webhook, &[]), channel(ChannelKind::Email, &[])];
    let follow = decide(&recorded(1, channels), true, 60, usize::MAX, NOW);
    assert_eq!(kinds(&follow), [WEBHOOK, EMAIL, EMAIL]);
    let to: Vec<&Value> = follow.jobs[1..].iter().map(|job| &job.input["to"]).collect();
    assert_eq!(to, ["a@x.org", "b@x.org"]);
    let keys: std::collections::HashSet<_> = follow.jobs.iter().map(|job| &job.key).collect();
    assert_eq!(keys.len(), 3);
    assert_eq!(follow.events.len(), 1);

    let named = vec![channel(ChannelKind::Email, &["ops@x.org"])];
    let follow = decide(&recorded(2, named), true, 60, usize::MAX, NOW);
    assert_eq!(follow.jobs.iter().map(|job| &job.input["to"]).collect::<Vec<_>>(), ["ops@x.org", "ops@x.org"]);
}

#[test]
fn what_is_muted_is_told_to_listeners_alone() {
    let [hook, mail] = [channel(ChannelKind::Webhook, &[]), channel(ChannelKind::Email, &[])];
    let mut recorded = recorded(2, vec![hook.clone(), mail]);
    let device = recorded.alerts[0].alert.device;
    let mute = |device, subject: Option<&str>, channel| Mute {
        id: MuteId::random(),
        device,
        subject_type: None,
        subject_name: subject.map(str::to_owned),
        channel,
        until: None,
        comment: None,
        created_by: UserId::new("a"),
        created: NOW,
    };
    recorded.mutes = vec![mute(Some(device), Some("0"), None)];
    assert_eq!(kinds(&decide(&recorded, true, 60, usize::MAX, NOW)), [WEBHOOK, EMAIL, EMAIL]);
    recorded.mutes.push(mute(None, Some("1"), Some(hook.id)));
    assert_eq!(kinds(&decide(&recorded, true, 60, usize::MAX, NOW)), [EMAIL, EMAIL]);
    recorded.mutes = vec![mute(Some(DeviceId::random()), None, None)];
    assert_eq!(decide(&recorded, true, 60, usize::MAX, NOW).jobs.len(), 6);
    recorded.mutes = vec![mute(Some(device), None, None)];
    let follow = decide(&recorded, true, 60, usize::MAX, NOW);
    assert_eq!((follow.jobs.len(), follow.events.len(), follow.mails.len()), (0, 2, 0));
}

#[test]
fn after_the_hours_mails_one_digest_tells_the_rest() {
    let mut recorded = recorded(4, vec![channel(ChannelKind::Email, &["ops@x.org"])]);
    let device = recorded.alerts[0].alert.device;
    let hour = hour_of(NOW);
    recorded.mails.insert(device, MailCount { hour, mails: 1 });
    let follow = decide(&recorded, true, 3, usize::MAX, NOW);
    assert_eq!(kinds(&follow), [EMAIL, EMAIL, DIGEST], "one digest, although two were too many");
    assert_eq!(follow.mails[&device], MailCount { hour, mails: 3 });
    assert_eq!(follow.jobs[2].due, Timestamp::from_seconds((hour + 1) * 3600));
    // The next hour begins anew.
    let next = decide(&recorded, true, 3, usize::MAX, NOW.plus(HOUR));
    assert_eq!(kinds(&next), [EMAIL, EMAIL, EMAIL, DIGEST]);
    assert_eq!(next.mails[&device], MailCount { hour: hour + 1, mails: 3 });
}

#[test]
fn without_a_mail_server_or_room_nothing_is_sent() {
    let channels = vec![channel(ChannelKind::Webhook, &[]), channel(ChannelKind::Email, &[])];
    assert_eq!(kinds(&decide(&recorded(1, channels.clone()), false, 60, usize::MAX, NOW)), [WEBHOOK]);
    let follow = decide(&recorded(3, channels), true, 60, 0, NOW);
    assert_eq!((follow.jobs.len(), follow.events.len()), (0, 3));
}

#[test]
fn a_flood_of_alerts_makes_few_jobs() {
    let mut recorded =
        recorded(5_000, vec![channel(ChannelKind::Email, &[]), channel(ChannelKind::Email, &["c@x.org"])]);
    let follow = decide(&recorded, true, 2, usize::MAX, NOW);
    assert_eq!(kinds(&follow), [EMAIL, EMAIL, EMAIL, EMAIL, EMAIL, EMAIL, DIGEST, DIGEST, DIGEST]);
    assert_eq!(follow.events.len(), 5_000);
    recorded.channels.push(channel(ChannelKind::Webhook, &[]));
    let follow = decide(&recorded, true, 2, 100, NOW);
    assert_eq!((follow.jobs.len(), follow.events.len()), (100, 5_000), "no more than there is room for");
}

#[test]
fn an_alert_too_large_for_a_job_goes_without_its_lines() {
    let mut recorded = recorded(1, vec![channel(ChannelKind::Webhook, &[])]);
    recorded.alerts[0].alert.said.details = Some(json!({ "description": "x".repeat(WHOLE_ALERT) }).into());
    let follow = decide(&recorded, true, 60, usize::MAX, NOW);
    let subject = &follow.jobs[0].input["alert"]["subject"];
    assert_eq!((subject.get("details"), &subject["details_omitted"]), (None, &Value::Bool(true)));
}
