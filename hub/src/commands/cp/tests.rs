//! The command against something that answers like a hub.

use super::{place::Remote, *};
use crate::commands::operator::stand_in::StandIn;
use std::{os::unix::fs::PermissionsExt, path::PathBuf};

const NOTHING: Options = Options { mode: None, uid: None, gid: None };
const TEXT: &[u8] = b"0123456789";

fn remote(path: &str) -> Remote {
    Remote { device: "demo".to_owned(), path: path.to_owned() }
}

fn about(size: &str) -> [(&str, &str); 3] {
    [("X-MEN-File-Size", size), ("X-MEN-File-Mode", "640"), ("ETag", "\"one\"")]
}

fn files_in(directory: &tempfile::TempDir) -> usize {
    std::fs::read_dir(directory.path()).expect("a directory").count()
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let (hub, operator) = StandIn::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let target = directory.path().to_owned();
    let story = async {
        let asked = hub.request().await;
        assert!(
            asked.line.starts_with("GET /api/management/v1/mooring/devices/d/files?path=%2Fetc%2Fa+b "),
            "{}",
            asked.line
        );
        assert_eq!(asked.headers.get("range"), None);
        asked.answer_short(200, &about("10"), &TEXT[..4], 10).await;

        let asked = hub.request().await;
        assert_eq!(asked.headers["range"], "bytes=4-");
        assert_eq!(asked.headers["if-range"], "\"one\"");
        let mut headers = about("10").to_vec();
        headers.push(("Content-Range", "bytes 4-9/10"));
        asked.answer(206, &headers, &TEXT[4..]).await;
    };
    let from = remote("/etc/a b");
    let (copied, ()) = tokio::join!(download::download(&operator, "d", &from, Some(&target), &NOTHING), story);
    let summary = copied.expect("copied");
    assert!(summary.starts_with("10 B in "), "{summary}");
    let file = target.join("a b");
    assert_eq!(std::fs::read(&file).expect("the file"), TEXT);
    assert_eq!(std::fs::metadata(&file).expect("metadata").permissions().mode() & 0o137, 0, "not more than 640");
    assert_eq!(files_in(&directory), 1);
}

#[tokio::test]
async fn a_file_that_has_changed_is_fetched_from_its_start() {
    let (hub, operator) = StandIn::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let target = directory.path().join("x");
    let story = async {
        hub.request().await.answer_short(200, &about("10"), &TEXT[..4], 10).await;
        hub.request().await.answer(200, &[("X-MEN-File-Size", "3"), ("ETag", "\"two\"")], b"new").await;
    };
    let from = remote("/x");
    let (copied, ()) = tokio::join!(download::download(&operator, "d", &from, Some(&target), &NOTHING), story);
    copied.expect("copied");
    assert_eq!(std::fs::read(&target).expect("the file"), b"new");
}

#[tokio::test]
async fn a_hub_without_ranges_is_asked_for_the_whole_file() {
    let (hub, operator) = StandIn::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let target = directory.path().join("x");
    let story = async {
        hub.refuse(404, "not found").await;
        let asked = hub.request().await;
        assert!(asked.line.contains("/deviceconnect/devices/d/download?path=%2Fx"), "{}", asked.line);
        asked.answer_short(200, &about("10")[..2], &TEXT[..4], 10).await;
        let asked = hub.request().await;
        assert!(asked.line.contains("/download?"), "{}", asked.line);
        assert_eq!(asked.headers.get("range"), None);
        asked.answer(200, &about("10")[..2], TEXT).await;
    };
    let from = remote("/x");
    let (copied, ()) = tokio::join!(download::download(&operator, "d", &from, Some(&target), &NOTHING), story);
    copied.expect("copied");
    assert_eq!(std::fs::read(&target).expect("the file"), TEXT);
}

