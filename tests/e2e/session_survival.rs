//! A terminal is kept while sockets and nodes come and go; when it does end, both sides learn so.

use harness::{
    ADMIN_EMAIL, ADMIN_PASSWORD, Cluster, DelayProxy, HUB, Heard, KeptTerminal, LIMIT, MenderCli, Packet, Process,
    RealDevice, Set, Shell, Socket, TestHub, TestUser, answer_like_a_shell, attach_path, wait_until, within,
};
use std::time::{Duration, Instant};

/// What the wire promises for the device's side of a stock client's end.
const PROMPT: Duration = Duration::from_secs(2);

/// Short times of grace, so that their end can be waited for.
const SHORT_GRACE: &harness::Settings =
    &[("MOORING_ACTORS__SESSIONS__DEVICE_GRACE", "2s"), ("MOORING_ACTORS__SESSIONS__OPERATOR_GRACE", "2s")];

/// A shell that counts the lines it is given, each with the text that it got: one lost or doubled on either way shows.
const COUNTER: &str = "stty -echo; n=0; while read x; do n=$((n+1)); echo \"count $n $x.\"; done\n";

/// What is typed into a counter, and what has to come of it.
struct Typist {
    lines: usize,
}

impl Typist {
    async fn start(terminal: &mut KeptTerminal) -> Self {
        terminal.type_in(COUNTER).await;
        let mut this = Self { lines: 0 };
        this.type_and_see(terminal, 1).await;
        this
    }

    /// Types lines without waiting for what comes of them.
    async fn type_lines(&mut self, terminal: &mut KeptTerminal, lines: usize) {
        for _ in 0..lines {
            self.lines += 1;
            terminal.type_in(format!("line-{}\n", self.lines)).await;
        }
    }

    /// Waits until all are counted.
    async fn see(&self, terminal: &mut KeptTerminal) {
        let last = format!("count {0} line-{0}.", self.lines);
        terminal.shows(&last, LIMIT * 2).await;
    }

    async fn type_and_see(&mut self, terminal: &mut KeptTerminal, lines: usize) {
        self.type_lines(terminal, lines).await;
        self.see(terminal).await;
    }

    /// Everything was counted once, in order.
    fn check(&self, output: &str) {
        // Before the terminal's echo was off it showed the command itself.
        let counted = output.split("count ").skip(1).filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let counted: Vec<&str> = counted.filter_map(|rest| rest.split('.').next()).collect();
        let wanted: Vec<String> = (1..=self.lines).map(|number| format!("{number} line-{number}")).collect();
        assert_eq!(counted, wanted);
    }
}

