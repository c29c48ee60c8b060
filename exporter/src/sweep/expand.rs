//! Options as a sweep's file writes them: tables over tables, and the points of a grid.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use toml::Table;

use super::TrainOption;

/// What becomes of an option on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Setting {
    /// `--option`.
    Flag,
    /// `--option=text`.
    Text(String),
}

/// The options of all tables, later ones over earlier ones; `false` takes one away.
pub(super) fn merge<'a>(
    tables: &[&'a Table],
    known: &BTreeMap<&str, &TrainOption>,
) -> Result<BTreeMap<&'a str, Setting>, String> {
    let mut settings = BTreeMap::new();
    for (key, value) in tables.iter().flat_map(|table| table.iter()) {
        let flag = known.get(key.as_str()).is_some_and(|option| option.flag);
        let setting = match (value, flag) {
            (toml::Value::Boolean(false), _) => None,
            (toml::Value::Boolean(true), true) => Some(Setting::Flag),
            (toml::Value::Boolean(true), false) => return Err(format!("{key}: takes a value, not `true`")),
            (_, true) => return Err(format!("{key}: takes no value: write `true` or `false`")),
            (value, false) => Some(Setting::Text(text(value).map_err(|reason| format!("{key}: {reason}"))?)),
        };
        match setting {
            Some(setting) => settings.insert(key.as_str(), setting),
            None => settings.remove(key.as_str()),
        };
    }
    Ok(settings)
}

/// The same options as JSON, for the results. For tables that [`merge`] has taken.
pub(super) fn as_json(tables: &[&Table]) -> BTreeMap<String, Value> {
    let mut options = BTreeMap::new();
    for (key, value) in tables.iter().flat_map(|table| table.iter()) {
        match value {
            toml::Value::Boolean(false) => options.remove(key),
            value => options.insert(key.clone(), value_as_json(value)),
        };
    }
    options
}

fn value_as_json(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => json!(text),
        toml::Value::Integer(number) => json!(number),
        toml::Value::Float(number) => json!(number),
        toml::Value::Boolean(truth) => json!(truth),
        toml::Value::Array(values) => values.iter().map(value_as_json).collect(),
        other => json!(other.to_string()),
    }
}

/// All points of a grid: a suffix for the method's name, and the options. One point without a grid.
pub(super) fn grid(grid: &Table, limit: usize) -> Result<Vec<(String, Table)>, String> {
    let mut points = vec![(String::new(), Table::new())];
    for (key, values) in grid {
        let values = values.as_array().filter(|values| !values.is_empty());
        let values = values.ok_or_else(|| format!("[grid]: {key}: must be a list of values"))?;
        if points.len().checked_mul(values.len()).is_none_or(|n| n > limit) {
            return Err(format!("[grid]: {key}: makes more than {limit} points"));
        }
        let mut more = Vec::with_capacity(points.len() * values.len());
        for (suffix, options) in &points {
            for value in values {
                let shown = text(value).map_err(|reason| format!("[grid]: {key}: {reason}"))?;
                let mut options = options.clone();
                options.insert(key.clone(), value.clone());
                more.push((format!("{suffix} {key}={shown}"), options));
            }
        }
        points = more;
    }
    Ok(points)
}

/// A value as the command line takes it: lists are joined by commas.
fn text(value: &toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) if number.is_finite() => Ok(number.to_string()),
        toml::Value::Boolean(truth) => Ok(truth.to_string()),
        toml::Value::Array(values) if values.is_empty() => Err("is an empty list".to_owned()),
        toml::Value::Array(values) => {
            let words: Result<Vec<String>, String> = values
                .iter()
                .map(|value| match value {
                    toml::Value::Array(_) => Err("is a list in a list".to_owned()),
                    value => text(value),
                })
                .collect();
            Ok(words?.join(","))
        }
        toml::Value::Float(number) => Err(format!("{number} is no number")),
        toml::Value::Datetime(_) | toml::Value::Table(_) => {
            Err(format!("must be a string, a number, true, false or a list, not a {}", value.type_str()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    fn merged(tables: &[&str]) -> Result<BTreeMap<String, Setting>, String> {
        let option = |name: &str, flag| TrainOption { name: name.to_owned(), flag, path: false };
        let known = [option("epochs", false), option("rate", false), option("layers", false), option("check", true)];
        let known: BTreeMap<&str, &TrainOption> = known.iter().map(|o| (o.name.as_str(), o)).collect();
        let tables: Vec<Table> = tables.iter().map(|text| table(text)).collect();
        let tables: Vec<&Table> = tables.iter().collect();
        merge(&tables, &known).map(|map| map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
    }

    #[test]
    fn later_tables_override_and_false_takes_away() {
        let got = merged(&["epochs = 3\nrate = 4e-3\ncheck = true", "epochs = 5\ncheck = false", "layers = [1, 2]"]);
        let text = |text: &str| Setting::Text(text.to_owned());
        let expected = [("epochs", text("5")), ("layers", text("1,2")), ("rate", text("0.004"))];
        assert_eq!(got.unwrap(), expected.map(|(k, v)| (k.to_owned(), v)).into());
        assert_eq!(merged(&["check = true"]).unwrap(), [("check".to_owned(), Setting::Flag)].into());
        assert_eq!(merged(&["epochs = 3", "epochs = false"]).unwrap(), BTreeMap::new());
    }

    #[test]
    fn values_that_no_option_takes_are_named() {
        for (wrong, part) in [
            ("epochs = true", "epochs: takes a value"),
            ("check = 1", "check: takes no value"),
            ("rate = nan", "rate: NaN is no number"),
            ("layers = []", "layers: is an empty list"),
            ("layers = [[1]]", "layers: is a list in a list"),
            ("epochs = 2024-01-01", "not a datetime"),
            ("epochs = {a = 1}", "not a table"),
        ] {
            let error = merged(&[wrong]).unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_grid_has_every_combination_once() {
        let points = grid(&table("a = [1, 2]\nb = ['x', 'y', 'z']"), 100).unwrap();
        let names: Vec<&str> = points.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [" a=1 b=x", " a=1 b=y", " a=1 b=z", " a=2 b=x", " a=2 b=y", " a=2 b=z"]);
        assert_eq!(points[5].1, table("a = 2\nb = 'z'"));
        assert_eq!(grid(&Table::new(), 100).unwrap(), [(String::new(), Table::new())]);
        assert!(grid(&table("a = [1, 2]\nb = [1, 2]"), 3).unwrap_err().contains("more than 3"));
        assert!(grid(&table("a = 1"), 3).unwrap_err().contains("a: must be a list"));
    }

    #[test]
    fn results_record_what_is_set() {
        let tables = ["a = 1\nb = true\nc = 'x'", "c = false\nd = [1, 2.5]"].map(table);
        let got = as_json(&[&tables[0], &tables[1]]);
        assert_eq!(json!(got), json!({"a": 1, "b": true, "d": [1, 2.5]}));
    }
}
