//! `mooring artifact`: brings artifacts into a hub, and lists them.

use super::devices::to_seconds;
use super::operator::{self, Operator, refusal};
use anyhow::{Context, bail};
use bytes::Bytes;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use futures_util::{Stream, stream};
use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::{
    Body, Method, StatusCode, header,
    multipart::{Form, Part},
};
use serde::Deserialize;
use std::{io, path::PathBuf};
use tokio::io::AsyncReadExt;

/// Read at once.
const PIECE: usize = 64 << 10;
/// Artifacts asked for at once.
const PAGE: usize = 500;
const ARTIFACTS: &str = "/api/management/v1/deployments/artifacts";

/// Shown below the help.
pub const EXAMPLES: &str = "Examples:
  mooring artifact upload app-2.1.mender --description 'The spring build'
  mooring artifact list --name app";

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Bring an artifact into the hub; prints its id
    Upload(UploadArguments),
    /// List the artifacts
    List(ListArguments),
}

/// Which file.
#[derive(Debug, clap::Args)]
pub struct UploadArguments {
    #[command(flatten)]
    operator: operator::OperatorArguments,
    /// What to say about it
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    /// The file, as `mender-artifact` writes it
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Which artifacts.
#[derive(Debug, clap::Args)]
pub struct ListArguments {
    #[command(flatten)]
    operator: operator::OperatorArguments,
    /// Only artifacts with this in their name
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
}

/// An artifact, as far as the list shows it.
#[derive(Debug, Deserialize)]
struct Listed {
    id: String,
    name: String,
    device_types_compatible: Vec<String>,
    updates: Vec<Update>,
    size: u64,
    modified: String,
}

#[derive(Debug, Deserialize)]
struct Update {
    type_info: TypeInfo,
}

#[derive(Debug, Deserialize)]
struct TypeInfo {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Does it.
pub async fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Upload(arguments) => upload(arguments).await,
        Command::List(arguments) => list(arguments).await,
    }
}

async fn upload(arguments: &UploadArguments) -> anyhow::Result<()> {
    let context = || format!("cannot read {}", arguments.file.display());
    let file = tokio::fs::File::open(&arguments.file).await.with_context(context)?;
    let metadata = file.metadata().await.with_context(context)?;
    if !metadata.is_file() {
        bail!("{} is no regular file", arguments.file.display());
    }
    let size = metadata.len();
    let name = arguments.file.file_name().with_context(context)?.to_string_lossy().into_owned();
    let operator = Operator::arrive(&arguments.operator).await?;
    // Hides itself if standard error is no terminal.
    let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr());
    let template = "{prefix} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(name.clone());

    let body = Body::wrap_stream(pieces(file, size, bar.clone()));
    // The file ends what the hub reads of the form, so it stands last.
    let form = Form::new()
        .percent_encode_noop()
        .text("size", size.to_string())
        .text("description", arguments.description.clone())
        .part("artifact", Part::stream_with_length(body, size).file_name(name));
    let answer = operator.transfer(Method::POST, ARTIFACTS)?.multipart(form).send().await;
    bar.finish_and_clear();
    let answer = answer.context("the connection to the hub broke")?;
    if answer.status() != StatusCode::CREATED {
        return Err(refusal(answer).await);
    }
    let location = answer.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
    let id = location.and_then(|location| location.rsplit('/').next());
    println!("{}", id.context("the hub did not say the id of the artifact")?);
    Ok(())
}

/// The bytes of the file, as many as were announced.
fn pieces(
    file: tokio::fs::File,
    size: u64,
    bar: ProgressBar,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::try_unfold((file.take(size), bar), |(mut file, bar)| async move {
        let mut piece = vec![0; PIECE];
        let count = file.read(&mut piece).await?;
        if count == 0 {
            return if file.limit() == 0 {
                Ok(None)
            } else {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"))
            };
        }
        piece.truncate(count);
        bar.inc(count as u64);
        Ok(Some((piece.into(), (file, bar))))
    })
}

async fn list(arguments: &ListArguments) -> anyhow::Result<()> {
    let operator = Operator::arrive(&arguments.operator).await?;
    let mut artifacts: Vec<Listed> = Vec::new();
    for page in 1.. {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("per_page", &PAGE.to_string()).append_pair("page", &page.to_string());
        if let Some(name) = &arguments.name {
            query.append_pair("name", name);
        }
        let some: Vec<Listed> = operator.get(&format!("{ARTIFACTS}/list?{}", query.finish())).await?;
        let is_last = some.len() < PAGE;
        artifacts.extend(some);
        if is_last {
            break;
        }
    }
    if artifacts.is_empty() {
        println!("no artifacts");
        return Ok(());
    }
    println!("{}", table(&artifacts));
    Ok(())
}

fn table(artifacts: &[Listed]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["ID", "NAME", "FOR", "TYPE", "SIZE", "MODIFIED"]);
    for artifact in artifacts {
        let kinds: Vec<&str> =
            artifact.updates.iter().map(|update| update.type_info.kind.as_deref().unwrap_or("-")).collect();
        table.add_row([
            printable(&artifact.id),
            printable(&artifact.name),
            printable(&artifact.device_types_compatible.join(", ")),
            printable(&kinds.join(", ")),
            BinaryBytes(artifact.size).to_string(),
            to_seconds(&artifact.modified),
        ]);
    }
    table
}

/// Text of somebody else's, for a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_what_an_artifact_is_for() {
        let artifacts: Vec<Listed> = serde_json::from_value(serde_json::json!([{
            "id": "6c8a", "name": "app-2.1\u{1b}[2J", "device_types_compatible": ["rpi4", "rpi5"],
            "updates": [{"type_info": {"type": "single-file"}}, {"type_info": {"type": null}}],
            "size": 4096, "modified": "2026-01-02T03:04:06.123Z", "more": 1,
        }]))
        .expect("artifacts");
        let text = table(&artifacts).to_string();
        for part in ["6c8a", "app-2.1", "rpi4, rpi5", "single-file, -", "4.00 KiB", "2026-01-02 03:04:06Z"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
