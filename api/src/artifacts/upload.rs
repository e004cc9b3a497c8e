//! Artifacts on their way in.

use std::error::Error;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use actors::artifact_file::single_file::SingleFile;
use actors::artifacts::{GenerateError, NewFile, UploadError, Wish};
use serde::Serialize;
use serde_json::{Map, Value};
use storage::{ArtifactId, UploadState};

use super::listing::check_description;
use super::{artifact_id, base, body_limit, no_such};
use crate::auth::AuthenticatedUser;
use crate::body::answer_json;
use crate::error::ApiError;
use crate::form::Form;
use crate::internal::ours;
use crate::state::ApiState;

/// Bytes of a description that are read; fewer are kept.
const DESCRIPTION_READ: usize = 1024 * 1024;

/// Digits of a size.
const SIZE_LIMIT: usize = 20;

/// Bytes of a short text.
const TEXT_LIMIT: usize = 4096;

/// Bytes of all kinds of device together.
const DEVICE_TYPES_READ: usize = 64 * 1024;

/// Characters of a name, a kind of device or a type, in what the hub makes itself. (Mender API: generate.)
const NAME_LIMIT: usize = 256;

/// `POST /artifacts`: a form whose last part is the file, which is checked while it is stored.
///
/// # Errors
/// 400 for a form or a file against the rules, 409 for an artifact that is there already, 413, 415.
pub async fn upload(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    take(&request, &state, body).await
}

/// `POST /tenants/{tenant}/artifacts`, internally: the same for another service. (Mender API: the tenant `default` is none.)
///
/// # Errors
/// As [`upload`]; 404 for another tenant.
pub async fn upload_for_service(
    tenant: web::Path<String>,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    if *tenant != "default" {
        ours(&tenant)?;
    }
    take(&request, &state, body).await
}

async fn take(request: &HttpRequest, state: &ApiState, body: web::Payload) -> Result<HttpResponse, ApiError> {
    let mut form = read_form(state, request, body)?;
    let mut wish = Wish::default();
    while let Some(mut part) = form.next_part().await? {
        match part.name().unwrap_or_default().to_ascii_lowercase().as_str() {
            "description" => {
                wish.description = form.value(&mut part, "description", DESCRIPTION_READ).await?;
                check_description(&wish.description)?;
            }
            "size" => {
                let size = size(&form.value(&mut part, "size", SIZE_LIMIT).await?)?;
                if size > state.artifacts.config().size_limit {
                    return Err(ApiError::bad_request("Artifact file too large"));
                }
                wish.size = Some(size);
            }
            "artifact_id" => {
                wish.id = Some(artifact_id(&form.value(&mut part, "artifact_id", TEXT_LIMIT).await?)?);
            }
            "artifact" => {
                let file = form.file_in_time(part);
                let id = state.artifacts.upload(wish, file).await?;
                return Ok(created(request, id));
            }
            _ => form.pass_over(&mut part).await?,
        }
    }
    Err(ApiError::bad_request("request does not contain the artifact file"))
}

/// `POST /artifacts/generate`: a form whose last part is a file, of which the hub makes an artifact that appears later.
///
/// # Errors
/// 400 for a form against the rules, 413, 415, 422 for an artifact that is there already.
pub async fn generate(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
    body: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let mut form = read_form(&state, &request, body)?;
    let mut asked = Asked::default();
    while let Some(mut part) = form.next_part().await? {
        match part.name().unwrap_or_default().to_ascii_lowercase().as_str() {
            "name" => asked.name = form.value(&mut part, "name", TEXT_LIMIT).await?,
            "description" => asked.description = form.value(&mut part, "description", DESCRIPTION_READ).await?,
            "device_types_compatible" => {
                asked.device_types = form.value(&mut part, "device_types_compatible", DEVICE_TYPES_READ).await?;
            }
            "type" => asked.kind = form.value(&mut part, "type", TEXT_LIMIT).await?,
            "args" => asked.args = form.value(&mut part, "args", 4 * TEXT_LIMIT).await?,
            "size" => {
                let size = size(&form.value(&mut part, "size", SIZE_LIMIT).await?)?;
                if size > state.artifacts.config().generate_limit {
                    return Err(ApiError::bad_request("Artifact file too large"));
                }
                asked.size = Some(size);
            }
            "file" => {
                let new = asked.check()?;
                let file = form.file_in_time(part);
                let id = state.artifacts.generate(new, file).await?;
                return Ok(created(&request, id));
            }
            _ => form.pass_over(&mut part).await?,
        }
    }
    Err(ApiError::bad_request("request does not contain the file"))
}

/// What a form asks to be made.
#[derive(Default)]
struct Asked {
    name: String,
    description: String,
    device_types: String,
    kind: String,
    args: String,
    size: Option<u64>,
}

impl Asked {
    fn check(self) -> Result<NewFile, ApiError> {
        let in_range = |what: &str, text: &str| match text.chars().count() {
            0 => Err(ApiError::bad_request(format!("{what}: cannot be blank."))),
            length if length > NAME_LIMIT => {
                Err(ApiError::bad_request(format!("{what}: the length must be between 1 and {NAME_LIMIT}.")))
            }
            _ => Ok(()),
        };
        in_range("name", &self.name)?;
        in_range("type", &self.kind)?;
        check_description(&self.description)?;
        if !matches!(self.kind.as_str(), "single_file" | "single-file") {
            return Err(ApiError::bad_request("type: only \"single_file\" is known"));
        }
        let device_types: Vec<String> = self.device_types.split(',').map(|kind| kind.trim().to_owned()).collect();
        if device_types.len() > NAME_LIMIT {
            return Err(ApiError::bad_request("device_types_compatible: there are more than 256"));
        }
        device_types.iter().try_for_each(|kind| in_range("device_types_compatible", kind))?;
        let single = SingleFile::parse(&self.name, device_types, &self.args)
            .map_err(|fault| ApiError::bad_request(fault.to_string()))?;
        Ok(NewFile { single, description: self.description, size: self.size })
    }
}

