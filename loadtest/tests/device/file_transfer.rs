//! File transfers, message by message.

use crate::small_hub::{Device, packed, unpacked, wait_for};
use loadtest::{
    FileService, Services,
    message::{CONTROL, FILE_TRANSFER, Message, Property},
};
use serde_json::json;
use std::{fs, os::unix::fs::PermissionsExt, path::Path};
use tempfile::TempDir;

const CHUNK: usize = 4096;

async fn device() -> (Device, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    (Device::with(Services::of_this_machine()).await, folder)
}

fn message(kind: &str, session: &str) -> Message {
    Message::new(FILE_TRANSFER, kind).session(session).text("user_id", "u")
}

fn about(kind: &str, path: &Path) -> Message {
    message(kind, "s").with_body(packed(&json!({ "path": path })))
}

fn put(session: &str, body: &serde_json::Value) -> Message {
    message("put_file", session).with_body(packed(body))
}

fn chunk(session: &str, offset: usize, bytes: &[u8]) -> Message {
    let offset = i64::try_from(offset).expect("small");
    message("file_chunk", session).wide("offset", offset).with_body(bytes)
}

fn ack(offset: usize) -> Message {
    message("ack", "s").wide("offset", i64::try_from(offset).expect("small"))
}

fn offset(message: &Message) -> usize {
    let Some(Property::Wide(offset)) = message.property("offset") else { panic!("no wide offset in {message:?}") };
    usize::try_from(*offset).expect("no negative offset")
}

fn why(message: &Message) -> String {
    assert_eq!(message.kind(), "error", "{message:?}");
    unpacked(message)["err"].as_str().expect("a text").to_owned()
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).expect("small")).collect()
}

fn names(folder: &TempDir) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn stat_tells_what_a_file_is_in_the_agents_widths() {
    let (mut device, folder) = device().await;
    let file = folder.path().join("f");
    fs::write(&file, bytes(10_000)).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("changed");

    device.say(about("stat", &file)).await;
    let info = device.hear().await;
    assert_eq!((info.kind(), info.session_id(), info.property("user_id")), ("file_info", "s", None));
    let body = info.body();
    for (name, form) in [
        ("size", &[0xd3, 0, 0, 0, 0, 0, 0, 0x27, 0x10][..]),
        ("mode", &[0xce, 0, 0, 1, 0xa0]),
        ("uid", &[0xce]),
        ("gid", &[0xce]),
    ] {
        let field: Vec<u8> = [&[0xa0 | u8::try_from(name.len()).expect("short")][..], name.as_bytes(), form].concat();
        assert!(body.windows(field.len()).any(|part| part == field), "{name} in {body:02x?}");
    }
    let modified = b"modtime\xd7\xff";
    assert!(body.windows(modified.len()).any(|part| part == modified), "{body:02x?}");

    device.say(about("stat", folder.path())).await;
    let body = device.hear().await.body().to_vec();
    assert!(body.windows(6).any(|part| part == [b'm', b'o', b'd', b'e', 0xce, 0x80]), "a folder: {body:02x?}");

    device.say(about("stat", Path::new("/no/such"))).await;
    let refused = device.hear().await;
    assert_eq!(refused.text_property("user_id"), Some("u"), "the properties of what it blames");
    let expected = "failed to get file info from path '/no/such': stat /no/such: no such file or directory";
    assert_eq!(why(&refused), expected);
}

#[tokio::test]
async fn a_download_is_twenty_chunks_ahead_of_the_last_ack() {
    let (mut device, folder) = device().await;
    let file = folder.path().join("f");
    let content = bytes(31 * CHUNK + 7);
    fs::write(&file, &content).expect("written");
    device.say(about("get_file", &file)).await;

    let mut got: Vec<u8> = vec![];
    for number in 0..20 {
        let chunk = device.hear().await;
        assert_eq!((chunk.kind(), offset(&chunk), chunk.body().len()), ("file_chunk", number * CHUNK, CHUNK));
        got.extend(chunk.body());
    }
    assert!(device.is_quiet().await, "no chunk beyond the window");
    device.say(ack(10 * CHUNK)).await;
    for _ in 0..10 {
        got.extend(device.hear().await.body());
    }
    assert!(device.is_quiet().await, "no chunk beyond the window");
    device.say(ack(got.len())).await;
    loop {
        let chunk = device.hear().await;
        assert_eq!(offset(&chunk), got.len());
        if chunk.body().is_empty() {
            break;
        }
        got.extend(chunk.body());
    }
    assert!(got == content, "the file arrived");
    device.say(about("get_file", &file)).await;
    assert_eq!(why(&device.hear().await), "another file transfer is in progress");
    device.say(ack(got.len())).await;
    device.say(ack(got.len())).await;
    assert_eq!(why(&device.hear().await), "no file transfer in progress");
}

#[tokio::test]
async fn an_ack_in_another_width_ends_the_download() {
    let (mut device, folder) = device().await;
    let file = folder.path().join("f");
    fs::write(&file, bytes(20 * CHUNK)).expect("written");
    device.say(about("get_file", &file)).await;
    for _ in 0..20 {
        assert_eq!(device.hear().await.kind(), "file_chunk");
    }

    device.say(message("ack", "s").integer("offset", 7)).await;
    assert_eq!(why(&device.hear().await), "invalid offset data type: require int64");
}

