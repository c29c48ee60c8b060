//! Sections about packs that were measured, and about baselines.

use super::ReportError;
use super::html::{Column, Table, or_dash};
use super::page::Page;
use super::runs::{classes, confusion, mistakes};
use super::scale::{Unit, words};
use super::summary::Report;

use Column::{Numbers, Words};

/// Both sections, as far as there is something to show.
pub(super) fn sections(page: &mut Page, report: &Report) -> Result<(), ReportError> {
    if !report.evaluations.is_empty() {
        evaluations(page, report)?;
    }
    if !report.baselines.is_empty() {
        baselines(page, report);
    }
    Ok(())
}

fn evaluations(page: &mut Page, report: &Report) -> Result<(), ReportError> {
    page.section("Evaluations", "Packs, measured on labelled texts through the code that devices run.");
    let columns = [("task", Words), ("pack", Words), ("texts from", Words), ("metric", Words), ("value", Numbers)];
    let more = [("95 % interval", Numbers), ("texts", Numbers), ("engine", Words)];
    let mut table = Table::new(&[columns.as_slice(), more.as_slice()].concat());
    for one in &report.evaluations {
        let unit = Unit::of_metric(&one.metric);
        let interval = one.intervals.as_ref().and_then(|all| all.get(&one.metric));
        let interval = interval.and_then(|&[low, high]| Some(format!("{} to {}", unit.show(low?), unit.show(high?))));
        let engine = [&one.engine, &one.precision].into_iter().flatten().cloned().collect::<Vec<_>>().join(" ");
        table.row(vec![
            or_dash(one.name.clone()),
            one.pack.clone(),
            or_dash(one.data.clone()),
            words(&one.metric),
            or_dash(one.value().map(|value| unit.show(value))),
            or_dash(interval),
            or_dash(one.n.map(|n| n.to_string())),
            engine,
        ]);
    }
    page.raw(&table.html("Packs that were measured"));
    for one in &report.evaluations {
        let title = one.name.as_ref().map_or_else(|| one.pack.clone(), |name| format!("{name}, {}", one.pack));
        one.confusion.as_ref().map_or(Ok(()), |matrix| confusion(page, &title, matrix))?;
        classes(page, &title, &one.metric, one.classes.as_deref().unwrap_or_default());
        mistakes(page, &title, one.mistakes.as_deref().unwrap_or_default());
    }
    Ok(())
}

fn baselines(page: &mut Page, report: &Report) {
    page.section("Baselines", "What tasks come to without a mask. Shares are in per cent.");
    let columns = [("texts from", Words), ("baseline", Words), ("metric", Words)];
    let more = [("held out", Numbers), ("dev", Numbers)];
    let mut table = Table::new(&[columns.as_slice(), more.as_slice()].concat());
    for one in &report.baselines {
        let metric = one.metric.clone().unwrap_or_default();
        let unit = Unit::of_metric(&metric);
        let show = |number: Option<f64>| or_dash(number.map(|n| unit.show(n)));
        let data = or_dash(one.data.clone());
        table.row(vec![data, one.baseline.clone(), words(&metric), show(one.eval), show(one.dev)]);
    }
    page.raw(&table.html("Baselines"));
}
