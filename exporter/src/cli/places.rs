//! Where commands write: checked before the work, which may take hours.

use std::path::{Path, PathBuf};

use anyhow::Error;
use overmask::base::{Base, Precision, file};
use overmask::pack::{read_file, split_name};
use overmask_cli::{CodedError, ExitCode};

/// Checks that files can be written, and that none takes the place of another or of one that is read. Each
/// comes with what messages call it, the name of its option for example.
///
/// # Errors
/// At the first file to be written that is wrong.
pub(super) fn check(written: &[(&str, &Path)], read: &[(&str, &Path)]) -> Result<(), Error> {
    // A pack that is read may be one of a set, SET#NAME.
    let mut taken: Vec<(&str, PathBuf)> = read.iter().map(|(name, path)| (*name, real(&split_name(path).0))).collect();
    for &(option, path) in written {
        check_place(option, path)?;
        let file = real(path);
        if let Some((other, _)) = taken.iter().find(|(_, taken)| *taken == file) {
            let message = format!("{option} {}: is the file of {other}, too; give it one of its own", path.display());
            return Err(CodedError { message, code: ExitCode::Usage }.into());
        }
        taken.push((option, file));
    }
    Ok(())
}

/// Opens a base that something is learnt on or made of: the f32 one.
///
/// # Errors
/// When it cannot be opened, or is a variant in another precision.
pub(super) fn f32_base(dir: &Path) -> Result<Base, Error> {
    let base = Base::open(dir)?;
    match base.precision() {
        Precision::F32 => Ok(base),
        other => {
            let message = format!("{}: is the {other} variant of a base, this takes the f32 base", dir.display());
            Err(CodedError { message, code: ExitCode::InputData }.into())
        }
    }
}

/// Reads a file of packs as a whole, which one pack of a set is not.
///
/// # Errors
/// When it cannot be read, or names one of a set.
pub(super) fn read_whole(path: &Path) -> Result<Vec<u8>, Error> {
    if let (set, Some(_)) = split_name(path)
        && set.is_file()
    {
        let message = format!(
            "{}: is one pack of a set; name the file {}, or write the pack to one of its own with \
             `overmask-export repack`",
            path.display(),
            set.display()
        );
        return Err(CodedError { message, code: ExitCode::Usage }.into());
    }
    Ok(read_file(path)?)
}

