//! Objects: a directory, S3 and memory keep the same promises.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use storage::{Config, LinkTo, Objects, Storage, StorageError};

use crate::backends::{TestObjects, eventually, s3_config};
use crate::s3_server::{S3Server, SECRET_KEY};

const LIMIT: u64 = 16 * 1024 * 1024;

async fn get(objects: &Objects, path: &str) -> Option<Bytes> {
    objects.get(path, LIMIT).await.expect("the store answers")
}

async fn put(objects: &Objects, path: &str, content: &'static [u8]) {
    objects.put(path, Bytes::from_static(content)).await.expect("the store takes it");
}

pub async fn an_object_comes_back_as_it_was(test: &TestObjects) {
    let objects = &test.objects;
    assert_eq!(get(objects, "a/one").await, None);
    assert!(!objects.contains("a/one").await.expect("an answer"));
    let large: Bytes = (0..3_000_000_u32).flat_map(u32::to_be_bytes).take(9 * 1024 * 1024).collect();
    for content in [Bytes::new(), Bytes::from_static(b"\x00\xff"), large] {
        objects.put("a/one", content.clone()).await.expect("the store takes it");
        assert!(get(objects, "a/one").await == Some(content));
        assert!(objects.contains("a/one").await.expect("an answer"));
    }
}

pub async fn more_than_was_expected_is_not_read(test: &TestObjects) {
    put(&test.objects, "a", b"12345").await;
    assert_eq!(test.objects.get("a", 5).await.expect("it fits"), Some(Bytes::from_static(b"12345")));
    let error = test.objects.get("a", 4).await.expect_err("it does not");
    assert!(matches!(error, StorageError::Corrupt(_)), "{error:?}");
}

pub async fn lists_whole_names_in_order(test: &TestObjects) {
    let objects = &test.objects;
    for path in ["r/b/2", "r/b/10", "r/b/1", "r/bb/1", "r/a", "s"] {
        put(objects, path, b"x").await;
    }
    assert_eq!(objects.list("r/b").await.expect("a list"), ["r/b/1", "r/b/10", "r/b/2"]);
    assert_eq!(objects.list("r").await.expect("a list"), ["r/a", "r/b/1", "r/b/10", "r/b/2", "r/bb/1"]);
    assert!(objects.list("nowhere").await.expect("a list").is_empty());
}

pub async fn lists_and_removes_more_than_a_page(test: &TestObjects) {
    let objects = &test.objects;
    let paths: Vec<String> = (0..1_100).map(|number| format!("many/{number:04}")).collect();
    for some in paths.chunks(50) {
        let puts = some.iter().map(|path| objects.put(path, Bytes::from_static(b"x")));
        futures_util::future::try_join_all(puts).await.expect("the store takes them");
    }
    assert_eq!(objects.list("many").await.expect("a list"), paths);
    assert_eq!(objects.delete_all("many").await.expect("they are removed"), paths.len());
    assert!(objects.list("many").await.expect("a list").is_empty());
}

pub async fn what_is_removed_is_gone(test: &TestObjects) {
    let objects = &test.objects;
    for path in ["r/b/1", "r/b/2", "r/bb/1"] {
        put(objects, path, b"x").await;
    }
    objects.delete("r/b/1").await.expect("it is removed");
    objects.delete("r/b/1").await.expect("that it is gone is as good");
    assert_eq!(objects.list("r").await.expect("a list"), ["r/b/2", "r/bb/1"]);

    put(objects, "r/b/1", b"x").await;
    assert_eq!(objects.delete_all("r/b").await.expect("they are removed"), 2);
    assert_eq!(objects.delete_all("r/b").await.expect("nothing is left to remove"), 0);
    assert_eq!(objects.list("r").await.expect("a list"), ["r/bb/1"]);
    // Its place can be used again.
    put(objects, "r/b/1", b"y").await;
    assert_eq!(get(objects, "r/b/1").await, Some(Bytes::from_static(b"y")));
}

