//! From a registry into a store: what the store lacks is pulled, each file from where it stopped, and flashed.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use overmask::base::{BaseManifest, Precision, file};
use overmask::pack::{MAX_BYTES, Packs, read_file};
use overmask::store::{BaseEntry, Changing, Flashed, Given, StartEngine, Step, StoreError};
use overmask::text::printable;
use overmask::trust::Keyring;

use crate::artifact::{BASE_MANIFEST, Descriptor, Manifest, PACK, SIGNATURE, SIGNATURE_ENDING, base_tag};
use crate::{OciError, Registry};

/// The largest `base.json`, and the largest signature.
const MAX_BASE_MANIFEST: u64 = 8 << 20;
const MAX_SIGNATURE: u64 = 64 << 10;

/// How much of a title is told.
const MAX_TITLE: usize = 100;

/// How what is pulled is flashed; see [`overmask::store::Flash`].
pub struct Flash<'a> {
    /// The keys that may sign, where signatures are looked at. Where the policy asks for signatures there must be one.
    pub keyring: Option<&'a Keyring>,
    /// Takes a pack that is older than the active one.
    pub allow_downgrade: bool,
    /// Takes a pack that promises less than the active one.
    pub allow_worse: bool,
    /// Starts the engine.
    pub start: &'a StartEngine<'a>,
    /// Is told of each step when it is done.
    pub report: &'a mut dyn FnMut(&Step),
}

/// Pulls the artifact that the registry was opened with, and the bases that its packs need and the store lacks, and makes
/// them active.
///
/// # Errors
/// As [`Changing::flash`]; when the connection breaks: then what has arrived stays, to be gone on with.
pub fn flash(registry: &Registry, store: &Changing, flash: Flash<'_>) -> Result<Flashed, OciError> {
    let flashed = Pull { registry, store, bytes: 0 }.flash(flash);
    let is_refused = flashed.as_ref().is_err_and(|error| !matches!(error, OciError::Reach { .. }));
    if is_refused && let Err(error) = store.collect() {
        log::warn!("{error}");
    }
    flashed
}

/// A pull that is going on.
struct Pull<'a> {
    registry: &'a Registry,
    store: &'a Changing,
    /// Bytes that came.
    bytes: u64,
}

/// A base that the store lacks.
struct NewBase {
    manifest: Vec<u8>,
    files: Vec<Descriptor>,
}

