//! What a server remembers of texts that come again, and that nobody can tell by its answers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use overmask_tests::{Recipe, ran};
use serde_json::{Value, json};

use super::{Running, TEXTS, start};
use crate::store::{Device, done, flash, overmask};

/// The packs of a task that leaves the lower one of the base's two layers alone, and of one that masks both.
fn packs(device: &Device, revision: u64) -> [PathBuf; 2] {
    [("upper", 1), ("both", 0)].map(|(name, from_layer)| {
        let path = device.path(&format!("{name}-{revision}.pack"));
        device.write(&path, &Recipe { name, seed: revision, from_layer, ..Default::default() }, revision);
        path
    })
}

/// The answers to all texts, asked one by one and all at once.
fn answers(server: &Running) -> Vec<Value> {
    let mut lines = server.lines();
    let single = TEXTS.map(|text| json!({"text": text}));
    let all = ["upper", "both"].map(|task| json!({"task": task, "texts": TEXTS}));
    single.iter().chain(&all).map(|request| lines.ask(request)["answers"].take()).collect()
}

/// The metrics of the cache, by their names.
fn cache(server: &Running) -> BTreeMap<String, f64> {
    let of_base = server.metrics().into_iter().filter_map(|(name, value)| {
        let (name, base) = name.strip_prefix("overmask_cache_")?.split_once("{base=\"")?;
        assert_eq!(base.len(), "\"}".len() + 64, "{base}");
        Some((name.to_owned(), value))
    });
    of_base.collect()
}

#[test]
fn texts_that_come_again_get_the_same_answers_from_what_is_remembered() {
    let device = Device::new();
    let store = device.empty("store");
    done(ran(flash(&store, packs(&device, 1)).arg("--base").arg(device.base_dir())));
    let plain = start(&store, &[]);
    let wanted = answers(&plain);
    assert!(cache(&plain).is_empty(), "without the option there is no cache");
    drop(plain);

    let server = start(&store, &["--cache-texts", "100"]);
    assert_eq!(answers(&server), wanted);
    let first = cache(&server);
    // Each text came twice for the task `upper`; the other one has nothing to remember.
    let texts = TEXTS.len() as f64;
    assert_eq!((first["hits_total"] + first["misses_total"], first["texts"]), (2.0 * texts, first["misses_total"]));
    assert!(first["hits_total"] >= texts && first["bytes"] > 0.0, "{first:?}");
    assert_eq!(answers(&server), wanted);
    let second = cache(&server);
    assert_eq!(second["hits_total"] - first["hits_total"], 2.0 * texts, "{second:?}");
    assert_eq!(second["misses_total"], first["misses_total"]);

    // It is the base's, so that it outlives tasks.
    done(ran(&mut flash(&store, packs(&device, 2))));
    server.reaches(2);
    let reloaded = answers(&server);
    let third = cache(&server);
    assert_eq!(third["hits_total"] - second["hits_total"], 2.0 * texts, "{third:?}");
    drop(server);
    assert_ne!(reloaded, wanted);
    assert_eq!(reloaded, answers(&start(&store, &[])));
}

#[test]
fn no_more_texts_are_remembered_than_were_allowed() {
    let device = Device::new();
    let store = device.empty("store");
    done(ran(flash(&store, packs(&device, 1)).arg("--base").arg(device.base_dir())));
    let server = start(&store, &["--cache-texts", "3"]);
    let wanted = answers(&server);
    for _ in 0..3 {
        assert_eq!(answers(&server), wanted);
        let cache = cache(&server);
        // 16 tokens at most, at a width of 32.
        assert!(cache["texts"] == 3.0 && cache["bytes"] <= 3.0 * 16.0 * 32.0 * 4.0, "{cache:?}");
    }
}

#[test]
fn an_engine_that_remembers_nothing_is_told_so() {
    let device = Device::new();
    let store = device.full("store");
    for engine in ["ort", "tract"] {
        let refused = ran(overmask("serve", &store).args(["--stdio", "--engine", engine, "--cache-texts", "5"]));
        assert_eq!(refused.code, 2, "{refused:?}");
        assert!(refused.stderr.contains("--cache-texts") && refused.stderr.contains("`native`"), "{refused:?}");
        let zero = ran(overmask("serve", &store).args(["--stdio", "--engine", engine, "--cache-texts", "0"]));
        assert_eq!(zero.code, 0, "{zero:?}");
    }
    let wrong = ran(overmask("serve", &store).args(["--stdio", "--cache-texts", "-1"]));
    assert_eq!(wrong.code, 2, "{wrong:?}");
}
