//! Objects: a directory, S3 and memory keep the same promises.

use bytes::Bytes;
use storage::{Config, Objects, Storage, StorageError};

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
