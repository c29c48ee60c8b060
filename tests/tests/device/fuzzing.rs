//! What fuzzing starts from, and every input that it ever found to be handled wrongly.

// A workspace of its own: it cannot be a dependency.
#[allow(unreachable_pub)]
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use std::path::{Path, PathBuf};

fn folder(kind: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target)
}

/// With `OVERMASK_WRITE_SEEDS` the seeds are written; they change with the formats.
#[test]
fn seeds_are_those_of_the_present_formats() {
    for (name, target) in fuzz::TARGETS {
        for (i, seed) in fuzz::seeds::seeds(name).iter().enumerate() {
            let path = folder("seeds", name).join(format!("seed-{i}"));
            if std::env::var_os("OVERMASK_WRITE_SEEDS").is_some() {
                std::fs::create_dir_all(folder("seeds", name)).unwrap();
                std::fs::write(&path, seed).unwrap();
            }
            target(seed);
            let written = std::fs::read(&path).unwrap_or_default();
            assert!(written == *seed, "{} is of another format: set OVERMASK_WRITE_SEEDS", path.display());
        }
    }
}

/// `cargo xtask fuzz` runs what has a folder of seeds.
#[test]
fn every_target_has_a_folder_of_seeds_and_no_other_is_there() {
    let folders = std::fs::read_dir(folder("seeds", "")).unwrap();
    let mut folders: Vec<String> = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    let mut names = fuzz::TARGETS.map(|(name, _)| name);
    names.sort_unstable();
    assert_eq!(folders, names);
}

#[test]
fn what_fuzzing_found_stays_fixed() {
    for (name, target) in fuzz::TARGETS {
        let found = std::fs::read_dir(folder("regressions", name)).unwrap();
        let paths: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
        assert!(!paths.is_empty());
        for path in paths {
            println!("{}", path.display());
            target(&std::fs::read(path).unwrap());
        }
    }
}
