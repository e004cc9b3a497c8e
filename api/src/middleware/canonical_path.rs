//! One spelling of every path, and no forged headers, before anything is decided about a request.

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Uri;
use actix_web::http::uri::PathAndQuery;
use actix_web::middleware::Next;

use crate::headers::strip_restrictions;

/// The layer.
///
/// # Errors
/// Those of the layers inside.
pub async fn canonicalise_path<B: MessageBody>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    strip_restrictions(request.headers_mut());
    if let Some(uri) = canonical(request.path()).and_then(|path| with_path(request.uri(), &path)) {
        request.match_info_mut().get_mut().update(&uri);
        request.head_mut().uri = uri;
    }
    next.call(request).await
}

/// The path as we spell it, if that differs: `mender-cli` writes `//api/…` when its server's name ends in a slash, and
/// a slash at the end changes nothing anywhere but in the web UI, where it means a folder.
pub fn canonical(path: &str) -> Option<String> {
    let inner = path.trim_start_matches('/');
    let is_folder = inner == "ui/" || inner.starts_with("ui/");
    let inner = if is_folder { inner } else { inner.trim_end_matches('/') };
    let canonical = format!("/{inner}");
    (canonical != path).then_some(canonical)
}

fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use actix_web::middleware::from_fn;
    use actix_web::test::{TestRequest, call_service, init_service};
    use actix_web::{App, HttpRequest, web};

    use super::*;

    #[test]
    fn only_the_ends_of_a_path_are_touched() {
        assert_eq!(canonical("//api/x").as_deref(), Some("/api/x"));
        assert_eq!(canonical("/api/x/").as_deref(), Some("/api/x"));
        assert_eq!(canonical("/api/x//y"), None);
        assert_eq!(canonical("/ui/"), None);
        assert_eq!(canonical("//ui/devices/").as_deref(), Some("/ui/devices/"));
        assert_eq!(canonical("/"), None);
        assert_eq!(canonical("///").as_deref(), Some("/"));
    }

    #[actix_web::test]
    async fn both_spellings_reach_the_same_handler_with_their_query() {
        async fn found(request: HttpRequest, id: web::Path<String>) -> String {
            format!("{} {id} {}", request.path(), request.query_string())
        }
        let app = App::new().wrap(from_fn(canonicalise_path)).route("/api/devices/{id}", web::get().to(found));
        let app = init_service(app).await;
        for path in ["/api/devices/7?a=1", "//api/devices/7?a=1", "/api/devices/7/?a=1"] {
            let response = call_service(&app, TestRequest::get().uri(path).to_request()).await;
            let body = actix_web::test::read_body(response).await;
            assert_eq!(body, "/api/devices/7 7 a=1", "{path}");
        }
    }
}
