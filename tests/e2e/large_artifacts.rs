//! An artifact larger than memory: it comes and goes piece by piece.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use harness::traffic::{Digest, Hasher, Pattern};
use harness::{ARTIFACTS, Answer, ArtifactRecipe, Parts, Set, TestHub, TestUser, id_of};
use serde_json::Value;

/// What a hub may grow by, beyond what a file of a few parts took, while one of any size passes through it.
const ALLOWED_GROWTH: u64 = 16 * 1024 * 1024;

/// Bytes of a file of a few parts.
const FEW_PARTS: u64 = 64 * 1024 * 1024;

/// Bytes of a block, of which the payload is so many.
const BLOCK: u64 = 1024 * 1024;

/// How long a file may take.
const PATIENCE: Duration = Duration::from_mins(20);

/// A block of a tape archive.
const RECORD: usize = 512;

/// An artifact that is made while it is sent.
#[derive(Clone)]
struct Made {
    head: Bytes,
    block: Bytes,
    blocks: u64,
    tail: Bytes,
}

impl Made {
    /// One with a payload of `size` bytes in whole blocks, around what `mender-artifact` made for a small one.
    fn new(name: &str, size: u64) -> Self {
        let recipe = ArtifactRecipe::module(name, "rpi4").with(&["--compression", "none"]);
        let small = recipe.make();
        let block = Bytes::from(Pattern::new(size).take(usize::try_from(BLOCK).unwrap()));
        let blocks = size / BLOCK;
        let mut hasher = Hasher::default();
        (0..blocks).for_each(|_| hasher.update(&block));
        let digest = hasher.finish().hex();
        let mut head = Vec::new();
        for (name, content) in records(&small) {
            match name.as_str() {
                "manifest" => {
                    let lines = String::from_utf8(content.to_vec()).unwrap();
                    let lines = lines.lines().map(|line| match line.split_once("  ") {
                        Some((_, "data/0000/app.bin")) => format!("{digest}  data/0000/app.bin\n"),
                        _ => format!("{line}\n"),
                    });
                    head.extend(record(&name, lines.collect::<String>().as_bytes()));
                }
                "data/0000.tar" => {
                    let end = 2 * RECORD as u64;
                    head.extend(record_head(&name, RECORD as u64 + size + end));
                    head.extend(record_head("app.bin", size));
                }
                _ => head.extend(record(&name, content)),
            }
        }
        // The end of the payload's archive and that of the artifact.
        Self { head: head.into(), block, blocks, tail: vec![0; 4 * RECORD].into() }
    }

    /// All of it, piece by piece.
    fn pieces(&self) -> impl Iterator<Item = Bytes> + Send + Sync + use<> {
        let Self { head, block, blocks, tail } = self.clone();
        std::iter::once(head).chain((0..blocks).map(move |_| block.clone())).chain([tail])
    }

    fn digest(&self) -> Digest {
        let mut hasher = Hasher::default();
        self.pieces().for_each(|piece| hasher.update(&piece));
        hasher.finish()
    }
}

/// The files of an archive.
fn records(mut archive: &[u8]) -> Vec<(String, &[u8])> {
    let mut records = Vec::new();
    while archive.len() > RECORD && archive[0] != 0 {
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8(archive[range].to_vec()).unwrap().trim_matches(['\0', ' ']).to_owned()
        };
        let size = usize::from_str_radix(&text(124..136), 8).unwrap();
        let end = RECORD + size;
        records.push((text(0..100), &archive[RECORD..end]));
        archive = &archive[end.next_multiple_of(RECORD).min(archive.len())..];
    }
    records
}

fn record(name: &str, content: &[u8]) -> Vec<u8> {
    let mut record = record_head(name, content.len() as u64);
    record.extend_from_slice(content);
    record.resize(record.len().next_multiple_of(RECORD), 0);
    record
}