pub async fn writers_of_one_object_do_not_mix(test: &TestObjects) {
    let writing = (b'a'..=b'h').map(|letter| {
        let objects = test.objects.clone();
        tokio::spawn(async move { objects.put("one", Bytes::from(vec![letter; 500_000])).await })
    });
    for written in writing.collect::<Vec<_>>() {
        written.await.expect("no panic").expect("the store takes it");
        let read = get(&test.objects, "one").await.expect("there is one");
        assert!(read.len() == 500_000 && read.iter().all(|&letter| letter == read[0]));
    }
}

fn large() -> Bytes {
    (0..3_000_000_u32).flat_map(u32::to_be_bytes).collect()
}

async fn read(objects: &Objects, path: &str, range: std::ops::Range<u64>) -> Result<BytesMut, StorageError> {
    objects
        .read(path, range)
        .try_fold(BytesMut::new(), async |mut all, piece| {
            all.extend_from_slice(&piece);
            Ok(all)
        })
        .await
}

pub async fn an_object_is_written_piece_by_piece(test: &TestObjects) {
    let objects = &test.objects;
    for size in [0, 1, 5 * 1024 * 1024 - 1, 5 * 1024 * 1024, 5 * 1024 * 1024 + 1, 12_000_000] {
        let content = large().slice(..size);
        let mut writer = objects.write("a/one", "text/plain", 12_000_000);
        for piece in content.chunks(700_001) {
            assert_eq!(objects.size("a/one").await.expect("an answer"), None, "nobody sees it before it is whole");
            writer.write(Bytes::copy_from_slice(piece)).await.expect("the store takes it");
        }
        assert_eq!(writer.written(), size as u64);
        assert_eq!(writer.finish().await.expect("the store takes it"), size as u64);
        assert_eq!(objects.size("a/one").await.expect("an answer"), Some(size as u64));
        assert!(read(objects, "a/one", 0..size as u64).await.expect("it can be read") == content);
        objects.delete("a/one").await.expect("removed");
    }
    let mut writer = objects.write("a/two", "text/plain", 10);
    writer.write(Bytes::from_static(b"12345")).await.expect("the store takes it");
    let error = writer.write(Bytes::from_static(b"123456")).await.expect_err("too much");
    assert!(matches!(error, StorageError::Corrupt(_)), "{error:?}");
}

pub async fn an_object_given_up_leaves_nothing(test: &TestObjects) {
    let objects = &test.objects;
    for give_up in [true, false] {
        for size in [100, 12_000_000] {
            let mut writer = objects.write("a/one", "text/plain", 20_000_000);
            writer.write(large().slice(..size)).await.expect("the store takes it");
            if give_up {
                writer.abort().await.expect("given up");
            } else {
                drop(writer);
            }
            crate::backends::eventually("nothing is left", async || test.left_behind().is_empty()).await;
            assert_eq!(objects.size("a/one").await.expect("an answer"), None);
        }
    }
}

pub async fn ranges_are_read(test: &TestObjects) {
    let (objects, content) = (&test.objects, large());
    objects.put("a", content.clone()).await.expect("the store takes it");
    for range in [0..1, 0..0, 7..300_000, 5_000_000..12_000_000, 11_999_999..12_000_000] {
        let wanted =
            content.slice(usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small"));
        assert!(read(objects, "a", range.clone()).await.expect("it can be read") == wanted, "{range:?}");
    }
    read(objects, "a", 11_999_999..12_000_001).await.expect_err("it has no such bytes");
    read(objects, "b", 0..1).await.expect_err("there is none");
    assert_eq!(objects.size("b").await.expect("an answer"), None);
}

/// Without any library: only what is in the link.
async fn request(url: &url::Url, method: &str, body: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = (url.host_str().expect("a host"), url.port_or_known_default().expect("a port"));
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let target = &url[url::Position::BeforePath..];
    let host = format!("{}:{}", address.0, address.1);
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer)
}

