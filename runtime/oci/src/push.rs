//! From files to a registry: what it lacks is sent, and named last, so that nobody finds half an artifact.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use overmask::base::{Base, BaseError, Precision, file};
use overmask::pack::{MAX_BYTES, PackFile, Packs, read_file};
use overmask::trust::read_signature;

use crate::artifact::{
    BASE_ARTIFACT, BASE_FILE, BASE_MANIFEST, BASES, Descriptor, EMPTY, LICENSES, Manifest, PACK, PACK_ARTIFACT,
    SIGNATURE, SIGNATURE_ENDING, TASKS, VERSION, base_tag, digest,
};
use crate::client::Content;
use crate::{OciError, Reference, Registry};

/// What is pushed.
#[derive(Debug, Default)]
pub struct Push {
    /// Packs and sets of packs; a signature `FILE.minisig` beside FILE goes along.
    pub packs: Vec<PathBuf>,
    /// Directories of base bundles.
    pub bases: Vec<PathBuf>,
}

/// An artifact that is in the registry now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Its name.
    pub reference: String,
    /// SHA-256 of its manifest: with `@sha256:` and this it is this one for ever.
    pub sha256: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// Those of them that were sent: the registry lacked them.
    pub sent: u64,
}

/// A file on its way.
struct Layer<'a> {
    descriptor: Descriptor,
    content: Content<'a>,
}

/// A pack that was read.
struct ReadPack {
    title: String,
    bytes: Vec<u8>,
    signature: Option<String>,
    tasks: Vec<PackFile>,
}

/// Pushes packs as one artifact with the name that the registry was opened with, and each base beside it under its
/// [`base_tag`]; a base without packs gets the name, too.
///
/// # Errors
/// When a file cannot be read or is no pack or base, a pack is of another base, or the registry refuses.
pub fn push(registry: &Registry, push: &Push) -> Result<Vec<Pushed>, OciError> {
    let reference = registry.reference();
    if reference.sha256.is_some() {
        let (text, reason) = (reference.to_string(), "what is pushed is named by a tag, and gets its digest then");
        return Err(OciError::Reference { text, reason });
    }
    let packs = push.packs.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    check_titles(&packs)?;
    let bases = push.bases.iter().map(|dir| whole(dir)).collect::<Result<Vec<_>, _>>()?;
    if packs.is_empty() && bases.len() != 1 {
        let (what, reason) = (format!("{} bases without packs", bases.len()), "push one at a time".to_owned());
        return Err(OciError::Push { what, reason });
    }
    for task in packs.iter().flat_map(|pack| &pack.tasks) {
        match bases.iter().find(|base| base.base_id() == task.document().base_id) {
            Some(base) => task.check_base(base)?,
            None if bases.is_empty() => {}
            // The pack was made for another base than all of those that are said to be its.
            None => bases.iter().try_for_each(|base| task.check_base(base))?,
        }
    }

    let mut pushed = Vec::new();
    for base in &bases {
        let tag = base_tag(base.base_id(), base.precision());
        let layers = layers_of_base(base)?;
        let annotations = BTreeMap::from([
            (BASES.to_owned(), base.base_id().to_owned()),
            (LICENSES.to_owned(), base.manifest().licence.clone()),
        ]);
        pushed.push(artifact(registry, &reference.with_tag(&tag), BASE_ARTIFACT, &layers, annotations.clone())?);
        if packs.is_empty() && reference.name() != tag {
            pushed.push(artifact(registry, reference, BASE_ARTIFACT, &layers, annotations)?);
        }
    }
    if packs.is_empty() {
        return Ok(pushed);
    }
    warn_of_missing_bases(registry, &packs)?;
    pushed.push(artifact(registry, reference, PACK_ARTIFACT, &layers_of_packs(&packs), said_of(&packs))?);
    Ok(pushed)
}

/// Brings an artifact: the files that the registry lacks, and then the manifest.
fn artifact(
    registry: &Registry,
    reference: &Reference,
    artifact_type: &str,
    layers: &[Layer<'_>],
    annotations: BTreeMap<String, String>,
) -> Result<Pushed, OciError> {
    let descriptors: Vec<Descriptor> = layers.iter().map(|layer| layer.descriptor.clone()).collect();
    let bytes = descriptors.iter().map(|layer| layer.size).sum();
    let manifest = Manifest::new(artifact_type, descriptors, annotations).to_bytes()?;
    let mut sent = 0;
    let empty = digest(EMPTY);
    if !registry.has_blob(&empty)? {
        registry.push_blob(&empty, &Content::Bytes(EMPTY))?;
    }
    for Layer { descriptor, content } in layers {
        if registry.has_blob(descriptor.sha256())? {
            log::info!("the registry has {} already", descriptor.title());
            continue;
        }
        registry.push_blob(descriptor.sha256(), content)?;
        sent += descriptor.size;
    }
    registry.push_manifest(&reference.name(), &manifest)?;
    Ok(Pushed { reference: reference.to_string(), sha256: digest(&manifest), bytes, sent })
}

fn read(path: &Path) -> Result<ReadPack, OciError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let title = name.ok_or_else(|| OciError::Push {
        what: path.display().to_string(),
        reason: "an artifact tells the names of its files, and this one's is no UTF-8; rename it".to_owned(),
    })?;
    let (bytes, signature) = (read_file(path)?, read_signature(path)?);
    let tasks = Packs::from_bytes(path, &bytes, None)?.into_vec();
    Ok(ReadPack { title: title.to_owned(), bytes, signature, tasks })
}

