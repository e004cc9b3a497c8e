//! Files of one folder, and of nothing outside it.

use std::io;
use std::path::{Component, Path, PathBuf};

use actix_web::body::{BoxBody, SizedStream};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::io::{AsyncReadExt, Take};

/// Bytes read from a file at once.
const CHUNK: usize = 64 * 1024;

/// An open file.
#[derive(Debug)]
pub struct File {
    /// Where it is in the folder.
    pub path: PathBuf,
    /// Its length when it was opened, in bytes.
    pub size: u64,
    content: tokio::fs::File,
}

impl File {
    /// Its content, read as fast as the client takes it.
    pub fn into_body(self) -> BoxBody {
        // Never more than was announced, should the file grow meanwhile.
        let content = stream::unfold(self.content.take(self.size), next_chunk);
        BoxBody::new(SizedStream::new(self.size, Box::pin(content)))
    }
}

async fn next_chunk(mut file: Take<tokio::fs::File>) -> Option<(io::Result<Bytes>, Take<tokio::fs::File>)> {
    let mut chunk = BytesMut::with_capacity(CHUNK);
    match file.read_buf(&mut chunk).await {
        Ok(0) => None,
        Ok(_) => Some((Ok(chunk.freeze()), file)),
        Err(error) => Some((Err(error), file)),
    }
}

/// The path as one that can only lead further in, or `None`: a name that hides or climbs is nobody's page.
pub fn inside(path: &str) -> Option<PathBuf> {
    if path.contains(['\0', '\\', '%']) {
        return None;
    }
    let path = Path::new(path.trim_matches('/'));
    let mut found = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if !name.as_encoded_bytes().starts_with(b".") => found.push(name),
            _ => return None,
        }
    }
    (!found.as_os_str().is_empty()).then_some(found)
}

/// Opens a file below `folder`, `None` if there is none. Links count as where they lead.
pub async fn open(folder: &Path, path: &Path) -> Option<File> {
    let whole = tokio::fs::canonicalize(folder.join(path)).await.ok()?;
    if !whole.starts_with(tokio::fs::canonicalize(folder).await.ok()?) {
        return None;
    }
    let content = tokio::fs::File::open(&whole).await.ok()?;
    let about = content.metadata().await.ok()?;
    about.is_file().then(|| File { path: path.to_owned(), size: about.len(), content })
}

/// The content type by the file's name.
pub fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()).unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "application/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "txt" | "md" => "text/plain; charset=utf-8",
        "wasm" => "application/wasm",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_can_only_lead_further_in() {
        assert_eq!(inside("static/app.js"), Some(PathBuf::from("static/app.js")));
        assert_eq!(inside("devices/"), Some(PathBuf::from("devices")));
        for path in ["", "/", "..", "a/../b", "../a", "a/..", ".git/config", "a/.env", "a\\b", "a\0", "%2e%2e/a"] {
            assert_eq!(inside(path), None, "{path:?}");
        }
    }

    #[test]
    fn the_content_type_follows_the_name() {
        assert_eq!(content_type(Path::new("index.html")), "text/html; charset=utf-8");
        assert_eq!(content_type(Path::new("a/b.min.js")), "application/javascript; charset=utf-8");
        assert_eq!(content_type(Path::new("LICENSE")), "application/octet-stream");
    }
}
