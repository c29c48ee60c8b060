//! What a directory keeps of a base and of packs, looked at without an engine: nothing is made or removed, and no more
//! of a file changed than the day of its last use.

use std::time::Instant;

use overmask_kernels::Element;

use super::{NativeEngine, masks, packed};
use crate::base::Base;
use crate::derived::{DerivedFile, Directory, Kept};
use crate::engine::{EngineError, check_changes};
use crate::pack::PackFile;

impl NativeEngine {
    /// Compares what a directory keeps of a base, if anything, with what the base gives now.
    ///
    /// # Errors
    /// When the base cannot be read. Its digests are not computed.
    pub fn kept_of_base(base: &Base, directory: Option<&Directory>) -> Result<Kept, EngineError> {
        let start = Instant::now();
        by_precision!(base.precision(), E => {
            let values = packed::pack::<E>(base, &packed::starts(base))?;
            let file = directory.map(|directory| DerivedFile::new(directory, E::PANELS, packed::key(base)));
            Ok(Kept::compare(file, &values, start.elapsed()))
        })
    }

    /// The same for what is kept of a pack.
    ///
    /// # Errors
    /// When base or pack cannot be read, or the pack does not fit the base.
    pub fn kept_of_pack(base: &Base, pack: &PackFile, directory: Option<&Directory>) -> Result<Kept, EngineError> {
        let start = Instant::now();
        pack.check_base(base)?;
        let named = pack.masks(Some(base))?;
        check_changes(base, &named, pack.deltas())?;
        let (_, words) = masks::pack(base, &named);
        let file = directory.map(|directory| masks::kept(base, directory, &packed::key(base), pack));
        Ok(Kept::compare(file, &words, start.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derived::KeptState;
    use crate::engine::native::packed::Packed;

    #[test]
    fn it_is_told_how_the_file_of_a_base_is_found() {
        let dir = tempfile::tempdir().unwrap();
        crate::base::tests::bundle(dir.path());
        let base = Base::open(dir.path()).unwrap();
        let kept = NativeEngine::kept_of_base(&base, None).unwrap();
        assert!(kept.state == KeptState::Missing && kept.path.is_none(), "{kept:?}");
        let directory = Directory::open(dir.path().join("cache")).unwrap();
        let look = || NativeEngine::kept_of_base(&base, Some(&directory)).unwrap();
        let path = look().path.unwrap();
        assert_eq!((look().state, path.exists()), (KeptState::Missing, false));

        Packed::open(&base, Some(&directory)).unwrap();
        let good = std::fs::read(&path).unwrap();
        assert_eq!((look().state, look().bytes), (KeptState::Right, good.len() as u64));

        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        for (bytes, why) in [(&bad[..], "damaged"), (&good[..good.len() - 4], "damaged"), (b"else", "another version")]
        {
            std::fs::write(&path, bytes).unwrap();
            let KeptState::Useless(said) = look().state else { panic!("{:?}", look()) };
            assert!(said.contains(why), "{said}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "it was looked at, no more");
        }

        // Other values with their own right checksum.
        std::fs::remove_file(&path).unwrap();
        let values = vec![0f32; (good.len() - DerivedFile::size::<f32>(0) as usize) / 4];
        let file = DerivedFile::new(&directory, f32::PANELS, packed::key(&base));
        file.find_or_make(values.len(), |_| Ok::<_, std::convert::Infallible>(values.clone())).unwrap();
        assert_eq!((look().state, path.exists()), (KeptState::Wrong, true));
    }
}
