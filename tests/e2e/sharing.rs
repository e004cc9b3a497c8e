//! One session, several people: attached from elsewhere, watched, taken over.

use harness::{
    HUB, KeptTerminal, LIMIT, Packet, Set, Site, TestDevice, TestHub, TestUser, answer_like_a_shell, both_sets, within,
};

both_sets!([
    a_session_is_left_and_attached_again,
    a_watcher_sees_everything_and_types_nothing,
    a_session_is_taken_over_and_its_writer_becomes_a_watcher,
    a_session_that_somebody_writes_in_is_in_use,
    who_comes_late_sees_the_last_of_the_output_and_no_more,
    everybody_in_a_session_is_told_who_is_in_it,
    sessions_that_are_not_there_cannot_be_attached,
]);

/// What a session keeps of its output for those who come late, unless set otherwise.
const SCROLLBACK: usize = 256 * 1024;

/// A device with a shell that says back what it is told, and somebody's kept terminal on it.
struct Scene {
    hub: TestHub,
    user: TestUser,
    device: TestDevice,
    terminal: KeptTerminal,
}

impl Scene {
    async fn new(set: Set) -> Self {
        let hub = set.hub().await;
        let user = hub.user().await;
        let (device, terminal) = terminal_on(&hub, &user).await;
        Self { hub, user, device, terminal }
    }

    async fn attach(&self, user: &TestUser, mode: &str) -> KeptTerminal {
        KeptTerminal::attach(user, &self.terminal.session, mode).await.unwrap_or_else(|refusal| panic!("{refusal}"))
    }
}

async fn terminal_on(hub: &TestHub, user: &TestUser) -> (TestDevice, KeptTerminal) {
    let device = hub.accepted_by(user).await;
    let mut socket = device.connect().await;
    tokio::spawn(async move { socket.serve(answer_like_a_shell).await });
    let terminal = KeptTerminal::open(user, &device.id).await;
    (device, terminal)
}

/// Types a line and sees it come back.
async fn echoes(terminal: &mut KeptTerminal, line: &str) {
    terminal.type_in(format!("{line}\n")).await;
    terminal.shows(&format!("{line}\n"), LIMIT).await;
}

/// Roles of those in the session, as this one was told last.
fn roles(terminal: &KeptTerminal) -> Vec<String> {
    let mut roles: Vec<String> =
        terminal.people.iter().map(|person| person["role"].as_str().unwrap().to_owned()).collect();
    roles.sort_unstable();
    roles
}

async fn a_session_is_left_and_attached_again(set: Set) {
    let mut scene = Scene::new(set).await;
    echoes(&mut scene.terminal, "before").await;
    scene.terminal.leave().await;

    // The device is not told anything: the shell goes on with nobody there.
    let mut again = scene.attach(&scene.user, "write").await;

    assert_eq!((again.session.as_str(), again.role.as_str()), (scene.terminal.session.as_str(), "writer"));
    assert_ne!(again.attachment, scene.terminal.attachment);
    again.shows("before\n", LIMIT).await;
    echoes(&mut again, "after").await;
    assert_eq!(again.text(), "before\nafter\n");
    // Another user of the hub may do the same once it is free.
    let other = scene.hub.another_user("other@example.com").await;
    again.leave().await;
    let mut theirs = scene.attach(&other, "write").await;
    echoes(&mut theirs, "theirs").await;
    assert_eq!(theirs.text(), "before\nafter\ntheirs\n");
}

async fn a_watcher_sees_everything_and_types_nothing(set: Set) {
    let mut scene = Scene::new(set).await;
    echoes(&mut scene.terminal, "before").await;
    let other = scene.hub.another_user("other@example.com").await;
    let mut watcher = scene.attach(&other, "watch").await;
    assert_eq!(watcher.role, "watcher");
    watcher.shows("before\n", LIMIT).await;

    // Whatever a watcher sends goes nowhere: not keys, not a new size, not an end.
    for packet in [
        Packet::shell("shell").body("keys of a watcher\n"),
        Packet::shell("resize").prop("terminal_width", 10).prop("terminal_height", 5),
        Packet::shell("stop"),
        Packet::shell("new"),
        Packet::new(3, "new").prop("connection_id", "c").body("x"),
    ] {
        watcher.say(&packet).await;
    }
    watcher.catch_up().await;
    echoes(&mut scene.terminal, "after").await;

    watcher.shows("after\n", LIMIT).await;
    assert_eq!(watcher.text(), "before\nafter\n");
    assert_eq!(scene.terminal.text(), "before\nafter\n");
    assert_eq!(scene.terminal.stopped, None);
    // When a watcher's connection is lost, that is all.
    watcher.lose();
    echoes(&mut scene.terminal, "alone").await;
    assert_eq!(scene.user.status(&scene.device.id).await, "connected");
}

