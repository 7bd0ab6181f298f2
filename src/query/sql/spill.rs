//! Temporary files of statements that need more than their memory: sorts, aggregations and joins write part of it there.
//!
//! The files are in a folder of their own, which is made when the first of them is. All of them together are not larger than the limit
//! `sql_spill_bytes_max`.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::disk_manager::{DiskManager, DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::spill_file::{SpillFile, TempFileFactory};
use parking_lot::Mutex;
use quiver_model::LiveLimits;

use crate::error::QueryError;

/// How the names of folders with temporary files begin. Whoever opens the folder around them deletes those of a process that was killed.
pub const TEMPORARY_PREFIX: &str = "datafusion-";

/// Makes temporary files.
pub struct Spill {
    manager: Arc<DiskManager>,
}

impl Spill {
    /// Files in `folder`, else in the system's folder for such.
    pub fn new(folder: Option<PathBuf>, limits: LiveLimits) -> std::result::Result<Self, QueryError> {
        let factory = Factory { folder, limits, made: Mutex::default() };
        let builder = DiskManagerBuilder::default().with_mode(DiskManagerMode::Custom(Arc::new(factory)));
        let manager = builder.build().map_err(|e| QueryError::Internal(e.strip_backtrace()))?;
        Ok(Self { manager: Arc::new(manager) })
    }

    /// What makes the files, for a session.
    pub fn manager(&self) -> Arc<DiskManager> {
        Arc::clone(&self.manager)
    }
}

/// Makes the folder when the first file is asked for.
struct Factory {
    folder: Option<PathBuf>,
    limits: LiveLimits,
    made: Mutex<Option<Arc<DiskManager>>>,
}

impl Factory {
    fn files(&self) -> Result<Arc<DiskManager>> {
        let mut made = self.made.lock();
        let files = match made.as_ref() {
            Some(files) => Arc::clone(files),
            None => {
                let mode = match &self.folder {
                    Some(folder) => DiskManagerMode::Directories(vec![folder.clone()]),
                    None => DiskManagerMode::OsTmpDirectory,
                };
                Arc::clone(made.insert(Arc::new(DiskManagerBuilder::default().with_mode(mode).build()?)))
            }
        };
        files.set_max_temp_directory_size(self.limits.get().sql_spill_bytes_max)?;
        Ok(files)
    }
}

impl TempFileFactory for Factory {
    fn create_temp_file(&self, description: &str) -> Result<Arc<dyn SpillFile>> {
        self.files()?.create_tmp_file(description)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_with_the_first_file_and_files_are_deleted_after_use() {
        let data = tempfile::tempdir().unwrap();
        let folder = data.path().join("tmp");
        let spill = Spill::new(Some(folder.clone()), LiveLimits::default()).unwrap();
        assert!(!folder.exists(), "nobody has written");
        let file = spill.manager().create_tmp_file("a test").unwrap();
        let path = file.path().unwrap().to_owned();
        assert!(path.starts_with(&folder) && path.exists());
        let within = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
        assert!(within.starts_with(TEMPORARY_PREFIX), "{within}");
        drop(file);
        assert!(!path.exists());
    }
}
