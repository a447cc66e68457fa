use std::fs;
use std::io::Write;
use std::path::Path;

use if_data::AtomicFile;

use crate::support::{assert_error, file, folder};

#[test]
fn an_unfinished_file_leaves_the_old_one() {
    let folder = folder();
    let path = file(&folder, "a.json", b"old");
    let mut unfinished = AtomicFile::create(&path).unwrap();
    unfinished.write_all(b"half").unwrap();
    unfinished.flush().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    drop(unfinished);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    let mut finished = AtomicFile::create(&path).unwrap();
    finished.write_all(b"new").unwrap();
    finished.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn two_writers_do_not_disturb_each_other() {
    let folder = folder();
    let path = folder.path().join("a");
    let mut first = AtomicFile::create(&path).unwrap();
    let mut second = AtomicFile::create(&path).unwrap();
    first.write_all(b"first").unwrap();
    second.write_all(b"second").unwrap();
    second.finish().unwrap();
    first.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"first");
}

#[test]
fn what_cannot_be_written_fails_at_once() {
    let folder = folder();
    assert_error(AtomicFile::create(&folder.path().join("no/such/a")), &["a: cannot create: "]);
    assert_error(AtomicFile::create(folder.path()), &["output: expected a file to write, found a folder"]);
    assert_error(AtomicFile::create(Path::new("")), &["the name of a file"]);
}

#[cfg(unix)]
#[test]
fn devices_are_refused_and_links_stay_links() {
    assert_error(AtomicFile::create(Path::new("/dev/null")), &["found a device or pipe"]);
    let folder = folder();
    let real = file(&folder, "real", b"old");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let mut through = AtomicFile::create(&link).unwrap();
    through.write_all(b"new").unwrap();
    through.finish().unwrap();
    assert!(link.is_symlink());
    assert_eq!(fs::read(&real).unwrap(), b"new");
}