pub async fn links_to_s3_need_nothing_else() {
    let server = S3Server::start();
    server.make_bucket("fleet");
    let public = server.endpoint().replace("127.0.0.1", "localhost");
    let config = Config { objects_public_endpoint: Some(public), ..server_config(&server, "s3://fleet/hub") };
    let objects = Objects::open(&config).expect("settings that make sense");
    let mut writer = objects.write("a b", "application/x-thing", 100);
    writer.write(Bytes::from_static(b"content")).await.expect("the store takes it");
    writer.finish().await.expect("the store takes it");

    let to = LinkTo::Fetch { media_type: "application/x-thing".into(), file_name: "thing \"1\"".into() };
    let link = objects.link("a b", &to, Duration::from_mins(5)).await.expect("signed").expect("s3 has links");
    assert_eq!((link.host_str(), link.path()), (Some("localhost"), "/fleet/hub/a%20b"));
    assert!(link.query().is_some_and(|query| query.contains("X-Amz-Expires=300")), "{link}");
    let pairs: std::collections::HashMap<_, _> = link.query_pairs().into_owned().collect();
    assert_eq!(pairs["response-content-disposition"], "attachment; filename=\"thing _1_\"");
    let (status, answer) = request(&link, "GET", "").await;
    assert!(status == 200 && answer.ends_with("content") && answer.contains("application/x-thing"), "{answer}");
    let mut altered = link.clone();
    altered.set_path("/fleet/hub/b");
    assert_eq!(request(&altered, "GET", "").await.0, 403);
    assert_eq!(request(&link, "PUT", "other").await.0, 403);

    let link = objects.link("new", &LinkTo::Bring, Duration::ZERO).await.expect("signed").expect("s3 has links");
    assert!(link.query().is_some_and(|query| query.contains("X-Amz-Expires=60")), "{link}");
    assert_eq!(request(&link, "PUT", "brought").await.0, 200);
    assert_eq!(get(&objects, "new").await, Some(Bytes::from_static(b"brought")));
    let memory = Objects::open(&Config::in_memory()).expect("memory opens");
    assert_eq!(memory.link("a", &LinkTo::Bring, Duration::from_mins(5)).await.expect("an answer"), None);
}

pub async fn what_a_killed_writer_left_is_discarded() {
    for test in [TestObjects::directory(), TestObjects::s3()] {
        let objects = &test.objects;
        let mut writer = objects.write("a/one", "text/plain", 20_000_000);
        writer.write(large()).await.expect("the store takes it");
        let parts = writer.parts().map(str::to_owned);
        // As if the process had ended: nobody gives it up.
        std::mem::forget(writer);
        assert!(!test.left_behind().is_empty());
        objects.discard("a/one", parts.as_deref()).await.expect("removed");
        assert_eq!(test.left_behind(), Vec::<String>::new());
        objects.discard("a/one", parts.as_deref()).await.expect("that it is gone is as good");
        objects.discard("never/there", None).await.expect("that it is gone is as good");
    }
}

pub async fn parts_have_a_number_before_the_first_is_sent() {
    let test = TestObjects::s3();
    let mut writer = test.objects.write("a/one", "text/plain", 20_000_000);
    assert_eq!(writer.announce(large().len() / 4).await.expect("an answer"), None, "it fits into one request");
    let parts = writer.announce(large().len()).await.expect("an answer").map(str::to_owned);
    assert!(parts.is_some());
    assert_eq!(writer.announce(large().len()).await.expect("an answer"), None, "it was told before");
    writer.write(large()).await.expect("the store takes it");
    assert_eq!(writer.parts(), parts.as_deref());
    // As if the process had ended: nobody gives it up.
    std::mem::forget(writer);
    test.objects.discard("a/one", parts.as_deref()).await.expect("removed");
    assert_eq!(test.left_behind(), Vec::<String>::new());

    let directory = TestObjects::directory();
    let mut writer = directory.objects.write("a/one", "text/plain", 20_000_000);
    assert_eq!(writer.announce(large().len()).await.expect("an answer"), None, "a directory needs none");
}

