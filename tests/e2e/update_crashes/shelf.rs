//! Artifacts that come and go while their hub is killed, and what has to be there afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use harness::traffic::{Digest, Pattern, digest};
use harness::{ARTIFACTS, Answer, ArtifactRecipe, LIMIT, Parts, TestHub, TestUser, wait_until};
use serde_json::Value;

use super::fleet::RELEASE;
use crate::crashes::{Count, status};

/// Artifacts that are removed in a round.
const LEAVING: usize = 4;

/// Sizes of files that come: in one piece, and in parts.
const SIZES: [usize; 3] = [30_000, 9_000_000, 700_000];

/// What `generate` is asked to do with a file.
const ARGS: &str = r#"{"filename":"app.bin","dest_dir":"/opt/app","software_filesystem":"data","software_name":"app","software_version":"1"}"#;

/// A file that was sent to the hub, and whether the hub has said that it is there.
struct Sent {
    /// Of the whole artifact, or of the file that one is to be made of.
    digest: Digest,
    is_acknowledged: bool,
}

/// All artifacts of a round, by their names.
pub(super) struct Shelf {
    round: usize,
    uploaded: BTreeMap<String, Sent>,
    generated: BTreeMap<String, Sent>,
    /// Those that leave: their ids, and whether the hub has said that they are gone.
    leaving: BTreeMap<String, (String, bool)>,
}

impl Shelf {
    /// Brings what is to leave in this round.
    pub(super) async fn fill(user: &TestUser, round: usize) -> Self {
        let (mut leaving, mut uploaded) = (BTreeMap::new(), BTreeMap::new());
        for number in 0..LEAVING {
            let name = format!("leaving-{round}-{number}");
            let file = made(&name, content(&name, SIZES[0]).await).await;
            let id = user.has_uploaded(&file).await;
            uploaded.insert(name.clone(), Sent { digest: digest(&file), is_acknowledged: true });
            leaving.insert(name, (id, false));
        }
        Self { round, uploaded, generated: BTreeMap::new(), leaving }
    }

    /// Uploads, has artifacts made, and removes some, until the hub is gone.
    pub(super) async fn comes_and_goes(&mut self, user: &TestUser, count: &Count) {
        let round = self.round;
        let (one, other) = (uploads(user, round, "one", count), uploads(user, round, "other", count));
        let removals = async {
            for (id, is_gone) in self.leaving.values_mut() {
                match status(user.request("DELETE", &format!("{ARTIFACTS}/{id}")), count).await {
                    Some(204) => *is_gone = true,
                    Some(other) => panic!("a removal was answered {other}"),
                    None => break,
                }
            }
        };
        let (one, other, generated, ()) = tokio::join!(one, other, generations(user, round, count), removals);
        self.uploaded.extend(one.into_iter().chain(other));
        self.generated = generated;
    }

    /// Whatever is listed is whole, what was acknowledged is there or gone, and the object store has nothing else.
    pub(super) async fn is_whole(&self, hub: &TestHub, user: &TestUser) {
        let made = self.generated.iter().filter(|(_, sent)| sent.is_acknowledged);
        let made: BTreeSet<String> = made.map(|(name, _)| name.clone()).collect();
        // Whoever is silent for so long is taken for dead. Once, or those who go on with it now would be, too.
        hub.clean_uploads(Duration::from_hours(48)).await;
        wait_until(LIMIT, "what the dead hub was making", async || {
            made.is_subset(&listed(user).await.into_keys().collect()).then_some(())
        })
        .await;
        let listed = only_what_is_listed_is_stored(hub, user).await;
        for (name, artifact) in &listed {
            let file = file_of(user, id(artifact)).await;
            assert_eq!(artifact["size"], file.len(), "{name}");
            if let Some(sent) = self.uploaded.get(name) {
                assert_eq!(digest(&file), sent.digest, "{name} is not what was uploaded");
            } else if let Some(sent) = self.generated.get(name) {
                let files = artifact["updates"][0]["files"].as_array().unwrap();
                let file = files.iter().find(|file| file["name"] == "app.bin").expect("the file is in it");
                let said = (file["size"].as_u64(), file["checksum"].as_str().unwrap().to_owned());
                assert_eq!(said, (Some(sent.digest.length), sent.digest.hex()), "{name} is not of what was sent");
            } else {
                assert_eq!(name, RELEASE, "nobody has brought {name}");
            }
        }
        for (name, sent) in &self.uploaded {
            let is_leaving = self.leaving.contains_key(name);
            assert!(!sent.is_acknowledged || is_leaving || listed.contains_key(name), "{name} is lost");
        }
        for (name, (_, is_gone)) in &self.leaving {
            assert!(!is_gone || !listed.contains_key(name), "{name} was removed and is there");
        }
    }

