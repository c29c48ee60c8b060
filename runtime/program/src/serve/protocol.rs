//! What a client says and hears: requests and replies as JSON, alike on every kind of connection. docs/serve.md tells of
//! each field.

use std::sync::Arc;

use overmask::pack::Input;
use overmask::task::{Answer, Reply};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::failure::{Code, Failure};
use super::tasks::Loaded;
use crate::answer::Answered;
use crate::given::Words;

/// A request: inputs, and the tasks that they are for.
#[derive(Debug)]
pub(super) struct Request {
    /// What the reply has as its `id`, as it was written.
    pub(super) id: Option<Box<RawValue>>,
    /// The tasks by name; none: all that are active.
    pub(super) tasks: Vec<String>,
    pub(super) inputs: Vec<Input>,
}

/// A request that cannot be read, with its `id` if that much could be.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) id: Option<Box<RawValue>>,
    pub(super) failure: Failure,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    id: Option<Box<RawValue>>,
    task: Option<String>,
    tasks: Option<Vec<String>>,
    text: Option<String>,
    text_pair: Option<String>,
    tokens: Option<Words>,
    texts: Option<Vec<One>>,
}

/// One of several inputs.
#[derive(Deserialize)]
#[serde(untagged)]
enum One {
    Text(String),
    Given(Object),
}

/// An object with an input. As a structure alone it could be a list as well.
#[derive(Deserialize)]
#[serde(try_from = "serde_json::Map<String, serde_json::Value>")]
struct Object(Given);

impl TryFrom<serde_json::Map<String, serde_json::Value>> for Object {
    type Error = serde_json::Error;

    fn try_from(map: serde_json::Map<String, serde_json::Value>) -> Result<Self, Self::Error> {
        Given::deserialize(serde_json::Value::Object(map)).map(Object)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    text: Option<String>,
    text_pair: Option<String>,
    tokens: Option<Words>,
}

impl Given {
    fn input(self) -> Result<Input, &'static str> {
        match (self.text, self.text_pair, self.tokens) {
            (Some(first), Some(second), None) => Ok(Input::Pair(first, second)),
            (Some(text), None, None) => Ok(Input::Text(text)),
            (None, None, Some(words)) => Ok(Input::Words { words: words.into() }),
            (None, Some(_), _) => Err("`text_pair` goes with `text`"),
            (Some(_), _, Some(_)) => Err("`text` and `tokens` exclude each other"),
            (None, None, None) => Err("there is no input: give `text`, `texts` or `tokens`"),
        }
    }
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn read(bytes: &[u8]) -> Result<Request, Unreadable> {
        let no_request = |reason: String| Failure::new(Code::BadRequest, format!("this is no request: {reason}"));
        // A structure could be a list as well.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(Unreadable { id: None, failure: no_request("it must be an object".to_owned()) });
        }
        let fields: Fields = serde_json::from_slice(bytes)
            .map_err(|error| Unreadable { id: id_of(bytes), failure: no_request(error.to_string()) })?;
        let Fields { id, task, tasks, text, text_pair, tokens, texts } = fields;
        match chosen(task, tasks).and_then(|tasks| Ok((tasks, inputs(Given { text, text_pair, tokens }, texts)?))) {
            Ok((tasks, inputs)) => Ok(Request { id, tasks, inputs }),
            Err(reason) => Err(Unreadable { id, failure: Failure::new(Code::BadRequest, reason) }),
        }
    }
}

fn chosen(task: Option<String>, tasks: Option<Vec<String>>) -> Result<Vec<String>, &'static str> {
    match (task, tasks) {
        (Some(_), Some(_)) => Err("`task` and `tasks` exclude each other"),
        (_, Some(tasks)) if tasks.is_empty() => Err("`tasks` is empty; without it all active tasks answer"),
        (_, Some(tasks)) => Ok(tasks),
        (task, None) => Ok(task.into_iter().collect()),
    }
}

fn inputs(one: Given, several: Option<Vec<One>>) -> Result<Vec<Input>, &'static str> {
    match several {
        None => Ok(vec![one.input()?]),
        Some(_) if one.text.is_some() || one.text_pair.is_some() || one.tokens.is_some() => {
            Err("`texts` excludes `text`, `text_pair` and `tokens`")
        }
        Some(several) if several.is_empty() => Err("`texts` is empty"),
        Some(several) => several.into_iter().map(One::input).collect(),
    }
}

impl One {
    fn input(self) -> Result<Input, &'static str> {
        match self {
            One::Text(text) => Ok(Input::Text(text)),
            One::Given(Object(given)) => given.input(),
        }
    }
}

/// The `id` of an object that is no request.
fn id_of(bytes: &[u8]) -> Option<Box<RawValue>> {
    #[derive(Deserialize)]
    struct Id {
        id: Option<Box<RawValue>>,
    }
    serde_json::from_slice::<Id>(bytes).ok().and_then(|found| found.id)
}

