//! Where alerts are sent, and what is muted.

use std::time::Duration;

use storage::{
    Added, AlertLevel, AlertReport, Channel, ChannelId, ChannelKind, DeviceId, FollowUp, Mute, MuteId, NewAlert,
    Recorded, SetStatus, Storage, StorageError, Timestamp, UserId, clock,
};

use crate::backends::{TestDatabase, stored_device};

fn webhook(name: &str) -> Channel {
    Channel {
        id: ChannelId::random(),
        kind: ChannelKind::Webhook,
        name: name.to_owned(),
        enabled: true,
        builtin: false,
        url: Some("https://example.com/hook".to_owned()),
        secret: Some("whsec_c2VjcmV0".into()),
        recipients: vec!["a@example.com".to_owned()],
        created: Timestamp(5),
        updated: Timestamp(5),
    }
}

fn mute(channel: Option<ChannelId>, until: Option<Timestamp>, created: Timestamp) -> Mute {
    Mute {
        id: MuteId::random(),
        device: None,
        subject_type: None,
        subject_name: None,
        channel,
        until,
        comment: Some("maintenance".to_owned()),
        created_by: UserId::new("u"),
        created,
    }
}

pub async fn a_channel_is_made_changed_and_removed(database: &TestDatabase) {
    let channels = &database.storage.channels;
    let builtin = channels.list().await.expect("a list").remove(0);
    assert!(builtin.builtin && builtin.enabled && builtin.is_for_all_users());
    let hook = webhook("zebra");
    assert_eq!(channels.add(&hook).await.expect("added"), Added::Added);
    assert_eq!(channels.find(hook.id).await.expect("an answer").as_ref(), Some(&hook));
    let taken = channels.add(&webhook("zebra")).await;
    assert!(matches!(taken, Err(StorageError::Conflict("name"))), "{taken:?}");

    let changed = Channel { enabled: false, url: Some("https://example.com/2".to_owned()), ..hook.clone() };
    assert!(channels.update(&changed, Timestamp(9)).await.expect("written"));
    // Whoever read it before that does not undo it.
    assert!(!channels.update(&hook, Timestamp(9)).await.expect("an answer"));
    let found = channels.find(hook.id).await.expect("an answer").expect("a channel");
    assert_eq!(found, Channel { updated: Timestamp(9), ..changed });
    let taken = channels.update(&Channel { name: builtin.name.clone(), ..found.clone() }, Timestamp(9)).await;
    assert!(matches!(taken, Err(StorageError::Conflict("name"))), "{taken:?}");
    assert!(!channels.update(&webhook("nobody"), Timestamp(9)).await.expect("an answer"));
    // Two changes in one moment are told apart.
    assert!(channels.update(&found, Timestamp(9)).await.expect("written"));
    assert!(!channels.update(&found, Timestamp(9)).await.expect("an answer"));

    assert!(channels.remove(hook.id).await.expect("an answer"));
    assert!(!channels.remove(hook.id).await.expect("an answer"));
    assert!(!channels.remove(builtin.id).await.expect("an answer"), "what is built in stays");
    assert!(channels.switch_builtin(ChannelKind::Email, false, Timestamp(9)).await.expect("an answer"));
    assert!(!channels.find(builtin.id).await.expect("an answer").expect("a channel").enabled);
}

pub async fn there_are_no_more_channels_and_mutes_than_may_be(database: &TestDatabase) {
    let channels = &database.storage.channels;
    for number in 1..storage::channels::CHANNELS {
        assert_eq!(channels.add(&webhook(&number.to_string())).await.expect("added"), Added::Added);
    }
    assert_eq!(channels.add(&webhook("one more")).await.expect("an answer"), Added::TooMany);
    for number in 0..storage::channels::MUTES {
        let until = (number == 0).then_some(Timestamp(100));
        assert_eq!(channels.mute(&mute(None, until, Timestamp(50))).await.expect("added"), Added::Added);
    }
    assert_eq!(channels.mute(&mute(None, None, Timestamp(60))).await.expect("an answer"), Added::TooMany);
    // The one that has ended makes room.
    assert_eq!(channels.mute(&mute(None, None, Timestamp(100))).await.expect("an answer"), Added::Added);
}

pub async fn mutes_end_by_time_by_hand_and_with_their_channel(database: &TestDatabase) {
    let channels = &database.storage.channels;
    let hook = webhook("hook");
    channels.add(&hook).await.expect("added");
    let [of_channel, timed, for_good] = [
        mute(Some(hook.id), None, Timestamp(1)),
        mute(None, Some(Timestamp(100)), Timestamp(2)),
        mute(None, None, Timestamp(3)),
    ];
    for mute in [&of_channel, &timed, &for_good] {
        channels.mute(mute).await.expect("muted");
    }
    let list = async |now| channels.mutes(Timestamp(now)).await.expect("a list");
    assert_eq!(list(99).await, [for_good.clone(), timed, of_channel.clone()]);
    assert_eq!(list(100).await, [for_good.clone(), of_channel]);
    channels.remove(hook.id).await.expect("removed");
    assert_eq!(list(100).await, std::slice::from_ref(&for_good));
    assert!(channels.unmute(for_good.id).await.expect("an answer"));
    assert!(!channels.unmute(for_good.id).await.expect("an answer"));
    let nowhere = channels.mute(&mute(Some(ChannelId::random()), None, Timestamp(1))).await;
    assert!(nowhere.is_err(), "{nowhere:?}");
}

async fn seen(storage: &Storage, device: DeviceId, name: &str, now: Timestamp) -> Recorded {
    let alert = NewAlert {
        name: name.to_owned(),
        level: AlertLevel::Critical,
        subject_type: "service".to_owned(),
        subject_name: name.to_owned(),
        status: "x".to_owned(),
        details: None,
        at: now,
    };
    let seen = std::sync::Mutex::new(Recorded::default());
    let reports = [AlertReport { device, alerts: vec![alert] }];
    let recording = storage.alerts.record(&reports, now, |recorded| {
        *seen.lock().expect("one at a time") = recorded.clone();
        FollowUp::default()
    });
    recording.await.expect("recorded");
    seen.into_inner().expect("one at a time")
}

pub async fn alerts_come_with_the_channels_and_mutes_of_their_moment(database: &TestDatabase) {
    let (storage, now) = (&database.storage, clock::now());
    let device = stored_device(storage, 1, SetStatus::Accepted).await.id;
    let user = storage::User {
        id: UserId::new("u"),
        email: "u@example.com".to_owned(),
        password_hash: "x".into(),
        created: now,
        updated: now,
        logged_in: None,
    };
    storage.users.create(&user).await.expect("created");
    let hook = webhook("hook");
    storage.channels.add(&hook).await.expect("added");
    storage.channels.mute(&mute(None, Some(now.plus(Duration::from_secs(9))), now)).await.expect("muted");
    let recorded = seen(storage, device, "a", now).await;
    assert_eq!(recorded.channels.len(), 2);
    assert_eq!(recorded.users, [(user.id.clone(), user.email.clone())]);
    assert!(recorded.mutes[0].covers(&recorded.alerts[0].alert, hook.id));

    storage.channels.switch_builtin(ChannelKind::Email, false, now).await.expect("switched");
    let recorded = seen(storage, device, "b", now.plus(Duration::from_secs(9))).await;
    assert_eq!((recorded.channels, recorded.mutes, recorded.users), (vec![hook.clone()], vec![], vec![]));
    storage.channels.update(&Channel { enabled: false, ..hook }, now).await.expect("written");
    assert!(seen(storage, device, "c", now).await.channels.is_empty());
}