pub async fn another_node_sees_the_same(test: &TestObjects) {
    put(&test.objects, "a", b"x").await;
    if let Some(other) = test.another_node() {
        assert_eq!(get(&other, "a").await, Some(Bytes::from_static(b"x")));
    }
    test.objects.ping().await.expect("it answers");
}

pub async fn prefixes_keep_hubs_apart() {
    let server = S3Server::start();
    server.make_bucket("fleet");
    let open = |url: &str| Objects::open(&server_config(&server, url)).expect("settings that make sense");
    let (whole, one, other) = (open("s3://fleet"), open("s3://fleet/one"), open("s3://fleet/other/"));
    put(&one, "a", b"1").await;
    put(&other, "a", b"2").await;
    assert_eq!(get(&one, "a").await, Some(Bytes::from_static(b"1")));
    assert_eq!(whole.list("").await.expect("a list"), ["one/a", "other/a"]);
    assert_eq!(one.list("").await.expect("a list"), ["a"]);
    assert_eq!(one.delete_all("").await.expect("removed"), 1);
    assert_eq!(whole.list("").await.expect("a list"), ["other/a"]);
    one.ping().await.expect("it answers");
}

pub async fn s3_goes_away_and_comes_back() {
    let mut server = S3Server::start();
    server.make_bucket("fleet");
    let objects = Objects::open(&server_config(&server, "s3://fleet")).expect("settings that make sense");
    put(&objects, "a", b"x").await;

    server.stop();
    for error in [
        objects.ping().await.expect_err("nobody answers"),
        objects.put("b", Bytes::from_static(b"y")).await.expect_err("nobody takes it"),
        objects.get("a", LIMIT).await.expect_err("nobody answers"),
        objects.list("").await.expect_err("nobody answers"),
        objects.delete("a").await.expect_err("nobody answers"),
    ] {
        assert!(error.is_unavailable(), "{error:?}");
        assert!(!format!("{error:?}").contains(SECRET_KEY), "{error:?}");
    }
    // A hub starts without it all the same: devices stay within reach.
    Storage::open(&server_config(&server, "s3://fleet")).await.expect("the hub's storage opens");

    server.resume();
    eventually("it is used again", async || objects.ping().await.is_ok()).await;
    assert_eq!(get(&objects, "a").await, Some(Bytes::from_static(b"x")));
}

pub async fn an_s3_that_refuses_us_stops_the_start() {
    let server = S3Server::start();
    server.make_bucket("fleet");
    let wrong_secret = Config { objects_secret_key: Some("guessed".into()), ..server_config(&server, "s3://fleet") };
    for config in [wrong_secret, server_config(&server, "s3://missing")] {
        let error = Storage::open(&config).await.expect_err("refused");
        assert!(matches!(error, StorageError::Other(_)), "{error:?}");
    }
}

pub async fn a_directory_that_is_gone_does_not_answer() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let path = directory.path().join("not/there/yet");
    let objects_url = format!("file:{}", path.display());
    let objects = Objects::open(&Config { objects_url, ..Config::in_memory() }).expect("the directory is made");
    objects.ping().await.expect("it answers");
    std::fs::remove_dir_all(&path).expect("it can be removed");
    assert!(objects.ping().await.expect_err("it is gone").is_unavailable());
}

pub async fn what_a_killed_writer_left_is_no_object() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let objects_url = format!("file:{}", directory.path().display());
    let objects = Objects::open(&Config { objects_url, ..Config::in_memory() }).expect("the directory is used");
    put(&objects, "r/one", b"x").await;
    // The temporary file of a write that did not come to its rename.
    std::fs::write(directory.path().join("r/two#1"), "ha").expect("written");
    assert_eq!(objects.list("r").await.expect("a list"), ["r/one"]);
    assert_eq!(get(&objects, "r/two").await, None);
    put(&objects, "r/two", b"whole").await;
    assert_eq!(get(&objects, "r/two").await, Some(Bytes::from_static(b"whole")));
}

fn server_config(server: &S3Server, url: &str) -> Config {
    Config { objects_url: url.to_owned(), ..s3_config(server) }
}
