//! The rows of a benchmark, as a table and as JSON.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What is printed and reported.
#[derive(Default)]
pub(crate) struct Rows(Vec<Value>);

impl Rows {
    /// A figure of ours, beside a peer's if there is one, and what is wanted.
    pub(crate) fn add(&mut self, name: String, unit: &str, ours: f64, peer: Option<f64>, reach: &str) {
        let ratio = peer.map(|peer| ours / peer);
        self.0.push(json!({"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "reach": reach}));
    }

    /// Adds the rows that another process wrote.
    pub(crate) fn read(&mut self, path: &Path) -> Result<()> {
        let report: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        self.0.extend(report["rows"].as_array().context("no rows")?.iter().cloned());
        Ok(())
    }

    /// Prints the rows and writes them to a file.
    pub(crate) fn finish(&self, report: &Path) -> Result<()> {
        self.print();
        self.write(report)
    }

    /// Writes the rows to a file.
    pub(crate) fn write(&self, report: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&json!({"rows": self.0}))?;
        std::fs::write(report, text + "\n").with_context(|| format!("cannot write {}", report.display()))
    }

    fn print(&self) {
        println!("{:<64} {:>12} {:>12} {:>9}  {:<11} reach", "what", "ours", "peer", "ratio", "unit");
        for row in &self.0 {
            let number = |field: &str| match row[field].as_f64() {
                Some(x) if x >= 1000.0 => format!("{x:.0}"),
                Some(x) => format!("{x:.3}"),
                None => String::new(),
            };
            let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
            let (ours, peer, ratio) = (number("ours"), number("peer"), number("ratio"));
            println!("{:<64} {ours:>12} {peer:>12} {ratio:>9}  {:<11} {}", text("name"), text("unit"), text("reach"));
        }
    }
}
