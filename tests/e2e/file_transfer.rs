//! Files go to devices and come from them, whole or visibly not.

use harness::{
    ADMIN_EMAIL, ADMIN_PASSWORD, Answer, Fault, File, FileAgent, LIMIT, MenderCli, Packet, RealDevice, Set, Shell,
    TestHub, TestUser, answer_like_a_shell, both_sets, wait_until, within,
};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

fn signed(size: usize) -> i64 {
    i64::try_from(size).expect("sizes of tests are small")
}

both_sets!([
    a_download_brings_the_file_and_what_is_known_about_it,
    a_head_asks_for_nothing_but_what_is_known,
    what_cannot_be_downloaded_is_a_clear_refusal,
    a_download_that_fails_half_way_is_never_a_complete_answer,
    an_upload_brings_the_file_its_owner_and_its_mode,
    an_upload_against_the_rules_is_a_clear_refusal,
    an_upload_that_the_device_refuses_says_why,
    an_empty_upload_waits_for_the_device,
    an_agent_without_file_transfer_is_a_502,
    an_agent_that_is_silent_at_any_point_is_a_408,
    a_client_that_leaves_ends_its_transfer,
    several_transfers_share_a_device,
    a_download_resumes_at_a_byte_of_the_same_file,
    the_real_agent_and_the_real_client_copy_files_both_ways,
    the_real_agent_s_limits_reach_the_user,
]);

/// The deadline of a hub whose agents are silent.
const SHORT: Duration = Duration::from_secs(1);

/// The protocol's window.
const WINDOW: usize = 81_920;

struct Scene {
    hub: TestHub,
    user: TestUser,
    device: String,
    agent: FileAgent,
}

impl Scene {
    async fn new(set: Set) -> Self {
        Self::with(set, |_| ()).await
    }

    async fn with(set: Set, change: impl FnOnce(&mut hub::Config)) -> Self {
        Self::on(set.hub_with(change).await).await
    }

    async fn on(hub: TestHub) -> Self {
        let user = hub.user().await;
        let device = hub.accepted_by(&user).await;
        let agent = FileAgent::connect(&device).await;
        user.sees(&device.id, "connected", LIMIT).await;
        Self { hub, user, device: device.id, agent }
    }

    fn path(&self, rest: &str) -> String {
        format!("/api/management/v1/deviceconnect/devices/{}/{rest}", self.device)
    }

    async fn download(&self, path: &str) -> Answer {
        self.user.get(&self.path(&format!("download?path={path}"))).await
    }