/// The one name of a file that may have several; of a file that is not there, it has that of its directory.
fn real(path: &Path) -> PathBuf {
    let absent = || Some(directory(path).canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(absent).unwrap_or_else(|| path.to_owned())
}

/// The directory that a file is in.
fn directory(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Fails now rather than after the work if the file of an option has nowhere to go.
fn check_place(option: &str, output: &Path) -> Result<(), Error> {
    let wrong = |reason: String| {
        let message = format!("{option} {}: {reason}", output.display());
        Err(CodedError { message, code: ExitCode::DeviceOrStore }.into())
    };
    let dir = directory(output);
    if !dir.is_dir() {
        return wrong(format!("there is no directory {}", dir.display()));
    }
    let place = match overmask::fs::place(output) {
        Ok(place) => place,
        Err(e) => return wrong(e.to_string()),
    };
    let dir = directory(&place);
    // A run would overwrite the base that it learns on.
    if dir.join(file::MANIFEST).is_file() {
        return wrong(IN_BASE.to_owned());
    }
    // As the file is written beside its place: what the file system allows, only a file tells.
    match tempfile::Builder::new().prefix(".overmask-").tempfile_in(dir) {
        Ok(_) => Ok(()),
        Err(e) => wrong(format!("nothing can be written to {}: {e}", dir.display())),
    }
}

/// What is said of a place in a base's directory.
const IN_BASE: &str = "is in a base bundle, which holds its own files alone; name another directory";

/// Checks that a directory that is to be filled is no base's, and in none.
///
/// # Errors
/// When it is.
pub(super) fn check_directory(option: &str, dir: &Path) -> Result<(), Error> {
    let place = real(dir);
    if place.ancestors().any(|above| above.join(file::MANIFEST).is_file()) {
        let message = format!("{option} {}: {IN_BASE}", dir.display());
        return Err(CodedError { message, code: ExitCode::DeviceOrStore }.into());
    }
    Ok(())
}

/// Checks that a file is not in a directory that is to be made.
///
/// # Errors
/// When it is.
pub(super) fn check_outside((option, file): (&str, &Path), (other, dir): (&str, &Path)) -> Result<(), Error> {
    let place = real(dir);
    if real(file).ancestors().any(|above| above == place) {
        let message = format!("{option} {}: is in the directory of {other}; name another place", file.display());
        return Err(CodedError { message, code: ExitCode::Usage }.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_with_no_place_is_refused_before_the_work() {
        let dir = tempfile::tempdir().unwrap();
        check_place("-o", &dir.path().join("x.pack")).unwrap();
        check_place("-o", Path::new("x.pack")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        for wrong in [Path::new("absent/dir/x.pack"), dir.path()] {
            assert_eq!(ExitCode::of(&check_place("-o", wrong).unwrap_err()), ExitCode::DeviceOrStore);
        }
        let base = dir.path().join("base");
        std::fs::create_dir(&base).unwrap();
        std::fs::write(base.join("base.json"), "{}").unwrap();
        let error = check_place("-o", &base.join("model.safetensors")).unwrap_err();
        assert!(error.to_string().contains("is in a base bundle"), "{error}");
        // A directory in which nobody, not even root, can make a file.
        if cfg!(target_os = "linux") {
            let error = check_place("-o", Path::new("/proc/x.pack")).unwrap_err();
            assert_eq!(ExitCode::of(&error), ExitCode::DeviceOrStore);
            assert!(error.to_string().contains("nothing can be written to /proc"), "{error}");
        }
    }

    #[test]
    fn what_is_filled_is_no_directory_of_a_base() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        std::fs::create_dir(&base).unwrap();
        check_directory("-o", &base).unwrap();
        std::fs::write(base.join("base.json"), "{}").unwrap();
        check_directory("-o", &dir.path().join("sweep")).unwrap();
        for place in [base.clone(), base.join("sweep"), dir.path().join("base/../base"), base.join("a/b")] {
            let error = check_directory("-o", &place).unwrap_err();
            assert_eq!(ExitCode::of(&error), ExitCode::DeviceOrStore);
            assert!(error.to_string().contains("is in a base bundle"), "{error}");
        }
    }

    #[test]
    fn a_file_is_not_in_a_directory_that_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        let check = |file: &Path| check_outside(("--checkpoint", file), ("-o", &out));
        check(&dir.path().join("run.state")).unwrap();
        for inside in [out.clone(), out.join("run.state"), dir.path().join("out/../out/run.state")] {
            assert_eq!(ExitCode::of(&check(&inside).unwrap_err()), ExitCode::Usage);
        }
    }

    #[test]
    fn one_pack_of_a_set_is_no_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let set = dir.path().join("all.packset");
        std::fs::write(&set, b"x").unwrap();
        assert_eq!(read_whole(&set).unwrap(), b"x");
        let error = read_whole(&dir.path().join("all.packset#trec")).unwrap_err();
        assert_eq!(ExitCode::of(&error), ExitCode::Usage);
        assert!(error.to_string().contains("all.packset#trec: is one pack of a set"), "{error}");
        assert_eq!(ExitCode::of(&read_whole(&dir.path().join("a#b")).unwrap_err()), ExitCode::InputData);
    }

    #[test]
    fn no_file_takes_the_place_of_another() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        for name in ["data.jsonl", "all.packset"] {
            std::fs::write(dir.path().join(name), b"x").unwrap();
        }
        let check = |page: &str, numbers: &str| {
            let files = [page, numbers, "data.jsonl", "all.packset#trec"].map(|name| dir.path().join(name));
            let [page, numbers, data, pack] = files.each_ref().map(PathBuf::as_path);
            super::check(&[("-o", page), ("--json", numbers)], &[("--data", data), ("--pack", pack)])
        };
        check("a.html", "a.json").unwrap();
        for (page, numbers, said) in [
            ("a.html", "data.jsonl", "is the file of --data, too"),
            ("a.html", "sub/../data.jsonl", "is the file of --data, too"),
            // A file that is not there yet has several names, too.
            ("a.html", "sub/../a.html", "is the file of -o, too"),
            ("all.packset", "a.json", "is the file of --pack, too"),
        ] {
            let error = check(page, numbers).unwrap_err();
            assert_eq!(ExitCode::of(&error), ExitCode::Usage);
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