impl Pull<'_> {
    fn flash(mut self, flash: Flash<'_>) -> Result<Flashed, OciError> {
        let Flash { keyring, allow_downgrade, allow_worse, start, report } = flash;
        let begin = Instant::now();
        // Nothing is pulled where nothing could be activated.
        let active = self.store.current()?;
        let reference = self.registry.reference();
        let what = reference.to_string();
        let refused = |reason: String| OciError::Answer { what: what.clone(), reason };
        let Some(bytes) = self.registry.manifest(&reference.name())? else {
            let (registry, place) = (reference.host.clone(), reference.place());
            let reason = format!("{place} has no {}; `oras repo tags {place}` lists what there is", reference.name());
            return Err(OciError::Refused { registry, reason });
        };
        let manifest = Manifest::parse(&what, &bytes)?;
        let layers: Vec<&Descriptor> = manifest.of_type(PACK).collect();
        let (mut entries, mut new_bases) = (Vec::new(), Vec::new());
        if manifest.of_type(BASE_MANIFEST).next().is_some() {
            self.base(&what, &manifest, None, &mut entries, &mut new_bases)?;
        } else if layers.is_empty() {
            let kind = printable(&manifest.artifact_type).chars().take(MAX_TITLE).collect::<String>();
            return Err(refused(format!("it holds no pack and no base (its type is {kind:?})")));
        }

        let sum = layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
        if sum > MAX_BYTES {
            return Err(refused(format!("its packs have {sum} bytes; a flash may have {MAX_BYTES}")));
        }
        let mut packs = Vec::new();
        for layer in &layers {
            let given = self.pack(&what, &manifest, layer)?;
            // A base is not pulled for what would be refused in the end.
            match (keyring, &given.signature) {
                (Some(keyring), Some(signature)) => drop(keyring.verify(&given.bytes, signature)?),
                (Some(_), None) => return Err(StoreError::Unsigned { pack: given.name }.into()),
                (None, _) => {}
            }
            packs.push(given);
        }
        let mut looked_for = BTreeSet::new();
        for given in &packs {
            for pack in Packs::from_bytes(Path::new(&given.name), &given.bytes, None)?.into_vec() {
                let base_id = &pack.document().base_id;
                let is_here = active.base(base_id).is_some_and(|entry| self.store.open_base(entry).is_ok());
                if !is_here && looked_for.insert(base_id.clone()) {
                    self.base_of(&given.name, base_id, &mut entries, &mut new_bases)?;
                }
            }
        }
        // What others have left would never be asked for again, and takes room.
        let asked = layers.into_iter().chain(new_bases.iter().flat_map(|base| &base.files));
        let asked: BTreeSet<&str> = asked.map(Descriptor::sha256).collect();
        self.store.keep_arriving(|name| asked.contains(name))?;
        for NewBase { manifest, files } in &new_bases {
            self.room(files)?;
            for file in files {
                self.file(file, &format!("{} of the base", title(file)))?;
            }
            entries.push(self.store.settle_base(manifest)?);
        }
        report(&Step { step: "receive", ms: begin.elapsed().as_secs_f64() * 1e3, bytes: self.bytes });
        let bases = entries;
        Ok(self.store.flash(overmask::store::Flash {
            bases,
            packs,
            keyring,
            allow_downgrade,
            allow_worse,
            start,
            report,
        })?)
    }

    /// A pack with its signature: from the store, else from the registry.
    fn pack(&mut self, what: &str, manifest: &Manifest, layer: &Descriptor) -> Result<Given, OciError> {
        let name = format!("{what} ({})", title(layer));
        let bytes = match self.store.kept_pack(layer.sha256()) {
            Some(path) => read_file(&path)?,
            None => {
                self.room(std::slice::from_ref(layer))?;
                read_file(&self.file(layer, &name)?)?
            }
        };
        let signed = format!("{}{SIGNATURE_ENDING}", layer.title());
        let signature = match manifest.of_type(SIGNATURE).find(|layer| layer.title() == signed) {
            None => None,
            Some(layer) => {
                let what = format!("the signature of {name}");
                let bytes = self.registry.blob(layer, MAX_SIGNATURE, &what)?;
                self.bytes += bytes.len() as u64;
                let no_text = |_| OciError::Answer { what, reason: "it is no text".to_owned() };
                Some(String::from_utf8(bytes).map_err(no_text)?)
            }
        };
        Ok(Given { name, bytes, signature })
    }

    /// The base of a pack, which lies beside it.
    fn base_of(
        &mut self,
        pack: &str,
        base_id: &str,
        entries: &mut Vec<BaseEntry>,
        new: &mut Vec<NewBase>,
    ) -> Result<(), OciError> {
        let reference = self.registry.reference().with_tag(&base_tag(base_id, Precision::F32));
        let Some(bytes) = self.registry.manifest(&reference.name())? else {
            let (pack, base_id) = (pack.to_owned(), base_id.to_owned());
            return Err(OciError::NoBase { pack, base_id, repository: reference.place() });
        };
        let what = reference.to_string();
        let manifest = Manifest::parse(&what, &bytes)?;
        self.base(&what, &manifest, Some(base_id), entries, new)
    }

    /// The base of an artifact: it is here, or is to be pulled.
    fn base(
        &mut self,
        what: &str,
        manifest: &Manifest,
        base_id: Option<&str>,
        entries: &mut Vec<BaseEntry>,
        new: &mut Vec<NewBase>,
    ) -> Result<(), OciError> {
        let refused = |reason: String| OciError::Answer { what: what.to_owned(), reason };
        let first = manifest.of_type(BASE_MANIFEST).next();
        let first = first.ok_or_else(|| refused(format!("it is no base: it has no {}", file::MANIFEST)))?;
        let bytes = self.registry.blob(first, MAX_BASE_MANIFEST, &format!("{} of {what}", file::MANIFEST))?;
        self.bytes += bytes.len() as u64;
        let parsed = BaseManifest::parse(Path::new(&format!("{what} ({})", file::MANIFEST)), &bytes)?;
        if base_id.is_some_and(|base_id| base_id != parsed.base_id) {
            return Err(refused(format!("it is the base {}, and not what its tag says", parsed.base_id)));
        }
        if let Some(entry) = self.store.has_base(&bytes)? {
            entries.push(entry);
            return Ok(());
        }
        let layer = |(name, sha256): (&String, &String)| {
            let found = manifest.layers.iter().find(|layer| layer.sha256() == sha256);
            found.cloned().ok_or_else(|| refused(format!("it lacks {name}, whose sha256 is {sha256}")))
        };
        let files = parsed.digests.iter().map(layer).collect::<Result<_, _>>()?;
        new.push(NewBase { manifest: bytes, files });
        Ok(())
    }

    /// Checks that there is room for what of these has not arrived.
    fn room(&self, files: &[Descriptor]) -> Result<(), OciError> {
        let mut lacking = 0u64;
        for file in files {
            let part = self.store.arrive(file.sha256(), file.size)?;
            lacking = lacking.saturating_add(file.size - part.have());
        }
        Ok(self.store.check_space(lacking)?)
    }

    /// A file, pulled from where it stopped; returns where it is.
    fn file(&mut self, layer: &Descriptor, what: &str) -> Result<std::path::PathBuf, OciError> {
        loop {
            let mut part = self.store.arrive(layer.sha256(), layer.size)?;
            if part.have() < layer.size {
                self.bytes += self.registry.blob_into(layer, &mut part, what)?;
            }
            let is_resumed = part.is_resumed();
            match part.finish(what) {
                // Its beginning was damaged, by a power cut for example: it is gone now.
                Err(StoreError::Transfer { .. }) if is_resumed => log::warn!("{what} is pulled again: it was damaged"),
                Err(StoreError::Transfer { what, reason }) => return Err(OciError::Answer { what, reason }),
                finished => return Ok(finished?),
            }
        }
    }
}

/// A layer's title, as it may be shown.
fn title(layer: &Descriptor) -> String {
    let title: String = printable(layer.title()).chars().take(MAX_TITLE).collect();
    if title.trim().is_empty() { "without a name".to_owned() } else { title }
}