/// What a task says of an input.
pub(super) struct Said {
    /// The input's place in the request, from 0.
    pub(super) input: usize,
    /// The task's name.
    pub(super) task: String,
    /// The task, and its reply; or why there is none.
    pub(super) reply: Result<(Arc<Loaded>, Reply), Failure>,
}

#[derive(Serialize)]
struct Line<'a> {
    input: usize,
    task: &'a str,
    #[serde(flatten)]
    said: Either<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Either<'a> {
    Answer {
        #[serde(skip_serializing_if = "Option::is_none")]
        words: Option<&'a [String]>,
        #[serde(flatten)]
        answered: Answered<'a>,
    },
    Failed {
        error: &'a Failure,
    },
}

/// The JSON of a reply with answers.
pub(super) fn answers(id: Option<&RawValue>, generation: u64, said: &[Said]) -> anyhow::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Answers<'a> {
        id: Option<&'a RawValue>,
        generation: u64,
        answers: Vec<Line<'a>>,
    }
    overmask_cli::json(&Answers { id, generation, answers: said.iter().map(line).collect() })
}

fn line(said: &Said) -> Line<'_> {
    let either = match &said.reply {
        Ok((loaded, reply)) => {
            let words = match &reply.answer {
                Answer::Tags { words, .. } => Some(&words[..]),
                _ => None,
            };
            Either::Answer { words, answered: Answered::new(loaded.task(), reply, loaded.info()) }
        }
        Err(error) => Either::Failed { error },
    };
    Line { input: said.input, task: &said.task, said: either }
}

/// The JSON of a reply that is an error.
pub(super) fn error(id: Option<&RawValue>, failure: &Failure) -> anyhow::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Failed<'a> {
        id: Option<&'a RawValue>,
        error: &'a Failure,
    }
    overmask_cli::json(&Failed { id, error: failure })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_tasks_and_inputs() {
        let read = |line: &str| Request::read(line.as_bytes()).unwrap();
        let request = read(r#" {"id": {"a": [1.50]}, "task": "trec", "text": "a"} "#);
        assert_eq!(request.id.unwrap().get(), r#"{"a": [1.50]}"#);
        assert_eq!((request.tasks, request.inputs), (vec!["trec".to_owned()], vec!["a".into()]));
        let request = read(
            r#"{"tasks":["a","b"],"texts":["x",{"text":"y","text_pair":"z"},{"tokens":"New York"},{"tokens":["a b"]}]}"#,
        );
        let words = |words: &[&str]| Input::Words { words: words.iter().map(ToString::to_string).collect() };
        let pair = Input::Pair("y".to_owned(), "z".to_owned());
        assert_eq!(request.inputs, ["x".into(), pair, words(&["New", "York"]), words(&["a b"])]);
        assert_eq!((request.id.is_none(), request.tasks.len()), (true, 2));
        assert!(read(r#"{"text":"x","id":null,"tasks":null}"#).tasks.is_empty());
    }

    #[test]
    fn what_is_no_request_is_said_under_its_id() {
        for (line, said, id) in [
            ("text", "must be an object", ""),
            ("[1]", "must be an object", ""),
            (r#"{"id":7,"texts":[["a","b"]]}"#, "no request", "7"),
            (r#"{"id":7,"txt":"a"}"#, "unknown field `txt`", "7"),
            (r#"{"id":7,"text":1}"#, "expected a string", "7"),
            (r#"{"id":7,"text":"a""#, "EOF", ""),
            (r#"{"id":7,"id":8,"text":"a"}"#, "duplicate field `id`", ""),
            (r#"{"id":"x"}"#, "there is no input", r#""x""#),
            (r#"{"id":7,"texts":[]}"#, "`texts` is empty", "7"),
            (r#"{"id":7,"tasks":[],"text":"a"}"#, "`tasks` is empty", "7"),
            (r#"{"id":7,"task":"a","tasks":["a"],"text":"a"}"#, "exclude each other", "7"),
            (r#"{"id":7,"text":"a","texts":["a"]}"#, "`texts` excludes", "7"),
            (r#"{"id":7,"text":"a","tokens":["a"]}"#, "exclude each other", "7"),
            (r#"{"id":7,"text_pair":"a"}"#, "goes with `text`", "7"),
            (r#"{"id":7,"texts":[{"texts":"a"}]}"#, "no request", "7"),
            (&format!(r#"{{"id":7,"text":{}1}}"#, "[".repeat(100_000)), "no request", ""),
        ] {
            let unreadable = Request::read(line.as_bytes()).unwrap_err();
            assert!(unreadable.failure.message.contains(said), "{line:.80}: {:?}", unreadable.failure);
            assert_eq!(unreadable.id.map_or(String::new(), |id| id.get().to_owned()), id, "{line:.80}");
        }
        assert!(Request::read(b"{\"text\":\"\xff\"}").is_err());
    }
}