/// The shell survives whatever is lost around it, one thing after the other: a counter that is typed into tells.
#[tokio::test]
async fn a_real_shell_outlives_tokens_sockets_and_nodes() {
    let mut cluster = Cluster::start(3, &[("MOORING_ACTORS__LEASE", "3s")]).await;
    // The device comes in by a line that can be cut and prefers the first node; the operator sits at the second.
    let balancer = cluster.balancer(&[0, 2]).await;
    let line = DelayProxy::to(balancer.door(), Duration::ZERO).await;
    let admin = cluster.node(2).user().await;
    // A client that asks often also fetches tokens by itself after a loss. What its agent had not read by then goes with the
    // socket that it leaves, and nobody could tell.
    let device = RealDevice::start_patient(line.door()).await;
    let id = device.join(&admin).await;
    let user = admin.at(cluster.node(1));
    let mut terminal = KeptTerminal::open_real(&user, &id).await;
    let mut typist = Typist::start(&mut terminal).await;

    // Another token: the agent leaves its socket for a new one.
    let before = device.connections();
    device.renew_token().await;
    device.connected_again(before).await;
    typist.type_and_see(&mut terminal, 20).await;

    // The device's socket is lost; what is typed meanwhile waits for the next one.
    let before = device.connections();
    line.cut_for_now();
    // Until the hub knows, keys go down the lost socket: agents confirm nothing.
    terminal
        .told("the device to be away", LIMIT, |terminal| terminal.device.last().is_some_and(|it| it == "away"))
        .await;
    typist.type_lines(&mut terminal, 20).await;
    line.mend();
    device.back_soon(before).await;
    typist.see(&mut terminal).await;
    typist.type_and_see(&mut terminal, 20).await;

    // The operator's socket is lost in the middle of lines that come and go.
    typist.type_lines(&mut terminal, 50).await;
    terminal.lose();
    typist.type_lines(&mut terminal, 20).await;
    terminal.again(&user).await;
    typist.see(&mut terminal).await;

    // The operator's node dies, and with it whatever it knew of the session.
    typist.type_lines(&mut terminal, 50).await;
    cluster.kill(1);
    typist.type_lines(&mut terminal, 20).await;
    terminal.again(&user.at(cluster.node(2))).await;
    typist.see(&mut terminal).await;
    typist.type_and_see(&mut terminal, 20).await;

    // The device's node dies.
    let before = device.connections();
    cluster.kill(0);
    typist.type_lines(&mut terminal, 20).await;
    device.back_soon(before).await;
    typist.see(&mut terminal).await;
    typist.type_and_see(&mut terminal, 20).await;

    typist.check(&terminal.text());
    assert_eq!(terminal.stopped, None);
    assert!(terminal.device.iter().any(|state| state == "away") && terminal.device.last().unwrap() == "back");
    // It was the same shell all along, and it ends when it is told to. More than once, since the updater may just now have
    // fetched another token, from the node that is left: what its agent had not read by then goes with the old socket.
    for attempt in 1.. {
        terminal.type_in([4]).await;
        terminal.type_in("exit\n").await;
        let end = terminal.told("the shell's end", LIMIT, |terminal| terminal.stopped.is_some());
        if tokio::time::timeout(LIMIT / 3, end).await.is_ok() {
            break;
        }
        assert!(attempt < 4, "the shell does not end");
    }
}

/// What a person with stock programs has of it: the terminal of `mender-cli` goes on when the device's token changes.
#[tokio::test]
async fn a_stock_terminal_outlives_the_device_s_token() {
    let hub = Set::Embedded.hub().await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    let cli = MenderCli::new(&hub);
    cli.log_in(ADMIN_EMAIL, ADMIN_PASSWORD).await;
    let mut terminal = cli.terminal_that_prints(&id, "kept=40; echo sum-$((kept+2))\n", "sum-42").await;
    for round in 1..=2 {
        let before = device.connections();
        device.renew_token().await;
        device.connected_again(before).await;
        // The same shell: it knows what it was told before.
        terminal.type_in(&format!("echo again-{round}-$((kept+2))\n"));
        terminal.printed(&format!("again-{round}-42"), LIMIT).await;
    }
    terminal.type_in("exit\n");
    assert!(terminal.end(LIMIT).await.success(), "{}", terminal.log());
}

/// A device of our own whose shell counts lines, and an operator's kept terminal on it.
struct Scene {
    hub: TestHub,
    user: TestUser,
    device: harness::TestDevice,
    socket: Socket,
    terminal: KeptTerminal,
}

impl Scene {
    async fn new(settings: &'static harness::Settings) -> Self {
        let hub = Set::Embedded.process(settings).await;
        let user = hub.user().await;
        let device = hub.accepted_by(&user).await;
        let mut socket = device.connect().await;
        let opening = KeptTerminal::open(&user, &device.id);
        let terminal = tokio::select! {
            terminal = opening => terminal,
            closed = socket.serve(answer_like_a_shell) => panic!("the device is lost: {closed:?}"),
        };
        Self { hub, user, device, socket, terminal }
    }

    /// Whether there is still something to come back to.
    async fn is_there(user: &TestUser, session: &str) -> bool {
        let bearer = format!("Bearer {}", user.token);
        let path = attach_path(session, "watch");
        match Socket::connect(user.door(), &path, &[("Authorization", &bearer)]).await {
            Ok(_) => true,
            Err(refusal) => {
                assert_eq!(refusal.status, 404, "{refusal}");
                false
            }
        }
    }
}

