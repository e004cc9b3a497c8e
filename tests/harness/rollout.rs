//! Deployments, as operators make them and devices go through them.

use serde_json::{Value, json};

use crate::answer::Answer;
use crate::artifact::id_of;
use crate::device::TestDevice;
use crate::user::TestUser;

/// Where deployments are.
pub const DEPLOYMENTS: &str = "/api/management/v1/deployments/deployments";

impl TestUser {
    /// Asks for a deployment of `release` to these devices.
    pub async fn deploy(&self, release: &str, devices: &[&str]) -> Answer {
        self.post(DEPLOYMENTS, &json!({"name": "fleet-7", "artifact_name": release, "devices": devices})).await
    }

    /// The same for one that is made; its id.
    pub async fn has_deployed(&self, release: &str, devices: &[&str]) -> String {
        id_of(&self.deploy(release, devices).await.expect(201))
    }

    /// A deployment that is there.
    pub async fn deployment(&self, id: &str) -> Value {
        self.get(&format!("{DEPLOYMENTS}/{id}")).await.expect(200).json()
    }

    /// How many devices of a deployment stand where; those where none does are left out.
    pub async fn counts(&self, id: &str) -> Value {
        let mut counts = self.get(&format!("{DEPLOYMENTS}/{id}/statistics")).await.expect(200).json();
        let counts = counts.as_object_mut().expect("an object");
        assert_eq!(counts.len(), 13, "{counts:?}");
        counts.retain(|_, count| *count != 0);
        json!(counts)
    }

    /// The devices that were told of a deployment.
    pub async fn deployed(&self, id: &str) -> Vec<Value> {
        let devices = self.get(&format!("{DEPLOYMENTS}/{id}/devices/list?per_page=500")).await.expect(200).json();
        devices.as_array().expect("a list").clone()
    }

    /// Ends a deployment.
    pub async fn abort(&self, id: &str) -> Answer {
        self.put(&format!("{DEPLOYMENTS}/{id}/status"), &json!({"status": "aborted"})).await
    }
}

impl TestDevice {
    /// Asks what to install, as one that runs `release` and is of this type.
    pub async fn polls(&self, release: &str, device_type: &str) -> Answer {
        let path = format!(
            "/api/devices/v1/deployments/device/deployments/next?artifact_name={release}&device_type={device_type}"
        );
        Answer::to(self.request("GET", &path)).await
    }

    /// Says how far it is.
    pub async fn says(&self, deployment: &str, status: &str) -> Answer {
        self.says_in_full(deployment, &json!({"status": status})).await
    }

    /// The same in its own words.
    pub async fn says_in_full(&self, deployment: &str, body: &Value) -> Answer {
        let path = format!("/api/devices/v1/deployments/device/deployments/{deployment}/status");
        Answer::to(self.request("PUT", &path).json(body)).await
    }

    /// Says what went wrong.
    pub async fn logs(&self, deployment: &str, body: &Value) -> Answer {
        let path = format!("/api/devices/v1/deployments/device/deployments/{deployment}/log");
        Answer::to(self.request("PUT", &path).json(body)).await
    }
}
