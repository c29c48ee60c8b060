use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use overmask::error::ErrorKind;
use overmask::fs::hex;
use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;

use super::*;

/// What a line-based data set looks like: 4 distinct questions, one twice.
const QUESTIONS: &str = "LOC:city Where ?\nNUM:date When ?\nHUM:ind Who ?\nLOC:city where  ?\nENTY:x What ?\n";

struct Setup {
    dir: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn zip(&self, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        for (name, bytes) in files {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        self.write(name, zip.finish().unwrap().get_ref())
    }

    fn fetch(&self, manifest: &Manifest, from: Option<&Path>) -> (Result<Fetched, FetchError>, String) {
        let mut notes = String::new();
        let result = fetch(manifest, from, &self.path("out"), &mut |line| {
            notes.push_str(line);
            notes.push('\n');
        });
        // Nothing is left beside the target or in it, whatever happened.
        for dir in [self.dir.path().to_owned(), self.path("out")] {
            let Ok(entries) = fs::read_dir(dir) else {
                continue;
            };
            let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
            assert_eq!(names.filter(|n| n.starts_with(".fetch-")).count(), 0);
        }
        (result, notes)
    }
}

fn tar_gz(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// A packed tar file whose one name is this long.
fn tar_gz_of_name(kind: tar::EntryType, length: u64) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(length);
    header.set_path("name").unwrap();
    header.set_cksum();
    tar.append(&header, io::repeat(b'x').take(length)).unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

/// A manifest of one file, with sources given as TOML.
fn manifest(name: &str, content: &[u8], sources: &str) -> Manifest {
    let text = format!(
        "name = 'x'\nkind = 'base'\nabout = 'a'\nlicence = 'l'\n{sources}\n[[files]]\nname = '{name}'\nsize = {}\nsha256 = '{}'\n",
        content.len(),
        hex(&Sha256::digest(content)),
    );
    parse(&text)
}

fn parse(text: &str) -> Manifest {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.toml");
    fs::write(&path, text).unwrap();
    Manifest::find(path.to_str().unwrap()).unwrap()
}

/// A source that no machine can reach: pip refuses to look anywhere.
const NO_SOURCE: &str = "sources = []";

fn url_source(path: &Path, inside: &str) -> String {
    format!("[[sources]]\nurl = 'file://{}'\ninside = {inside}", path.display())
}

#[test]
fn a_local_file_is_taken_and_the_second_time_left_alone() {
    let setup = Setup::new();
    let file = setup.write("mine/a.txt", b"hello");
    let manifest = manifest("a.txt", b"hello", NO_SOURCE);
    for from in [&file, &setup.path("mine")] {
        let (fetched, notes) = setup.fetch(&manifest, Some(from));
        assert_eq!(fetched.unwrap().source, Some(format!("local {}", from.display())));
        assert_eq!(fs::read(setup.path("out/a.txt")).unwrap(), b"hello");
        assert!(notes.contains("sha256 checked"), "{notes}");

        let (fetched, notes) = setup.fetch(&manifest, None);
        assert_eq!(fetched.unwrap().source, None);
        assert!(notes.contains("has it already"), "{notes}");
        // Something else of that name is nobody's to overwrite.
        fs::write(setup.path("out/a.txt"), b"hallo").unwrap();
        let (fetched, notes) = setup.fetch(&manifest, Some(from));
        let error = fetched.unwrap_err();
        assert_eq!((error.kind(), notes.as_str()), (ErrorKind::InputData, ""));
        assert!(error.to_string().contains("out/a.txt is there and is another file"), "{error}");
        assert_eq!(fs::read(setup.path("out/a.txt")).unwrap(), b"hallo");
        fs::remove_file(setup.path("out/a.txt")).unwrap();
    }
    fs::remove_dir(setup.path("out")).unwrap();
    fs::write(setup.path("out"), b"a file").unwrap();
    assert_eq!(setup.fetch(&manifest, Some(&file)).0.unwrap_err().kind(), ErrorKind::DeviceOrStore);
}

#[cfg(unix)]
#[test]
fn nobody_else_can_write_a_library() {
    use std::os::unix::fs::PermissionsExt;

    let setup = Setup::new();
    let file = setup.write("mine/a.so", b"code");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let library = Manifest { kind: Kind::Library, ..manifest("a.so", b"code", NO_SOURCE) };
    setup.fetch(&library, Some(&file)).0.unwrap();
    for made in ["out", "out/a.so"] {
        let mode = fs::metadata(setup.path(made)).unwrap().permissions().mode();
        assert_eq!(mode & 0o022, 0, "{made}: {mode:o}");
    }
}

#[test]
fn archives_are_opened_down_to_the_file() {
    let setup = Setup::new();
    let inner = tar_gz(&[("data/b.txt", b"no"), ("data/a.txt", b"hello")]);
    let sdist = tar_gz(&[("p-1/x", b"x"), ("p-1/res/inner.tar.gz", &inner)]);
    let path = setup.write("dl/P-1.tar.gz", &sdist);
    setup.write("other/inner.tar.gz", &inner);
    let package = "[[sources]]\ninside = ['p-1/res/inner.tar.gz', 'data']\n[sources.package]\nname = 'p'\nversion = '1'\narchive = 'sdist'\nsha256 = '0000000000000000000000000000000000000000000000000000000000000000'\n";
    let manifest = manifest("a.txt", b"hello", package);
    // The package's archive, a directory of downloads, the archive within.
    for from in [&path, &setup.path("dl"), &setup.path("other/inner.tar.gz")] {
        setup.fetch(&manifest, Some(from)).0.unwrap();
        assert_eq!(fs::read(setup.path("out/a.txt")).unwrap(), b"hello");
        fs::remove_dir_all(setup.path("out")).unwrap();
    }
}

#[test]
fn an_archive_in_parts_is_put_together() {
    let setup = Setup::new();
    let whole = fs::read(setup.zip("whole.zip", &[("deep/a.txt", b"hello")])).unwrap();
    let mut sources = "[[sources]]\njoined = 'whole.zip'\ninside = ['deep']\n".to_owned();
    // A part may be empty.
    for (i, part) in [&whole[..7], &whole[7..7], &whole[7..]].into_iter().enumerate() {
        setup.zip(&format!("dl/p_{i}-1-py3-none-any.whl"), &[(&format!("in/whole.zip.{i}"), part)]);
        let package = format!("{{ name = 'p-{i}', version = '1', archive = 'wheel' }}");
        sources += &format!("[[sources.parts]]\nfile = 'in/whole.zip.{i}'\npackage = {package}\n");
    }
    let manifest = manifest("a.txt", b"hello", &sources);
    // A directory of downloads, the archive that the parts make.
    for from in [setup.path("dl"), setup.path("whole.zip")] {
        setup.fetch(&manifest, Some(&from)).0.unwrap();
        assert_eq!(fs::read(setup.path("out/a.txt")).unwrap(), b"hello");
        fs::remove_dir_all(setup.path("out")).unwrap();
    }
    // With one of them missing there is no archive, and with another in its place a broken one.
    let last = setup.path("dl/p_2-1-py3-none-any.whl");
    let other = setup.zip("other.whl", &[("in/whole.zip.2", &whole[9..])]);
    fs::rename(other, &last).unwrap();
    assert_eq!(setup.fetch(&manifest, Some(&setup.path("dl"))).0.unwrap_err().kind(), ErrorKind::CorruptFile);
    fs::remove_file(last).unwrap();
    assert_eq!(setup.fetch(&manifest, Some(&setup.path("dl"))).0.unwrap_err().kind(), ErrorKind::InputData);
}

#[test]
fn urls_of_files_folders_and_archives_work() {
    let setup = Setup::new();
    let file = setup.write("u/a.txt", b"hello");
    let zip = setup.zip("u/a.whl", &[("deep/er/a.txt", b"hello")]);
    let folder = PathBuf::from(format!("{}/", setup.path("u").display()));
    for source in [url_source(&file, "[]"), url_source(&folder, "[]"), url_source(&zip, "['deep/er']")] {
        let (fetched, _) = setup.fetch(&manifest("a.txt", b"hello", &source), None);
        assert!(fetched.unwrap().source.unwrap().starts_with("file:///"));
        assert_eq!(fs::read(setup.path("out/a.txt")).unwrap(), b"hello");
        fs::remove_dir_all(setup.path("out")).unwrap();
    }
}

#[test]
fn what_fails_is_told_and_the_next_source_tried() {
    let setup = Setup::new();
    let file = setup.write("u/a.txt", b"hello");
    let wrong = setup.write("wrong/a.txt", b"hallo");
    let absent = setup.path("absent.zip");
    let sources = format!("{}\n{}", url_source(&absent, "[]"), url_source(&file, "[]"));
    let (fetched, notes) = setup.fetch(&manifest("a.txt", b"hello", &sources), Some(&wrong));
    fetched.unwrap();
    assert!(notes.contains("`a.txt` from"), "{notes}");
    assert!(notes.contains("has sha256 d3751d33f9cd5049c4af2b462735457e4d3baf130bcbb87f389e349fbaeb20b9"), "{notes}");
    assert!(notes.contains("cannot read") && notes.contains("absent.zip"), "{notes}");
}

#[test]
fn wrong_files_never_arrive() {
    let setup = Setup::new();
    let manifest = manifest("a.txt", b"hello", &url_source(&setup.path("absent.zip"), "[]"));
    let cases: [(&str, &[u8], &str); 6] = [
        ("a.txt", b"hallo", "sha256"),
        ("a.txt", b"hello, and more", "is not of the 5 bytes"),
        ("a.txt", b"hell", "is not of the 5 bytes"),
        ("a.zip", b"no zip at all", "a.zip: invalid Zip archive"),
        ("a.tar.gz", b"no gzip at all", "a.tar.gz: invalid gzip header"),
        ("b.tgz", &tar_gz(&[("b.txt", b"hello")]), "holds no `a.txt`"),
    ];
    for (name, bytes, expected) in cases {
        let path = setup.write(&format!("from/{name}"), bytes);
        let (result, _) = setup.fetch(&manifest, Some(&path));
        let error = result.unwrap_err();
        let message = error.to_string();
        assert!(message.contains(expected) && message.contains("--from"), "{message}");
        let code = if expected.starts_with("holds no") { ErrorKind::InputData } else { ErrorKind::CorruptFile };
        assert_eq!(error.kind(), code, "{message}");
        assert!(!setup.path("out").exists());
    }
}

#[test]
fn the_exit_code_is_that_of_the_most_telling_attempt() {
    let setup = Setup::new();
    let wrong = url_source(&setup.write("u/a.txt", b"hallo"), "[]");
    let empty = setup.path("empty");
    std::fs::create_dir(&empty).unwrap();
    for (sources, code) in [(NO_SOURCE, ErrorKind::InputData), (&wrong, ErrorKind::CorruptFile)] {
        let (result, _) = setup.fetch(&manifest("a.txt", b"hello", sources), Some(&empty));
        let error = result.unwrap_err();
        assert!(matches!(error, FetchError::NoSource { .. }), "{error}");
        assert_eq!(error.kind(), code, "{error}");
    }
    let (result, _) = setup.fetch(&manifest("a.txt", b"hello", NO_SOURCE), None);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Other);
    // What is named and not there is a slip: nothing else is tried.
    let (result, notes) = setup.fetch(&manifest("a.txt", b"hello", &wrong), Some(&setup.path("absent")));
    assert_eq!((result.unwrap_err().kind(), notes.matches("trying").count()), (ErrorKind::InputData, 1));
}

#[test]
fn what_cannot_be_written_ends_it() {
    let setup = Setup::new();
    let file = setup.write("mine/a.txt", b"hello");
    let manifest = manifest("a.txt", b"hello", NO_SOURCE);
    // A file where the target directory should be.
    let error = fetch(&manifest, Some(&file), &file.join("out"), &mut |_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceOrStore, "{error}");
    // A name that no file system takes: the next source is not tried.
    let long = "x".repeat(300);
    let two = format!("{0}\n{0}", url_source(&file, "[]"));
    let (result, notes) = setup.fetch(&super::tests::manifest(&long, b"hello", &two), None);
    assert_eq!(result.unwrap_err().kind(), ErrorKind::DeviceOrStore);
    assert_eq!(notes.matches("trying").count(), 1, "{notes}");
}

#[test]
fn a_data_set_is_converted_and_checked() {
    let setup = Setup::new();
    let path = setup.write("q.txt", QUESTIONS.as_bytes());
    let manifest_with = |train: &str, test: &str| {
        parse(&format!(
            "name = 'q'\nkind = 'data'\nabout = 'a'\nlicence = 'l'\nsources = []\n[[files]]\nname = 'q.txt'\nsize = {}\nsha256 = '{}'\n\
             [recipe]\nformat = 'trec'\nseed = 3\n[recipe.train]\nexamples = 3\nsha256 = '{train}'\n[recipe.test]\nexamples = 1\nsha256 = '{test}'\n",
            QUESTIONS.len(),
            hex(&Sha256::digest(QUESTIONS)),
        ))
    };
    let zeros = "0".repeat(64);
    let (result, _) = setup.fetch(&manifest_with(&zeros, &zeros), Some(&path));
    let FetchError::Digest { name, found, .. } = result.unwrap_err() else {
        panic!("not a digest error");
    };
    assert_eq!(name, "train.jsonl");
    let train = found;
    let (result, _) = setup.fetch(&manifest_with(&train, &zeros), Some(&path));
    let FetchError::Digest { name, found, .. } = result.unwrap_err() else {
        panic!("not a digest error");
    };
    assert_eq!(name, "test.jsonl");
    let manifest = manifest_with(&train, &found);
    let (fetched, notes) = setup.fetch(&manifest, Some(&path));
    assert_eq!(fetched.unwrap().files, ["train.jsonl", "test.jsonl"]);
    assert!(notes.contains("3 texts to train on, 1 held out"), "{notes}");

    let read = |name| crate::data::read(&setup.path("out").join(name), crate::data::Form::CLASSIFY).unwrap();
    let (rest, held) = (read("train.jsonl"), read("test.jsonl"));
    assert_eq!((rest.len(), held.len()), (3, 1));
    assert_eq!(crate::data::duplicates(&rest, &held), []);
    assert_eq!(crate::data::digest(&rest), train);
    // And the source file is not left.
    assert_eq!(fs::read_dir(setup.path("out")).unwrap().count(), 2);
}

#[test]
fn a_platform_that_is_not_ours_is_named() {
    let text = format!(
        "name = 'x'\nkind = 'library'\nabout = 'a'\nlicence = 'l'\nsources = []\n[[files]]\nplatform = 'plan9-vax'\nname = 'a'\nsize = 1\nsha256 = '{}'\n",
        "0".repeat(64)
    );
    let setup = Setup::new();
    let (result, _) = setup.fetch(&parse(&text), None);
    let message = result.unwrap_err().to_string();
    assert!(message.starts_with("`x` has no files for "), "{message}");
    let vax = parse(&text).for_platform("plan9-vax").unwrap();
    assert_eq!(vax.wanted().unwrap().len(), 1);
    let error = parse(&text).for_platform("linux-aarch64").err().unwrap().to_string();
    assert_eq!(error, "`x` has no files for linux-aarch64; it has some for plan9-vax");
}

/// Each would be held in memory: a thousand times what the archive takes.
#[test]
fn names_without_end_are_refused() {
    use tar::EntryType;
    let setup = Setup::new();
    let manifest = manifest("a.txt", b"hello", &url_source(Path::new("/x.tar.gz"), "['']"));
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let path = setup.write("long.tar.gz", &tar_gz_of_name(kind, 2 << 20));
        let (result, notes) = setup.fetch(&manifest, Some(&path));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::CorruptFile, "{notes}");
        assert!(notes.contains("the names of its files are longer than any"), "{notes}");
    }
    let files: Vec<String> = (0..130_000).map(|i| format!("{i:0>90}")).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let path = setup.zip("many.zip", &files);
    let (result, notes) = setup.fetch(&manifest, Some(&path));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::CorruptFile, "{notes}");
}

/// What lies before the wanted file is skipped however long it is, and names of the usual length are read.
#[test]
fn a_file_behind_long_ones_is_found() {
    let setup = Setup::new();
    let long = format!("{}/a.txt", "deep/".repeat(60).trim_end_matches('/'));
    let folder = long.rsplit_once('/').unwrap().0;
    let path = setup.write("x.tar.gz", &tar_gz(&[("big", &vec![0; 5 << 20]), (&long, b"hello")]));
    let manifest = manifest("a.txt", b"hello", &url_source(&path, &format!("['{folder}']")));
    let (result, notes) = setup.fetch(&manifest, Some(&path));
    assert!(result.is_ok(), "{notes}");
}
