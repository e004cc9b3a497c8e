//! The reader of upload forms, whatever pieces the body arrives in.

use api::file_transfer::fuzzing::read_form;
use bytes::Bytes;

/// Small, so that inputs of a fuzzer's size meet it.
const LIMIT: u64 = 8 * 1024;
/// Bytes in a part other than the file.
const VALUE_LIMIT: usize = 4096;
const NAME_LIMIT: usize = 255;

/// Nothing panics, values are bounded, and what a form says does not depend on where the network cuts it.
///
/// The first byte chooses the cuts, the rest is the body; its boundary is `b`.
pub fn run(bytes: &[u8]) {
    let Some((&cuts, body)) = bytes.split_first() else { return };
    let whole = read_form(vec![Bytes::copy_from_slice(body)], LIMIT);
    let size = 1 + usize::from(cuts % 61);
    let pieces = body.chunks(size).map(Bytes::copy_from_slice).collect();
    let cut = read_form(pieces, LIMIT);
    assert_eq!(whole.as_ref().ok(), cut.as_ref().ok(), "{:?} or {:?}", whole.as_ref().err(), cut.as_ref().err());
    let Ok((target, file)) = whole else { return };
    assert!(file.len() as u64 <= LIMIT);
    assert!(target.path.starts_with('/') && target.path.len() <= VALUE_LIMIT, "{:?}", target.path);
    if let Some(name) = target.name {
        assert!(!name.contains('/') && name.len() <= NAME_LIMIT && name != "." && name != "..", "{name:?}");
    }
}