/// A link by which a client may bring a file itself.
#[derive(Serialize)]
struct UploadLink {
    id: ArtifactId,
    uri: String,
    expire: String,
    method: &'static str,
    /// Headers that the client has to send with it.
    header: Map<String, Value>,
}

/// `POST /artifacts/directupload`.
///
/// # Errors
/// 404 if that is switched off.
pub async fn announce(
    _: AuthenticatedUser,
    request: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    if !state.artifacts.config().direct_upload {
        return Err(ApiError::not_found());
    }
    let base = base(&state, &request)?;
    let announced = state.artifacts.announce().await?;
    let link = state.artifacts.upload_link(&announced, &base).await?;
    let expire = link.expires.rfc3339();
    let body = UploadLink { id: announced.id, uri: link.url, expire, method: "PUT", header: Map::new() };
    Ok(answer_json(&mut HttpResponse::Ok(), &body))
}

/// `POST /artifacts/directupload/{id}/complete`: the file is there. What the body says about it is not needed, since the file
/// is read.
///
/// # Errors
/// 400, 404 if no file was brought or this was said before.
pub async fn complete(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    if !state.artifacts.config().direct_upload {
        return Err(ApiError::not_found());
    }
    if state.artifacts.brought(artifact_id(&id)?).await? {
        Ok(HttpResponse::Accepted().finish())
    } else {
        Err(no_such())
    }
}

/// `GET /mooring/artifacts/uploads/{id}`: what became of a direct upload, or of a file that an artifact was to be made of. (Ours.)
///
/// # Errors
/// 400, 404.
pub async fn status(
    _: AuthenticatedUser,
    id: web::Path<String>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    #[derive(Serialize)]
    struct Status {
        id: ArtifactId,
        state: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    }
    let id = artifact_id(&id)?;
    let found = match state.storage.uploads.of_artifact(id).await? {
        Some(upload) => {
            // How the bytes get to their place is no business of whoever asks.
            let state = match upload.state {
                UploadState::Writing => UploadState::Processing,
                UploadState::Removing => UploadState::Aborted,
                state => state,
            };
            Status { id, state: state.as_str(), reason: upload.reason }
        }
        None if state.storage.artifacts.find(id).await?.is_some() => {
            Status { id, state: UploadState::Completed.as_str(), reason: None }
        }
        None => return Err(no_such()),
    };
    Ok(answer_json(&mut HttpResponse::Ok(), &found))
}

fn read_form(state: &ApiState, request: &HttpRequest, body: web::Payload) -> Result<Form, ApiError> {
    let limit = body_limit(state, request.method().as_str(), request.path()).unwrap_or(state.config.body_limit);
    Form::read(request.headers(), body.into_inner(), limit, state.artifacts.config().deadline)
}

fn size(text: &str) -> Result<u64, ApiError> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number).ok_or_else(|| ApiError::bad_request("size: must be a whole number."))
}

fn created(request: &HttpRequest, id: ArtifactId) -> HttpResponse {
    let path = request.path().trim_end_matches("/generate");
    HttpResponse::Created().insert_header((header::LOCATION, format!("{path}/{id}"))).finish()
}

impl From<UploadError<ApiError>> for ApiError {
    fn from(error: UploadError<Self>) -> Self {
        match error {
            UploadError::Broken(error) => error,
            UploadError::Storage(error) => error.into(),
            UploadError::TooLarge => Self::Other(actix_web::http::StatusCode::PAYLOAD_TOO_LARGE, text(&error)),
            UploadError::NoRoom => Self::Unprocessable(text(&error)),
            UploadError::IdTaken => Self::Conflict(text(&error)),
            UploadError::NotUnique(ref conflict) => {
                let metadata = Map::from_iter([("conflict".to_owned(), Value::Object(conflict.clone()))]);
                let members = Map::from_iter([("metadata".to_owned(), Value::Object(metadata))]);
                Self::Detailed(actix_web::http::StatusCode::CONFLICT, text(&error), members)
            }
            UploadError::Fault(_) | UploadError::Unfit(_) | UploadError::TooShort { .. } | UploadError::GivenUp => {
                Self::BadRequest(text(&error))
            }
        }
    }
}

impl From<GenerateError<ApiError>> for ApiError {
    fn from(error: GenerateError<Self>) -> Self {
        match error {
            GenerateError::Broken(error) => error,
            GenerateError::Storage(error) => error.into(),
            GenerateError::NotUnique => Self::Unprocessable(text(&error)),
            GenerateError::TooLarge => Self::Other(actix_web::http::StatusCode::PAYLOAD_TOO_LARGE, text(&error)),
            GenerateError::TooShort { .. } | GenerateError::GivenUp => Self::BadRequest(text(&error)),
        }
    }
}

fn text(error: &dyn Error) -> crate::error::Text {
    error.to_string().into()
}