#[tokio::test]
async fn what_the_device_refuses_is_told_and_leaves_nothing() {
    let (hub, operator) = StandIn::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let target = directory.path().join("x");
    for (status, error, told) in [
        (400, "failed to retrieve file info: no such file or directory", "no such file or directory (status 400)"),
        (409, "device disconnected", "demo is not connected"),
        (401, "revoked", "mooring login"),
        (502, "file transfer disabled on device", "file transfer disabled on device"),
    ] {
        let from = remote("/x");
        let copying = download::download(&operator, "d", &from, Some(&target), &NOTHING);
        let (copied, _) = tokio::join!(copying, hub.refuse(status, error));
        let error = format!("{:#}", copied.expect_err("refused"));
        assert!(error.contains(told) && !error.contains('\n'), "{error}");
    }
    assert_eq!(files_in(&directory), 0);
}

#[tokio::test]
async fn a_download_that_is_called_off_leaves_nothing() {
    let (hub, operator) = StandIn::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let target = directory.path().join("x");
    let from = remote("/x");
    {
        let copying = download::download(&operator, "d", &from, Some(&target), &NOTHING);
        tokio::pin!(copying);
        let begun = async {
            hub.request().await.answer_short(200, &about("10"), &TEXT[..4], 10).await;
            // It asks for the rest, which never comes.
            hub.request().await
        };
        tokio::select! {
            copied = &mut copying => panic!("{copied:?}"),
            _ = begun => {}
        }
        assert_eq!(files_in(&directory), 1, "the part that has come");
    }
    assert_eq!(files_in(&directory), 0);
}

#[tokio::test]
async fn a_target_that_is_no_directory_is_refused() {
    let (_hub, operator) = StandIn::start().await;
    let target = PathBuf::from("/nowhere/at/all/");
    let copied = download::download(&operator, "d", &remote("/x"), Some(&target), &NOTHING).await;
    assert!(copied.expect_err("refused").to_string().contains("no directory"));
}

#[tokio::test]
async fn an_upload_is_a_form_with_the_file_last() {
    let (hub, operator) = StandIn::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let source = directory.path().join("a \"b\".txt");
    std::fs::write(&source, TEXT).expect("written");
    std::fs::set_permissions(&source, std::fs::Permissions::from_mode(0o750)).expect("changed");
    let story = async {
        let asked = hub.request().await;
        assert!(asked.line.starts_with("PUT /api/management/v1/deviceconnect/devices/d/upload "), "{}", asked.line);
        let form = String::from_utf8(asked.body.clone()).expect("text");
        asked.answer(201, &[], b"").await;
        form
    };
    let options = Options { mode: None, uid: Some(7), gid: None };
    let to = remote("/srv/");
    let (copied, form) = tokio::join!(upload::upload(&operator, "d", Some(&source), &to, &options), story);
    assert!(copied.expect("copied").starts_with("10 B in "));
    let places: Vec<_> = ["name=\"path\"", "name=\"uid\"", "name=\"mode\"", "name=\"file\"", "0123456789"]
        .iter()
        .map(|part| form.find(part).unwrap_or_else(|| panic!("{part} is missing in\n{form}")))
        .collect();
    assert!(places.is_sorted(), "{form}");
    assert!(form.contains("\r\n\r\n/srv/\r\n") && form.contains("\r\n\r\n750\r\n"), "{form}");
    assert!(form.contains(r#"filename="a \"b\".txt""#), "{form}");
}

#[tokio::test]
async fn a_refused_upload_is_told_in_the_hubs_words() {
    let (hub, operator) = StandIn::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let source = directory.path().join("x");
    std::fs::write(&source, TEXT).expect("written");
    for (status, told) in [(400, "access denied (status 400)"), (409, "demo is not connected")] {
        let to = remote("/srv/x");
        let copying = upload::upload(&operator, "d", Some(&source), &to, &NOTHING);
        let (copied, _) = tokio::join!(copying, hub.refuse(status, "access denied"));
        let error = format!("{:#}", copied.expect_err("refused"));
        assert!(error.contains(told), "{error}");
    }
    let to = remote("/srv/x");
    let directory = directory.path().to_owned();
    let error = upload::upload(&operator, "d", Some(&directory), &to, &NOTHING).await.expect_err("refused");
    assert!(error.to_string().contains("is a directory"), "{error}");
}

#[test]
fn modes_are_octal() {
    assert_eq!((octal("644"), octal("04755")), (Ok(0o644), Ok(0o4755)));
    assert!(octal("888").is_err() && octal("77777").is_err() && octal("").is_err());
}
