//! The engine's scratch notes, in a file: one write to the kernel's memory each, so they are there when this process is
//! killed in the next moment, and cost no disk. They do not outlive the machine.
//!
//! Each process has a file of its own and holds a lock on it, which the kernel takes from it when it dies: a file that
//! nobody has locked is a dead process's.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::engine::port::{LeftNote, Scratch};

/// The room of one note: two bytes of its length, and its text.
const ROOM: usize = 512;
const LENGTH: usize = 2;
/// How the name of a file ends. Until it is locked it has another name.
const ENDING: &str = ".notes";
/// More rooms than this nobody fills: it is not one of our files.
const MOST: usize = 100_000;

/// The files of one directory.
pub(super) struct Files {
    directory: PathBuf,
    own: Mutex<Own>,
}

#[derive(Default)]
struct Own {
    /// Opened with the first note; `Err` if that failed, which has been said.
    file: Option<Result<(File, PathBuf), ()>>,
    /// Rooms that are free among the first `rooms`.
    free: Vec<u64>,
    rooms: u64,
}

impl Files {
    /// Below `temporary`, in a directory that only we may enter.
    pub(super) fn new(temporary: &Path) -> Self {
        let name = format!("leasehold-{}", rustix::process::geteuid().as_raw());
        Self { directory: temporary.join(name), own: Mutex::default() }
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> io::Result<(File, PathBuf)> {
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => self.check()?,
        }
        let hidden = self.directory.join(Uuid::new_v4().simple().to_string());
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&hidden)?;
        file.lock()?;
        let path = hidden.with_extension(&ENDING[1..]);
        fs::rename(&hidden, &path)?;
        Ok((file, path))
    }

    /// Whoever could write into the directory could have users ended.
    fn check(&self) -> io::Result<()> {
        let found = fs::symlink_metadata(&self.directory)?;
        let ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0;
        if ours { Ok(()) } else { Err(io::Error::other("the directory is not ours alone")) }
    }

    /// The files of dead processes.
    fn dead(&self) -> io::Result<Vec<(String, File)>> {
        match self.check() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            checked => checked?,
        }
        let mut dead = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(ENDING) || !entry.file_type()?.is_file() {
                continue;
            }
            // Another process may be faster than we are, and remove it.
            let Ok(file) = File::open(entry.path()) else { continue };
            if file.try_lock_shared().is_ok() {
                dead.push((name, file));
            }
        }
        Ok(dead)
    }
}

impl Scratch for Files {
    fn write(&self, text: &str) -> Option<u64> {
        let length = u16::try_from(text.len()).ok().filter(|_| text.len() <= ROOM - LENGTH)?;
        let mut own = self.own();
        let begun = own.file.get_or_insert_with(|| {
            self.begin().map_err(|e| {
                let directory = self.directory.display();
                tracing::warn!(%directory, "no notes are kept of what a killed process would leave: {e}");
            })
        });
        if begun.is_err() {
            return None;
        }
        let room = own.free.pop().unwrap_or(own.rooms);
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(ROOM, 0);
        let Some(Ok((file, _))) = &own.file else { return None };
        if let Err(e) = file.write_all_at(&bytes, room * ROOM as u64) {
            tracing::warn!("a note could not be written: {e}");
            own.free.push(room);
            own.rooms = own.rooms.max(room + 1);
            return None;
        }
        own.rooms = own.rooms.max(room + 1);
        Some(room)
    }

    fn clear(&self, note: u64) {
        let mut own = self.own();
        if let Some(Ok((file, _))) = &own.file
            && let Err(e) = file.write_all_at(&[0; LENGTH], note * ROOM as u64)
        {
            tracing::warn!("a note could not be removed: {e}");
            return;
        }
        own.free.push(note);
    }

    fn left(&self) -> Vec<LeftNote> {
        let dead = self.dead().unwrap_or_else(|e| {
            tracing::debug!("notes of dead processes cannot be read: {e}");
            Vec::new()
        });
        let mut left = Vec::new();
        for (name, file) in dead {
            let before = left.len();
            for room in 0..MOST {
                let mut bytes = [0; ROOM];
                if file.read_exact_at(&mut bytes, (room * ROOM) as u64).is_err() {
                    break;
                }
                let length = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
                let text = bytes.get(LENGTH..LENGTH + length).and_then(|text| std::str::from_utf8(text).ok());
                if let Some(text) = text.filter(|text| !text.is_empty()) {
                    left.push(LeftNote { place: format!("{name}/{room}"), text: text.to_owned() });
                }
            }
            if left.len() == before {
                let _ = fs::remove_file(self.directory.join(name));
            }
        }
        left
    }

    fn clear_left(&self, place: &str) {
        let Some((name, room)) = place.split_once('/') else { return };
        let Ok(room) = room.parse::<u64>() else { return };
        let cleared = OpenOptions::new()
            .write(true)
            .open(self.directory.join(name))
            .and_then(|file| file.write_all_at(&[0; LENGTH], room * ROOM as u64));
        if let Err(e) = cleared {
            tracing::debug!("a note of a dead process could not be removed: {e}");
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let own = self.own.get_mut().unwrap_or_else(PoisonError::into_inner);
        // With notes in it, it is for the next process.
        if let Some(Ok((_, path))) = &own.file
            && own.free.len() as u64 == own.rooms
        {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn texts(files: &Files) -> Vec<String> {
        let mut texts: Vec<String> = files.left().into_iter().map(|note| note.text).collect();
        texts.sort();
        texts
    }

    #[test]
    fn notes_of_a_dead_process_are_found_and_those_of_a_living_one_are_not() {
        let place = tempfile::tempdir().unwrap();
        let one = Files::new(place.path());
        let kept: Vec<u64> = ["a", "b", "c"].iter().map(|text| one.write(text).unwrap()).collect();
        one.clear(kept[1]);
        assert_eq!(one.write("d"), Some(kept[1]), "a room is used again");
        one.clear(kept[0]);
        assert!(one.write(&"x".repeat(ROOM)).is_none());
        let two = Files::new(place.path());
        assert!(texts(&two).is_empty(), "it lives");
        drop(one);
        assert_eq!(texts(&two), ["c", "d"]);
        two.write("own").unwrap();
        assert_eq!(texts(&two), ["c", "d"]);
        for note in two.left() {
            two.clear_left(&note.place);
        }
        assert!(texts(&two).is_empty());
        let files =
            || fs::read_dir(place.path()).unwrap().flatten().flat_map(|d| fs::read_dir(d.path()).unwrap()).count();
        assert_eq!(files(), 1, "an empty one is removed");
        drop(two);
        let three = Files::new(place.path());
        assert_eq!(texts(&three), ["own"]);
        three.clear_left(&three.left()[0].place);
        assert!(texts(&three).is_empty());
        let last = three.write("x").unwrap();
        three.clear(last);
        drop(three);
        assert_eq!(files(), 0);
    }

    #[test]
    fn nothing_is_believed_that_others_could_have_written() {
        let place = tempfile::tempdir().unwrap();
        let one = Files::new(place.path());
        one.write("a").unwrap();
        let directory = one.directory.clone();
        drop(one);
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        let two = Files::new(place.path());
        assert!(texts(&two).is_empty() && two.write("b").is_none());
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(texts(&Files::new(place.path())), ["a"]);
    }
}