/// What stands before a file in an archive. (POSIX: ustar)
fn record_head(name: &str, size: u64) -> Vec<u8> {
    let mut head = vec![0; RECORD];
    let mut put = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\x000000000\x000000000\0");
    put(124, &format!("{size:011o}\x0000000000000\0        0"));
    put(257, "ustar\x0000");
    let sum: u32 = head.iter().map(|&byte| u32::from(byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    head
}

/// The outcome of something, and the most memory that the hub had meanwhile.
async fn watched<T>(hub: &mut TestHub, future: impl Future<Output = T>) -> (T, u64) {
    let mut most = 0;
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    tokio::pin!(future);
    loop {
        tokio::select! {
            outcome = &mut future => return (outcome, most),
            _ = looks.tick() => most = most.max(hub.anonymous_memory()),
        }
    }
}

async fn upload(user: &TestUser, made: &Made) -> String {
    let whole = Parts::default().file("artifact", b"").end();
    let place = whole.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    let (head, tail) = (Bytes::copy_from_slice(&whole[..place]), Bytes::copy_from_slice(&whole[place..]));
    let pieces = std::iter::once(head).chain(made.pieces()).chain([tail]);
    let body = reqwest::Body::wrap_stream(stream::iter(pieces.map(Ok::<_, std::io::Error>)));
    let request = user.request("POST", ARTIFACTS).header("content-type", Parts::content_type()).timeout(PATIENCE);
    id_of(&Answer::to(request.body(body)).await.expect(201))
}

async fn download(user: &TestUser, id: &str) -> Digest {
    let link: Value = user.get(&format!("{ARTIFACTS}/{id}/download")).await.expect(200).json();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut response = client.get(link["uri"].as_str().unwrap()).timeout(PATIENCE).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut hasher = Hasher::default();
    while let Some(piece) = response.chunk().await.unwrap() {
        hasher.update(&piece);
    }
    hasher.finish()
}

async fn an_artifact_of_any_size_costs_the_hub_nothing(set: Set, size: u64) {
    let _turn = harness::turn_of_the_heavy().await;
    let mut hub = set.process(&[]).await;
    let user = hub.user().await;
    let mut most = [0; 2];
    let mut before = 0;
    // The first one is small: what the hub needs once for traffic of this kind it has afterwards.
    for (round, size) in [FEW_PARTS, size].into_iter().enumerate() {
        before = hub.anonymous_memory();
        let made = Made::new(&format!("large-{round}"), size);
        let (id, during_upload) = watched(&mut hub, upload(&user, &made)).await;
        let artifact = user.artifact(&id).await;
        let digest = made.digest();
        assert_eq!(artifact["size"], digest.length);
        let (fetched, during_download) = watched(&mut hub, download(&user, &id)).await;
        assert_eq!(fetched, digest);
        most[round] = during_upload.max(during_download);
        user.delete(&format!("{ARTIFACTS}/{id}")).await.expect(204);
    }
    let after = hub.anonymous_memory();
    let [few_parts, most] = most;
    eprintln!(
        "{size} bytes up and down ({set:?}): {before} bytes of memory before, {most} at most, {after} after; \
         {few_parts} at most for {FEW_PARTS} bytes"
    );
    let growth = most.saturating_sub(few_parts);
    assert!(growth <= ALLOWED_GROWTH, "the hub grew by {growth} bytes");
}

#[tokio::test]
async fn an_artifact_of_a_quarter_gibibyte_costs_the_hub_nothing() {
    an_artifact_of_any_size_costs_the_hub_nothing(Set::Embedded, 256 * 1024 * 1024).await;
}

/// `cargo test -p tests --test e2e -- --ignored --nocapture an_artifact_of_four_gibibytes`
#[tokio::test]
#[ignore = "takes minutes and 4 GiB of disk; run it by its name"]
async fn an_artifact_of_four_gibibytes_costs_an_embedded_hub_nothing() {
    an_artifact_of_any_size_costs_the_hub_nothing(Set::Embedded, 4 * 1024 * 1024 * 1024).await;
}

#[tokio::test]
#[ignore = "takes minutes and 8 GiB of disk; run it by its name"]
async fn an_artifact_of_four_gibibytes_costs_a_production_hub_nothing() {
    an_artifact_of_any_size_costs_the_hub_nothing(Set::Production, 4 * 1024 * 1024 * 1024).await;
}
