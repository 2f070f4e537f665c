//! Writes a file through the library, without a mount, reads it back, and removes it.
//!
//! ```text
//! cargo run -p quarry-client --example put_get -- /srv/demo/client.toml
//! ```

use quarry_client::{ClientConfig, FileSystem, OpenMode};
use quarry_common::ids::Ino;
use quarry_common::wire::fs::Caller;
use quarry_net::identity::Credentials;
use quarry_net::transport::quic::QuicTransport;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

const NAME: &[u8] = b"put_get.example";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).ok_or("usage: put_get CLIENT.TOML")?;
    let config = ClientConfig::load(Path::new(&file))?;
    let transport = Arc::new(QuicTransport::new(Credentials::load(&config.certs)?)?);
    let fs = FileSystem::connect(config, transport).await?;
    let done = put_get(&fs).await;
    // Also after an error: what was written goes to the cluster, and the session ends.
    fs.shutdown().await;
    done
}

async fn put_get(fs: &FileSystem) -> Result<(), Box<dyn Error>> {
    let mode = OpenMode { read: true, write: true, ..OpenMode::default() };
    let caller = Caller { uid: 0, gid: 0 };
    let (attr, file) = fs.create_open(Ino::ROOT, NAME, 0o644, 0o022, caller, mode).await?;
    let said = "Written without a mount.\n";
    file.write(0, said.into(), false).await?;
    // Now it is on the disks of every replica.
    file.fsync().await?;
    let back = file.read(0, 4096).await?;
    file.release().await;
    println!("inode {}: {}", attr.ino, String::from_utf8_lossy(&back).trim_end());
    fs.unlink(Ino::ROOT, NAME).await?;
    Ok(())
}
