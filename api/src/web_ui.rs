//! The web UI: files of a built one from a folder, and the environment it reads at its start.
//!
//! The UI finds its own pages, so a path that is no file gets the index. Locations of redirects are relative, so that
//! they keep scheme, host and port.

mod environment;
mod files;

use std::path::{Path, PathBuf};

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::body::answer_json;
use crate::error::ApiError;
use crate::state::ApiState;

/// Where the UI lives.
const HOME: &str = "/ui/";

/// Pages change with every release under the same name.
const NEVER_KEPT: &str = "no-store, no-cache, must-revalidate, proxy-revalidate, max-age=0";

/// A file whose name holds a hash of its content is that content for ever.
const KEPT_FOREVER: &str = "public, max-age=31536000, immutable";

/// Where the UI may load things from. Its bundle has inline scripts and styles, and its maps come from `OpenStreetMap`.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; connect-src 'self'; script-src 'self' 'unsafe-inline'; \
     style-src 'self' 'unsafe-inline'; img-src 'self' data: https://*.tile.openstreetmap.org; font-src 'self' data:; \
     manifest-src 'self'; worker-src 'self' blob:; base-uri 'self'; form-action 'self'; frame-ancestors 'none'";

/// `GET /`, `GET /ui`: the way in.
pub async fn enter(request: HttpRequest) -> HttpResponse {
    redirect(HOME.to_owned(), request.query_string())
}

/// `GET /devices` and the like: links as people type them.
pub async fn shortcut(request: HttpRequest, page: web::Path<String>) -> HttpResponse {
    redirect(format!("{HOME}{page}"), request.query_string())
}

/// `GET /ui/…`: a file, or the index for a page of the UI's own.
///
/// # Errors
/// 404 when no UI is configured.
pub async fn page(
    request: HttpRequest,
    path: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    if path.as_str() == "env.js" {
        return Ok(environment(&request, &state));
    }
    let Some(folder) = &state.config.ui_dir else {
        return Err(ApiError::unknown("this hub has no web UI: its setting ui_dir names no folder"));
    };
    let Some(file) = find(folder, &path).await else {
        return Err(ApiError::unknown("this hub's web UI has no index.html"));
    };
    let keeping = if is_hashed(&file.path) { KEPT_FOREVER } else { NEVER_KEPT };
    let kind = files::content_type(&file.path);
    Ok(with_headers(HttpResponse::Ok().content_type(kind).body(file.into_body()), keeping))
}

/// `GET /tags.json`, `GET /versions.json`: UIs up to 4.1 ask for hints about releases; there are none.
pub async fn no_hints() -> HttpResponse {
    answer_json(&mut HttpResponse::Ok(), &[(); 0])
}

fn environment(request: &HttpRequest, state: &ApiState) -> HttpResponse {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let script = environment::script(host, state.config.unlimited_reported_as);
    with_headers(HttpResponse::Ok().content_type("application/javascript; charset=utf-8").body(script), NEVER_KEPT)
}

/// The file itself, the index of the folder, or the UI's index.
async fn find(folder: &Path, path: &str) -> Option<files::File> {
    let inside = files::inside(path);
    let candidates = [inside.clone(), inside.map(|path| path.join("index.html")), Some(PathBuf::from("index.html"))];
    for candidate in candidates.into_iter().flatten() {
        if let Some(file) = files::open(folder, &candidate).await {
            return Some(file);
        }
    }
    None
}

fn redirect(mut location: String, query: &str) -> HttpResponse {
    if !query.is_empty() {
        location.push('?');
        location.push_str(query);
    }
    HttpResponse::build(StatusCode::MOVED_PERMANENTLY).insert_header((header::LOCATION, location)).finish()
}

fn with_headers(mut answer: HttpResponse, keeping: &'static str) -> HttpResponse {
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keeping));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    answer
}

/// Whether the name is like `main.3f9a2b7c.js` or `index-BQ3kX9_a.css`: bundlers put a hash of at least eight characters
/// before the extension, and a digit in it tells it from a word.
fn is_hashed(path: &Path) -> bool {
    let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { return false };
    let Some((_, hash)) = stem.rsplit_once(['.', '-']) else { return false };
    hash.len() >= 8
        && hash.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && hash.bytes().any(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_relative_and_keep_the_query() {
        let location =
            |answer: HttpResponse| answer.headers().get(header::LOCATION).unwrap().to_str().unwrap().to_owned();
        assert_eq!(location(redirect(HOME.into(), "")), "/ui/");
        assert_eq!(location(redirect("/ui/devices".into(), "id=1")), "/ui/devices?id=1");
    }

    #[test]
    fn only_hashed_names_are_kept() {
        assert!(is_hashed(Path::new("static/main.3f9a2b7c.js")));
        assert!(is_hashed(Path::new("assets/index-BQ3kX9_a.css")));
        for path in ["index.html", "env.js", "main.js", "logo-standard.svg", "some.component.js"] {
            assert!(!is_hashed(Path::new(path)), "{path}");
        }
    }

    #[actix_web::test]
    async fn unknown_pages_get_the_index_and_nothing_outside_is_served() {
        let folder = std::env::temp_dir().join(format!("mooring-ui-{}", uuid::Uuid::new_v4()));
        let ui = folder.join("ui");
        std::fs::create_dir_all(ui.join("help")).unwrap();
        std::fs::write(folder.join("secret.txt"), "secret").unwrap();
        std::fs::write(ui.join("index.html"), "index").unwrap();
        std::fs::write(ui.join("help/index.html"), "help").unwrap();
        std::fs::write(ui.join("app.js"), "app").unwrap();
        std::os::unix::fs::symlink(folder.join("secret.txt"), ui.join("link.txt")).unwrap();

        for (path, content) in [
            ("", "index"),
            ("app.js", "app"),
            ("help", "help"),
            ("devices/accepted", "index"),
            ("../secret.txt", "index"),
            ("..%2fsecret.txt", "index"),
            ("help/../../secret.txt", "index"),
            ("/etc/passwd", "index"),
            ("link.txt", "index"),
            ("a\0b", "index"),
        ] {
            let body = find(&ui, path).await.unwrap().into_body();
            let body = actix_web::body::to_bytes(body).await.ok().unwrap();
            assert_eq!(body, content, "{path}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
