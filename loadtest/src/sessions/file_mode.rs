//! File modes between this system and the wire, where they have the bits of Go's `os.FileMode`.

/// Go's bits beside the permissions, and what they are on Unix.
const DIRECTORY: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const PIPE: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const CHARACTER_DEVICE: u32 = 1 << 21;
const SPECIAL: [(u32, u32); 3] = [(1 << 23, 0o4000), (1 << 22, 0o2000), (1 << 20, 0o1000)];
const PERMISSIONS: u32 = 0o777;
const UNIX_TYPE: u32 = 0o170_000;

/// The wire's form of a mode of `stat`.
pub(super) fn to_wire(unix: u32) -> u32 {
    let kind = match unix & UNIX_TYPE {
        0o040_000 => DIRECTORY,
        0o120_000 => SYMLINK,
        0o060_000 => DEVICE,
        0o020_000 => DEVICE | CHARACTER_DEVICE,
        0o010_000 => PIPE,
        0o140_000 => SOCKET,
        _ => 0,
    };
    let special = SPECIAL.iter().filter(|(_, bit)| unix & bit != 0).fold(0, |sum, (go, _)| sum | go);
    kind | special | unix & PERMISSIONS
}

/// What `chmod` takes for a mode from the wire.
pub(super) fn from_wire(go: u32) -> u32 {
    SPECIAL.iter().filter(|(bit, _)| go & bit != 0).fold(go & PERMISSIONS, |sum, (_, unix)| sum | unix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_go_s_bits_on_the_wire() {
        for (unix, go) in [
            (0o100_644, 0o644),
            (0o040_755, 1 << 31 | 0o755),
            (0o104_755, 1 << 23 | 0o755),
            (0o041_777, 1 << 31 | 1 << 20 | 0o777),
            (0o020_666, 1 << 26 | 1 << 21 | 0o666),
            (0o010_600, 1 << 25 | 0o600),
            (0o140_600, 1 << 24 | 0o600),
        ] {
            assert_eq!(to_wire(unix), go, "{unix:o}");
            assert_eq!(from_wire(go), unix & 0o7777, "{unix:o}");
        }
    }
}
