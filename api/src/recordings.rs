//! What sessions showed: as a file for players, and the answer for those who ask for a playback without opening a
//! websocket. The playback itself never gets here: [`crate::sockets`].

use actix_web::http::header;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, web};
use actors::audit::{RECORDING_VIEWED, Visit};
use actors::recording::Recordings;
use futures_util::{StreamExt, TryStreamExt, stream};
use storage::SessionId;

use crate::auth::AuthenticatedUser;
use crate::device_connect::no_socket_opened;
use crate::error::ApiError;
use crate::middleware::observe::RequestId;
use crate::state::ApiState;

/// What a `.cast` file is, to players and browsers.
const ASCIICAST: &str = "application/x-asciicast";

/// The 404 of a session of which nothing was recorded, or that never was.
pub fn not_found() -> ApiError {
    ApiError::unknown("recording not found")
}

/// `GET /sessions/{id}/recording`: the asciicast, so far if the session goes on. (Ours.)
///
/// # Errors
/// 404; 503 if it cannot be written down who asked.
pub async fn download(
    AuthenticatedUser(user): AuthenticatedUser,
    request: HttpRequest,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let session: SessionId = id.parse().map_err(|_| not_found())?;
    let mut pieces = Recordings::new(&state.storage.objects).cast(session).boxed();
    // Whether there is one has to be known before the answer begins.
    let first = pieces.next().await.ok_or_else(not_found)??;
    let visit = Visit {
        action: RECORDING_VIEWED,
        mode: "download",
        session,
        device: state.storage.sessions.find(session).await?.map(|record| record.device),
        user: user.user,
        address: Some(state.client_of(&request).to_string()),
        request: request.extensions().get::<RequestId>().map(|id| id.0.clone()),
    };
    state.storage.audit.begin(&visit.into()).await?;
    // An answer that breaks off is the only way left to say that the rest cannot be read.
    let rest = pieces.map_err(ApiError::from).inspect_err(move |error| {
        let error = error as &dyn std::error::Error;
        tracing::warn!(session.id = %session, error, "the download of a recording breaks off");
    });
    let mut answer = HttpResponse::Ok();
    answer.content_type(ASCIICAST);
    answer.insert_header((header::CONTENT_DISPOSITION, format!("attachment; filename=\"{session}.cast\"")));
    Ok(answer.streaming(stream::once(std::future::ready(Ok(first))).chain(rest)))
}

/// `DELETE /sessions/{id}/recording`. (Ours.)
///
/// # Errors
/// 404.
pub async fn delete(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let session: SessionId = id.parse().map_err(|_| not_found())?;
    if Recordings::new(&state.storage.objects).remove(session).await? {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(not_found())
    }
}

/// `GET /sessions/{id}/playback` by somebody who opens no websocket.
///
/// # Errors
/// Always: 404 if there is nothing to play, else what is wrong with the request.
pub async fn playback_without_socket(
    _: AuthenticatedUser,
    request: HttpRequest,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let session: SessionId = id.parse().map_err(|_| not_found())?;
    if !Recordings::new(&state.storage.objects).exists(session).await? {
        return Err(not_found());
    }
    Err(no_socket_opened(request.headers()))
}
