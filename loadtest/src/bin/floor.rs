//! `floor`: the least that a server has to do, to measure a hub against; see `loadtest --help` and `make bench`.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use loadtest::floor;
use tokio::{net::TcpListener, runtime};

#[derive(Debug, Parser)]
#[command(
    name = "floor",
    version,
    about = "The least that a server has to do for a hub's work, to measure hubs against"
)]
struct Arguments {
    #[command(subcommand)]
    floor: Floor,
}

#[derive(Debug, Subcommand)]
enum Floor {
    /// Answer every request with 204 if its token is good
    Http {
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:18090")]
        listen: SocketAddr,
        /// Private key (PEM, Ed25519) that the hub signs devices' tokens with, its `actors.device_key_file`
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Join pairs of TCP connections that begin with the same 16 bytes
    Relay {
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:18091")]
        listen: SocketAddr,
        /// Bytes that are passed on at once
        #[arg(long, value_name = "N", default_value_t = floor::relay::PIECE)]
        piece: usize,
    },
    /// Echo on the websocket /echo, and join pairs of /pair/NAME
    Websocket {
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:18092")]
        listen: SocketAddr,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().floor) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(floor: Floor) -> anyhow::Result<()> {
    match floor {
        Floor::Http { listen, key } => {
            let pem = std::fs::read_to_string(&key).with_context(|| format!("cannot read {}", key.display()))?;
            floor::http::serve(listen, &pem)
        }
        Floor::Relay { listen, piece } => {
            block_on(async { floor::relay::serve(bind(listen).await?, piece.max(1)).await })
        }
        Floor::Websocket { listen } => block_on(async { floor::websocket::serve(bind(listen).await?).await }),
    }
}

fn block_on(serving: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serving)
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}
