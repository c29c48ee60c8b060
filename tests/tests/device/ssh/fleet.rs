//! `overmask flash --fleet`: stores on one machine, each a device.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use overmask::store::Store;
use overmask_tests::{Ran, failed, json_lines, program, ran};
use serde_json::Value;

use super::link::Link;
use super::{Place, done, lock};

impl Place {
    /// A file of devices: name, host, store, and more lines for each.
    fn devices(&self, devices: &[(&str, &str, &Path, &str)]) -> PathBuf {
        let ssh: Vec<String> = self.ssh().split(' ').map(str::to_owned).collect();
        let mut text = format!("[defaults]\nprogram = {:?}\nssh = {ssh:?}\n", program("overmask").get_program());
        for (name, host, store, more) in devices {
            writeln!(text, "[[device]]\nname = {name:?}\nhost = {host:?}\nstore = {store:?}\n{more}").unwrap();
        }
        let path = self.path("devices.toml");
        fs::write(&path, text).unwrap();
        path
    }

    /// So many stores with a device each, `board1` and so on.
    fn boards(&self, count: usize) -> Vec<(String, String, PathBuf)> {
        let board = |i| (format!("board{i}"), format!("board{i}.example"), self.store(&format!("store-{i}")));
        (1..=count).map(board).collect()
    }

    fn fleet(&self, revision: u64, more: &[&str]) -> Command {
        let mut command = program("overmask");
        command.args(["flash", "--fleet"]).arg(self.path("devices.toml")).arg("--base").arg(self.base_dir());
        command.arg(self.pack(revision)).args(more);
        command
    }
}

fn plain(boards: &[(String, String, PathBuf)]) -> Vec<(&str, &str, &Path, &str)> {
    boards.iter().map(|(name, host, store)| (name.as_str(), host.as_str(), store.as_path(), "")).collect()
}

/// The devices by name with their results, in order, and the last object.
fn results(got: &Ran) -> (Vec<(String, String)>, Value) {
    let mut rows = json_lines(got);
    let summary = rows.pop().unwrap();
    let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    let mut results: Vec<_> = rows.iter().map(|row| (text(row, "device"), text(row, "result"))).collect();
    results.sort();
    (results, summary)
}

fn row<'a>(rows: &'a [Value], device: &str) -> &'a Value {
    rows.iter().find(|row| row["device"] == device).unwrap()
}

fn generation(store: &Path) -> u64 {
    Store::open(store).unwrap().current().unwrap().number
}

