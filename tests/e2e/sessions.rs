//! What becomes of a message on its way between an operator and a device, byte by byte.

use harness::msgpack::{Value, hex};
use harness::{LIMIT, Packet, Set, Socket, TestHub, TestUser, both_sets};

both_sets!([
    a_terminal_opened_by_the_web_ui_reaches_the_device_stamped,
    what_a_client_says_about_itself_is_overwritten,
    a_body_sent_as_text_arrives_as_bytes,
    explicit_nils_and_strange_widths_are_understood,
    empty_bodies_are_left_out_both_ways,
    an_unknown_protocol_goes_to_the_device_and_its_answer_comes_back,
    offsets_keep_their_eight_bytes_both_ways,
    the_protocol_number_towards_operators_is_never_wide,
    a_long_paste_is_split_and_complete,
    what_cannot_be_split_is_refused_and_the_device_never_sees_it,
    a_failed_start_is_told_in_the_form_that_the_command_line_client_reads,
    messages_of_other_sessions_are_never_heard,
]);

/// A connected device and an open session on it.
struct Scene {
    hub: TestHub,
    user: TestUser,
    device: Socket,
    session: Socket,
    id: String,
}

impl Scene {
    async fn new(set: Set) -> Self {
        let hub = set.hub().await;
        let user = hub.user().await;
        let device = hub.accepted_by(&user).await;
        let socket = device.connect().await;
        let session = user.open(&device.id).await;
        Self { hub, user, device: socket, session, id: device.id }
    }

    /// The session's id, as the device learns it.
    async fn sid(&mut self) -> String {
        self.session.say(&Packet::control("ping")).await;
        self.device.hear().await.sid().to_owned()
    }
}

