//! What proves who somebody is: identities and keys of devices, passwords of users, and the tokens this hub signs.
//!
//! Nothing here knows what is stored; whether a proven identity may come in is for [`crate::gate`],
//! [`crate::admission`] and [`crate::accounts`].

pub mod identity;
pub mod password;
pub mod public_key;
pub mod recent;
pub mod signing;
pub mod token;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use identity::{Identity, IdentityError};
pub use password::Passwords;
pub use public_key::{KeyError, PublicKey};
pub use signing::SigningKey;
use storage::{SigningKeys, StorageError, Timestamp};
pub use token::{Claims, DeviceClaims, TokenError, UserClaims};

use crate::Config;
use token::Unverified;

/// The keys that sign and verify the tokens of devices and of users. The two have nothing in common: neither keys, unless
/// the operator names the same file for both, nor issuers, nor kinds.
#[derive(Debug)]
pub struct Keyring {
    device: Keys,
    user: Keys,
}

#[derive(Debug)]
struct Keys {
    issuer: String,
    signing_id: u32,
    by_id: BTreeMap<u32, SigningKey>,
    /// Tried when the named key refuses: the key from before a change of keys.
    fallback: Option<SigningKey>,
}

/// Why the keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// A file that a setting names cannot be read.
    #[error("actors.{setting} is {}: expected a private key (PEM), cannot read it", path.display())]
    Unreadable {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// A file that a setting names holds no usable key.
    #[error("actors.{setting} is {}: {cause}", path.display())]
    Invalid {
        /// The setting.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What was expected.
        cause: signing::InvalidKey,
    },
    /// The key in the database holds no usable key.
    #[error("the stored key for {0} is damaged")]
    Damaged(&'static str),
    /// The database cannot give or keep the keys.
    #[error("cannot get the signing keys from the database")]
    Storage(#[from] StorageError),
}

impl Keyring {
    /// Reads the keys from the files that the settings name, or those that the nodes of this hub share, which are made at
    /// the first start.
    ///
    /// # Errors
    /// See [`KeyringError`].
    pub async fn load(stored: &SigningKeys, config: &Config) -> Result<Self, KeyringError> {
        let device = match &config.device_key_file {
            Some(path) => read("device_key_file", path).await?,
            None => get_or_create(stored, "device tokens").await?,
        };
        let device = Keys {
            issuer: config.device_issuer.clone(),
            signing_id: 0,
            by_id: BTreeMap::from([(0, device)]),
            fallback: read_if_named("device_fallback_key_file", config.device_fallback_key_file.as_deref()).await?,
        };
        let (signing_id, by_id) = match &config.user_key_file {
            Some(path) => read_with_neighbours("user_key_file", path).await?,
            None => (0, BTreeMap::from([(0, get_or_create(stored, "user tokens").await?)])),
        };
        let user = Keys {
            issuer: config.user_issuer.clone(),
            signing_id,
            by_id,
            fallback: read_if_named("user_fallback_key_file", config.user_fallback_key_file.as_deref()).await?,
        };
        Ok(Self { device, user })
    }

    /// `iss` of device tokens.
    pub fn device_issuer(&self) -> &str {
        &self.device.issuer
    }

    /// `iss` of user tokens.
    pub fn user_issuer(&self) -> &str {
        &self.user.issuer
    }

    /// Signs a device's token.
    pub fn sign_device(&self, claims: &DeviceClaims) -> String {
        claims.sign(self.device.signing())
    }

    /// Signs a user's token.
    pub fn sign_user(&self, claims: &UserClaims) -> String {
        claims.sign(self.user.signing(), self.user.signing_id)
    }

    /// What a device's token says, if a key for devices signed it and it is in time. Whether it still counts is for
    /// storage to say.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn open_device(&self, token: &str, now: Timestamp) -> Result<DeviceClaims, TokenError> {
        let token = Unverified::parse(token)?;
        // Devices' tokens never named a key; whatever theirs names, there is one.
        match self.device.verify(&token, Some(0))?.claims(now)? {
            Claims::Device(claims) if claims.issuer == self.device.issuer => Ok(claims),
            _ => Err(TokenError::Invalid),
        }
    }

    /// As [`Self::open_device`], for users.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn open_user(&self, token: &str, now: Timestamp) -> Result<UserClaims, TokenError> {
        let token = Unverified::parse(token)?;
        let key_id = token.key_id();
        match self.user.verify(&token, key_id)?.claims(now)? {
            Claims::User(claims) if claims.issuer == self.user.issuer => Ok(claims),
            _ => Err(TokenError::Invalid),
        }
    }
}