#[test]
fn a_fleet_is_flashed_and_goes_on_with_those_that_failed() {
    let place = Place::new();
    let boards = place.boards(5);
    let mut devices = plain(&boards);
    devices[1].1 = "nobody.example";
    // One that refuses.
    let current = fs::read(boards[3].2.join("current")).unwrap();
    fs::write(boards[3].2.join("current"), "{}").unwrap();
    place.devices(&devices);
    let got = ran(&mut place.fleet(1, &["--json", "--max-failures", "2"]));
    failed(&got, 8, &["2 of 5 devices failed, 0 were not tried", "goes on"]);
    let (found, summary) = results(&got);
    let expected = ["ok", "failed", "ok", "failed", "ok"];
    assert!(found.iter().map(|(_, result)| result.as_str()).eq(expected), "{found:?}");
    assert_eq!(
        (summary["ok"].as_u64(), summary["failed"].as_u64(), summary["devices"].as_u64()),
        (Some(3), Some(2), Some(5))
    );
    let rows = json_lines(&got);
    let (reach, refused, first) = (row(&rows, "board2"), row(&rows, "board4"), row(&rows, "board1"));
    assert!(reach["error"].as_str().unwrap().contains("cannot reach") && reach["tries"] == 2, "{reach}");
    assert!(refused["error"].as_str().unwrap().contains("damaged") && refused["tries"] == 1, "{refused}");
    assert!(first["generation"] == 1 && first["is_new"] == true && first["tries"] == 1, "{first}");
    assert_eq!(summary["sent"].as_u64(), Some(3 * first["sent"].as_u64().unwrap()));
    assert!(place.answers(&boards[4].2));

    // What failed is mended; the same command goes on with it.
    fs::write(boards[3].2.join("current"), current).unwrap();
    place.devices(&plain(&boards));
    let got = done(ran(&mut place.fleet(1, &["--json"])));
    let (found, summary) = results(&got);
    let expected = ["skipped", "ok", "skipped", "ok", "skipped"];
    assert!(found.iter().map(|(_, result)| result.as_str()).eq(expected), "{found:?}");
    assert_eq!((summary["skipped"].as_u64(), summary["failed"].as_u64()), (Some(3), Some(0)));
    assert!(boards.iter().all(|(.., store)| generation(store) == 1 && place.answers(store)));

    // What is new is flashed; the base is there.
    let got = done(ran(&mut place.fleet(2, &["--json", "--parallel", "2"])));
    let rows = json_lines(&got);
    let bytes = fs::metadata(place.pack(2)).unwrap().len();
    assert!(
        rows[..5].iter().all(|row| row["result"] == "ok" && row["generation"] == 2 && row["sent"] == bytes),
        "{rows:?}"
    );
    // And again, whatever the state says.
    let got = done(ran(&mut place.fleet(2, &["--json", "--no-resume"])));
    let rows = json_lines(&got);
    assert!(
        rows[..5].iter().all(|row| row["result"] == "ok" && row["is_new"] == false && row["sent"] == 0),
        "{rows:?}"
    );
    // For people.
    let got = done(ran(&mut place.fleet(2, &[])));
    assert_eq!(got.stdout.matches("  skipped  generation 2, as the state says\n").count(), 5, "{}", got.stdout);
    let table: Vec<&str> = got.stdout.lines().filter(|line| line.starts_with("all")).collect();
    let numbers: Vec<&str> = table[0].split_whitespace().collect();
    assert_eq!(numbers, ["all", "5", "0", "0", "5", "0", "0"]);
}

#[test]
fn the_first_ones_fail_and_nobody_else_is_tried() {
    let place = Place::new();
    let boards = place.boards(4);
    let mut devices = plain(&boards);
    devices[0].1 = "nobody.example";
    for i in [2, 3] {
        devices[i].3 = "group = \"lab\"";
    }
    place.devices(&devices);
    let got = ran(&mut place.fleet(1, &["--json", "--canary", "25%"]));
    failed(&got, 8, &["1 of 4 devices failed, 3 were not tried (1 of 1 failed, 0 may)"]);
    let (found, summary) = results(&got);
    let expected = ["failed", "not_tried", "not_tried", "not_tried"];
    assert!(found.iter().map(|(_, result)| result.as_str()).eq(expected), "{found:?}");
    assert!(summary["stopped"].as_str().unwrap().contains("1 of 1 failed"), "{summary}");
    assert!(boards.iter().all(|(.., store)| generation(store) == 0));

    // A group first; those of it end before the others begin, one of which may fail.
    let got = ran(&mut place.fleet(1, &["--json", "--canary", "lab", "--max-failures", "1"]));
    let rows = json_lines(&got);
    failed(&got, 8, &["1 of 4 devices failed, 0 were not tried"]);
    let canaries: Vec<bool> = rows[..4].iter().map(|row| row["canary"].as_bool().unwrap()).collect();
    assert_eq!(canaries, [true, true, false, false]);
    assert_eq!(boards.iter().map(|(.., store)| generation(store)).collect::<Vec<_>>(), [0, 1, 1, 1]);

    // One group alone.
    let got = done(ran(&mut place.fleet(2, &["--json", "--group", "lab"])));
    let (found, _) = results(&got);
    assert_eq!(found.len(), 2);
    assert_eq!(boards.iter().map(|(.., store)| generation(store)).collect::<Vec<_>>(), [0, 1, 2, 2]);
    let got = ran(&mut place.fleet(2, &["--canary", "lab"]));
    let lines: Vec<&str> = got.stdout.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(got.code, 8, "{got:?}");
    assert!(lines.contains(&"canary") && lines.contains(&"others") && lines.contains(&"all"), "{}", got.stdout);
}