async fn a_session_is_taken_over_and_its_writer_becomes_a_watcher(set: Set) {
    let mut scene = Scene::new(set).await;
    echoes(&mut scene.terminal, "before").await;
    let other = scene.hub.another_user("other@example.com").await;

    let mut taken = scene.attach(&other, "take-over").await;

    assert_eq!(taken.role, "writer");
    scene.terminal.told("to have become a watcher", LIMIT, |terminal| terminal.role == "watcher").await;
    echoes(&mut taken, "theirs").await;
    scene.terminal.say(&Packet::shell("shell").body("too late\n")).await;
    scene.terminal.catch_up().await;
    echoes(&mut taken, "still theirs").await;
    scene.terminal.shows("still theirs\n", LIMIT).await;
    assert_eq!(taken.text(), "before\ntheirs\nstill theirs\n");
    assert_eq!(scene.terminal.text(), taken.text());
}

async fn a_session_that_somebody_writes_in_is_in_use(set: Set) {
    let mut scene = Scene::new(set).await;
    let refusal = KeptTerminal::attach(&scene.user, &scene.terminal.session, "write").await.err().unwrap();
    assert!(refusal.clone().expect(409).error().contains("in use"), "{refusal}");
    // The same end comes back where the hub does not know yet that its socket is lost.
    scene.terminal.type_in("unread\n").await;
    let lost = scene.terminal.attachment.clone();
    scene.terminal.again(&scene.user).await;
    assert_ne!(scene.terminal.attachment, lost);
    scene.terminal.shows("unread\n", LIMIT).await;
    assert_eq!(scene.terminal.text(), "unread\n");
    // An end that is none cannot be replaced.
    let path = format!("{}&replaces={lost}", harness::attach_path(&scene.terminal.session, "write"));
    let bearer = format!("Bearer {}", scene.user.token);
    let refusal = harness::Socket::connect(&scene.hub, &path, &[("Authorization", &bearer)]).await.err().unwrap();
    refusal.expect(409).error();
}

async fn who_comes_late_sees_the_last_of_the_output_and_no_more(set: Set) {
    let mut scene = Scene::new(set).await;
    // Four times what is kept.
    let line = "x".repeat(1023);
    let total = 4 * SCROLLBACK;
    for _ in 0..total / 1024 / 16 {
        for _ in 0..16 {
            scene.terminal.type_in(format!("{line}\n")).await;
        }
        // The window has room again before more is typed.
        let wanted = scene.terminal.shown().len() / (16 * 1024) * (16 * 1024) + 16 * 1024;
        within(LIMIT, "the lines to come back", async {
            while scene.terminal.shown().len() < wanted {
                scene.terminal.hear().await.unwrap();
            }
        })
        .await;
    }
    echoes(&mut scene.terminal, "the last line").await;

    let mut late = scene.attach(&scene.user, "watch").await;

    late.shows("the last line\n", LIMIT).await;
    let all = scene.terminal.shown();
    let begins = usize::try_from(late.begins()).unwrap();
    assert_eq!(begins + late.shown().len(), all.len(), "offsets count from the beginning of the session");
    assert!(late.shown() == &all[begins..], "it is the end of the output");
    assert!(late.shown().len() <= SCROLLBACK, "{} bytes were kept", late.shown().len());
    assert!(late.shown().len() > SCROLLBACK / 2, "only {} bytes were kept", late.shown().len());
}

async fn everybody_in_a_session_is_told_who_is_in_it(set: Set) {
    let mut scene = Scene::new(set).await;
    scene.terminal.told("to be alone", LIMIT, |terminal| roles(terminal) == ["writer"]).await;
    assert_eq!(scene.terminal.people[0]["user"], scene.user.id);
    assert_eq!(scene.terminal.people[0]["attachment"], scene.terminal.attachment.as_str());
    assert!(scene.terminal.people[0]["since"].is_string(), "{:?}", scene.terminal.people);

    let other = scene.hub.another_user("other@example.com").await;
    let mut watcher = scene.attach(&other, "watch").await;

    for terminal in [&mut scene.terminal, &mut watcher] {
        terminal.told("both to be there", LIMIT, |terminal| roles(terminal) == ["watcher", "writer"]).await;
        let watching = terminal.people.iter().find(|person| person["role"] == "watcher").unwrap();
        assert_eq!(watching["user"], other.id);
    }
    watcher.lose();
    scene.terminal.told("to be alone again", LIMIT, |terminal| roles(terminal) == ["writer"]).await;
}