impl Keys {
    fn signing(&self) -> &SigningKey {
        self.by_id.get(&self.signing_id).expect("the signing key was put there under its id")
    }

    fn verify<'a, 'b>(&self, token: &'b Unverified<'a>, key_id: Option<u32>) -> Result<&'b Unverified<'a>, TokenError> {
        let named = key_id.and_then(|id| self.by_id.get(&id)).ok_or(TokenError::Invalid)?;
        let is_ours = [Some(named), self.fallback.as_ref()].into_iter().flatten().any(|key| token.is_signed_by(key));
        if is_ours { Ok(token) } else { Err(TokenError::Invalid) }
    }
}

async fn get_or_create(stored: &SigningKeys, purpose: &'static str) -> Result<SigningKey, KeyringError> {
    let pem = stored.get_or_create(purpose, SigningKey::generate).await?;
    SigningKey::from_pem(&pem).map_err(|_| KeyringError::Damaged(purpose))
}

async fn read_if_named(setting: &'static str, path: Option<&Path>) -> Result<Option<SigningKey>, KeyringError> {
    match path {
        Some(path) => read(setting, path).await.map(Some),
        None => Ok(None),
    }
}

async fn read(setting: &'static str, path: &Path) -> Result<SigningKey, KeyringError> {
    let text = tokio::fs::read_to_string(path).await;
    let text = text.map_err(|cause| KeyringError::Unreadable { setting, path: path.to_owned(), cause })?;
    SigningKey::from_pem(&text).map_err(|cause| KeyringError::Invalid { setting, path: path.to_owned(), cause })
}

/// The key in `path` with its id, and those beside it that carry an id in their names.
async fn read_with_neighbours(
    setting: &'static str,
    path: &Path,
) -> Result<(u32, BTreeMap<u32, SigningKey>), KeyringError> {
    let signing_id = path.file_name().and_then(|name| id_in_name(name.to_str()?)).unwrap_or(0);
    let mut by_id = BTreeMap::new();
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let unreadable = |cause| KeyringError::Unreadable { setting, path: folder.to_owned(), cause };
    let mut files = tokio::fs::read_dir(folder).await.map_err(unreadable)?;
    while let Some(file) = files.next_entry().await.map_err(unreadable)? {
        if let Some(id) = file.file_name().to_str().and_then(id_in_name) {
            by_id.insert(id, read(setting, &file.path()).await?);
        }
    }
    by_id.insert(signing_id, read(setting, path).await?);
    Ok((signing_id, by_id))
}

