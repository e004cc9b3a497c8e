use super::SetStatus::{Accepted, Pending, Preauthorized as Preauth, Rejected};
use super::*;

const NOW: Timestamp = Timestamp(1_900_000_000_000_000);
const BEFORE: Timestamp = Timestamp(1_800_000_000_000_000);
const EXPIRES: Timestamp = Timestamp(1_900_000_010_000_000);
const RULES: Rules =
    Rules { pending_devices_limit: 100, pending_sets_per_device: 3, reject_preauthorized_on_accept: false };
const ROOM: Fleet = Fleet { accepted: 0, limit: None, pending: 0 };
const FULL: Fleet = Fleet { accepted: 1, limit: Some(1), pending: 0 };

fn identity() -> Identity {
    Identity::parse(r#"{"mac":"a"}"#).unwrap()
}

/// A device with a set per status; their keys are "0", "1", ….
fn device(statuses: &[SetStatus]) -> Device {
    let sets = statuses.iter().enumerate();
    let sets = sets.map(|(index, status)| new_set(AuthSetId::random(), &index.to_string(), *status, BEFORE));
    let identity = identity();
    Device {
        auth_sets: sets.collect(),
        ..new_device(DeviceId::random(), &identity, new_set(AuthSetId::random(), "", Pending, BEFORE), BEFORE)
    }
}

fn statuses(device: &Device) -> Vec<SetStatus> {
    device.auth_sets.iter().map(|set| set.status).collect()
}

fn asking<'a>(identity: &'a Identity, pubkey: &'a str) -> Asking<'a> {
    Asking {
        identity,
        pubkey,
        new_device: DeviceId::random(),
        new_set: AuthSetId::random(),
        now: NOW,
        token_expires: EXPIRES,
    }
}

fn join_with(stored: Option<&Device>, fleet: &Fleet, pubkey: &str) -> Decision<Answer> {
    join(stored, fleet, &asking(&identity(), pubkey), &RULES)
}

fn kept<T>(decision: Decision<T>) -> T {
    match decision {
        Decision::Keep(answer) => answer,
        Decision::Write(change, _) => panic!("nothing was to be written, but {change:?}"),
    }
}

fn written<T>(decision: Decision<T>) -> (DeviceChange, T) {
    match decision {
        Decision::Write(change, answer) => (change, answer),
        Decision::Keep(_) => panic!("something was to be written"),
    }
}

fn wish(device: &Device, index: usize, wanted: SetStatus, fleet: &Fleet) -> Decision<Result<Access, AdmissionError>> {
    set_status(Some(device), fleet, device.auth_sets[index].id, wanted, NOW, &RULES)
}

#[test]
fn the_first_contact_makes_a_pending_device() {
    let identity = identity();
    let asking = asking(&identity, "key");
    let (change, answer) = written(join(None, &ROOM, &asking, &RULES));
    assert_eq!(answer, Answer::NotNow);
    let after = change.after.unwrap();
    assert_eq!((after.id, after.status()), (asking.new_device, DeviceStatus::Pending));
    assert_eq!((after.identity.as_str(), &after.identity_hash), (identity.canonical(), identity.hash()));
    assert_eq!((after.auth_sets[0].id, after.auth_sets[0].pubkey.as_str()), (asking.new_set, "key"));
    assert_eq!((after.created, after.checked_in, change.issued), (NOW, None, None));
}

#[test]
fn asking_again_makes_nothing_new() {
    for status in [Pending, Rejected] {
        assert_eq!(kept(join_with(Some(&device(&[status])), &ROOM, "0")), Answer::NotNow);
    }
}

#[test]
fn an_accepted_key_gets_a_token_and_the_device_does_not_change_by_that() {
    let device = device(&[Rejected, Accepted]);
    let (change, answer) = written(join_with(Some(&device), &FULL, "1"));
    let set = device.auth_sets[1].id;
    assert_eq!(answer, Answer::Token { device: device.id, auth_set: set, replaces: false });
    assert_eq!(change.issued, Some(IssuedToken { auth_set: set, expires: EXPIRES }));
    assert_eq!(change.after, Some(Device { checked_in: Some(NOW), ..device }));
    assert_eq!(change.revoked, []);
}

#[test]
fn a_new_key_of_a_known_device_waits_while_the_old_one_works() {
    let before = device(&[Accepted]);
    let (change, answer) = written(join_with(Some(&before), &ROOM, "new"));
    assert_eq!(answer, Answer::NotNow);
    let after = change.after.unwrap();
    assert_eq!((after.id, statuses(&after)), (before.id, vec![Accepted, Pending]));
    assert_eq!((after.status(), after.updated), (DeviceStatus::Accepted, NOW));
    assert_eq!(change.revoked, []);
}

#[test]
fn a_device_without_keys_comes_back_as_pending_under_its_id() {
    let before = device(&[]);
    let (change, _) = written(join_with(Some(&before), &ROOM, "key"));
    let after = change.after.unwrap();
    assert_eq!((after.id, after.status()), (before.id, DeviceStatus::Pending));
}

#[test]
fn a_preauthorized_key_is_accepted_when_it_first_asks_and_replaces_the_accepted_one() {
    let before = device(&[Accepted, Preauth, Pending, Preauth]);
    let (change, answer) = written(join_with(Some(&before), &ROOM, "1"));
    let set = before.auth_sets[1].id;
    assert_eq!(answer, Answer::Token { device: before.id, auth_set: set, replaces: true });
    let after = change.after.unwrap();
    assert_eq!(statuses(&after), [Rejected, Accepted, Pending, Preauth]);
    assert_eq!((after.updated, after.checked_in), (NOW, Some(NOW)));
    assert_eq!(change.revoked, [before.auth_sets[0].id]);
    assert_eq!(change.issued, Some(IssuedToken { auth_set: set, expires: EXPIRES }));
}

#[test]
fn the_limit_holds_for_preauthorized_devices_unless_they_are_accepted_already() {
    assert_eq!(kept(join_with(Some(&device(&[Preauth])), &FULL, "0")), Answer::LimitReached);
    let (_, answer) = written(join_with(Some(&device(&[Accepted, Preauth])), &FULL, "1"));
    assert!(matches!(answer, Answer::Token { replaces: true, .. }));
    let zero = Fleet { limit: Some(0), ..ROOM };
    assert_eq!(kept(join_with(Some(&device(&[Preauth])), &zero, "0")), Answer::LimitReached);
}

#[test]
fn a_device_being_removed_hears_no_whatever_its_key() {
    for status in [Accepted, Preauth, Pending, Rejected] {
        let leaving = Device { decommissioning: true, ..device(&[status]) };
        assert_eq!(kept(join_with(Some(&leaving), &ROOM, "0")), Answer::NotNow);
        assert_eq!(kept(join_with(Some(&leaving), &ROOM, "new")), Answer::NotNow);
    }
}

#[test]
fn the_number_of_undecided_devices_and_keys_is_bounded() {
    let crowded = Fleet { pending: RULES.pending_devices_limit, ..ROOM };
    assert_eq!(kept(join_with(None, &crowded, "key")), Answer::TooManyPending);
    let known = device(&[Pending, Pending, Pending]);
    assert_eq!(kept(join_with(Some(&known), &ROOM, "key")), Answer::TooManyPending);
    assert_eq!(kept(join_with(Some(&known), &crowded, "0")), Answer::NotNow, "a known key is no new one");
    written(join_with(Some(&device(&[Pending, Pending, Rejected])), &crowded, "key"));
}

#[test]
fn users_move_sets_along_the_table() {
    use Access::{Kept, Withdrawn};
    for (from, wanted, access) in [
        (Pending, Accepted, Kept),
        (Pending, Rejected, Kept),
        (Rejected, Accepted, Kept),
        (Rejected, Pending, Kept),
        (Accepted, Rejected, Withdrawn),
        (Accepted, Pending, Withdrawn),
    ] {
        let before = device(&[from]);
        let (change, answer) = written(wish(&before, 0, wanted, &ROOM));
        let after = change.after.unwrap();
        assert_eq!((statuses(&after), after.updated), (vec![wanted], NOW), "{from} to {wanted}");
        assert_eq!(answer.unwrap(), access, "{from} to {wanted}");
        let revoked = if access == Withdrawn { vec![before.auth_sets[0].id] } else { vec![] };
        assert_eq!((change.revoked, change.issued), (revoked, None), "{from} to {wanted}");
    }
    for status in [Pending, Accepted, Rejected] {
        assert_eq!(kept(wish(&device(&[status]), 0, status, &FULL)).unwrap(), Kept, "{status} stays");
    }
    for wanted in [Pending, Accepted, Rejected, Preauth] {
        let refused = kept(wish(&device(&[Preauth]), 0, wanted, &ROOM));
        assert!(matches!(refused, Err(AdmissionError::TransitionRefused)), "preauthorized to {wanted}");
    }
    let refused = kept(wish(&device(&[Pending]), 0, Preauth, &ROOM));
    assert!(matches!(refused, Err(AdmissionError::TransitionRefused)));
}

#[test]
fn accepting_a_key_rejects_the_accepted_one_and_leaves_the_others() {
    let before = device(&[Accepted, Pending, Preauth, Rejected]);
    let (change, access) = written(wish(&before, 1, Accepted, &FULL));
    assert_eq!(statuses(&change.after.unwrap()), [Rejected, Accepted, Preauth, Rejected]);
    assert_eq!(change.revoked, [before.auth_sets[0].id]);
    assert_eq!(access.unwrap(), Access::Withdrawn);

    let strict = Rules { reject_preauthorized_on_accept: true, ..RULES };
    let decision = set_status(Some(&before), &ROOM, before.auth_sets[1].id, Accepted, NOW, &strict);
    assert_eq!(statuses(&written(decision).0.after.unwrap()), [Rejected, Accepted, Rejected, Rejected]);
}

#[test]
fn taking_a_key_back_leaves_the_device_where_its_other_keys_are() {
    let (change, _) = written(wish(&device(&[Accepted, Pending]), 0, Rejected, &ROOM));
    assert_eq!(change.after.unwrap().status(), DeviceStatus::Pending);
    let (change, _) = written(wish(&device(&[Accepted, Preauth]), 0, Pending, &ROOM));
    assert_eq!(change.after.unwrap().status(), DeviceStatus::Preauthorized);
}

#[test]
fn the_limit_counts_devices_that_become_accepted() {
    let refused = |fleet: Fleet| kept(wish(&device(&[Pending]), 0, Accepted, &fleet));
    assert!(matches!(refused(FULL), Err(AdmissionError::LimitReached)));
    assert!(matches!(refused(Fleet { limit: Some(0), ..ROOM }), Err(AdmissionError::LimitReached)));
    written(wish(&device(&[Pending]), 0, Accepted, &Fleet { limit: Some(2), ..FULL })).1.unwrap();
    written(wish(&device(&[Accepted, Pending]), 1, Accepted, &FULL)).1.unwrap();
}

#[test]
fn what_is_not_there_is_not_found() {
    let unknown = AuthSetId::random();
    let asked = kept(set_status(None, &ROOM, unknown, Accepted, NOW, &RULES));
    assert!(matches!(asked, Err(AdmissionError::DeviceNotFound)));
    let asked = kept(set_status(Some(&device(&[Pending])), &ROOM, unknown, Accepted, NOW, &RULES));
    assert!(matches!(asked, Err(AdmissionError::SetNotFound)));
    for stored in [None, Some(device(&[Pending]))] {
        assert!(matches!(kept(delete_set(stored.as_ref(), unknown, NOW)), Err(AdmissionError::SetNotFound)));
    }
    assert!(matches!(kept(decommission(None)), Err(AdmissionError::DeviceNotFound)));
}

#[test]
fn a_device_being_removed_cannot_be_accepted() {
    let leaving = Device { decommissioning: true, ..device(&[Pending]) };
    assert!(matches!(kept(wish(&leaving, 0, Accepted, &ROOM)), Err(AdmissionError::TransitionRefused)));
}

#[test]
fn deleting_a_set_leaves_the_others() {
    for (sets, deleted, left, access) in [
        (vec![Accepted, Pending], 0, DeviceStatus::Pending, Access::Withdrawn),
        (vec![Accepted, Pending], 1, DeviceStatus::Accepted, Access::Kept),
        (vec![Accepted], 0, DeviceStatus::NoAuth, Access::Withdrawn),
        (vec![Rejected], 0, DeviceStatus::NoAuth, Access::Kept),
        (vec![Pending], 0, DeviceStatus::NoAuth, Access::Kept),
        (vec![Preauth, Rejected], 0, DeviceStatus::Rejected, Access::Kept),
    ] {
        let before = device(&sets);
        let (change, answer) = written(delete_set(Some(&before), before.auth_sets[deleted].id, NOW));
        let after = change.after.unwrap();
        assert_eq!((after.status(), after.auth_sets.len(), after.updated), (left, sets.len() - 1, NOW), "{sets:?}");
        assert_eq!(answer.unwrap(), access, "{sets:?}");
    }
}

#[test]
fn a_device_that_was_only_preauthorized_goes_with_its_set() {
    let before = device(&[Preauth]);
    let (change, answer) = written(delete_set(Some(&before), before.auth_sets[0].id, NOW));
    assert_eq!((change.after, answer.unwrap()), (None, Access::Kept));
}

#[test]
fn decommissioning_removes_the_device() {
    for leaving in [device(&[Accepted]), Device { decommissioning: true, ..device(&[]) }] {
        let (change, answer) = written(decommission(Some(&leaving)));
        assert!(change.after.is_none() && answer.is_ok());
    }
}

fn preauthorizing<'a>(identity: &'a Identity, pubkey: &'a str, force: bool) -> Preauthorizing<'a> {
    let (new_device, new_set) = (DeviceId::random(), AuthSetId::random());
    Preauthorizing { identity, pubkey, force, new_device, new_set, now: NOW }
}

#[test]
fn an_unknown_device_can_be_preauthorized() {
    let identity = identity();
    for force in [false, true] {
        let wish = preauthorizing(&identity, "key", force);
        let (change, answer) = written(preauthorize(None, &wish));
        let after = change.after.unwrap();
        assert_eq!(answer.unwrap(), Preauthorized::Created(after.id));
        assert_eq!((after.id, after.status()), (wish.new_device, DeviceStatus::Preauthorized));
        assert_eq!(after.auth_sets[0].id, wish.new_set);
    }
}

#[test]
fn a_known_device_is_left_alone_without_force() {
    let (known, identity) = (device(&[Rejected]), identity());
    for pubkey in ["0", "new"] {
        let answer = kept(preauthorize(Some(&known), &preauthorizing(&identity, pubkey, false)));
        assert_eq!(answer.unwrap(), Preauthorized::Exists(Box::new(known.clone())));
    }
}

#[test]
fn force_adds_a_key_to_a_known_device_and_names_that_device() {
    let (known, identity) = (device(&[Accepted]), identity());
    let (change, answer) = written(preauthorize(Some(&known), &preauthorizing(&identity, "new", true)));
    assert_eq!(answer.unwrap(), Preauthorized::Created(known.id));
    let after = change.after.unwrap();
    assert_eq!((statuses(&after), after.status()), (vec![Accepted, Preauth], DeviceStatus::Accepted));
    assert_eq!(change.revoked, []);
}

#[test]
fn force_may_be_repeated_with_other_keys() {
    let identity = identity();
    let known = device(&[Preauth]);
    let (change, _) = written(preauthorize(Some(&known), &preauthorizing(&identity, "new", true)));
    let after = change.after.unwrap();
    assert_eq!((statuses(&after), after.status()), (vec![Preauth, Preauth], DeviceStatus::Preauthorized));
}

#[test]
fn force_switches_an_undecided_or_rejected_key() {
    let identity = identity();
    for status in [Pending, Rejected] {
        let (change, _) = written(preauthorize(Some(&device(&[status])), &preauthorizing(&identity, "0", true)));
        assert_eq!(statuses(&change.after.unwrap()), [Preauth]);
    }
}

#[test]
fn force_takes_nothing_from_a_key_that_is_accepted() {
    let identity = identity();
    for status in [Accepted, Preauth] {
        let known = device(&[status]);
        let answer = kept(preauthorize(Some(&known), &preauthorizing(&identity, "0", true)));
        assert_eq!(answer.unwrap(), Preauthorized::Created(known.id));
    }
}

#[test]
fn a_device_being_removed_gets_no_new_key() {
    let (leaving, identity) = (Device { decommissioning: true, ..device(&[Accepted]) }, identity());
    let refused = kept(preauthorize(Some(&leaving), &preauthorizing(&identity, "new", true)));
    assert!(matches!(refused, Err(AdmissionError::TransitionRefused)));
}
