//! What an operator does about updates: brings artifacts, makes deployments, looks how they are.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::operator::{BOUNDARY, Operator};

const API: &str = "/api/management/v1/deployments";

/// The largest page of devices that every server gives.
const PAGE: usize = 500;

impl Operator {
    /// Uploads an artifact, as `mender-cli` does.
    ///
    /// # Errors
    /// When the hub refuses it.
    pub async fn upload(&self, artifact: &[u8]) -> anyhow::Result<()> {
        let mut form = Vec::with_capacity(artifact.len() + 512);
        let mut part = |disposition: &str, content: &[u8]| {
            let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n");
            form.extend_from_slice(head.as_bytes());
            form.extend_from_slice(content);
            form.extend_from_slice(b"\r\n");
        };
        part("name=\"size\"", artifact.len().to_string().as_bytes());
        part("name=\"description\"", b"made by loadtest");
        part("name=\"artifact\"; filename=\"loadtest.mender\"", artifact);
        form.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        let answer = self.post_form(&format!("{API}/artifacts"), form).await?;
        match answer.status().as_u16() {
            201 => Ok(()),
            status => bail!("the hub answered {status} to an artifact: {}", answer.text().await?),
        }
    }

    /// Makes a deployment for these devices (whether there are such or not); its id. `more` goes into the request as it is,
    /// e.g. `phases`.
    ///
    /// # Errors
    /// When the hub refuses.
    pub async fn deploy(&self, name: &str, artifact: &str, devices: &[String], more: &Value) -> anyhow::Result<String> {
        let mut body = json!({ "name": name, "artifact_name": artifact, "devices": devices });
        if let (Some(body), Some(more)) = (body.as_object_mut(), more.as_object()) {
            body.extend(more.clone());
        }
        let answer = self.post(&format!("{API}/deployments"), &body).await?;
        if answer.status().as_u16() != 201 {
            bail!("the hub answered {} to a deployment: {}", answer.status(), answer.text().await?);
        }
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
        let id = location.and_then(|path| path.rsplit('/').next());
        Ok(id.context("the hub does not say which deployment it has made")?.to_owned())
    }

    /// Ends a deployment.
    ///
    /// # Errors
    /// When the hub refuses, other than because it has ended already.
    pub async fn abort(&self, deployment: &str) -> anyhow::Result<()> {
        let path = format!("{API}/deployments/{deployment}/status");
        let answer = self.put(&path, &json!({"status": "aborted"})).await?;
        match answer.status().as_u16() {
            204 | 422 => Ok(()),
            status => bail!("the hub answered {status} to the end of a deployment: {}", answer.text().await?),
        }
    }

    /// A deployment as the hub shows it.
    ///
    /// # Errors
    /// When the hub refuses.
    pub async fn deployment(&self, deployment: &str) -> anyhow::Result<Value> {
        self.get(&format!("{API}/deployments/{deployment}")).await
    }

    /// Why a deployment is paused, if it is and this server knows such a thing.
    ///
    /// # Errors
    /// When the hub cannot be reached.
    pub async fn pause_reason(&self, deployment: &str) -> anyhow::Result<Option<String>> {
        let answer = self.ask(&format!("/api/management/v1/mooring/deployments/{deployment}")).await?;
        if answer.status().as_u16() != 200 {
            return Ok(None);
        }
        let shown: Value = answer.json().await.context("cannot read a deployment")?;
        Ok(shown["paused"]["reason"].as_str().map(str::to_owned))
    }

    /// How many devices of a deployment are in which state, as the hub counts them.
    ///
    /// # Errors
    /// When the hub refuses, or answers with something else than counters.
    pub async fn statistics(&self, deployment: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        let counters = self.get(&format!("{API}/deployments/{deployment}/statistics")).await?;
        serde_json::from_value(counters).context("cannot read the statistics of a deployment")
    }

    /// The state of each device that was told of a deployment.
    ///
    /// # Errors
    /// When the hub refuses.
    pub async fn states(&self, deployment: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let mut states = BTreeMap::new();
        for page in 1.. {
            let path = format!("{API}/deployments/{deployment}/devices/list?page={page}&per_page={PAGE}");
            let listed = self.get(&path).await?;
            let listed = listed.as_array().context("cannot read the devices of a deployment")?;
            for device in listed {
                let text = |name: &str| device[name].as_str().map(str::to_owned);
                let (id, state) = text("id").zip(text("status")).context("a device without id or status")?;
                if states.insert(id, state).is_some() {
                    bail!("a device stands on two pages of a deployment's devices");
                }
            }
            if listed.len() < PAGE {
                break;
            }
        }
        Ok(states)
    }
}