    /// Sends a form of these parts.
    async fn upload(&self, parts: &[Part<'_>]) -> Answer {
        let request = self.user.request("PUT", &self.path("upload")).header("Content-Type", FORM);
        Answer::to(request.body(form(parts))).await
    }

    /// Writes a request by hand on a connection that takes little at a time.
    async fn raw(&self, head: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        socket.set_send_buffer_size(16 * 1024).unwrap();
        let mut stream = socket.connect(self.hub.address()).await.unwrap();
        let head = format!("{head}Host: hub\r\nAuthorization: Bearer {}\r\n\r\n", self.user.token);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }
}

/// `(disposition, value)`
type Part<'a> = (&'a str, &'a [u8]);

const FORM: &str = "multipart/form-data; boundary=between";

fn form(parts: &[Part<'_>]) -> Vec<u8> {
    let mut body = vec![];
    for (disposition, value) in parts {
        body.extend(format!("--between\r\nContent-Disposition: form-data; {disposition}\r\n\r\n").into_bytes());
        body.extend(*value);
        body.extend(b"\r\n");
    }
    body.extend(b"--between--\r\n");
    body
}

fn file(bytes: &[u8]) -> Part<'_> {
    (r#"name="file"; filename="a.bin""#, bytes)
}

const PATH: Part<'_> = (r#"name="path""#, b"/srv/a.bin");

/// Bytes that are nowhere like those a few places on.
fn contents(size: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

async fn a_download_brings_the_file_and_what_is_known_about_it(set: Set) {
    let scene = Scene::new(set).await;
    for size in [0, 1, 4096, WINDOW, WINDOW + 1, 2 * 1024 * 1024] {
        let bytes = contents(size);
        scene.agent.put("/srv/a.bin", File::plain(bytes.clone()));
        let answer = scene.download("%2Fsrv%2Fa.bin").await.expect(200);
        assert!(answer.body == bytes, "{size} bytes came as {}", answer.body.len());
        let wanted = size.to_string();
        for (name, value) in [
            ("content-type", "application/octet-stream"),
            ("content-disposition", r#"attachment; filename="a.bin""#),
            ("x-men-file-path", "/srv/a.bin"),
            ("x-men-file-uid", "1000"),
            ("x-men-file-gid", "1001"),
            ("x-men-file-mode", "644"),
            ("x-men-file-size", wanted.as_str()),
            ("transfer-encoding", "chunked"),
            ("content-length", ""),
            ("content-encoding", ""),
            ("accept-ranges", ""),
        ] {
            assert_eq!(answer.header(name), value, "{name} of {size} bytes");
        }
        assert_eq!(scene.agent.closed().await, 1);
        let mut acks: Vec<i64> = (1..=size / 40_960).map(|tens| signed(tens * 40_960)).collect();
        acks.push(signed(size));
        assert_eq!(scene.agent.acks(), acks, "{size} bytes");
        let get = scene.agent.heard("get_file").pop().unwrap();
        assert_eq!(get.text("user_id"), Some(scene.user.id.as_str()));
        scene.agent.forget();
    }
    // Who takes compressed answers gets the file as it is, and who asks for a part of it, all of it.
    scene.agent.put("/srv/größe \"x\"", File::plain(vec![b'x'; 100_000]));
    let path = scene.path("download?path=/srv/gr%C3%B6%C3%9Fe%20%22x%22");
    let request = scene.user.request("GET", &path).header("Accept-Encoding", "gzip").header("Range", "bytes=5-");
    let answer = Answer::to(request).await.expect(200);
    assert_eq!((answer.header("content-encoding"), answer.body.len()), ("", 100_000));
    let disposition = r#"attachment; filename="gr__e \"x\""; filename*=UTF-8''gr%C3%B6%C3%9Fe%20%22x%22"#;
    assert_eq!(answer.header("content-disposition"), disposition);
}

async fn a_head_asks_for_nothing_but_what_is_known(set: Set) {
    let scene = Scene::new(set).await;
    scene.agent.put("/x", File::plain(contents(10_000)).mode(1 << 23 | 0o755));
    let answer = Answer::to(scene.user.request("HEAD", &scene.path("download?path=/x"))).await.expect(200);
    assert_eq!(
        (answer.header("x-men-file-size"), answer.header("x-men-file-mode"), answer.body.len()),
        ("10000", "40000755", 0)
    );
    assert_eq!((answer.header("content-type"), answer.header("content-length")), ("application/octet-stream", ""));
    assert_eq!(scene.agent.closed().await, 1);
    assert!(scene.agent.heard("get_file").is_empty());
    Answer::to(scene.user.request("HEAD", &scene.path("download?path=/y"))).await.expect(400);
}

async fn what_cannot_be_downloaded_is_a_clear_refusal(set: Set) {
    let scene = Scene::new(set).await;
    for (query, text) in [
        ("", "path: cannot be blank."),
        ("?path=", "path: cannot be blank."),
        ("?path=etc/passwd", "path: must be absolute."),
    ] {
        let refused = scene.user.get(&scene.path(&format!("download{query}"))).await.expect(400);
        assert_eq!(refused.error(), text);
    }
    assert!(scene.agent.heard("open").is_empty(), "none of these is the device's business");

    let missing = scene.download("/nowhere").await.expect(400).error();
    assert!(missing.starts_with("failed to retrieve file info: ") && missing.ends_with("no such file or directory"));
    for (path, mode) in [("/folder", 1 << 31 | 0o755), ("/pipe", 1 << 25 | 0o644)] {
        scene.agent.put(path, File::plain(vec![]).mode(mode));
        let refused = scene.download(path).await.expect(400);
        assert!(refused.error().ends_with("path is not a regular file"), "{refused}");
    }
    scene.agent.put("/x", File::plain(contents(10_000)));
    for (fault, status, text) in [
        (Fault::Refuses("stat", "gone", Some(404)), 404, "error received from device: gone"),
        (Fault::Refuses("get_file", "access denied: x", None), 403, "error received from device: access denied: x"),
        (Fault::Refuses("get_file", "input/output error", None), 400, "error received from device: input/output error"),
        (Fault::Refuses("get_file", "busy", Some(503)), 503, "error received from device: busy"),
        (Fault::FailsAfter(4096), 400, "error received from device: read: input/output error"),
        (Fault::SkipsAfter(0), 500, "internal error"),
    ] {
        scene.agent.misbehave(fault.clone());
        let refused = scene.download("/x").await;
        assert_eq!(refused.status, status, "{fault:?}: {refused}");
        assert!(refused.error().ends_with(text), "{fault:?}: {refused}");
    }
    assert_eq!(scene.agent.closed().await, 9);

    let unknown = scene.path("download?path=/x").replace(&scene.device, "3f8f5c8e-0000-4000-8000-000000000000");
    assert_eq!(scene.user.get(&unknown).await.expect(409).error(), "device disconnected");
    let malformed = scene.path("download?path=/x").replace(&scene.device, "malformed");
    assert_eq!(scene.user.get(&malformed).await.expect(409).error(), "device disconnected");
}

/// Reads until the answer breaks off; how much came before. A complete answer is a failure.
async fn broken_off(request: reqwest::RequestBuilder) -> usize {
    let mut response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut read = 0;
    loop {
        match response.chunk().await {
            Ok(Some(piece)) => read += piece.len(),
            Ok(None) => panic!("the answer is complete after {read} bytes"),
            Err(_) => return read,
        }
    }
}

async fn a_download_that_fails_half_way_is_never_a_complete_answer(set: Set) {
    let scene = Scene::with(set, |config| config.actors.file_transfer.deadline = SHORT).await;
    scene.agent.put("/x", File::plain(contents(1024 * 1024)));
    let path = scene.path("download?path=/x");
    for fault in [Fault::FailsAfter(65_536), Fault::SkipsAfter(65_536), Fault::StopsAfter(65_536)] {
        scene.agent.misbehave(fault.clone());
        let read = broken_off(scene.user.request("GET", &path)).await;
        // What came before is not lost: a client that resumes goes on after it.
        assert!(matches!(read, 1..=65_536), "{fault:?}: {read}");
        assert_eq!(scene.agent.closed().await, 1, "{fault:?}");
        scene.agent.forget();
    }
    // The device closes the session, or is lost, or the user is.
    scene.agent.misbehave(Fault::StopsAfter(65_536));
    let reading = tokio::spawn(broken_off(scene.user.request("GET", &path)));
    let sid = wait_until(LIMIT, "the transfer", async || scene.agent.heard("get_file").pop()).await.sid().to_owned();
    scene.agent.say(Packet::control("close").sid(&sid));
    within(LIMIT, "the answer to break off", reading).await.unwrap();
    scene.agent.forget();

    let leaving = scene.hub.user().await;
    let reading = tokio::spawn(broken_off(leaving.request("GET", &path)));
    wait_until(LIMIT, "the transfer", async || scene.agent.heard("get_file").pop()).await;
    Answer::to(leaving.request("POST", "/api/management/v1/useradm/auth/logout")).await.expect(202);
    within(LIMIT, "the answer to break off", reading).await.unwrap();
    scene.agent.forget();

    let reading = tokio::spawn(broken_off(scene.user.request("GET", &path)));
    wait_until(LIMIT, "the transfer", async || scene.agent.heard("get_file").pop()).await;
    drop(scene.agent);
    within(LIMIT, "the answer to break off", reading).await.unwrap();
}

async fn an_upload_brings_the_file_its_owner_and_its_mode(set: Set) {
    let scene = Scene::new(set).await;
    for size in [1, 4096, WINDOW, WINDOW + 1, 2 * 1024 * 1024] {
        let bytes = contents(size);
        let [uid, gid, mode]: [Part<'_>; 3] =
            [(r#"name="uid""#, b"1000"), (r#"name="gid""#, b"0"), (r#"name="mode""#, b"0600")];
        let answer =
            scene.upload(&[mode, PATH, (r#"name="colour""#, b"blue"), uid, gid, file(&bytes)]).await.expect(201);
        assert!(answer.body.is_empty());
        let came = scene.agent.uploaded().pop().unwrap();
        assert!(came.bytes == bytes, "{size} bytes came as {}", came.size);
        let put = |name| came.put.get(name);
        let (path, name) = (put("path").and_then(|path| path.text()), put("src_path").and_then(|name| name.text()));
        assert_eq!((path, name), (Some("/srv/a.bin"), Some("a.bin")));
        let number = |name| put(name).and_then(harness::msgpack::Value::int);
        assert_eq!((number("uid"), number("gid"), number("mode")), (Some(1000), Some(0), Some(0o600)));
        assert_eq!(scene.agent.heard("put_file")[0].text("user_id"), Some(scene.user.id.as_str()));
        assert_eq!(scene.agent.closed().await, 1);
        scene.agent.forget();
    }
    // The order of `mender-cli`: the mode comes too late and the device chooses one.
    scene.upload(&[PATH, file(b"x"), (r#"name="mode""#, b"600")]).await.expect(201);
    assert_eq!(scene.agent.uploaded()[0].put.get("mode"), None);
}

async fn an_upload_against_the_rules_is_a_clear_refusal(set: Set) {
    let scene = Scene::with(set, |config| config.actors.file_transfer.upload_limit = 200_000).await;
    let number = "must be a whole number from 0 to 4294967295.";
    for (parts, text) in [
        (vec![(r#"name="path""#, &b"srv"[..]), file(b"x")], "path: must be absolute.".to_owned()),
        (vec![(r#"name="path""#, &b""[..]), file(b"x")], "path: cannot be blank.".to_owned()),
        (vec![file(b"x"), PATH], "path: cannot be blank.".to_owned()),
        (vec![PATH], "file: upload file is required.".to_owned()),
        (vec![PATH, (r#"name="uid""#, b"-1"), file(b"x")], format!("uid: {number}")),
        (vec![PATH, (r#"name="gid""#, b"root"), file(b"x")], format!("gid: {number}")),
        (vec![PATH, (r#"name="mode""#, b"rw-r--r--"), file(b"x")], "mode: must be an octal number such as 644.".into()),
    ] {
        assert_eq!(scene.upload(&parts).await.expect(400).error(), text);
    }
    let json = scene.user.put(&scene.path("upload"), &json!({"path": "/x"})).await.expect(400);
    assert_eq!(json.error(), "request Content-Type isn't multipart/form-data");
    assert!(scene.agent.heard("open").is_empty(), "none of these is the device's business");

    // Announced: not a byte of it is read. Unannounced: cut off, and the device is told.
    let mut stream = scene
        .raw(&format!("PUT {} HTTP/1.1\r\nContent-Type: {FORM}\r\nContent-Length: 200001\r\n", scene.path("upload")))
        .await;
    assert!(first_line(&mut stream).await.contains(" 413 "));
    assert!(scene.agent.heard("open").is_empty());
    let mut stream = scene
        .raw(&format!(
            "PUT {} HTTP/1.1\r\nContent-Type: {FORM}\r\nTransfer-Encoding: chunked\r\n",
            scene.path("upload")
        ))
        .await;
    let form = form(&[PATH, file(&contents(300_000))]);
    for piece in form.chunks(10_000) {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        if stream.write_all(&chunk).await.is_err() {
            break;
        }
    }
    assert!(first_line(&mut stream).await.contains(" 413 "));
    assert_eq!(scene.agent.closed().await, 1);
    assert!(scene.agent.uploaded().is_empty());

    let path = scene.path("upload");
    drop(scene.agent);
    scene.user.sees(&scene.device, "disconnected", LIMIT).await;
    let request = scene.user.request("PUT", &path).header("Content-Type", FORM);
    let offline = Answer::to(request.body(self::form(&[PATH, file(b"x")]))).await.expect(409);
    assert_eq!(offline.error(), "device disconnected");
}

async fn first_line(stream: &mut TcpStream) -> String {
    let mut read = vec![];
    let reading = async {
        while !read.contains(&b'\n') {
            let mut piece = [0; 64];
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(count) => read.extend(&piece[..count]),
            }
        }
    };
    within(LIMIT, "an answer", reading).await;
    String::from_utf8_lossy(&read).lines().next().unwrap_or_default().to_owned()
}

async fn an_upload_that_the_device_refuses_says_why(set: Set) {
    let scene = Scene::new(set).await;
    let bytes = contents(400_000);
    let denied = "access denied: the target file path is outside chroot";
    for (fault, status, text) in [
        (Fault::Refuses("put_file", denied, None), 400, denied),
        (Fault::Refuses("put_file", "no space left", Some(507)), 507, "no space left"),
        (
            Fault::Refuses("file_chunk", "transmitted bytes limit exhausted", None),
            400,
            "transmitted bytes limit exhausted",
        ),
        (Fault::Refuses("eof", "input/output error", None), 400, "input/output error"),
        (Fault::FailsLate("rename: read-only file system"), 400, "rename: read-only file system"),
    ] {
        scene.agent.misbehave(fault.clone());
        let refused = scene.upload(&[PATH, file(&bytes)]).await;
        assert_eq!((refused.status, refused.error().as_str()), (status, text), "{fault:?}");
    }
    assert_eq!(scene.agent.closed().await, 5);
}

async fn an_empty_upload_waits_for_the_device(set: Set) {
    let scene = Scene::new(set).await;
    scene.upload(&[PATH, file(b"")]).await.expect(201);
    let came = scene.agent.uploaded();
    assert_eq!((came.len(), came[0].size), (1, 0));
    assert_eq!(scene.agent.closed().await, 1);

    scene.agent.misbehave(Fault::Refuses("eof", "no space left", None));
    assert_eq!(scene.upload(&[PATH, file(b"")]).await.expect(400).error(), "no space left");
}

async fn an_agent_without_file_transfer_is_a_502(set: Set) {
    let scene = Scene::new(set).await;
    let disabled = "file transfer disabled on device";
    let unknown = "file transfer not implemented on device";
    let version = "handshake rejected: require version 1";
    let handshake = "handshake error from client: handshake rejected: require version 1";
    for (fault, status, text) in [
        (Fault::Protocols(vec![1, 3, 4]), 502, disabled),
        (Fault::EchoesOpen, 502, unknown),
        (Fault::Refuses("open", version, None), 500, handshake),
        (Fault::Refuses("open", version, Some(426)), 426, handshake),
    ] {
        scene.agent.misbehave(fault.clone());
        for refused in [scene.download("/x").await, scene.upload(&[PATH, file(b"x")]).await] {
            assert_eq!((refused.status, refused.error().as_str()), (status, text), "{fault:?}");
        }
    }
    assert_eq!(scene.agent.closed().await, 8);
}

async fn an_agent_that_is_silent_at_any_point_is_a_408(set: Set) {
    let default = hub::Config::default().actors.file_transfer.deadline;
    assert_eq!(default, Duration::from_mins(1));
    let scene = Scene::with(set, |config| config.actors.file_transfer.deadline = SHORT).await;
    scene.agent.put("/x", File::plain(contents(400_000)));
    let bytes = contents(400_000);
    for fault in [Fault::Silent("open"), Fault::Silent("stat"), Fault::Silent("get_file"), Fault::StopsAfter(4096)] {
        scene.agent.misbehave(fault.clone());
        let (started, given_up) = (Instant::now(), scene.download("/x").await);
        assert_eq!(given_up.status, 408, "{fault:?}: {given_up}");
        assert_eq!(given_up.error(), "file transfer timed out");
        assert!(started.elapsed() >= SHORT, "{fault:?}");
    }
    for (fault, bytes) in [
        (Fault::Silent("open"), &bytes[..]),
        (Fault::Silent("put_file"), &bytes),
        // The window is full.
        (Fault::Silent("file_chunk"), &bytes),
        (Fault::Silent("eof"), &bytes),
        (Fault::Silent("eof"), b""),
    ] {
        scene.agent.misbehave(fault.clone());
        let (started, given_up) = (Instant::now(), scene.upload(&[PATH, file(bytes)]).await);
        assert_eq!(given_up.status, 408, "{fault:?}: {given_up}");
        assert_eq!(given_up.error(), "file transfer timed out");
        assert!(started.elapsed() >= SHORT, "{fault:?}");
    }
    assert_eq!(scene.agent.closed().await, 9);
}

async fn a_client_that_leaves_ends_its_transfer(set: Set) {
    let scene = Scene::new(set).await;
    scene.agent.put("/x", File::plain(contents(64 * 1024 * 1024)));
    let mut response = scene.user.request("GET", &scene.path("download?path=/x")).send().await.unwrap();
    response.chunk().await.unwrap();
    drop(response);
    assert_eq!(scene.agent.closed().await, 1);
    let (under_way, _) = scene.agent.progress();
    assert_eq!(under_way, 0, "the agent has stopped");
    scene.agent.forget();

    let mut stream = scene
        .raw(&format!("PUT {} HTTP/1.1\r\nContent-Type: {FORM}\r\nContent-Length: 100000\r\n", scene.path("upload")))
        .await;
    stream.write_all(&form(&[PATH, file(&contents(50_000))])[..40_000]).await.unwrap();
    wait_until(LIMIT, "the upload to begin", async || scene.agent.heard("put_file").pop()).await;
    drop(stream);
    assert_eq!(scene.agent.closed().await, 1);
    assert!(scene.agent.uploaded().is_empty());
}

async fn several_transfers_share_a_device(set: Set) {
    let scene = Scene::new(set).await;
    let bytes = contents(1024 * 1024);
    scene.agent.put("/x", File::plain(bytes.clone()));
    let form = form(&[PATH, file(&bytes)]);
    let transfers = async {
        let downloads = [scene.download("/x"), scene.download("/x"), scene.download("/x")];
        let upload = || {
            let request = scene.user.request("PUT", &scene.path("upload")).header("Content-Type", FORM);
            Answer::to(request.body(form.clone()))
        };
        let [one, two, three] = downloads;
        tokio::join!(one, two, three, upload(), upload())
    };
    let (first, second, third, up, up_too) = transfers.await;
    for answer in [first, second, third] {
        assert!(answer.expect(200).body == bytes);
    }
    for answer in [up, up_too] {
        answer.expect(201);
    }
    assert!(scene.agent.uploaded().iter().all(|came| came.bytes == bytes));
    assert_eq!(scene.agent.closed().await, 5);
}

async fn a_download_resumes_at_a_byte_of_the_same_file(set: Set) {
    let scene = Scene::new(set).await;
    let bytes = contents(1024 * 1024);
    scene.agent.put("/x", File::plain(bytes.clone()));
    let path = format!("/api/management/v1/mooring/devices/{}/files?path=/x", scene.device);
    let whole = scene.user.get(&path).await.expect(200);
    assert!(whole.body == bytes);
    let tag = whole.header("etag").to_owned();
    assert_eq!((whole.header("accept-ranges"), whole.header("x-men-file-mode")), ("bytes", "644"));
    let head = Answer::to(scene.user.request("HEAD", &path)).await.expect(200);
    assert_eq!(head.header("etag"), tag);

    let ask = |range: &str, tag: &str| scene.user.request("GET", &path).header("Range", range).header("If-Match", tag);
    for from in [1, 4096, 500_000, bytes.len() - 1] {
        let rest = Answer::to(ask(&format!("bytes={from}-"), &tag)).await.expect(206);
        assert!(rest.body == bytes[from..], "from {from}: {}", rest.body.len());
        assert_eq!(rest.header("content-range"), format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()));
    }
    // It skips nothing of the device's protocol.
    assert_eq!(scene.agent.closed().await, 6);
    let last = i64::try_from(bytes.len()).unwrap();
    assert_eq!(scene.agent.acks().last(), Some(&last));
    Answer::to(ask(&format!("bytes={}-", bytes.len()), &tag)).await.expect(416).error();

    let changed = File { modified: 1_700_000_001, ..File::plain(bytes.clone()) };
    scene.agent.put("/x", changed);
    assert_eq!(Answer::to(ask("bytes=4096-", &tag)).await.expect(412).error(), "the file has changed");
    scene.agent.put("/x", File::plain(bytes[1..].to_vec()));
    Answer::to(ask("bytes=4096-", &tag)).await.expect(412);
    scene.agent.closed().await;
}

#[tokio::test]
async fn a_transfer_is_a_session_like_any_other() {
    let scene = Scene::with(Set::Embedded, |config| config.actors.sessions.per_user = 1).await;
    scene.agent.put("/x", File::plain(contents(WINDOW)));
    scene.agent.misbehave(Fault::StopsAfter(8192));
    let mut response = scene.user.request("GET", &scene.path("download?path=/x")).send().await.unwrap();
    response.chunk().await.unwrap();
    for refused in [scene.download("/x").await, scene.upload(&[PATH, file(b"x")]).await] {
        assert_eq!(refused.expect(429).error(), "too many open sessions");
    }
    let sid = scene.agent.heard("get_file")[0].sid().to_owned();
    scene.agent.say(Packet::control("close").sid(&sid));
    scene.agent.misbehave(Fault::None);
    wait_until(LIMIT, "the place to be free", async || (scene.download("/x").await.status == 200).then_some(())).await;

    let scene = Scene::with(Set::Embedded, |config| config.actors.sessions.per_device = 1).await;
    let _taken = scene.user.open(&scene.device).await;
    let refused = scene.download("/x").await.expect(429);
    assert_eq!(refused.error(), "the device has too many open sessions");
}

#[tokio::test]
async fn a_ping_of_the_agent_is_answered_while_its_file_is_on_the_way() {
    let scene = Scene::new(Set::Embedded).await;
    scene.agent.put("/x", File::plain(contents(WINDOW)));
    scene.agent.misbehave(Fault::StopsAfter(8192));
    let mut response = scene.user.request("GET", &scene.path("download?path=/x")).send().await.unwrap();
    response.chunk().await.unwrap();
    let sid = scene.agent.heard("get_file")[0].sid().to_owned();
    scene.agent.say(Packet::control("ping").sid(&sid));
    let pong = wait_until(LIMIT, "a pong", async || scene.agent.heard("pong").pop()).await;
    assert_eq!((pong.sid(), pong.proto()), (sid.as_str(), 65535));
}

/// Waits until a number has stayed the same for a while; the number.
async fn settled(mut number: impl FnMut() -> usize) -> usize {
    let mut last = (number(), Instant::now());
    wait_until(LIMIT * 2, "a number to settle", async || {
        let now = number();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_secs(1)).then_some(now)
    })
    .await
}

#[tokio::test]
async fn a_slow_client_stops_the_device_after_a_window() {
    let _turn = harness::turn_of_the_heavy().await;
    let scene = Scene::new(Set::Embedded).await;
    let size = 64 * 1024 * 1024;
    scene.agent.put("/x", File::repeating(contents(1024 * 1024), size));
    let head = format!("GET {} HTTP/1.1\r\nConnection: close\r\n", scene.path("download?path=/x"));
    let mut stream = scene.raw(&head).await;

    // What the kernel takes for a client that reads nothing is a few megabytes.
    settled(|| scene.agent.progress().0).await;
    let (sent, acked) = scene.agent.progress();
    assert!(sent < size / 2, "the device has sent {sent} bytes to nobody");
    assert!(sent - acked <= WINDOW, "{sent} sent, {acked} acknowledged");

    // Nothing is lost by it.
    let mut read = 0;
    let mut piece = vec![0; 256 * 1024];
    loop {
        let count = within(LIMIT, "more of the file", stream.read(&mut piece)).await.unwrap();
        if count == 0 {
            break;
        }
        read += count;
    }
    assert!(read > size, "only {read} bytes came");
    assert_eq!(scene.agent.closed().await, 1);
    assert_eq!(scene.agent.acks().last().copied(), i64::try_from(size).ok());
}

#[tokio::test]
async fn a_slow_device_stops_the_reading_of_an_upload() {
    let _turn = harness::turn_of_the_heavy().await;
    let scene = Scene::new(Set::Embedded).await;
    scene.agent.discard();
    scene.agent.misbehave(Fault::Holds);
    let size = 64 * 1024 * 1024;
    let body = form(&[PATH, file(&contents(size))]);
    let head = format!(
        "PUT {} HTTP/1.1\r\nConnection: close\r\nContent-Type: {FORM}\r\nContent-Length: {}\r\n",
        scene.path("upload"),
        body.len()
    );
    let mut stream = scene.raw(&head).await;
    let written = std::sync::atomic::AtomicUsize::new(0);
    let writing = async {
        let mut left = body.as_slice();
        while !left.is_empty() {
            let count = stream.write(&left[..left.len().min(64 * 1024)]).await.unwrap();
            written.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
            left = &left[count..];
        }
    };
    let watching = async {
        let taken = settled(|| written.load(std::sync::atomic::Ordering::Relaxed)).await;
        assert!(taken < size / 2, "the hub has read {taken} bytes for a device that takes none");
        scene.agent.release();
    };
    tokio::join!(writing, watching);
    assert!(first_line(&mut stream).await.contains(" 201 "));
    assert_eq!(scene.agent.uploaded()[0].size, size);
}

/// What a hub may grow by while a file of any size passes through it.
const ALLOWED_GROWTH: u64 = 4 * 1024 * 1024;

async fn a_file_of_any_size_costs_the_hub_nothing(size: usize) {
    let _turn = harness::turn_of_the_heavy().await;
    let limit = Duration::from_mins(20);
    let hub = Set::Embedded.process(&[("MOORING_ACTORS__FILE_TRANSFER__UPLOAD_LIMIT", "8 GiB")]).await;
    let mut scene = Scene::on(hub).await;
    scene.agent.discard();
    let pattern = contents(1024 * 1024);
    let mut most = [0; 2];
    // The first round is small: what the hub needs once for traffic of this kind it has afterwards.
    for (round, size) in [16 * 1024 * 1024, size].into_iter().enumerate() {
        scene.agent.put("/x", File::repeating(pattern.clone(), size));
        let request = scene.user.request("GET", &scene.path("download?path=/x")).timeout(limit);
        let mut response = request.send().await.unwrap();
        let mut read = 0;
        let mut looked = 0;
        while let Some(piece) = response.chunk().await.unwrap() {
            for part in piece.chunks(4096) {
                let start = read % pattern.len();
                let same = part.len().min(pattern.len() - start);
                assert!(part[..same] == pattern[start..start + same], "at {read}");
                read += part.len();
            }
            if read - looked > 4 * 1024 * 1024 {
                looked = read;
                most[round] = most[round].max(scene.hub.anonymous_memory());
            }
        }
        assert_eq!(read, size);

        let whole = form(&[PATH, file(b"")]);
        let (head, tail) = whole.split_at(whole.len() - b"\r\n--between--\r\n".len());
        let length = whole.len() + size;
        let request = format!(
            "PUT {} HTTP/1.1\r\nConnection: close\r\nContent-Type: {FORM}\r\nContent-Length: {length}\r\n",
            scene.path("upload")
        );
        let mut stream = scene.raw(&request).await;
        stream.write_all(head).await.unwrap();
        for at in (0..size).step_by(pattern.len()) {
            stream.write_all(&pattern[..pattern.len().min(size - at)]).await.unwrap();
            if at % (4 * 1024 * 1024) == 0 {
                most[round] = most[round].max(scene.hub.anonymous_memory());
            }
        }
        stream.write_all(tail).await.unwrap();
        assert!(first_line(&mut stream).await.contains(" 201 "));
        assert_eq!(scene.agent.uploaded().pop().unwrap().size, size);
    }
    let growth = most[1].saturating_sub(most[0]);
    eprintln!("{size} bytes each way: at most {} bytes of memory, {growth} more than for 16 MiB", most[1]);
    assert!(growth <= ALLOWED_GROWTH, "the hub grew by {growth} bytes");
}

#[tokio::test]
async fn a_large_file_costs_the_hub_nothing() {
    a_file_of_any_size_costs_the_hub_nothing(256 * 1024 * 1024).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn a_file_of_two_gibibytes_costs_the_hub_nothing() {
    a_file_of_any_size_costs_the_hub_nothing(2 * 1024 * 1024 * 1024).await;
}

#[tokio::test]
async fn files_cross_nodes() {
    let site = Set::Production.site().await;
    let (one, two) = (site.hub().await, site.hub().await);
    let scene = Scene::on(one).await;
    let user = scene.user.at(&two);
    let bytes = contents(1024 * 1024);
    scene.agent.put("/x", File::plain(bytes.clone()));
    let path = scene.path("download?path=/x");
    let answer = wait_until(LIMIT, "the other node to know", async || {
        let answer = user.get(&path).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert!(answer.body == bytes);
    let request = user.request("PUT", &scene.path("upload")).header("Content-Type", FORM);
    Answer::to(request.body(form(&[PATH, file(&bytes)]))).await.expect(201);
    assert!(scene.agent.uploaded()[0].bytes == bytes);
    assert_eq!(scene.agent.closed().await, 2);

    scene.agent.misbehave(Fault::StopsAfter(65_536));
    scene.agent.forget();
    let reading = tokio::spawn(broken_off(user.request("GET", &path)));
    wait_until(LIMIT, "the transfer", async || scene.agent.heard("get_file").pop()).await;
    drop(scene.agent);
    within(LIMIT, "the answer to break off", reading).await.unwrap();
}

#[tokio::test]
async fn a_terminal_answers_while_files_are_on_their_way() {
    let hub = Set::Embedded.hub().await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    let bytes = contents(16 * 1024 * 1024);
    std::fs::write(device.path("large"), &bytes).unwrap();
    let path =
        format!("/api/management/v1/deviceconnect/devices/{id}/download?path={}", device.path("large").display());
    let mut downloading = tokio::spawn({
        let user = user.clone();
        async move { user.get(&path).await }
    });
    // Another device's terminal, on the same hub.
    let other = hub.accepted_by(&user).await;
    let mut socket = other.connect().await;
    tokio::spawn(async move { socket.serve(answer_like_a_shell).await });
    let mut shell = Shell::start(user.open(&other.id).await).await;
    let answer = loop {
        tokio::select! {
            answer = &mut downloading => break answer.unwrap(),
            () = within(Duration::from_secs(1), "a key", shell.echoes("key")) => {}
        }
    };
    assert!(answer.expect(200).body == bytes);
}

async fn the_real_agent_and_the_real_client_copy_files_both_ways(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let device = RealDevice::start(&hub).await;
    let id = device.join(&user).await;
    let cli = MenderCli::new(&hub);
    cli.log_in(ADMIN_EMAIL, ADMIN_PASSWORD).await;

    for size in [0, 1, 4096, WINDOW, WINDOW + 1, 40 * 1024 * 1024] {
        let bytes = contents(size);
        let (ours, theirs, back) = (cli.path("ours"), device.path("theirs"), cli.path("back"));
        std::fs::write(&ours, &bytes).unwrap();
        let remote = format!("{id}:{}", theirs.display());
        let output = cli.run(&["cp", &ours.display().to_string(), &remote]).await;
        assert!(output.status.success(), "{size} bytes up: {output:?}");
        // The agent says that it has all of the file just before it gives it its name.
        let came = wait_until(LIMIT, "the file on the device", async || {
            std::fs::read(&theirs).ok().filter(|came| came.len() == size)
        })
        .await;
        assert!(came == bytes, "{size} bytes up");
        wait_until(LIMIT, "the usual mode, since the client sends its own too late", async || {
            (std::fs::metadata(&theirs).unwrap().permissions().mode() & 0o777 == 0o644).then_some(())
        })
        .await;

        let output = cli.run(&["cp", &remote, &back.display().to_string()]).await;
        assert!(output.status.success(), "{size} bytes down: {output:?}");
        assert!(std::fs::read(&back).unwrap() == bytes, "{size} bytes down");
        std::fs::remove_file(theirs).unwrap();
    }

    // A folder takes the file's own name, and a mode that comes in time counts.
    let folder = device.path("folder");
    std::fs::create_dir(&folder).unwrap();
    let put = |parts: &[Part<'_>]| {
        let path = format!("/api/management/v1/deviceconnect/devices/{id}/upload");
        Answer::to(user.request("PUT", &path).header("Content-Type", FORM).body(form(parts)))
    };
    let place = folder.display().to_string();
    let place: Part<'_> = (r#"name="path""#, place.as_bytes());
    put(&[place, (r#"name="mode""#, b"640"), file(b"inside")]).await.expect(201);
    let inside = folder.join("a.bin");
    wait_until(LIMIT, "the file in the folder", async || (std::fs::read(&inside).ok()? == b"inside").then_some(()))
        .await;
    assert_eq!(std::fs::metadata(&inside).unwrap().permissions().mode() & 0o777, 0o640);
    let nowhere = device.path("no/such/folder/x").display().to_string();
    let refused = put(&[(r#"name="path""#, nowhere.as_bytes()), file(b"x")]).await.expect(400);
    assert!(refused.error().contains("failed to create target file"), "{refused}");

    let get = async |path: String| {
        user.get(&format!("/api/management/v1/deviceconnect/devices/{id}/download?path={path}")).await
    };
    let answer = get(inside.display().to_string()).await.expect(200);
    assert_eq!((answer.text().as_str(), answer.header("x-men-file-mode")), ("inside", "640"));
    let refused = get(folder.display().to_string()).await.expect(400);
    assert!(refused.error().ends_with("path is not a regular file"), "{refused}");
    let refused = get(device.path("missing").display().to_string()).await.expect(400);
    assert!(refused.error().contains("no such file or directory"), "{refused}");
}

async fn the_real_agent_s_limits_reach_the_user(set: Set) {
    let hub = set.hub().await;
    let user = hub.user().await;
    let limits = json!({"Limits": {"Enabled": true, "FileTransfer": {"Chroot": "/nowhere/at/all"}}});
    let device = RealDevice::start_configured(&hub, &limits).await;
    let id = device.join(&user).await;
    std::fs::write(device.path("x"), "x").unwrap();
    let place = device.path("x").display().to_string();

    let path = format!("/api/management/v1/deviceconnect/devices/{id}/upload");
    let parts = form(&[(r#"name="path""#, place.as_bytes()), file(b"new")]);
    let refused = Answer::to(user.request("PUT", &path).header("Content-Type", FORM).body(parts)).await.expect(400);
    assert!(refused.error().contains("access denied"), "{refused}");
    assert_eq!(std::fs::read(device.path("x")).unwrap(), b"x");
    let path = format!("/api/management/v1/deviceconnect/devices/{id}/download?path={place}");
    let refused = user.get(&path).await.expect(403);
    assert!(refused.error().contains("access denied"), "{refused}");

    let disabled = RealDevice::start_configured(&hub, &json!({"FileTransfer": {"Disable": true}})).await;
    let id = disabled.join(&user).await;
    let path = format!("/api/management/v1/deviceconnect/devices/{id}/download?path=/etc/hostname");
    assert_eq!(user.get(&path).await.expect(502).error(), "file transfer disabled on device");
}