#[tokio::test]
async fn an_upload_is_acknowledged_with_the_start_of_its_last_chunk() {
    let (mut device, folder) = device().await;
    let file = folder.path().join("f");
    fs::write(&file, "old").expect("written");
    let content = bytes(25 * CHUNK + 3);
    device.say(put("s", &json!({ "path": file, "mode": 0o600 }))).await;
    let ready = device.hear().await;
    assert_eq!((ready.kind(), offset(&ready), ready.property("user_id")), ("ack", 0, None));

    for (number, piece) in content.chunks(CHUNK).enumerate() {
        device.say(chunk("s", number * CHUNK, piece)).await;
    }
    let mut acknowledged = 0;
    while acknowledged < 25 * CHUNK {
        let ack = device.hear().await;
        assert_eq!((ack.kind(), ack.text_property("user_id")), ("ack", Some("u")));
        assert!(offset(&ack).is_multiple_of(CHUNK) && offset(&ack) <= acknowledged + 10 * CHUNK, "{}", offset(&ack));
        acknowledged = offset(&ack);
    }
    assert_eq!(fs::read(&file).expect("read"), b"old", "the target is the old one until the end");
    device.say(chunk("s", content.len(), &[])).await;
    let end = device.hear().await;
    assert_eq!((end.kind(), offset(&end)), ("ack", content.len()));

    wait_for(|| fs::read(&file).is_ok_and(|found| found == content)).await;
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o7777, 0o600);
    assert_eq!(names(&folder), ["f"]);
}

#[tokio::test]
async fn a_folder_as_target_takes_the_name_of_the_source_and_an_empty_file_is_a_file() {
    let (mut device, folder) = device().await;
    device.say(put("s", &json!({ "path": folder.path(), "src_path": "some/where/a.bin" }))).await;
    assert_eq!(device.hear().await.kind(), "ack");
    device.say(chunk("s", 0, &[])).await;
    assert_eq!(offset(&device.hear().await), 0);
    let file = folder.path().join("a.bin");
    wait_for(|| file.exists()).await;
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o7777, 0o644);

    device.say(put("t", &json!({ "path": folder.path() }))).await;
    assert_eq!(why(&device.hear().await), "conflicting file path: cannot overwrite irregular file");
}

#[tokio::test]
async fn an_upload_that_cannot_be_is_refused_in_the_agents_words() {
    let (mut device, folder) = device().await;
    device.say(put("s", &json!({ "path": "/no/such/folder/f" }))).await;
    let texts = [why(&device.hear().await), why(&device.hear().await)];
    assert!(texts[0].starts_with("failed to create target file: failed to create file: open /no/such"), "{texts:?}");
    assert!(texts[1].ends_with("no such file or directory"), "{texts:?}");

    let file = folder.path().join("f");
    for (sent, expected) in [
        (chunk("s", 1, b"x"), "received unexpected chunk offset"),
        (message("file_chunk", "s").integer("offset", 0), "invalid file chunk message: missing offset property"),
    ] {
        device.say(put("s", &json!({ "path": file }))).await;
        assert_eq!(device.hear().await.kind(), "ack");
        device.say(sent).await;
        let refused = device.hear().await;
        assert_eq!((why(&refused).as_str(), unpacked(&refused)["msgtype"].as_str()), (expected, Some("put_file")));
    }
    assert_eq!(names(&folder), [""; 0]);
}

#[tokio::test]
async fn files_outside_the_folder_on_offer_are_denied() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = Some(FileService { chroot: Some(folder.path().to_owned()) });
    let mut device = Device::with(Services { files, ..Services::none() }).await;
    for path in [Path::new("/etc/passwd").to_owned(), folder.path().join("../f")] {
        device.say(put("s", &json!({ "path": path }))).await;
        assert_eq!(why(&device.hear().await), "access denied: the target file path is outside chroot");
        device.say(about("get_file", &path)).await;
        assert_eq!(why(&device.hear().await), "access denied: the target file path is outside chroot");
    }
}

#[tokio::test]
async fn sessions_transfer_side_by_side_and_a_close_leaves_nothing_behind() {
    let (mut device, folder) = device().await;
    for session in ["a", "b"] {
        device.say(put(session, &json!({ "path": folder.path().join(session) }))).await;
        assert_eq!((device.hear().await.session_id(), names(&folder).is_empty()), (session, false));
    }
    for session in ["b", "a"] {
        device.say(chunk(session, 0, session.as_bytes())).await;
        assert_eq!(device.hear().await.session_id(), session);
    }
    assert_eq!(names(&folder).len(), 2);

    device.say(Message::new(CONTROL, "close").session("a")).await;
    device.say(chunk("b", 1, &[])).await;
    assert_eq!(offset(&device.hear().await), 1);
    wait_for(|| names(&folder) == ["b"]).await;
}

#[tokio::test]
async fn a_device_that_is_switched_off_leaves_no_temporary_file() {
    let (mut device, folder) = device().await;
    device.say(put("s", &json!({ "path": folder.path().join("f") }))).await;
    assert_eq!(device.hear().await.kind(), "ack");
    assert_eq!(names(&folder).len(), 1);

    drop(device.handle);
    wait_for(|| names(&folder).is_empty()).await;
}