    /// Removes what the round has brought; only the release stays.
    pub(super) async fn clear(&self, hub: &TestHub, user: &TestUser) {
        for (name, artifact) in listed(user).await {
            if name != RELEASE {
                user.delete(&format!("{ARTIFACTS}/{}", id(&artifact))).await.expect(204);
            }
        }
        assert_eq!(only_what_is_listed_is_stored(hub, user).await.len(), 1);
    }
}

/// Uploads one artifact after the other.
async fn uploads(user: &TestUser, round: usize, who: &str, count: &Count) -> BTreeMap<String, Sent> {
    let mut uploaded = BTreeMap::new();
    for number in 0.. {
        let name = format!("{who}-{round}-{number}");
        let file = made(&name, content(&name, SIZES[number % SIZES.len()]).await).await;
        let digest = digest(&file);
        let parts = Parts::default().text("size", &file.len().to_string()).file("artifact", &file);
        let is_acknowledged = is_taken(user, ARTIFACTS, parts, count).await;
        uploaded.insert(name, Sent { digest, is_acknowledged });
        if !is_acknowledged {
            break;
        }
    }
    uploaded
}

/// Has one artifact after the other made.
async fn generations(user: &TestUser, round: usize, count: &Count) -> BTreeMap<String, Sent> {
    let mut generated = BTreeMap::new();
    for number in 0.. {
        let name = format!("made-{round}-{number}");
        let file = content(&name, SIZES[number % SIZES.len()]).await;
        let parts = Parts::default().text("name", &name).text("device_types_compatible", "rpi5");
        let parts = parts.text("type", "single_file").text("args", ARGS).file("file", &file);
        let is_acknowledged = is_taken(user, &format!("{ARTIFACTS}/generate"), parts, count).await;
        generated.insert(name, Sent { digest: digest(&file), is_acknowledged });
        if !is_acknowledged {
            break;
        }
    }
    generated
}

/// Whether the hub took a form before it died.
async fn is_taken(user: &TestUser, path: &str, parts: Parts, count: &Count) -> bool {
    let request = user.request("POST", path).header("content-type", Parts::content_type());
    match status(request.body(parts.end()), count).await {
        Some(201) => true,
        Some(other) => panic!("a file was answered {other}"),
        None => false,
    }
}

/// Bytes that are no other artifact's.
async fn content(name: &str, size: usize) -> Vec<u8> {
    let seed = digest(name.as_bytes()).sha256;
    let mut pattern = Pattern::new(u64::from_be_bytes(seed[..8].try_into().unwrap()));
    tokio::task::spawn_blocking(move || pattern.take(size)).await.unwrap()
}

async fn made(name: &str, content: Vec<u8>) -> Vec<u8> {
    let recipe = ArtifactRecipe::module(name, "rpi4").with(&["--compression", "none"]).with_content(content);
    tokio::task::spawn_blocking(move || recipe.make()).await.unwrap()
}

async fn listed(user: &TestUser) -> BTreeMap<String, Value> {
    let list = user.get(&format!("{ARTIFACTS}/list?per_page=500")).await.expect(200).json();
    let list = list.as_array().unwrap();
    let listed: BTreeMap<String, Value> =
        list.iter().map(|artifact| (artifact["name"].as_str().unwrap().to_owned(), artifact.clone())).collect();
    assert_eq!(listed.len(), list.len(), "an artifact is there twice");
    listed
}

/// Removes what nobody will need again, and waits until the object store holds as many files as artifacts are listed. Each of
/// these can be fetched, so they are the same.
async fn only_what_is_listed_is_stored(hub: &TestHub, user: &TestUser) -> BTreeMap<String, Value> {
    wait_until(LIMIT, "the store to hold what is listed and nothing else", async || {
        // Longer than files are kept of which the artifact was made.
        hub.clean_uploads(Duration::from_hours(30 * 24)).await;
        let (listed, mut stored) = (listed(user).await, hub.objects().await);
        // The server's note of parts that never came takes no room, and what kept it from being told is the kill.
        stored.retain(|file| !file.starts_with(".upload-"));
        (stored.len() == listed.len() && stored.iter().all(|file| file.starts_with("artifacts/"))).then_some(listed)
    })
    .await
}

fn id(artifact: &Value) -> &str {
    artifact["id"].as_str().unwrap()
}

/// The file of an artifact, by its link.
async fn file_of(user: &TestUser, id: &str) -> Vec<u8> {
    let link = user.get(&format!("{ARTIFACTS}/{id}/download")).await.expect(200).json();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    Answer::to(client.get(link["uri"].as_str().unwrap())).await.expect(200).body.to_vec()
}
