//! A file that only grows, written at positions that are known, and noticed to be deleted, replaced or changed from outside.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::AuditError;
use crate::mutants::mutant;

/// Who may read and write what the log makes: its owner.
pub const MODE: u32 = 0o600;

/// When a commit counts: once the operating system has it, or once the disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It survives the end of the process, not a loss of power.
    Os,
    /// It survives a loss of power, as far as the disk tells the truth.
    Fsync,
}

/// A path, and what it led to when its file was opened.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
    /// Mode and owner.
    access: (u32, u32),
}

impl Place {
    /// Where an open file is.
    pub fn of(path: &Path, file: &File) -> io::Result<Self> {
        let about = file.metadata()?;
        Ok(Self {
            path: path.to_owned(),
            file: identity(&about),
            access: access(&about),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks whether the path still leads to the file, and who may write did not change. A log whose file was moved away would
    /// otherwise go on into nowhere.
    pub fn check(&self) -> Result<(), AuditError> {
        if mutant!(InodeNotChecked) {
            return Ok(());
        }
        let found = match fs::symlink_metadata(&self.path) {
            Ok(about) => about,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.interfered("was deleted or renamed"));
            }
            Err(error) => return Err(AuditError::io("looking at", &self.path)(error)),
        };
        if identity(&found) != self.file {
            return Err(self.interfered("was replaced by another file"));
        }
        if access(&found) != self.access {
            let ((was, owner), (now, new_owner)) = (self.access, access(&found));
            return Err(self.interfered(&format!(
                "had its permissions changed from {was:o} of {owner} to {now:o} of {new_owner}"
            )));
        }
        Ok(())
    }

    fn interfered(&self, what: &str) -> AuditError {
        AuditError::Interfered {
            what: format!("{} {what} while the log wrote it; put it back", self.path.display()),
        }
    }
}

fn identity(of: &fs::Metadata) -> (u64, u64) {
    (of.dev(), of.ino())
}

fn access(of: &fs::Metadata) -> (u32, u32) {
    (of.mode() & 0o7777, of.uid())
}

/// A file of the log, open to write.
#[derive(Debug)]
pub struct GrowingFile {
    file: File,
    place: Place,
    /// What was committed. Bytes behind it are of an attempt that failed, and are overwritten.
    length: u64,
    /// Whether bytes may be behind `length`.
    dirty: bool,
}

impl GrowingFile {
    /// Opens a file that exists, or makes it.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let open = || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(MODE)
                .open(path)?;
            Ok(Self {
                place: Place::of(path, &file)?,
                length: file.metadata()?.len(),
                file,
                dirty: false,
            })
        };
        open().map_err(AuditError::io("opening", path))
    }

    /// What was committed, in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Writes after what was committed, and commits nothing yet.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), AuditError> {
        self.unchanged()?;
        let write = |file: &File| {
            if self.dirty {
                file.set_len(self.length)?;
            }
            file.write_all_at(bytes, self.length)
        };
        let written = write(&self.file);
        self.dirty = true;
        written.map_err(AuditError::io("writing", &self.place.path))
    }

    /// Waits until the disk has what was written.
    pub fn sync(&self) -> Result<(), AuditError> {
        self.file
            .sync_data()
            .map_err(AuditError::io("syncing", &self.place.path))
    }

    /// Looks whether the path still leads here, as [`Place::check`] does.
    pub fn in_place(&self) -> Result<(), AuditError> {
        self.place.check()
    }

    /// What was written counts from now on.
    pub fn commit(&mut self, bytes: usize) {
        self.length += bytes as u64;
        self.dirty = false;
    }

    /// Takes back what was written and not committed, as far as the disk lets us: who reads the file finds no attempt.
    pub fn undo(&mut self) {
        if self.dirty && self.file.set_len(self.length).is_ok() {
            self.dirty = false;
        }
    }

    /// Cuts off what is behind `length` bytes.
    pub fn truncate(&mut self, length: u64) -> Result<(), AuditError> {
        self.file
            .set_len(length)
            .map_err(AuditError::io("truncating", &self.place.path))?;
        self.length = length;
        self.dirty = false;
        Ok(())
    }

    /// Whether nobody else wrote to it since the last commit.
    fn unchanged(&self) -> Result<(), AuditError> {
        let length = self
            .file
            .metadata()
            .map_err(AuditError::io("looking at", &self.place.path))?
            .len();
        if length == self.length || (self.dirty && length > self.length) {
            return Ok(());
        }
        Err(self.place.interfered("was changed by another program"))
    }
}

/// Makes the names in a directory durable.
pub fn sync_directory(path: &Path) -> Result<(), AuditError> {
    let sync = || File::open(path)?.sync_all();
    sync().map_err(AuditError::io("syncing", path))
}

/// Where a file is written before it takes the place of another.
pub fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Writes what is to become a file [`beside`] it.
pub fn stage(path: &Path, content: &[u8], durability: Durability) -> io::Result<File> {
    let beside = beside(path);
    // What a crash left.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(&beside)?;
    file.write_all_at(content, 0)?;
    if durability == Durability::Fsync {
        file.sync_all()?;
    }
    Ok(file)
}

/// Makes a file with its content at once, or leaves none: written beside it, synced if that is wanted, and renamed.
pub fn create_whole(path: &Path, content: &[u8], durability: Durability) -> Result<(), AuditError> {
    let create = || {
        stage(path, content, durability)?;
        fs::rename(beside(path), path)?;
        match path.parent() {
            Some(parent) if durability == Durability::Fsync => File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    };
    create().map_err(AuditError::io("making", path))
}

/// Overwrites an open file with zeros, to its end.
pub fn overwrite(file: &File) -> io::Result<()> {
    let zeros = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX)];
    file.write_all_at(&zeros, 0)?;
    file.sync_data()
}

/// Overwrites a file and removes it, if there is one.
pub fn destroy(path: &Path) -> Result<(), AuditError> {
    let destroy = || match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        file => {
            overwrite(&file?)?;
            fs::remove_file(path)
        }
    };
    destroy().map_err(AuditError::io("destroying", path))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    #[test]
    fn what_was_not_committed_is_overwritten() {
        let folder = Folder::new();
        let path = folder.path().join("f");
        let mut file = GrowingFile::open(&path).expect("opens");
        file.write(b"kept").expect("written");
        file.commit(4);
        file.write(b"a longer attempt").expect("written");
        file.write(b"!").expect("written");
        file.commit(1);
        assert_eq!(fs::read(&path).expect("there"), b"kept!");
    }

    #[test]
    fn a_file_that_is_not_where_it_was_is_noticed() {
        let folder = Folder::new();
        let path = folder.path().join("f");
        let mut file = GrowingFile::open(&path).expect("opens");
        file.write(b"kept").expect("written");
        file.commit(4);
        assert!(file.in_place().is_ok());
        let away = folder.path().join("away");
        fs::rename(&path, &away).expect("renamed");
        assert!(
            file.in_place()
                .expect_err("noticed")
                .to_string()
                .contains("deleted or renamed")
        );
        fs::copy(&away, &path).expect("copied");
        assert!(file.in_place().expect_err("noticed").to_string().contains("replaced"));
        fs::rename(&away, &path).expect("put back");
        assert!(file.in_place().is_ok());
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("changed");
        assert!(file.in_place().expect_err("noticed").to_string().contains("from 600"));
        OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|other| other.set_len(2))
            .expect("cut");
        assert!(
            file.write(b"x")
                .expect_err("noticed")
                .to_string()
                .contains("another program")
        );
    }
}