/// A base whose files are what its manifest says.
fn whole(dir: &Path) -> Result<Base, BaseError> {
    let base = Base::open(dir)?;
    base.verify()?;
    Ok(base)
}

/// What a device would refuse is not pushed: two packs of a task, or more bytes than a flash may have. Whoever pulls
/// with other tools gets files, so their names differ.
fn check_titles(packs: &[ReadPack]) -> Result<(), OciError> {
    let refused = |what: &str, reason: String| Err(OciError::Push { what: what.to_owned(), reason });
    let (mut titles, mut names) = (BTreeSet::new(), BTreeSet::new());
    for pack in packs {
        if !titles.insert(&pack.title) {
            return refused(&pack.title, "two files have this name; rename one".to_owned());
        }
        if let Some(task) = pack.tasks.iter().find(|task| !names.insert(task.document().name.clone())) {
            return refused(&pack.title, format!("another pack is of the task `{}`, too", task.document().name));
        }
    }
    match packs.iter().map(|pack| pack.bytes.len() as u64).sum::<u64>() {
        sum if sum > MAX_BYTES => refused("the packs", format!("they have {sum} bytes; a flash may have {MAX_BYTES}")),
        _ => Ok(()),
    }
}

/// Says which bases a device would have to have already.
fn warn_of_missing_bases(registry: &Registry, packs: &[ReadPack]) -> Result<(), OciError> {
    let place = registry.reference().place();
    for base_id in base_ids(packs) {
        if registry.manifest(&base_tag(&base_id, Precision::F32))?.is_none() {
            log::warn!(
                "{place} does not have the base {base_id}: who flashes must have it, or push it with --base DIR"
            );
        }
    }
    Ok(())
}

fn base_ids(packs: &[ReadPack]) -> BTreeSet<String> {
    packs.iter().flat_map(|pack| &pack.tasks).map(|task| task.document().base_id.clone()).collect()
}

fn layers_of_packs(packs: &[ReadPack]) -> Vec<Layer<'_>> {
    let mut layers = Vec::new();
    for pack in packs {
        layers.push(of_bytes(PACK, &pack.bytes, &pack.title));
        if let Some(signature) = &pack.signature {
            layers.push(of_bytes(SIGNATURE, signature.as_bytes(), &format!("{}{SIGNATURE_ENDING}", pack.title)));
        }
    }
    layers
}

fn of_bytes<'a>(media_type: &str, bytes: &'a [u8], title: &str) -> Layer<'a> {
    let descriptor = Descriptor::new(media_type, &digest(bytes), bytes.len() as u64, title);
    Layer { descriptor, content: Content::Bytes(bytes) }
}

/// What the artifact says of packs: their tasks and bases, and the revision if there is one.
fn said_of(packs: &[ReadPack]) -> BTreeMap<String, String> {
    let tasks: Vec<&PackFile> = packs.iter().flat_map(|pack| &pack.tasks).collect();
    let joined = |items: Vec<String>| items.join(",");
    let names = tasks.iter().map(|task| task.document().name.clone()).collect();
    let mut said = BTreeMap::from([
        (TASKS.to_owned(), joined(names)),
        (BASES.to_owned(), joined(base_ids(packs).into_iter().collect())),
    ]);
    if let [task] = tasks[..] {
        said.insert(VERSION.to_owned(), task.document().revision.to_string());
    }
    said
}

fn layers_of_base(base: &Base) -> Result<Vec<Layer<'static>>, OciError> {
    let size = |path: &Path| std::fs::metadata(path).map(|found| found.len()).map_err(OciError::file(path));
    let path = base.dir().join(file::MANIFEST);
    let bytes = base.read_manifest()?;
    let descriptor = Descriptor::new(BASE_MANIFEST, &digest(&bytes), bytes.len() as u64, file::MANIFEST);
    let mut layers = vec![Layer { descriptor, content: Content::File(path) }];
    for (name, sha256) in &base.manifest().digests {
        let path = base.dir().join(name);
        let descriptor = Descriptor::new(BASE_FILE, sha256, size(&path)?, name);
        layers.push(Layer { descriptor, content: Content::File(path) });
    }
    Ok(layers)
}
