//! Artifacts made by the unmodified `mender-artifact`, and how they are uploaded.

use std::path::Path;
use std::process::Command;

use crate::answer::Answer;
use crate::user::TestUser;
use crate::workspace::temporary_directory;

/// Where artifacts are.
pub const ARTIFACTS: &str = "/api/management/v1/deployments/artifacts";

/// An artifact in the making.
#[derive(Debug, Clone)]
pub struct ArtifactRecipe {
    arguments: Vec<String>,
    content: Vec<u8>,
    content_name: String,
    /// More files, by their names.
    files: Vec<(&'static str, Vec<u8>)>,
}

impl ArtifactRecipe {
    /// One with a payload for an update module, of a few bytes.
    pub fn module(name: &str, device_type: &str) -> Self {
        Self::of(&["module-image", "-T", "demo", "-n", name, "-t", device_type]).with_content(b"hello\n".to_vec())
    }

    /// One that Debian's update module `single-file` installs: these bytes as `file` in `folder` of the device.
    pub fn single_file(name: &str, device_type: &str, folder: &Path, file: &str, content: Vec<u8>) -> Self {
        let mut this = Self::of(&["module-image", "-T", "single-file", "-n", name, "-t", device_type]);
        this.files = vec![
            ("dest_dir", format!("{}\n", folder.display()).into_bytes()),
            ("filename", format!("{file}\n").into_bytes()),
            ("permissions", b"644\n".to_vec()),
        ];
        this.with_content(content).with_name(file)
    }

    /// One that Debian's update module `script` installs: this script, run on the device.
    pub fn script(name: &str, device_type: &str, script: &str) -> Self {
        let this = Self::of(&["module-image", "-T", "script", "-n", name, "-t", device_type]);
        this.with_content(format!("#!/bin/sh\n{script}\n").into_bytes()).with_name("install.sh")
    }

    /// What `mender-artifact write` is called with, but for files.
    pub fn of(arguments: &[&str]) -> Self {
        Self {
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            content: Vec::new(),
            content_name: "app.bin".to_owned(),
            files: Vec::new(),
        }
    }

    /// With more arguments.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// With one file of these bytes; none leaves the file out.
    #[must_use]
    pub fn with_content(mut self, content: Vec<u8>) -> Self {
        self.content = content;
        self
    }

    fn with_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.content_name);
        self
    }

    /// The whole file.
    ///
    /// # Panics
    /// When the tool makes none.
    pub fn make(&self) -> Vec<u8> {
        let directory = temporary_directory();
        let mut command = Command::new("mender-artifact");
        command.arg("write").args(&self.arguments).args(["-o", "made.mender"]).current_dir(&directory);
        let mut files: Vec<(&str, &[u8])> = self.files.iter().map(|(name, content)| (*name, &content[..])).collect();
        if !self.content.is_empty() {
            files.push((&self.content_name, &self.content));
        }
        for (name, content) in files {
            std::fs::write(directory.join(name), content).expect("a file can be written");
            command.args(["-f", name]);
        }
        let run = command.output().expect("mender-artifact is installed (tests/setup.sh)");
        std::fs::read(directory.join("made.mender"))
            .unwrap_or_else(|_| panic!("no artifact: {}", String::from_utf8_lossy(&run.stderr)))
    }
}

/// A form, part by part, in the order in which they are given.
#[derive(Debug, Clone, Default)]
pub struct Parts(Vec<u8>);

impl Parts {
    const BOUNDARY: &str = "a-boundary-that-no-file-has";

    /// With a part that is text.
    #[must_use]
    pub fn text(self, name: &str, value: &str) -> Self {
        self.part(&format!("name=\"{name}\""), value.as_bytes())
    }

    /// With a part that is a file.
    #[must_use]
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.part(&format!("name=\"{name}\"; filename=\"file\""), content)
    }

    fn part(mut self, disposition: &str, content: &[u8]) -> Self {
        let head = format!("--{}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n", Self::BOUNDARY);
        self.0.extend_from_slice(head.as_bytes());
        self.0.extend_from_slice(content);
        self.0.extend_from_slice(b"\r\n");
        self
    }

    /// Sends it.
    pub async fn post(self, user: &TestUser, path: &str) -> Answer {
        let request = user.request("POST", path).header("content-type", Self::content_type());
        Answer::to(request.body(self.end())).await
    }

    /// Its type.
    pub fn content_type() -> String {
        format!("multipart/form-data; boundary={}", Self::BOUNDARY)
    }

    /// All of it.
    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(format!("--{}--\r\n", Self::BOUNDARY).as_bytes());
        self.0
    }
}

impl TestUser {
    /// Uploads an artifact as `mender-cli` and the web UI do.
    pub async fn upload_artifact(&self, file: &[u8]) -> Answer {
        let parts = Parts::default().text("size", &file.len().to_string()).text("description", "made by a test");
        parts.file("artifact", file).post(self, ARTIFACTS).await
    }

    /// The same for one that is taken; its id.
    pub async fn has_uploaded(&self, file: &[u8]) -> String {
        id_of(&self.upload_artifact(file).await.expect(201))
    }

    /// An artifact that is there.
    pub async fn artifact(&self, id: &str) -> serde_json::Value {
        self.get(&format!("{ARTIFACTS}/{id}")).await.expect(200).json()
    }
}

/// The last segment of an answer's `Location`.
pub fn id_of(answer: &Answer) -> String {
    answer.header("location").rsplit('/').next().unwrap_or_default().to_owned()
}
