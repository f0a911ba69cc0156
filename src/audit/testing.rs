//! What the tests of this room share.

use std::path::{Path, PathBuf};

/// A directory that is gone afterwards.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let mut name = String::from("isolane-audit-");
        super::checkpoint::hex(&mut name, &super::keys::random::<8>());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("made");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