async fn sessions_that_are_not_there_cannot_be_attached(set: Set) {
    let scene = Scene::new(set).await;
    for session in ["3f8f5c8e-0000-4000-8000-000000000000", "malformed"] {
        let refusal = KeptTerminal::attach(&scene.user, session, "write").await.err().unwrap();
        assert!([400, 404].contains(&refusal.status), "{refusal}");
        refusal.error();
    }
    let refusal = KeptTerminal::attach(&scene.user, &scene.terminal.session, "sideways").await.err().unwrap();
    refusal.expect(400).error();
    // Without a token nobody gets in, and a device's is none.
    let path = harness::attach_path(&scene.terminal.session, "watch");
    harness::Socket::connect(&scene.hub, &path, &[]).await.err().unwrap().refuses_token();
    let bearer = format!("Bearer {}", scene.device.token);
    let refusal = harness::Socket::connect(&scene.hub, &path, &[("Authorization", &bearer)]).await;
    refusal.err().unwrap().refuses_token();
}

/// The device is on one node, the session was opened on another, and people come by a third.
#[tokio::test]
async fn a_session_is_shared_across_nodes() {
    let site: Site = Set::Production.site().await;
    let (one, two, three) = (site.hub().await, site.hub().await, site.hub().await);
    let user = one.user().await;
    let device = one.accepted_by(&user).await;
    let mut socket = device.connect().await;
    tokio::spawn(async move { socket.serve(answer_like_a_shell).await });
    let mut terminal = KeptTerminal::open(&user.at(&two), &device.id).await;
    echoes(&mut terminal, "before").await;

    let mut watcher = KeptTerminal::attach_soon(&user.at(&three), &terminal.session, "watch").await;
    watcher.shows("before\n", LIMIT).await;
    // More than any window, so that credit has to come back across the nodes to everybody.
    for line in 0..200 {
        echoes(&mut terminal, &format!("{line}:{}", "x".repeat(2000))).await;
        if line % 20 == 0 {
            watcher.shows(&format!("\n{line}:"), LIMIT).await;
        }
    }
    watcher.shows("199:", LIMIT).await;
    watcher.catch_up().await;
    terminal.catch_up().await;
    assert!(watcher.text() == terminal.text(), "the watcher misses something");

    let refusal = KeptTerminal::attach(&user.at(&three), &terminal.session, "write").await.err().unwrap();
    refusal.expect(409).error();
    let mut taken = KeptTerminal::attach_soon(&user.at(&three), &terminal.session, "take-over").await;
    echoes(&mut taken, "theirs").await;
    terminal.told("to have become a watcher", LIMIT, |terminal| terminal.role == "watcher").await;
    // And back on the node with the device, where nobody had been.
    taken.leave().await;
    let mut back = KeptTerminal::attach_soon(&user, &terminal.session, "write").await;
    echoes(&mut back, "back").await;
    assert!(back.text().ends_with("theirs\nback\n"));
}

/// Numbers that a client makes up are not believed.
#[tokio::test]
async fn a_client_that_miscounts_harms_only_itself() {
    let mut scene = Scene::new(Set::Embedded).await;
    let mut watcher = scene.attach(&scene.user, "watch").await;
    for bytes in [i64::MAX, -1, i64::MIN, 0] {
        watcher.say(&Packet::new(HUB, "output").prop("bytes", bytes)).await;
    }
    watcher.say(&Packet::new(HUB, "output")).await;
    watcher.say(&Packet::new(HUB, "surprise").body([0; 100])).await;
    for path in ["from=18446744073709551615", "from=-1", "from=x"] {
        let path = format!("{}&{path}", harness::attach_path(&scene.terminal.session, "watch"));
        let bearer = format!("Bearer {}", scene.user.token);
        // Refused, or shown what there is.
        if let Err(refusal) = harness::Socket::connect(&scene.hub, &path, &[("Authorization", &bearer)]).await {
            refusal.expect(400).error();
        }
    }
    echoes(&mut scene.terminal, "still here").await;
}
