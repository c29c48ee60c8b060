//! What is asked and answered, on every kind of connection.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use overmask_tests::{json_lines, ran, ran_with};
use serde_json::{Value, json};

use super::{Http, TEXTS, label, labels, start};
use crate::store::{Device, done, overmask, run};

#[test]
fn answers_are_those_of_run_on_lines_and_http() {
    let device = Device::new();
    let store = device.full("store");
    let server = start(&store, &[]);
    let expected = labels(&device, &device.pack("a", 2));
    let (mut lines, mut tcp) = (server.lines(), server.http());
    let mut unix = Http::new(UnixStream::connect(&server.socket).unwrap());
    for (text, expected) in TEXTS.iter().zip(&expected) {
        let request = json!({"id": {"n": [1.5, text]}, "task": "a", "text": text});
        let reply = lines.ask(&request);
        assert_eq!((label(&reply), &reply["id"]), ((expected.clone(), 2), &request["id"]));
        assert_eq!(tcp.post(&request), (200, reply.clone()));
        assert_eq!(unix.post(&request), (200, reply));
    }
    // All that `run --json` says of a text, but what the client knows already.
    let rows = json_lines(&done(ran(&mut run(&store))));
    let reply = lines.ask(&json!({"text": "a b c"}));
    assert_eq!((&reply["schema"], &reply["id"]), (&json!(1), &Value::Null));
    for (answer, mut row) in reply["answers"].as_array().unwrap().iter().zip(rows) {
        let row = row.as_object_mut().unwrap();
        for field in ["schema", "line", "pack", "text"] {
            row.remove(field).unwrap();
        }
        row.insert("input".to_owned(), json!(0));
        assert_eq!(answer, &json!(row));
    }
}

#[test]
fn texts_and_tasks_are_answered_in_their_order() {
    let device = Device::new();
    let server = start(&device.full("store"), &[]);
    let [b, a] = ["b", "a"].map(|task| labels(&device, &device.pack(task, 2)));
    let reply = server.lines().ask(&json!({"tasks": ["b", "a", "b"], "texts": TEXTS}));
    let mut answers = reply["answers"].as_array().unwrap().iter();
    for (input, (b, a)) in b.iter().zip(&a).enumerate() {
        for (task, label) in [("b", b), ("a", a), ("b", b)] {
            let answer = answers.next().unwrap();
            assert_eq!((&answer["input"], &answer["task"]), (&json!(input), &json!(task)));
            assert_eq!(answer["label"], *label, "{answer}");
        }
    }
    assert!(answers.next().is_none());
}

#[test]
fn an_error_costs_what_it_is_about() {
    let device = Device::new();
    let server = start(&device.full("store"), &["--max-body", "2000", "--max-answers", "20"]);
    let (mut lines, mut http) = (server.lines(), server.http());
    for (request, status, code, words) in [
        (json!({"id": 7, "task": "c", "text": "x"}), 404, "unknown_task", "no task `c` in generation 2"),
        (json!({"id": 7, "task": "a", "txt": "x"}), 400, "bad_request", "unknown field `txt`"),
        (json!({"id": 7, "task": "a", "tokens": ["x"]}), 400, "bad_request", "the task `a` reads one text"),
        (json!({"id": 7, "task": "a", "texts": vec!["x"; 21]}), 413, "too_large", "--max-answers"),
        (json!([1]), 400, "bad_request", "no request"),
        (json!({"id": 7, "text": "x".repeat(2000)}), 413, "too_large", "--max-body"),
    ] {
        let reply = lines.ask(&request);
        assert_eq!(reply["error"]["code"], code, "{reply}");
        assert!(reply["error"]["message"].as_str().unwrap().contains(words), "{reply}");
        if code != "too_large" || request.to_string().len() < 2000 {
            assert_eq!(reply["id"], *request.get("id").unwrap_or(&Value::Null));
        }
        assert_eq!(http.post(&request), (status, reply), "{request}");
        // A body that is not read to its end ends the connection.
        http = server.http();
    }
    // One of several inputs.
    let reply = lines.ask(&json!({"task": "a", "texts": ["x", {"tokens": ["x"]}, "y"]}));
    let codes: Vec<_> = reply["answers"].as_array().unwrap().iter().map(|answer| &answer["error"]["code"]).collect();
    assert_eq!(codes, [&Value::Null, &json!("bad_request"), &Value::Null]);
    // Lines that are no text, blank, or too long, and a last one without its end.
    lines.to.write_all(b"\xff\xfe\n\n  \r\n").unwrap();
    lines.to.write_all(&vec![b'a'; 3_000_000]).unwrap();
    lines.to.write_all(b"\n{\"task\":\"a\",\"text\":\"x\"}").unwrap();
    lines.to.shutdown(std::net::Shutdown::Write).unwrap();
    let codes = [lines.receive(), lines.receive()].map(|reply| reply["error"]["code"].clone());
    assert_eq!(codes, ["bad_request", "too_large"]);
    assert_eq!(label(&lines.receive()).1, 2);
    assert_eq!(server.metric("overmask_errors_total{code=\"unknown_task\"}"), 2.0);
}

