//! Where things are: the repository, the binaries under test, a directory for everything temporary.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::process::remove_after_us;

/// The top of the repository.
///
/// # Panics
/// Never: this crate stands one level below it.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is inside the workspace")
}

/// A fresh directory, removed some time after the tests. Its path is short: there will be sockets in it.
///
/// # Panics
/// When the disk is full.
pub fn temporary_directory() -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = root().join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    std::fs::create_dir(&path).expect("a directory can be made");
    // Servers that run as another user have to get in.
    open_to_all(&path);
    path
}

fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let path = tempfile::Builder::new().prefix("mooring-").tempdir().expect("a directory can be made").keep();
        open_to_all(&path);
        remove_after_us(&path);
        path
    })
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
}

/// The path of one of our programs, built from the sources as they are now.
///
/// # Panics
/// When it does not compile.
pub fn program(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        // This test binary is `<target>/<profile>/deps/e2e-…`.
        let ourselves = std::env::current_exe().expect("the path of this program");
        let profile = ourselves.ancestors().nth(2).expect("cargo's layout").to_owned();
        build(&profile);
        profile
    });
    let path = directory.join(name);
    assert!(path.is_file(), "there is no {}", path.display());
    path
}

/// `cargo test` builds no programs of other crates. When they are up to date, this takes a moment.
fn build(profile: &Path) {
    // Started without cargo, the tests take what is there.
    let Some(cargo) = std::env::var_os("CARGO") else { return };
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--workspace", "--bins"]).current_dir(repository());
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().expect("cargo can be started");
    assert!(status.success(), "the programs do not compile");
}

/// Paths below `root` of all files in one of its folders and in the folders of that.
pub fn files_below(root: &Path, folder: &str) -> Vec<String> {
    let (mut found, mut left) = (Vec::new(), vec![root.join(folder)]);
    while let Some(folder) = left.pop() {
        // One that nothing was put into is not there.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                left.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(root).expect("below it").display().to_string());
            }
        }
    }
    found.sort();
    found
}