#[tokio::test]
async fn a_device_that_stays_away_ends_the_shell_and_the_operator_hears_why() {
    let mut scene = Scene::new(SHORT_GRACE).await;
    let lost = Instant::now();
    scene.socket.reset();
    scene.terminal.told("the device to be away", LIMIT, |terminal| terminal.device == ["away"]).await;
    let end = scene.terminal.end(LIMIT).await;
    assert_eq!(scene.terminal.stopped.as_deref(), Some("device disconnected"));
    assert!(end.code().is_some_and(|code| code != 1006), "{end:?}");
    assert!(lost.elapsed() >= Duration::from_secs(2), "there is no grace: {:?}", lost.elapsed());
    // There is nothing left to come back to.
    assert!(!Scene::is_there(&scene.user, &scene.terminal.session).await);

    // The shell on the device is stopped as soon as it can be told, and whenever it speaks.
    let mut again = scene.device.connect().await;
    let stop = again.hear_for(1, "stop", LIMIT).await;
    assert_eq!((stop.sid(), stop.text("user_id")), (scene.terminal.session.as_str(), Some(scene.user.id.as_str())));
    again.reset();
    let mut again = scene.device.connect().await;
    again.say(&Packet::shell("shell").sid(&scene.terminal.session).prop("status", 1).body("still here")).await;
    let stop = again.hear_for(1, "stop", LIMIT).await;
    assert_eq!(stop.sid(), scene.terminal.session);
    drop(scene.hub);
}

/// An agent lets a user have one shell at a time: one that nobody wants any more must not keep them out.
#[tokio::test]
async fn a_shell_whose_operator_left_while_its_device_was_away_is_stopped() {
    let cluster = Cluster::start(2, &[]).await;
    let user = cluster.node(0).user().await;
    let mut device = cluster.node(0).accepted_by(&user).await;
    let mut socket = device.connect().await;
    let starting = Shell::start(user.open(&device.id).await);
    let shell = tokio::select! {
        shell = starting => shell,
        closed = socket.serve(answer_like_a_shell) => panic!("the device is lost: {closed:?}"),
    };
    socket.reset();
    user.sees(&device.id, "disconnected", LIMIT).await;
    let sid = shell.sid.clone();
    drop(shell);
    // It comes back to another node, and says nothing.
    device.go_to(cluster.node(1));
    let mut socket = device.connect().await;
    let stop = socket.hear_for(1, "stop", LIMIT).await;
    assert_eq!((stop.sid(), stop.text("user_id")), (sid.as_str(), Some(user.id.as_str())));
}

