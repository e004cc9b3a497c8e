//! A real S3 server over HTTP, on a thread of the test process. It keeps its buckets as directories and knows one key.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

use crate::door::Door;
use crate::workspace::files_below;

/// The one key.
pub const ACCESS_KEY: &str = "mooring";

/// Its secret.
pub const SECRET_KEY: &str = "hunter2";

/// The server. It ends with the process.
pub struct S3Server {
    directory: PathBuf,
    address: SocketAddr,
}

impl S3Server {
    /// Starts one that keeps everything in `directory`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(directory: &Path) -> Self {
        std::fs::create_dir(directory).expect("a directory can be made");
        let files = FileSystem::new(directory).expect("a directory to serve");
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a listener");
        let address = listener.local_addr().expect("a bound listener");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("a listener");
                loop {
                    let Ok((socket, _)) = listener.accept().await else { continue };
                    let service = service.clone();
                    let service = service_fn(move |request: Request<Incoming>| {
                        // What has arrived is carried out, also for a client that is gone by then.
                        let carried_out = tokio::spawn(Service::call(&service, request));
                        async move { carried_out.await.expect("the server does not panic") }
                    });
                    tokio::spawn(async move {
                        // A client that leaves in the middle is no concern of ours.
                        let _ =
                            Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
                    });
                }
            });
        });
        Self { directory: directory.to_owned(), address }
    }

    /// Makes an empty bucket.
    ///
    /// # Panics
    /// When there is one of that name.
    pub fn make_bucket(&self, name: &str) {
        std::fs::create_dir(self.directory.join(name)).expect("a directory can be made");
    }

    /// Every file that belongs to an object below one of these folders of a bucket, and every part of an object that is not
    /// whole, wherever it was to be.
    pub fn files(&self, bucket: &str, folders: &[&str]) -> Vec<String> {
        let mut found: Vec<String> =
            folders.iter().flat_map(|folder| files_below(&self.directory.join(bucket), folder)).collect();
        // What it notes about whole objects has other names.
        let is_part = |name: &String| name.starts_with(".upload") || name.starts_with(".tmp.");
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        found.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(is_part));
        found
    }

    /// The way to it.
    pub fn door(&self) -> Door {
        Door::plain(self.address)
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}
