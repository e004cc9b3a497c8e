//! What an answer says about the file in it.

use actix_web::HttpResponseBuilder;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actors::file_transfer::FileInfo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

const PATH: HeaderName = HeaderName::from_static("x-men-file-path");
const UID: HeaderName = HeaderName::from_static("x-men-file-uid");
const GID: HeaderName = HeaderName::from_static("x-men-file-gid");
const MODE: HeaderName = HeaderName::from_static("x-men-file-mode");
const SIZE: HeaderName = HeaderName::from_static("x-men-file-size");

/// What RFC 8187 §3.2.1 wants encoded: all but `attr-char`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Adds all headers of a download. `mender-cli` insists on type, mode and size.
pub(super) fn describe(answer: &mut HttpResponseBuilder, path: &str, info: &FileInfo) {
    answer
        .insert_header((header::CONTENT_TYPE, "application/octet-stream"))
        // Compressing it would delay what is there and keep clients from resuming at a byte.
        .insert_header((header::CONTENT_ENCODING, "identity"))
        .insert_header((header::CONTENT_DISPOSITION, disposition(path)))
        .insert_header((PATH, path_value(path)))
        .insert_header((MODE, format!("{:o}", info.mode)))
        .insert_header((SIZE, info.size.to_string()));
    if let Some(uid) = info.uid {
        answer.insert_header((UID, uid.to_string()));
    }
    if let Some(gid) = info.gid {
        answer.insert_header((GID, gid.to_string()));
    }
}

/// The file's name for whoever saves it. (RFC 6266: a plain form for all, the exact one for those who read it.)
fn disposition(path: &str) -> HeaderValue {
    let name = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or("file");
    let mut plain = String::with_capacity(name.len());
    let mut is_exact = true;
    for character in name.chars() {
        match character {
            '"' | '\\' => plain.extend(['\\', character]),
            ' '..='~' => plain.push(character),
            _ => {
                plain.push('_');
                is_exact = false;
            }
        }
    }
    let mut value = format!("attachment; filename=\"{plain}\"");
    if !is_exact {
        value += "; filename*=UTF-8''";
        value.extend(utf8_percent_encode(name, ENCODED));
    }
    HeaderValue::try_from(value).expect("visible ASCII")
}

/// The path as it was asked for. Characters that would end the header are encoded.
fn path_value(path: &str) -> HeaderValue {
    const CONTROLS: &AsciiSet = percent_encoding::CONTROLS;
    HeaderValue::from_str(path).unwrap_or_else(|_| {
        let mut encoded = String::with_capacity(path.len());
        for character in path.chars() {
            if character.is_ascii_control() {
                let mut bytes = [0; 4];
                encoded.extend(utf8_percent_encode(character.encode_utf8(&mut bytes), CONTROLS));
            } else {
                encoded.push(character);
            }
        }
        HeaderValue::from_bytes(encoded.as_bytes()).expect("no control characters are left")
    })
}

#[cfg(test)]
mod tests {
    use actix_web::HttpResponse;

    use super::*;

    fn text(value: &HeaderValue) -> String {
        String::from_utf8(value.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn names_are_quoted_and_spelt_out_where_needed() {
        for (path, wanted) in [
            ("/etc/passwd", r#"attachment; filename="passwd""#),
            ("/a b.txt", r#"attachment; filename="a b.txt""#),
            ("/say \"hi\".txt", r#"attachment; filename="say \"hi\".txt""#),
            ("/back\\slash", r#"attachment; filename="back\\slash""#),
            ("/größe.txt", r#"attachment; filename="gr__e.txt"; filename*=UTF-8''gr%C3%B6%C3%9Fe.txt"#),
            ("/a\r\nX-Evil: 1", r#"attachment; filename="a__X-Evil: 1"; filename*=UTF-8''a%0D%0AX-Evil%3A%201"#),
            ("/folder/", r#"attachment; filename="folder""#),
            ("/", r#"attachment; filename="file""#),
        ] {
            assert_eq!(text(&disposition(path)), wanted, "{path:?}");
        }
    }

    #[test]
    fn a_path_is_repeated_as_it_was_asked_for() {
        assert_eq!(text(&path_value("/größe \"x\".txt")), "/größe \"x\".txt");
        assert_eq!(text(&path_value("/a\r\nX-Evil: ü\u{7f}")), "/a%0D%0AX-Evil: ü%7F");
    }

    #[test]
    fn every_header_is_there_and_an_unknown_owner_is_not() {
        let described = |info: &FileInfo| {
            let mut answer = HttpResponse::Ok();
            describe(&mut answer, "/etc/x", info);
            let answer = answer.finish();
            let get = |name: &HeaderName| answer.headers().get(name).map(text);
            [header::CONTENT_TYPE, PATH, UID, GID, MODE, SIZE].map(|name| get(&name).unwrap_or_default())
        };
        let info = FileInfo { size: 5_000_000_000, uid: Some(0), gid: Some(7), mode: 0o644, modtime: None };
        assert_eq!(described(&info), ["application/octet-stream", "/etc/x", "0", "7", "644", "5000000000"]);
        let info = FileInfo { mode: 1 << 23 | 0o755, ..FileInfo::default() };
        assert_eq!(described(&info), ["application/octet-stream", "/etc/x", "", "", "40000755", "0"]);
    }
}
