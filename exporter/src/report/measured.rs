//! What was measured outside of sweeps: packs, and baselines.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A confusion matrix: `counts[given][predicted]`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Confusion {
    /// The labels of rows and columns.
    pub labels: Vec<String>,
    /// The counts.
    pub counts: Vec<Vec<Option<f64>>>,
}

/// How good a label is.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Class {
    /// The label.
    pub label: String,
    /// Precision.
    pub precision: Option<f64>,
    /// Recall.
    pub recall: Option<f64>,
    /// F1.
    pub f1: Option<f64>,
    /// How many texts have it.
    pub support: Option<f64>,
}

/// How good something simpler is.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
pub struct Simple {
    /// On the texts that choose.
    pub dev: Option<f64>,
    /// On held-out texts.
    pub eval: Option<f64>,
}

/// What a simpler model comes to: a line of `overmask-export baseline --json`, or a part of what `train` prints.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Rival {
    /// Its name.
    pub baseline: String,
    /// The data file.
    pub data: Option<String>,
    /// The name of the metric.
    pub metric: Option<String>,
    /// On the texts that choose.
    pub dev: Option<f64>,
    /// On held-out texts.
    pub eval: Option<f64>,
}

/// A line of `overmask-export evaluate --json`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Evaluation {
    /// The pack.
    pub pack: String,
    /// The task's name.
    pub name: Option<String>,
    /// The data file.
    pub data: Option<String>,
    /// The name of the main metric.
    pub metric: String,
    /// How many texts there were.
    pub n: Option<u64>,
    /// The engine and its precision.
    pub engine: Option<String>,
    /// Likewise.
    pub precision: Option<String>,
    /// Confidence intervals of metrics, low and high.
    pub intervals: Option<BTreeMap<String, [Option<f64>; 2]>>,
    /// How good each label is.
    pub classes: Option<Vec<Class>>,
    /// Labels given against labels predicted.
    pub confusion: Option<Confusion>,
    /// The surest mistakes.
    pub mistakes: Option<Vec<Mistake>>,
    /// The other fields: among them every metric by its name.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

impl Evaluation {
    /// The main metric's value.
    pub fn value(&self) -> Option<f64> {
        self.more.get(&self.metric).and_then(Value::as_f64)
    }
}

/// A mistake, with the fields of its example as they were.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Mistake {
    /// The line of the data file.
    pub line: Option<u64>,
    /// What was said.
    pub predicted: Option<Value>,
    /// How sure that was.
    pub score: Option<f64>,
    /// The example.
    #[serde(flatten)]
    pub example: BTreeMap<String, Value>,
}

impl Mistake {
    /// The text, the two texts, or the words, and what they are.
    pub fn told(&self) -> (String, String) {
        let told = |name: &str| match self.example.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Array(parts) => {
                Some(parts.iter().map(|part| part.as_str().unwrap_or_default()).collect::<Vec<_>>().join(" "))
            }
            other => Some(other.to_string()),
        };
        let all = |names: &[&str], between: &str| {
            names.iter().filter_map(|name| told(name)).collect::<Vec<_>>().join(between)
        };
        (all(&["text", "text_pair", "tokens"], " | "), all(&["label", "labels", "value", "tags"], " "))
    }
}
