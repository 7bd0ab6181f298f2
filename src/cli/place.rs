//! Where backups are: a folder, or a prefix of a remote store.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use quiver_persistence::remote::{Objects, RetryPolicy, Retrying, S3Settings, TierTarget, TierUrl, open_target};
use quiver_persistence::{Disk, DiskError, RealDisk};

use crate::config::s3_variables;

/// Flags of an S3-compatible service. Credentials come from AWS_ACCESS_KEY_ID and its like alone.
#[derive(Args, Debug)]
pub struct StoreArgs {
    /// Endpoint of an S3-compatible service, such as http://127.0.0.1:9000 [default: AWS_ENDPOINT_URL, else Amazon's]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Region of the bucket [default: AWS_REGION, else us-east-1]
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// Certificates (PEM) to trust for the endpoint, beside those of the system
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// Where a backup is.
#[derive(Clone, Debug)]
pub enum Place {
    /// A folder.
    Folder(PathBuf),
    /// A prefix of a store.
    Store(Arc<dyn Objects>),
}

impl StoreArgs {
    /// What a text names: what has `://` in it is a URL, all else a folder.
    pub fn place(&self, text: &str) -> Result<Place, String> {
        if !text.contains("://") {
            return Ok(Place::Folder(text.into()));
        }
        let variables = s3_variables(&|name| std::env::var(name).ok());
        let s3 = S3Settings {
            endpoint: self.endpoint.clone().or(variables.endpoint),
            region: self.region.clone().or(variables.region),
            ca_file: self.ca_file.clone(),
            ..variables
        };
        match text.parse()? {
            TierUrl::File(folder) => Ok(Place::Folder(folder)),
            url => {
                let store = open_target(&TierTarget { url, s3 })?;
                Ok(Place::Store(Arc::new(Retrying::new(store, RetryPolicy::default()))))
            }
        }
    }
}

/// A folder for what is on its way, gone when this is dropped.
pub struct Scratch {
    parent: PathBuf,
    name: String,
    disk: Arc<dyn Disk>,
}

impl Scratch {
    /// Makes it in `parent`, or where the system keeps temporary files.
    pub fn new(parent: Option<PathBuf>) -> Result<Self, DiskError> {
        let parent = parent.unwrap_or_else(std::env::temp_dir);
        let name = format!("quiver-snapshot-{}", std::process::id());
        let disk = Arc::new(RealDisk::create(parent.join(&name))?);
        Ok(Self { parent, name, disk })
    }

    /// The folder.
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    fn remove(&self) -> Result<(), DiskError> {
        for dir in self.disk.list_dirs("")? {
            for name in self.disk.list(&dir)? {
                self.disk.remove(&format!("{dir}/{name}"))?;
            }
            self.disk.remove_dir(&dir)?;
        }
        RealDisk::open(&self.parent)?.remove_dir(&self.name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = self.remove() {
            super::exit::warning(&format!("{} in {} could not be deleted: {e}", self.name, self.parent.display()));
        }
    }
}
