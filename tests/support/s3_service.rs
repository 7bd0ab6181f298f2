//! An S3 service that others wrote (`s3s`), in this process, on a folder: it reads the protocol, checks signatures and decides
//! conditions by its own lights, where [`crate::s3_server`] knows what Quiver asks for.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

/// Starts it on a port of its own, for one pair of keys and one bucket.
pub async fn start(folder: &Path, bucket: &str, access_key: &str, secret_key: &str) -> io::Result<SocketAddr> {
    std::fs::create_dir_all(folder.join(bucket))?;
    let files = FileSystem::new(folder).map_err(|e| io::Error::other(format!("{e:?}")))?;
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
    let service = builder.build();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let service = service.clone();
            tokio::spawn(async move {
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(address)
}