/// A text's bytes as hexadecimal digits.
fn digits_of(text: &str) -> String {
    text.bytes()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

async fn a_terminal_opened_by_the_web_ui_reaches_the_device_stamped(set: Set) {
    let mut scene = Scene::new(set).await;
    // No session id, a one-byte protocol number, empty properties, no body.
    scene.session.send(hex("81 a3686472 83 a570726f746f 01 a3747970 a36e6577 a570726f7073 80")).await;

    let heard = scene.device.hear().await;

    assert!(heard.is(1, "new"), "{heard:?}");
    assert_eq!(heard.sid().len(), 36, "{heard:?}");
    assert!(heard.sid().chars().enumerate().all(|(at, c)| if [8, 13, 18, 23].contains(&at) {
        c == '-'
    } else {
        c.is_ascii_hexdigit()
    }));
    assert_eq!(heard.text("user_id"), Some(scene.user.id.as_str()));
    assert!(!heard.has_body());
}

async fn what_a_client_says_about_itself_is_overwritten(set: Set) {
    let mut scene = Scene::new(set).await;
    let sid = scene.sid().await;
    let forged =
        Packet::shell("shell").sid("somebody-elses").prop("user_id", "somebody").prop("kept", "yes").body("ls");

    scene.session.say(&forged).await;

    let heard = scene.device.hear().await;
    assert_eq!((heard.sid(), heard.text("user_id")), (sid.as_str(), Some(scene.user.id.as_str())));
    assert_eq!((heard.text("kept"), heard.body()), (Some("yes"), &b"ls"[..]));
}

async fn a_body_sent_as_text_arrives_as_bytes(set: Set) {
    let mut scene = Scene::new(set).await;
    // Keystrokes as the web UI sends them: "ls\r".
    scene.session.send(hex("82 a3686472 82 a570726f746f 01 a3747970 a57368656c6c a4626f6479 a36c730d")).await;
    let heard = scene.device.hear().await;
    assert_eq!(heard.body(), b"ls\r");

    // Text of more than 31 and of more than 255 bytes has other markers.
    for (marker, length) in [("d9 28", 40), ("da 0190", 400)] {
        let opening = format!("82 a3686472 82 a570726f746f 01 a3747970 a57368656c6c a4626f6479 {marker}");
        scene.session.send([hex(&opening), vec![b'y'; length]].concat()).await;
        assert_eq!(scene.device.hear().await.body(), vec![b'y'; length]);
    }
}

async fn explicit_nils_and_strange_widths_are_understood(set: Set) {
    let mut scene = Scene::new(set).await;
    let sid = scene.sid().await;
    // {hdr: {proto: 1, typ: nil, sid: nil, props: nil}, body: nil}
    scene
        .session
        .send(hex("82 a3686472 84 a570726f746f 01 a3747970 c0 a3736964 c0 a570726f7073 c0 a4626f6479 c0"))
        .await;
    let heard = scene.device.hear().await;
    assert_eq!((heard.proto(), heard.typ(), heard.sid()), (1, "", sid.as_str()));
    assert!(!heard.has_body());

    // Maps of 32-bit length, a text of 16-bit length, a 64-bit number, an unknown key, and bytes after the message.
    let wide = "df00000003 a3686472 de0002 a570726f746f cf0000000000000001 a3747970 da0004 70696e67 \
                a3666f6f 93010203 a4626f6479 c600000002 6869 ffff";
    scene.session.send(hex(wide)).await;
    let heard = scene.device.hear().await;
    assert!(heard.is(1, "ping"), "{heard:?}");
    assert_eq!(heard.body(), b"hi");

    // An empty map as body, from old browsers.
    scene.session.send(hex("82 a3686472 82 a570726f746f 01 a3747970 a473746f70 a4626f6479 80")).await;
    let heard = scene.device.hear().await;
    assert!(heard.is(1, "stop") && !heard.has_body(), "{heard:?}");
}

async fn empty_bodies_are_left_out_both_ways(set: Set) {
    let mut scene = Scene::new(set).await;
    let sid = scene.sid().await;
    for empty in ["c400", "c50000", "a0"] {
        let message = format!("82 a3686472 82 a570726f746f 02 a3747970 aa66696c655f6368756e6b a4626f6479 {empty}");
        scene.session.send(hex(&message)).await;
        assert!(!scene.device.hear().await.has_body(), "{empty}");
        scene.device.say(&Packet::new(2, "file_chunk").sid(&sid).body("")).await;
        assert!(!scene.session.hear().await.has_body());
    }
    scene.device.say(&Packet::new(2, "file_chunk").sid(&sid)).await;
    assert!(!scene.session.hear().await.has_body());
}

async fn an_unknown_protocol_goes_to_the_device_and_its_answer_comes_back(set: Set) {
    let mut scene = Scene::new(set).await;
    scene.session.say(&Packet::new(12345, "surprise").body("?")).await;
    let heard = scene.device.hear().await;
    assert!(heard.is(12345, "surprise"), "{heard:?}");
    assert_eq!(heard.body(), b"?");

    let text = "no handler registered for protocol: 0x3039";
    scene.device.say(&Packet::control("error").sid(heard.sid()).body(text)).await;
    let answer = scene.session.hear().await;
    assert!(answer.is(65535, "error"), "{answer:?}");
    assert_eq!((answer.sid(), answer.body()), (heard.sid(), text.as_bytes()));
}

async fn offsets_keep_their_eight_bytes_both_ways(set: Set) {
    let mut scene = Scene::new(set).await;
    let sid = scene.sid().await;
    for offset in [0_i64, 4096, i64::MAX] {
        scene.session.say(&Packet::new(2, "ack").prop("offset", offset)).await;
        let heard = scene.device.hear().await;
        let prop = heard.prop("offset").unwrap();
        assert_eq!((prop.int(), prop.int_marker()), (Some(offset), Some(0xd3)));
        scene.device.say(&Packet::new(2, "file_chunk").sid(&sid).prop("offset", offset).body("x")).await;
        let heard = scene.session.hear().await;
        let prop = heard.prop("offset").unwrap();
        assert_eq!((prop.int(), prop.int_marker()), (Some(offset), Some(0xd3)));
    }
}

async fn the_protocol_number_towards_operators_is_never_wide(set: Set) {
    let mut scene = Scene::new(set).await;
    let sid = scene.sid().await;
    let sid = digits_of(&sid);
    for proto in ["cf0000000000000001", "d30000000000000001", "ce00000001", "cd0001", "01"] {
        let message =
            format!("82 a3686472 83 a570726f746f {proto} a3747970 a57368656c6c a3736964 d924{sid} a4626f6479 c40161");
        scene.device.send(hex(&message)).await;
        let heard = scene.session.hear().await;
        assert!(![0xcf, 0xd3].contains(&heard.proto_marker()), "{proto} became {:02x}", heard.proto_marker());
        assert!(heard.is(1, "shell") && heard.body() == b"a", "{heard:?}");
    }
}

async fn a_long_paste_is_split_and_complete(set: Set) {
    let mut scene = Scene::new(set).await;
    let paste: Vec<u8> = (0..20_000_u32).map(|number| b'a' + u8::try_from(number % 26).unwrap()).collect();
    scene.session.say(&Packet::shell("shell").body(&paste)).await;
    // The next one does not overtake it.
    scene.session.say(&Packet::shell("shell").body("\r")).await;

    let mut arrived = vec![];
    while arrived.len() <= paste.len() {
        let heard = scene.device.hear().await;
        assert!(heard.raw.len() <= 8192, "{} bytes to the device", heard.raw.len());
        assert!(heard.is(1, "shell") && heard.text("user_id").is_some(), "{heard:?}");
        arrived.extend_from_slice(heard.body());
    }
    assert!(arrived == [paste, b"\r".to_vec()].concat(), "bytes were lost or changed");
    assert_eq!(scene.user.status(&scene.id).await, "connected");
}

async fn what_cannot_be_split_is_refused_and_the_device_never_sees_it(set: Set) {
    let mut scene = Scene::new(set).await;
    scene.session.say(&Packet::new(3, "forward").prop("connection_id", "c").body([0; 9000])).await;
    let refusal = scene.session.hear().await;
    assert!(refusal.is(65535, "error"), "{refusal:?}");
    let why = harness::msgpack::read(refusal.body()).unwrap();
    assert_eq!(why.get("close"), Some(&Value::Bool(false)));
    assert_eq!(why.get("code").and_then(Value::int), Some(413));
    assert!(why.get("err").and_then(Value::text).is_some_and(|text| !text.is_empty()));

    scene.session.say(&Packet::new(12345, "small").body("small")).await;
    assert_eq!(scene.device.hear().await.body(), b"small");
}

async fn a_failed_start_is_told_in_the_form_that_the_command_line_client_reads(set: Set) {
    let mut scene = Scene::new(set).await;
    scene.session.say(&Packet::shell("new")).await;
    let sid = scene.device.hear().await.sid().to_owned();
    scene.device.say(&Packet::shell("new").sid(&sid).prop("status", 2).body("too many shells spawned")).await;
    let heard = scene.session.hear().await;
    let status = heard.prop("status").unwrap();
    // mender-cli recognises the number in this width alone.
    assert_eq!((status.int(), status.int_marker()), (Some(2), Some(0xd3)));
    assert_eq!(heard.body(), b"too many shells spawned");

    // The agent's own bytes of a health check.
    let digits = digits_of(&sid);
    let ping = format!(
        "81 a3686472 84 a570726f746f cd0001 a3747970 a470696e67 a3736964 d924{digits} \
         a570726f7073 82 a774696d656f7574 41 a6737461747573 03"
    );
    scene.device.send(hex(&ping)).await;
    let heard = scene.session.hear().await;
    let timeout = heard.prop("timeout").unwrap();
    assert_eq!((timeout.int(), timeout.int_marker()), (Some(65), Some(0xd3)));
}

async fn messages_of_other_sessions_are_never_heard(set: Set) {
    let mut scene = Scene::new(set).await;
    let own = scene.sid().await;
    let mut neighbour = scene.user.open(&scene.id).await;
    neighbour.say(&Packet::control("ping")).await;
    let neighbours = scene.device.hear().await.sid().to_owned();
    assert_ne!(own, neighbours);
    // A second device that speaks in a session it has no part in.
    let stranger = scene.hub.accepted_by(&scene.user).await;
    let mut stranger = stranger.connect().await;

    for sid in [neighbours.as_str(), "", "malformed", "3f8f5c8e-0000-4000-8000-000000000000"] {
        scene.device.say(&Packet::control("pong").sid(sid).body("not yours")).await;
    }
    stranger.say(&Packet::control("pong").sid(&own).body("not yours")).await;
    stranger.ping(b"").await;
    stranger.hear_pong(LIMIT).await;
    scene.device.say(&Packet::control("pong").sid(&own).body("yours")).await;

    assert_eq!(scene.session.hear().await.body(), b"yours");
    let heard = neighbour.hear().await;
    assert_eq!((heard.sid(), heard.body()), (neighbours.as_str(), &b"not yours"[..]));
}