#[test]
fn who_takes_too_long_is_given_up_and_a_broken_link_is_tried_again() {
    let place = Place::new();
    let boards = place.boards(3);
    let mut devices = plain(&boards);
    let link = Link::to(place.port, vec![20_000]);
    let port = format!("ssh = [\"ssh\", \"-F\", {:?}, \"-o\", \"Port={}\"]", place.path("ssh_config"), link.port);
    devices[2].3 = &port;
    place.devices(&devices);
    let held = lock(&boards[1].2);
    let got = ran(&mut place.fleet(1, &["--json", "--max-failures", "1", "--timeout", "20"]));
    let rows = json_lines(&got);
    failed(&got, 8, &["1 of 3 devices failed"]);
    let late = row(&rows, "board2");
    assert!(late["error"].as_str().unwrap().contains("not done after 20 s") && late["tries"] == 1, "{late}");
    let seconds = late["seconds"].as_f64().unwrap();
    assert!((20.0..40.0).contains(&seconds), "{late}");
    drop(held);
    let again = row(&rows, "board3");
    assert!(again["result"] == "ok" && again["tries"] == 2, "{again}");
    let (all, sent) = (row(&rows, "board1")["sent"].as_u64().unwrap(), again["sent"].as_u64().unwrap());
    assert!(sent >= all && sent < 2 * all, "{sent} of {all}");
    done(ran(&mut place.fleet(1, &["--json"])));
}

#[test]
fn what_runs_ends_when_it_is_asked_to_stop() {
    let place = Place::new();
    let boards = place.boards(3);
    place.devices(&plain(&boards));
    let held = lock(&boards[0].2);
    let mut command = place.fleet(1, &["--json", "--parallel", "1", "-v"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains("board1: begun")));
    // Another one may not come between.
    failed(&ran(&mut place.fleet(1, &[])), 8, &["another process is flashing these devices"]);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert!(said.any(|line| line.contains("stopping")));
    drop(held);
    let rest: Vec<String> = said.collect();
    let got: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(got.code, 8, "{got:?}");
    assert!(
        rest.iter().any(|line| line.contains("0 of 3 devices failed, 2 were not tried (asked to stop)")),
        "{rest:?}"
    );
    let (found, _) = results(&got);
    assert!(found.iter().map(|(_, result)| result.as_str()).eq(["ok", "not_tried", "not_tried"]), "{found:?}");
    let (found, _) = results(&done(ran(&mut place.fleet(1, &["--json"]))));
    assert!(found.iter().map(|(_, result)| result.as_str()).eq(["skipped", "ok", "ok"]), "{found:?}");
}

#[test]
fn what_is_wrong_is_told_before_a_device_is_asked() {
    let place = Place::new();
    let boards = place.boards(1);
    let file = place.devices(&plain(&boards));
    let state = place.path("devices.state.json");
    failed(&ran(&mut place.fleet(1, &["--to", "board1.example"])), 2, &["--to"]);
    failed(&ran(&mut place.fleet(1, &["--store", "x"])), 2, &["--store"]);
    failed(&ran(&mut place.fleet(1, &["--canary", "nobody"])), 2, &["--canary nobody"]);
    failed(&ran(&mut place.fleet(1, &["--max-failures", "lots"])), 2, &["`lots`"]);
    failed(&ran(&mut place.fleet(1, &["--group", "nobody"])), 3, &["devices.toml", "`nobody`"]);
    failed(&ran(program("overmask").args(["flash", "x.pack", "--group", "a"])), 2, &["--fleet"]);
    let bad = place.path("bad.pack");
    let mut bytes = fs::read(place.pack(1)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&bad, bytes).unwrap();
    failed(&ran(place.fleet(1, &[]).arg(&bad)), 4, &["bad.pack"]);
    fs::write(&state, "{").unwrap();
    failed(&ran(&mut place.fleet(1, &[])), 4, &["devices.state.json", "remove it"]);
    fs::remove_file(&state).unwrap();
    failed(&ran(&mut place.fleet(1, &["--state", "/no/such/dir/state.json"])), 8, &["/no/such/dir"]);
    fs::write(&file, "[[device]]\nhosts = 'x'").unwrap();
    failed(&ran(&mut place.fleet(1, &[])), 3, &["devices.toml: line 2"]);
    fs::remove_file(&file).unwrap();
    failed(&ran(&mut place.fleet(1, &[])), 3, &["devices.toml"]);
    assert!(!state.exists() && generation(&boards[0].2) == 0);
}