#[test]
fn http_tells_of_tasks_health_and_what_there_is() {
    let device = Device::new();
    let server = start(&device.full("store"), &[]);
    let mut http = server.http();
    let (status, health) = http.get("/health");
    let health: Value = serde_json::from_str(&health).unwrap();
    assert_eq!(
        (status, health),
        (200, json!({"schema": 1, "status": "ok", "generation": 2, "tasks": 2, "unavailable": 0}))
    );
    let (status, tasks) = http.get("/v1/tasks");
    let tasks: Value = serde_json::from_str(&tasks).unwrap();
    let task = &tasks["tasks"][1];
    assert_eq!(
        (status, &tasks["generation"], &task["name"], &task["kind"]),
        (200, &json!(2), &json!("b"), &json!("classify"))
    );
    assert_eq!((&task["labels"], &task["max_tokens"]), (&json!(["b 2 0", "b 2 1"]), &json!(16)));
    assert_eq!(http.get("/").0, 404);
    assert_eq!((http.get("/v1/run").0, http.request("DELETE", "/health", "").0), (405, 405));
    assert_eq!(http.post(&json!({"task": "a", "text": "x"})).0, 200);
    assert_eq!(server.metric("overmask_answers_total"), 1.0);
}

#[test]
fn stdin_is_answered_to_its_end() {
    let device = Device::new();
    let store = device.full("store");
    let mut command = overmask("serve", &store);
    command.args(["--threads", "1", "--stdio"]);
    let requests: String =
        (0..3000).map(|i| format!("{}\n", json!({"id": i, "task": "a", "text": TEXTS[i % 8]}))).collect();
    let got = done(ran_with(&mut command, requests.as_bytes()));
    let expected = labels(&device, &device.pack("a", 2));
    let replies = json_lines(&got);
    assert_eq!(replies.len(), 3000);
    for (i, reply) in replies.iter().enumerate() {
        assert_eq!((&reply["id"], label(reply)), (&json!(i), (expected[i % 8].clone(), 2)));
    }
    // It answers before stdin ends, and a signal ends it.
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{}", json!({"task": "a", "text": "x"})).unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    assert!(line.contains("\"generation\":2"), "{line}");
    assert!(std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_cannot_be_served_is_said() {
    let device = Device::new();
    let store = device.full("store");
    let (mut none, _) = super::command(&device.path("nowhere"));
    overmask_tests::failed(&ran(&mut none), 8, &["nowhere"]);
    let server = start(&store, &[]);
    let (mut second, _) = super::command(&store);
    overmask_tests::failed(&ran(&mut second), 8, &["cannot listen at unix:", "another server listens there"]);
    let mut taken = overmask("serve", &store);
    taken.args(["--listen", &format!("tcp:{}", server.address)]);
    overmask_tests::failed(&ran(&mut taken), 8, &["cannot listen at tcp:127.0.0.1"]);
    let mut wrong = overmask("serve", &store);
    overmask_tests::failed(&ran(wrong.args(["--listen", "nowhere"])), 2, &["must be unix:PATH"]);
    // A store without tasks waits for some.
    let empty = device.empty("empty");
    let waits = start(&empty, &[]);
    assert_eq!(waits.lines().ask(&json!({"text": "x"}))["error"]["code"], "unknown_task");
    done(ran(crate::store::flash(&empty, device.packs(1)).arg("--base").arg(device.base_dir())));
    waits.reaches(1);
    assert_eq!(waits.lines().label("a", "x").1, 1);
    assert_eq!(waits.stop(), 0);
}
