//! A real S3 server over HTTP, on a thread of this process. It keeps its buckets as directories and knows one key.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::thread::JoinHandle;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

pub const ACCESS_KEY: &str = "mooring";
pub const SECRET_KEY: &str = "hunter2";

/// The server. It stops when dropped.
pub struct S3Server {
    directory: TempDir,
    address: SocketAddr,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl S3Server {
    pub fn start() -> Self {
        let directory = TempDir::with_prefix("mooring-s3-").expect("a temporary directory");
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let running = Some(serve(directory.path(), listener));
        Self { directory, address, running }
    }

    /// Makes an empty bucket.
    pub fn make_bucket(&self, name: &str) {
        std::fs::create_dir(self.directory.path().join(name)).expect("a directory can be made");
    }

    /// Where it keeps its buckets.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts all connections and takes no more.
    pub fn stop(&mut self) {
        let Some((stop, thread)) = self.running.take() else { return };
        drop(stop);
        thread.join().expect("the server does not panic");
    }

    /// Starts it again after [`S3Server::stop`], at the same address and with what it kept.
    pub fn resume(&mut self) {
        let listener = TcpListener::bind(self.address).expect("the port is still free");
        self.running = Some(serve(self.directory.path(), listener));
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(directory: &Path, listener: TcpListener) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let files = FileSystem::new(directory).expect("a directory to serve");
    let service = {
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        service.build()
    };
    listener.set_nonblocking(true).expect("a listener");
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let mut connections = JoinSet::new();
            let accepting = async {
                loop {
                    let Ok((socket, _)) = listener.accept().await else { continue };
                    let service = service.clone();
                    connections.spawn(async move {
                        let http = Builder::new(TokioExecutor::new());
                        // A client that leaves in the middle is no concern of ours.
                        let _ = http.serve_connection(TokioIo::new(socket), service).await;
                    });
                }
            };
            tokio::select! {
                () = accepting => {}
                _ = stopped => {}
            }
        });
    });
    (stop, thread)
}
