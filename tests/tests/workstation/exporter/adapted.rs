//! A base that is prepared for masks is a base like others.

use overmask_tests::{failed, json_lines, program, ran};

use super::{Place, export};

#[test]
fn a_base_is_adapted_and_learnt_on() {
    let place = Place::new();
    place.write("lines.txt", (0..30).map(|i| format!("good film {i}\n")).collect::<String>().as_bytes());
    let adapt = |out: &str, more: &[&str]| {
        let mut command = export(&["adapt", "--json", "--granularity", "block:4x1", "--max-tokens", "16", "--base"]);
        command.arg(place.path("base")).arg("-o").arg(place.path(out)).args(["--batch-size", "8", "--threads", "1"]);
        ran(command.args(more))
    };
    let lines = place.path("lines.txt").display().to_string();
    let got = adapt("out/adapted", &["--texts", &lines, "--steps", "5"]);
    let said = &json_lines(&got)[0];
    assert_eq!((got.code, &said["steps"], &said["texts"]), (0, &5.into(), &29.into()), "{got:?}");
    assert!(said["before"]["dense"] == 0.0 && said["after"]["half"].as_f64() > Some(0.0), "{said}");
    assert_eq!(place.made(), ["adapted"]);

    // What is learnt on it runs on it, and on nothing else.
    let mut train =
        export(&["train", "--json", "--max-steps", "4", "--max-tokens", "16", "--granularity", "block:4x1"]);
    train.arg("--base").arg(place.path("out/adapted")).arg("--data").arg(place.path("texts.jsonl"));
    let got = ran(train.arg("-o").arg(place.path("out/tiny.pack")));
    assert_eq!(got.code, 0, "{got:?}");
    let run = |base: &str| {
        let mut command = program("overmask");
        command.args(["run", "--base"]).arg(place.path(base)).arg("--pack").arg(place.path("out/tiny.pack"));
        ran(command.arg("good film"))
    };
    assert_eq!(run("out/adapted").code, 0);
    failed(&run("base"), 6, &["does not fit the base"]);

    // Nothing that is wrong leaves anything behind, and nothing that is there is touched.
    let made = place.made();
    let base = place.path("base").display().to_string();
    for (out, more, code, said) in [
        ("out/adapted", vec!["--texts", &lines], 8, "is in a base bundle"),
        ("out/b", vec!["--texts", &base], 3, "is a directory"),
        ("out/b", vec!["--texts", "absent.txt"], 3, "cannot read absent.txt"),
        ("out/b", vec!["--texts", &lines, "--steps", "0"], 2, "--steps"),
        ("out/b", vec!["--texts", &lines, "--sparsity", "2"], 2, "--sparsity: 2 is not between 0 and 1"),
        ("out/b", vec!["--texts", &lines, "--resume"], 2, "--checkpoint"),
        ("out/b", vec!["--texts", &lines, "--checkpoint", &lines], 2, "is the file of --texts, too"),
        ("out/b", vec!["--texts", &lines, "--text-column", "a"], 2, "--text-column: is for files with fields"),
        ("/proc/b", vec!["--texts", &lines], 8, "/proc"),
    ] {
        let got = adapt(out, &more);
        assert!(got.code == code && got.stderr.contains(said), "{more:?}: {got:?}");
        assert_eq!(place.made(), made, "{more:?}");
    }
    let quantized = ran(export(&["quantize", "--dtype", "int8", "--base"])
        .arg(place.path("out/adapted"))
        .arg("-o")
        .arg(place.path("out/int8")));
    assert_eq!(quantized.code, 0, "{quantized:?}");
    let mut again = export(&["adapt", "--texts", &lines, "--base"]);
    let got = ran(again.arg(place.path("out/int8")).arg("-o").arg(place.path("out/b")));
    failed(&got, 3, &["is the int8 variant of a base, this takes the f32 base"]);
}