/// `private.id.7.pem` holds key 7. (Mender API: keys of user tokens.)
fn id_in_name(name: &str) -> Option<u32> {
    name.strip_prefix("private.id.")?.strip_suffix(".pem")?.parse().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use storage::{AuthSetId, DeviceId, Storage, TokenId, clock};

    use super::*;

    impl Keyring {
        /// Fresh keys that no storage keeps.
        pub(crate) fn fresh(config: &Config) -> Self {
            let keys = |issuer: &str| Keys {
                issuer: issuer.to_owned(),
                signing_id: 0,
                by_id: BTreeMap::from([(0, SigningKey::from_pem(&SigningKey::generate()).unwrap())]),
                fallback: None,
            };
            Self { device: keys(&config.device_issuer), user: keys(&config.user_issuer) }
        }
    }

    async fn storage() -> Storage {
        Storage::open(&storage::Config::in_memory()).await.unwrap()
    }

    fn user_claims(keyring: &Keyring) -> UserClaims {
        UserClaims {
            token: TokenId::random(),
            user: "u-1".into(),
            issuer: keyring.user_issuer().to_owned(),
            issued: clock::now().seconds(),
            expires: None,
        }
    }

    fn device_claims(keyring: &Keyring) -> DeviceClaims {
        DeviceClaims {
            auth_set: AuthSetId::random(),
            device: DeviceId::random(),
            issuer: keyring.device_issuer().to_owned(),
            issued: clock::now().seconds(),
            expires: clock::now().seconds() + 60,
        }
    }

    #[tokio::test]
    async fn keys_are_made_once_and_kept() {
        let (storage, config) = (storage().await, Config::default());
        let first = Keyring::load(&storage.keys, &config).await.unwrap();
        let second = Keyring::load(&storage.keys, &config).await.unwrap();
        let (device, user) = (device_claims(&first), user_claims(&first));
        assert_eq!(second.open_device(&first.sign_device(&device), clock::now()), Ok(device));
        assert_eq!(second.open_user(&first.sign_user(&user), clock::now()), Ok(user));
    }

    #[tokio::test]
    async fn a_token_of_one_kind_is_none_of_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("private.pem");
        std::fs::write(&path, SigningKey::generate()).unwrap();
        // Even with one key for both.
        let config = Config {
            device_key_file: Some(path.clone()),
            user_key_file: Some(path),
            user_issuer: "Mender".into(),
            ..Config::default()
        };
        let keyring = Keyring::load(&storage().await.keys, &config).await.unwrap();
        let device = keyring.sign_device(&device_claims(&keyring));
        let user = keyring.sign_user(&user_claims(&keyring));
        assert!(keyring.open_device(&device, clock::now()).is_ok());
        assert!(keyring.open_user(&user, clock::now()).is_ok());
        assert_eq!(keyring.open_user(&device, clock::now()), Err(TokenError::Invalid));
        assert_eq!(keyring.open_device(&user, clock::now()), Err(TokenError::Invalid));
    }

    #[test]
    fn a_foreign_issuer_is_refused() {
        let keyring = Keyring::fresh(&Config::default());
        let device = DeviceClaims { issuer: "Somebody".into(), ..device_claims(&keyring) };
        let user = UserClaims { issuer: "Somebody".into(), ..user_claims(&keyring) };
        assert_eq!(keyring.open_device(&keyring.sign_device(&device), clock::now()), Err(TokenError::Invalid));
        assert_eq!(keyring.open_user(&keyring.sign_user(&user), clock::now()), Err(TokenError::Invalid));
    }

    #[tokio::test]
    async fn a_former_key_still_verifies() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new.pem"), folder.path().join("old.pem"));
        std::fs::write(&new, SigningKey::generate()).unwrap();
        std::fs::write(&old, signing::tests::RSA_PKCS1).unwrap();
        let storage = storage().await;
        let load = |key: &Path, fallback: Option<&Path>| {
            let config = Config {
                device_key_file: Some(key.to_owned()),
                device_fallback_key_file: fallback.map(Path::to_owned),
                user_key_file: Some(key.to_owned()),
                user_fallback_key_file: fallback.map(Path::to_owned),
                ..Config::default()
            };
            let keys = storage.keys.clone();
            async move { Keyring::load(&keys, &config).await.unwrap() }
        };
        let before = load(&old, None).await;
        let (device, user) = (device_claims(&before), user_claims(&before));
        let tokens = (before.sign_device(&device), before.sign_user(&user));
        let after = load(&new, Some(&old)).await;
        assert_eq!(after.open_device(&tokens.0, clock::now()), Ok(device));
        assert_eq!(after.open_user(&tokens.1, clock::now()), Ok(user));
        let without = load(&new, None).await;
        assert_eq!(without.open_device(&tokens.0, clock::now()), Err(TokenError::Invalid));
        assert_eq!(without.open_user(&tokens.1, clock::now()), Err(TokenError::Invalid));
    }

    #[tokio::test]
    async fn user_keys_are_found_by_the_number_in_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("private.id.3.pem"), folder.path().join("private.id.7.pem"));
        std::fs::write(&old, SigningKey::generate()).unwrap();
        std::fs::write(&new, SigningKey::generate()).unwrap();
        let keys = storage().await.keys;
        let load = async |path: &Path| {
            let config = Config { user_key_file: Some(path.to_owned()), ..Config::default() };
            Keyring::load(&keys, &config).await.unwrap()
        };
        let before = load(&old).await;
        let claims = user_claims(&before);
        let token = before.sign_user(&claims);
        let after = load(&new).await;
        assert_eq!(after.user.signing_id, 7);
        assert_eq!(after.open_user(&token, clock::now()), Ok(claims));
        std::fs::remove_file(&old).unwrap();
        assert_eq!(load(&new).await.open_user(&token, clock::now()), Err(TokenError::Invalid), "a number of no key");
    }

    #[tokio::test]
    async fn a_file_without_a_key_stops_the_start_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let keys = storage().await.keys;
        let config = Config { device_key_file: Some(path.clone()), ..Config::default() };
        let error = Keyring::load(&keys, &config).await.unwrap_err().to_string();
        assert!(error.contains("actors.device_key_file") && error.contains("key.pem"), "{error}");
        std::fs::write(&path, "no key").unwrap();
        let error = Keyring::load(&keys, &config).await.unwrap_err().to_string();
        assert!(error.contains("actors.device_key_file") && error.contains("expected PEM"), "{error}");
    }
}
