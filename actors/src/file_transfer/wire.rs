//! The bodies of file transfer and control messages. (Protocols 2 and 65535.)

use serde::de::{self, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::DeviceError;

/// Characters of a device's error that are passed on.
const TEXT_LIMIT: usize = 1024;

/// Bits of a file's mode that say that it is no regular file. These are the bits of Go's `FileMode`, not of POSIX:
/// directory, symbolic link, device, pipe, socket, character device, irregular.
const IRREGULAR: u32 = 1 << 31 | 1 << 27 | 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19;

/// What a device says about a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct FileInfo {
    /// Its size in bytes. Files that the device's system makes up as they are read say 0.
    #[serde(default)]
    pub size: i64,
    /// Owner.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Group.
    #[serde(default)]
    pub gid: Option<u32>,
    /// Kind and permissions, as Go writes them.
    #[serde(default)]
    pub mode: u32,
    /// When its contents last changed.
    #[serde(default)]
    pub modtime: Option<Moment>,
}

impl FileInfo {
    /// Reads the body of `file_info`.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(body).ok().filter(|info: &Self| info.size >= 0)
    }

    /// Whether it can be downloaded.
    pub fn is_regular(&self) -> bool {
        self.mode & IRREGULAR == 0
    }

    /// A name for this state of the file: another size or time of change is another name.
    pub fn version(&self) -> String {
        let changed = self.modtime.as_ref().map_or_else(String::new, |moment| {
            moment.0.iter().fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"))
        });
        format!("{:x}-{changed}", self.size)
    }
}

/// A moment as the device wrote it: the bytes of a `MessagePack` timestamp. It is compared and never computed with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moment(Vec<u8>);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Moment;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a moment")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, extension: D) -> Result<Moment, D::Error> {
                extension.deserialize_any(self)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut extension: A) -> Result<Moment, A::Error> {
                let _kind: Option<i8> = extension.next_element()?;
                let bytes: Option<serde_bytes::ByteBuf> = extension.next_element()?;
                while extension.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Moment(bytes.unwrap_or_default().into_vec()))
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Moment, E> {
                Ok(Moment(seconds.to_be_bytes().to_vec()))
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Moment, E> {
                Ok(Moment(seconds.to_be_bytes().to_vec()))
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Moment, E> {
                Ok(Moment(seconds.to_be_bytes().to_vec()))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Moment, E> {
                Ok(Moment(text.as_bytes().to_vec()))
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

/// Body of `open`.
#[derive(Serialize)]
pub(super) struct Open {
    pub(super) versions: [u8; 1],
}

/// Body of `stat` and `get_file`.
#[derive(Serialize)]
pub(super) struct Path<'a> {
    pub(super) path: &'a str,
}

/// Body of `put_file`. Its size is not known when it begins.
#[derive(Serialize)]
pub(super) struct Put<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) src_path: Option<&'a str>,
    pub(super) path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mode: Option<u32>,
}

/// A body as devices read it.
pub(super) fn body(of: &impl Serialize) -> Vec<u8> {
    rmp_serde::to_vec_named(of).expect("a plain struct encodes")
}

/// The protocols that a device's `accept` names; `None` if it cannot be read.
pub(super) fn accepted_protocols(body: &[u8]) -> Option<Vec<u16>> {
    #[derive(Deserialize)]
    struct Accept {
        #[serde(default)]
        protocols: Option<Vec<u16>>,
    }
    rmp_serde::from_slice(body).ok().map(|accept: Accept| accept.protocols.unwrap_or_default())
}

/// What the body of an `error` says. One that cannot be read says so.
pub(super) fn device_error(body: &[u8]) -> DeviceError {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        err: Option<String>,
        #[serde(default)]
        code: Option<i64>,
    }
    let Ok(Body { err, code }) = rmp_serde::from_slice(body) else {
        return DeviceError { text: "an error that cannot be read".to_owned(), code: None };
    };
    let text = err.unwrap_or_default().chars().take(TEXT_LIMIT).collect();
    let code = code.and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code));
    DeviceError { text, code }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    /// `{path: "/x", size: 10000, uid: 0, gid: 7, mode: 0644, modtime: <8-byte timestamp>}`, widths as Go writes them.
    const INFO: &str = "86 a470617468 a22f78  a473697a65 d30000000000002710  a3756964 ce00000000  a3676964 ce00000007 \
                        a46d6f6465 ce000001a4  a76d6f6474696d65 d7ff 0000000465000000";

    #[test]
    fn an_agents_file_info_is_read() {
        let info = FileInfo::read(&bytes(INFO)).unwrap();
        assert_eq!((info.size, info.uid, info.gid, info.mode), (10_000, Some(0), Some(7), 0o644));
        assert!(info.is_regular());
        assert_eq!(info.version(), "2710-0000000465000000");
    }

    #[test]
    fn a_sparse_file_info_is_read_and_garbage_is_not() {
        let sparse = FileInfo::read(&bytes("82 a473697a65 05 a76d6f6474696d65 c0")).unwrap();
        assert_eq!((sparse.size, sparse.uid, sparse.mode, sparse.modtime), (5, None, 0, None));
        assert!(FileInfo::read(&bytes("81 a76d6f6474696d65 ce65000000")).unwrap().modtime.is_some());
        for (hex, what) in [("", "nothing"), ("c0", "nil"), ("81 a473697a65 a16c", "text"), ("81 a473697a65 ff", "-1")]
        {
            assert_eq!(FileInfo::read(&bytes(hex)), None, "{what}");
        }
    }

    #[test]
    fn only_regular_files_are_regular() {
        for bit in [31, 27, 26, 25, 24, 21, 19] {
            assert!(!FileInfo { mode: 0o644 | 1 << bit, ..FileInfo::default() }.is_regular(), "bit {bit}");
        }
        // Set-user-id, set-group-id and sticky files are files.
        for bit in [23, 22, 20] {
            assert!(FileInfo { mode: 0o755 | 1 << bit, ..FileInfo::default() }.is_regular(), "bit {bit}");
        }
    }

    #[test]
    fn a_list_of_protocols_is_read_in_any_width() {
        let accept = bytes("82 a776657273696f6e 01 a970726f746f636f6c73 94 cd0001 02 cd0003 cc04");
        assert_eq!(accepted_protocols(&accept), Some(vec![1, 2, 3, 4]));
        assert_eq!(accepted_protocols(&bytes("81 a776657273696f6e 01")), Some(vec![]));
        assert_eq!(accepted_protocols(b""), None);
    }

    #[test]
    fn a_devices_error_is_cut_and_its_code_checked() {
        #[derive(Serialize)]
        struct Body<'a> {
            err: &'a str,
            close: bool,
            code: i64,
        }
        let read = |err: &str, code| device_error(&body(&Body { err, close: true, code }));
        assert_eq!(read("no", 403), DeviceError { text: "no".into(), code: Some(403) });
        for code in [0, 200, 399, 600, 1000, -1, 70_000] {
            assert_eq!(read("no", code).code, None, "{code}");
        }
        assert_eq!(read(&"ü".repeat(5000), 0).text.chars().count(), TEXT_LIMIT);
        assert!(!device_error(b"\xc1").text.is_empty());
    }

    #[test]
    fn what_is_not_said_is_left_out_of_a_put() {
        let put = Put { src_path: None, path: "/x", uid: None, gid: None, mode: None };
        assert_eq!(body(&put), bytes("81 a470617468 a22f78"));
    }
}