#[tokio::test]
async fn an_operator_who_stays_away_leaves_no_shell_behind() {
    let mut scene = Scene::new(SHORT_GRACE).await;
    let lost = Instant::now();
    scene.terminal.lose();

    let stop = scene.socket.hear_for(1, "stop", LIMIT).await;

    assert!(lost.elapsed() >= Duration::from_secs(2), "there is no grace: {:?}", lost.elapsed());
    assert_eq!((stop.sid(), stop.number("status")), (scene.terminal.session.as_str(), Some(2)));
    assert_eq!(stop.text("user_id"), Some(scene.user.id.as_str()));
    // The device is told first, and the session forgotten then.
    wait_until(LIMIT, "the session to be gone", async || {
        (!Scene::is_there(&scene.user, &scene.terminal.session).await).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_operator_who_comes_back_in_time_misses_nothing_and_repeats_nothing() {
    let mut scene = Scene::new(&[]).await;
    let device = tokio::spawn(async move { scene.socket.serve(answer_like_a_shell).await });
    let mut terminal = scene.terminal;
    let mut wanted = String::new();
    for round in 0..10 {
        // Far more than is acknowledged at once, lost at any moment.
        for line in 0..200 {
            let text = format!("{round}:{line}:{}\n", "x".repeat(line));
            terminal.type_in(&text).await;
            wanted += &text;
            if line == 20 * round {
                terminal.lose();
            }
        }
        terminal.again(&scene.user).await;
    }
    terminal.shows("9:199:", LIMIT).await;
    within(LIMIT, "the last line", async {
        while terminal.shown().len() < wanted.len() {
            terminal.hear().await.unwrap();
        }
    })
    .await;
    assert!(terminal.text() == wanted, "bytes were lost or doubled");
    assert_eq!(terminal.returns, 10);
    // All of it was handed on, and the operator knows.
    terminal.told("the keys to be taken", LIMIT, |terminal| terminal.untaken() == 0).await;
    assert!(!device.is_finished());
}

#[tokio::test]
async fn a_session_whose_shell_was_stopped_is_not_kept() {
    let mut scene = Scene::new(&[]).await;
    scene.terminal.say(&Packet::shell("stop")).await;
    let stop = scene.socket.hear_for(1, "stop", LIMIT).await;
    assert_eq!(stop.sid(), scene.terminal.session);
    for answer in answer_like_a_shell(&stop) {
        scene.socket.say(&answer).await;
    }
    scene.terminal.lose();
    wait_until(LIMIT, "the session to be gone", async || {
        (!Scene::is_there(&scene.user, &scene.terminal.session).await).then_some(())
    })
    .await;
}

/// Stock clients never ask to be kept, whatever the grace: their shells end at once with their connection.
#[tokio::test]
async fn a_stock_client_s_shell_ends_with_its_socket_and_has_the_device_s_grace() {
    let hub = Set::Embedded.process(&[("MOORING_ACTORS__SESSIONS__DEVICE_GRACE", "20s")]).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let starting = Shell::start(user.open(&device.id).await);
    let mut shell = tokio::select! {
        shell = starting => shell,
        closed = socket.serve(answer_like_a_shell) => panic!("the device is lost: {closed:?}"),
    };

    // The device is away for a moment. What is typed meanwhile arrives, and the terminal goes on.
    socket.reset();
    user.sees(&device.id, "disconnected", LIMIT).await;
    shell.type_in("typed while it was away").await;
    let mut socket = device.connect().await;
    let typed = socket.hear_for(1, "shell", LIMIT).await;
    assert_eq!((typed.sid(), typed.body()), (shell.sid.as_str(), &b"typed while it was away"[..]));
    socket.say(&Packet::shell("shell").sid(&shell.sid).prop("status", 1).body("seen")).await;
    shell.shows("seen").await;

    // The operator's socket is reset, which is the end.
    let sid = shell.sid;
    shell.socket.reset();
    let stop = socket.hear_within(PROMPT).await;
    assert!(stop.is(1, "stop") && stop.sid() == sid, "{stop:?}");
    assert_eq!((stop.number("status"), stop.text("user_id")), (Some(2), Some(user.id.as_str())));
    assert_eq!(stop.body(), b"user disconnected");
    let again = async {
        let starting = Shell::start(user.open(&device.id).await);
        tokio::select! {
            shell = starting => shell,
            closed = socket.serve(answer_like_a_shell) => panic!("the device is lost: {closed:?}"),
        }
    };
    within(Duration::from_secs(10), "another shell", again).await;
}

/// A device that does not come back within the grace is told to stock operators two seconds later at most.
#[tokio::test]
async fn a_stock_client_hears_stop_and_a_close_frame_when_the_grace_is_over() {
    let hub = Set::Embedded.process(SHORT_GRACE).await;
    let user = hub.user().await;
    let device = hub.accepted_by(&user).await;
    let mut socket = device.connect().await;
    let starting = Shell::start(user.open(&device.id).await);
    let mut shell = tokio::select! {
        shell = starting => shell,
        closed = socket.serve(answer_like_a_shell) => panic!("the device is lost: {closed:?}"),
    };
    socket.reset();
    let stop = shell.socket.hear_within(Duration::from_secs(2) + PROMPT).await;
    assert!(stop.is(1, "stop") && stop.sid() == shell.sid, "{stop:?}");
    assert_eq!((stop.number("status"), stop.body()), (Some(2), &b"device disconnected"[..]));
    let end = shell.socket.end(PROMPT).await;
    assert!(end.code().is_some_and(|code| code != 1006), "{end:?}");
}

/// The unmodified terminal ends by itself when its device does not come back.
#[tokio::test]
async fn a_stock_terminal_ends_by_itself_when_its_device_stays_away() {
    let hub = Set::Embedded.process(SHORT_GRACE).await;
    let user = hub.user().await;
    let mut device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    let cli = MenderCli::new(&hub);
    cli.log_in(ADMIN_EMAIL, ADMIN_PASSWORD).await;
    let mut terminal = cli.terminal_that_prints(&id, "echo sum-$((40+2))\n", "sum-42").await;
    device.kill_connect();
    terminal.end(Duration::from_secs(2) + Duration::from_secs(10)).await;
}

/// The hub forgets a shell; the agent goes on, and its first word frees it. Shown with the slots of a real agent.
#[tokio::test]
async fn a_shell_that_a_dead_hub_has_left_is_stopped_and_its_slot_is_free() {
    let site = Set::Embedded.site().await;
    let mut hub = site.process(&[]).await;
    let port = hub.address().port();
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    let mut shell = Shell::start_real(&user, &id).await;
    let pid_file = device.path("shell.pid");
    // It says something every second, and ends only if somebody ends it.
    let talk = format!("echo $$ > {}; while sleep 1; do echo talking; done\n", pid_file.display());
    shell.type_in(&talk).await;
    let pid = wait_until(LIMIT, "a shell on the device", async || {
        std::fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse::<u32>().ok())
    })
    .await;
    let before = device.connections();

    hub.kill();
    drop(hub);
    let hub = site.process_at(port, &[]).await;
    device.back_soon(before).await;

    ends(pid).await;
    let user = user.at(&hub);
    wait_until(LIMIT, "the device to be connected", async || (user.status(&id).await == "connected").then_some(()))
        .await;
    Shell::start_real(&user, &id).await;
}

/// Waits until a process is gone; one that nobody has waited for yet is gone all the same.
async fn ends(pid: u32) {
    wait_until(LIMIT, "the shell to end", async || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (status.is_empty() || status.contains(") Z ")).then_some(())
    })
    .await;
}

/// A shell on a real agent, which may be busy with ending others: it takes four seconds for each.
async fn started_shell(user: &TestUser, id: &str) -> Shell {
    for _ in 0..3 {
        let mut socket = user.open_soon(id).await;
        socket.say(&Packet::shell("new").prop("terminal_width", 80).prop("terminal_height", 24)).await;
        let starting = socket.hear_for(1, "new", LIMIT * 3);
        if let Ok(started) = tokio::time::timeout(LIMIT * 2, starting).await {
            assert_eq!((started.number("status"), started.body()), (Some(1), &b"Shell started"[..]), "{started:?}");
            return Shell { sid: started.sid().to_owned(), socket };
        }
        // The agent has left while it read this, or before; a person opens another one then.
        socket.reset();
    }
    panic!("no shell starts");
}

/// Shells that are open at the same time. The agent answers nothing while it ends one, so these are few enough that the hub
/// does not take it for lost.
const AT_ONCE: usize = 5;

/// Shells that the agent here lets one user have.
const SLOTS: usize = 10;

/// Operators whose connections are reset while their shells run, on one real agent, which then opens another.
async fn losses_of_running_shells(losses: usize, other_losses_each: usize) {
    let hub = Set::Embedded.hub().await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    for _ in 0..losses / AT_ONCE {
        let mut shells = Vec::new();
        for _ in 0..AT_ONCE {
            shells.push(started_shell(&user, &id).await);
        }
        for shell in shells {
            shell.socket.reset();
            // Others have asked for something that needs no shell, or for nothing yet.
            for number in 0..other_losses_each {
                let mut session = user.open(&id).await;
                if number % 2 == 0 {
                    session.say(&Packet::control("ping")).await;
                }
                session.reset();
            }
        }
    }
    // Every slot of this user is free: one shell left behind would be one too many. What an agent that left has not heard
    // of, it hears when it is back.
    let mut shells = Vec::new();
    wait_until(LIMIT * 4, "all slots of a user to be free", async || {
        let mut socket = user.try_open(&id).await.ok()?;
        socket.try_send(Packet::shell("new").bytes()).await.ok()?;
        let started = loop {
            match socket.next().await {
                harness::Event::Message(heard) if heard.is(1, "new") => break heard,
                harness::Event::Closed(_) => return None,
                _ => {}
            }
        };
        if started.number("status") == Some(1) {
            shells.push(socket);
        }
        (shells.len() == SLOTS).then_some(())
    })
    .await;
    // It leaves when it cannot hear the answer to its own ping within six seconds: ending two shells in a row takes eight.
    eprintln!("{losses} shells lost; the agent has connected {} times", device.connections());
}

/// An agent has 16 slots for shells, and one that is not given back is lost until it restarts.
#[tokio::test]
async fn fifty_lost_shells_and_two_hundred_lost_operators_cost_an_agent_no_slot() {
    losses_of_running_shells(50, 3).await;
}

/// The agent needs four seconds to end each.
/// `cargo test -p tests --test e2e -- --ignored two_hundred_lost_shells`
#[tokio::test]
#[ignore = "takes a quarter of an hour; run it by its name"]
async fn two_hundred_lost_shells_cost_an_agent_no_slot() {
    losses_of_running_shells(200, 0).await;
}

/// The command people use, in a terminal of their own, through everything that `mooring terminal` promises to hide.
#[tokio::test]
async fn our_own_terminal_stays_open_when_its_socket_and_the_device_s_are_lost() {
    let hub = Set::Embedded.hub().await;
    let user = hub.user().await;
    let device_line = DelayProxy::to(&hub, Duration::ZERO).await;
    let operator_line = DelayProxy::to(&hub, Duration::ZERO).await;
    let device = RealDevice::start(device_line.door()).await;
    let id = device.join(&user).await;
    let mooring = harness::Mooring::alone();
    let server = operator_line.door().url();
    let login = ["login", "--server", &server, "--user", ADMIN_EMAIL, "--password-stdin"];
    let login = mooring.run(&login, &format!("{ADMIN_PASSWORD}\n")).await;
    assert!(login.status.success(), "{login:?}");
    let log = harness::temporary_directory().join("terminal.log");
    let mut terminal = None;
    // Some shells of the agent are born mute.
    for _ in 0..4 {
        let command = mooring.command(&["terminal", &id, "--server", &server]);
        let mut opened = Process::start_interactive(&command, &log);
        opened.type_in("kept=40; stty -echo; echo sum-$((kept+2))\n");
        if tokio::time::timeout(LIMIT / 3, opened.printed("sum-42", LIMIT)).await.is_ok() {
            terminal = Some(opened);
            break;
        }
    }
    let mut terminal = terminal.expect("one of several shells speaks");

    operator_line.cut();
    terminal.type_in("echo operator-$((kept+2))\n");
    terminal.printed("operator-42", LIMIT).await;
    let before = device.connections();
    device_line.cut();
    terminal.type_in("echo device-$((kept+2))\n");
    device.back_soon(before).await;
    terminal.printed("device-42", LIMIT).await;

    for word in ["sum-42", "operator-42", "device-42"] {
        assert_eq!(terminal.log().matches(word).count(), 1, "{}", terminal.log());
    }
    terminal.type_in("exit\n");
    assert!(terminal.end(LIMIT).await.success(), "{}", terminal.log());
}

/// The first message of a socket says where it stands; nobody else's messages carry that protocol.
#[tokio::test]
async fn the_hub_s_own_messages_are_for_those_who_asked_and_carry_wide_numbers() {
    let mut scene = Scene::new(&[]).await;
    let device = scene.device.id.clone();
    tokio::spawn(async move { scene.socket.serve(answer_like_a_shell).await });
    // Through the Mender API a terminal hears nothing of the kind.
    let mut stock = Shell::start(scene.user.open(&device).await).await;
    stock.echoes("key").await;
    stock.socket.hears_nothing().await;
    // A kept one does.
    scene.terminal.type_in("key").await;
    let input = within(LIMIT, "the keys to be taken", async {
        loop {
            let heard = scene.terminal.hear().await.unwrap();
            if heard.is(HUB, "input") {
                return heard;
            }
        }
    })
    .await;
    assert!(is_wide(&input, "bytes"), "{input:?}");
    assert_eq!(input.number("bytes"), Some(3));
    drop(scene.hub);
}

fn is_wide(heard: &Heard, name: &str) -> bool {
    heard.prop(name).and_then(harness::msgpack::Value::int_marker) == Some(0xd3)
}
