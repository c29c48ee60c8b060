//! Sections about runs: what each method reaches, at which size and sparsity, and how it went.

use serde_json::Value;

use super::ReportError;
use super::chart::{Axis, HALF, Series, THIRD, plot};
use super::html::{Column, Table, escape, or_dash};
use super::page::Page;
use super::palette::Ramp;
use super::scale::{Scale, Unit, words};
use super::summary::{Best, Report, RunRow, Stat};
use super::tiles::{HeatMap, MAX_CELLS};
use super::{Class, Confusion, Mistake};

use Column::{Numbers, Words};

/// All sections about runs, as far as there is something to show.
pub(super) fn sections(page: &mut Page, report: &Report) -> Result<(), ReportError> {
    if !report.runs.is_empty() {
        summary(page, report);
        // Each run looks its method up: the list is made once.
        let methods = report.methods();
        let size = Over { name: "pack size", unit: Unit::Bytes, of: |run| run.pack_bytes.map(|bytes| bytes as f64) };
        let about = "Each mark is a run. Further up is better; further left is smaller. The axis of sizes is \
                     logarithmic.";
        scatter(page, report, &methods, ["Metric against pack size", about], &size)?;
        let sparsity = Over { name: "sparsity", unit: Unit::Percent, of: |run| run.sparsity };
        let about = "Each mark is a run. Sparsity is the part of the maskable weights that are zero.";
        scatter(page, report, &methods, ["Metric against sparsity", about], &sparsity)?;
        curves(page, report, &methods)?;
        best(page, report)?;
        every_run(page, report);
    }
    failures(page, report);
    Ok(())
}

/// Mean and standard deviation.
fn spread(stat: Option<Stat>, unit: Unit) -> String {
    or_dash(stat.map(|stat| match stat.sd {
        Some(sd) => format!("{} ± {}", unit.show(stat.mean), unit.show(sd)),
        None => unit.show(stat.mean),
    }))
}

fn summary(page: &mut Page, report: &Report) {
    page.section(
        "Summary",
        "Means over seeds, ± the sample standard deviation. “Held out” is measured on texts that took no \
         part in training; “dev” on those that chose the best state, so it flatters. Shares are in per cent.",
    );
    let mut table = Table::new(&[
        ("task", Words),
        ("method", Words),
        ("metric", Words),
        ("runs", Numbers),
        ("held out", Numbers),
        ("dev", Numbers),
        ("sparsity (%)", Numbers),
        ("pack (bytes)", Numbers),
        ("training (s)", Numbers),
    ]);
    for row in &report.summary {
        let unit = Unit::of_metric(&row.metric);
        table.row(vec![
            row.task.clone(),
            row.method.clone(),
            words(&row.metric),
            row.runs.to_string(),
            spread(row.held_out, unit),
            spread(row.dev, unit),
            spread(row.sparsity, Unit::Percent),
            or_dash(row.pack_bytes.map(|stat| Unit::Bytes.show(stat.mean))),
            or_dash(row.train_seconds.map(|stat| format!("{:.0}", stat.mean))),
        ]);
    }
    page.raw(&table.html("Task and method, over seeds"));
    simpler(page, report);
}

/// What simpler models come to, beside each run.
fn simpler(page: &mut Page, report: &Report) {
    let mut table =
        Table::new(&[("task", Words), ("run", Words), ("what", Words), ("held out", Numbers), ("dev", Numbers)]);
    let mut any = false;
    for run in &report.runs {
        let unit = Unit::of_metric(&run.metric);
        let head = run.head.map(|head| ("head alone", head.eval, head.dev));
        let rivals = run.baselines.iter().map(|rival| (rival.baseline.as_str(), rival.eval, rival.dev));
        for (what, eval, dev) in rivals.chain(head) {
            any = true;
            let show = |number: Option<f64>| or_dash(number.map(|n| unit.show(n)));
            let title = format!("{}, seed {}", run.method, seed(run.seed));
            table.row(vec![run.task.clone(), title, what.to_owned(), show(eval), show(dev)]);
        }
    }
    if any {
        page.raw(&table.folded("Beside each run: simpler models on the same texts"));
    }
}

/// The number of a method, which decides its colour and shape.
fn style(methods: &[&str], method: &str) -> usize {
    methods.iter().position(|&name| name == method).unwrap_or(0)
}

/// Runs of a task and one metric: a figure shows nothing else.
fn panels(report: &Report) -> Vec<(&str, &str, Vec<&RunRow>)> {
    let mut panels: Vec<(&str, &str, Vec<&RunRow>)> = Vec::new();
    for task in report.tasks() {
        for run in report.runs.iter().filter(|run| run.task == task) {
            match panels.iter_mut().find(|(of, metric, _)| *of == task && *metric == run.metric) {
                Some((_, _, runs)) => runs.push(run),
                None => panels.push((task, &run.metric, vec![run])),
            }
        }
    }
    panels
}

/// What stands before a metric: whether it was held out.
fn kind(runs: &[&RunRow]) -> &'static str {
    match runs.iter().filter(|run| run.held_out.is_some()).count() {
        0 => "dev ",
        n if n == runs.len() => "held-out ",
        _ => "held-out (else dev) ",
    }
}

/// What a metric is shown over.
struct Over {
    name: &'static str,
    unit: Unit,
    of: fn(&RunRow) -> Option<f64>,
}

/// A figure for each task, of its runs' metric over something.
fn scatter(
    page: &mut Page,
    report: &Report,
    methods: &[&str],
    [title, about]: [&str; 2],
    &Over { name: over, unit, of: x }: &Over,
) -> Result<(), ReportError> {
    let mut figures = Vec::new();
    for (task, metric, runs) in panels(report) {
        let y_unit = Unit::of_metric(metric);
        let points = |method: &str| -> Vec<(f64, f64)> {
            runs.iter().filter(|run| run.method == method).filter_map(|run| Some((x(run)?, run.score()?))).collect()
        };
        let all: Vec<(f64, f64)> = methods.iter().flat_map(|method| points(method)).collect();
        let xs = all.iter().map(|p| p.0);
        let x_scale = if unit == Unit::Bytes { Scale::log(xs, unit) } else { Scale::linear(xs, unit) };
        let Some((x_scale, y_scale)) = x_scale.zip(Scale::linear(all.iter().map(|p| p.1), y_unit)) else { continue };
        let positive = |&(x, _): &(f64, f64)| unit != Unit::Bytes || x > 0.0;
        let series: Vec<Series> = methods
            .iter()
            .enumerate()
            .map(|(style, method)| Series {
                style,
                points: points(method).into_iter().filter(positive).collect(),
                line: false,
            })
            .collect();
        let suffix = if unit == Unit::Bytes { ", logarithmic" } else { unit.suffix() };
        let x_axis = Axis { label: format!("{over}{suffix}"), scale: x_scale };
        let what = format!("{}{}", kind(&runs), words(metric));
        let y_axis = Axis { label: format!("{what}{}", y_unit.suffix()), scale: y_scale };
        let drawing = plot(task, HALF, &x_axis, &y_axis, &series)?;
        let shown = series.iter().filter(|series| !series.points.is_empty()).count();
        let text = format!("{task}: {what} against {over}, {} runs of {shown} methods.", all.len());
        figures.push((task.to_owned(), text, drawing));
    }
    if !figures.is_empty() {
        page.section(title, about);
        page.legend(methods);
        page.row(&figures);
        page.raw("<p><a href=\"#runs\">The numbers of all runs</a></p>\n");
    }
    Ok(())
}

/// How training went.
fn curves(page: &mut Page, report: &Report, methods: &[&str]) -> Result<(), ReportError> {
    type Number = fn(&super::CurvePoint) -> Option<f64>;
    let mut rows = Vec::new();
    for (task, metric, runs) in panels(report) {
        let mut figures = Vec::new();
        let dev = format!("dev {}", words(metric));
        let kinds: [(&str, Unit, Number); 3] = [
            (&dev, Unit::of_metric(metric), |point| point.dev),
            ("training loss", Unit::Plain, |point| point.loss),
            ("sparsity", Unit::Percent, |point| point.sparsity),
        ];
        for (what, unit, y) in kinds {
            let points = |run: &RunRow| -> Vec<(f64, f64)> {
                run.curve.iter().filter_map(|point| Some((point.step.or(point.epoch)?, y(point)?))).collect()
            };
            let series: Vec<Series> = runs
                .iter()
                .map(|run| Series { style: style(methods, &run.method), points: points(run), line: true })
                .collect();
            let all = || series.iter().flat_map(|one| &one.points);
            let x = Scale::linear(all().map(|p| p.0).chain([0.0]).filter(|_| all().next().is_some()), Unit::Plain);
            let Some((x, y)) = x.zip(Scale::linear(all().map(|p| p.1), unit)) else { continue };
            let steps = runs.iter().flat_map(|run| &run.curve).any(|point| point.step.is_some());
            let x_axis = Axis { label: if steps { "steps" } else { "epochs" }.to_owned(), scale: x };
            let y_axis = Axis { label: format!("{what}{}", unit.suffix()), scale: y };
            let title = format!("{task}: {what}");
            let drawing = plot(&title, THIRD, &x_axis, &y_axis, &series)?;
            figures.push((title, format!("{task}: {what} over training, a line for each run."), drawing));
        }
        rows.push(figures);
    }
    rows.retain(|figures| !figures.is_empty());
    if rows.is_empty() {
        return Ok(());
    }
    page.section("Learning curves", "A line for each run, with the colour and the mark of its method.");
    page.legend(methods);
    rows.iter().for_each(|figures| page.row(figures));
    let columns = [("task", Words), ("method", Words), ("seed", Numbers), ("epoch", Numbers), ("step", Numbers)];
    let more = [("loss", Numbers), ("dev", Numbers), ("sparsity (%)", Numbers)];
    let mut table = Table::new(&[columns.as_slice(), more.as_slice()].concat());
    for run in &report.runs {
        let unit = Unit::of_metric(&run.metric);
        for point in &run.curve {
            table.row(vec![
                run.task.clone(),
                run.method.clone(),
                seed(run.seed),
                or_dash(point.epoch.map(|n| n.to_string())),
                or_dash(point.step.map(|n| n.to_string())),
                or_dash(point.loss.map(|n| Unit::Plain.show(n))),
                or_dash(point.dev.map(|n| unit.show(n))),
                or_dash(point.sparsity.map(|n| Unit::Percent.show(n))),
            ]);
        }
    }
    page.raw(&table.folded("The points of all curves"));
    Ok(())
}

fn seed(seed: Option<u64>) -> String {
    or_dash(seed.map(|seed| seed.to_string()))
}

/// What the best run of each task takes for what.
fn best(page: &mut Page, report: &Report) -> Result<(), ReportError> {
    let with_more: Vec<&Best> = report
        .best
        .iter()
        .filter(|b| b.confusion.is_some() || !b.classes.is_empty() || !b.mistakes.is_empty())
        .collect();
    if with_more.is_empty() {
        return Ok(());
    }
    page.section(
        "Labels",
        "The run of each task that is best on the texts that chose its state. Rows are the labels given, \
         columns those predicted; colours are shares of a row, numbers are texts.",
    );
    for best in with_more {
        page.raw(&format!("<h3>{}</h3>\n", escape(&best.task)));
        let (unit, of) = (Unit::of_metric(&best.metric), words(&best.metric));
        let about = format!("{}, seed {}: dev {of} {}.", best.method, seed(best.seed), unit.say(best.dev));
        page.raw(&format!("<p class=\"about\">{}</p>\n", escape(&about)));
        best.confusion.as_ref().map_or(Ok(()), |matrix| confusion(page, &best.task, matrix))?;
        classes(page, &best.task, &best.metric, &best.classes);
        mistakes(page, &best.task, &best.mistakes);
    }
    Ok(())
}

/// How good each label is.
pub(super) fn classes(page: &mut Page, task: &str, metric: &str, classes: &[Class]) {
    if classes.is_empty() {
        return;
    }
    let columns = [("label", Words), ("precision (%)", Numbers), ("recall (%)", Numbers)];
    let counted = if metric.starts_with("span") { "spans" } else { "texts" };
    let more = [("F1 (%)", Numbers), (counted, Numbers)];
    let mut table = Table::new(&[columns.as_slice(), more.as_slice()].concat());
    let share = |part: Option<f64>| or_dash(part.map(|part| Unit::Percent.show(part)));
    for class in classes {
        let texts = or_dash(class.support.map(|n| format!("{n:.0}")));
        table.row(vec![class.label.clone(), share(class.precision), share(class.recall), share(class.f1), texts]);
    }
    page.raw(&table.html(&format!("Each label of {task}")));
}

/// What a pack was surest of and wrong.
pub(super) fn mistakes(page: &mut Page, task: &str, mistakes: &[Mistake]) {
    if mistakes.is_empty() {
        return;
    }
    let columns = [("line", Numbers), ("text", Words), ("is", Words), ("was said to be", Words), ("sure", Numbers)];
    let mut table = Table::new(&columns);
    for mistake in mistakes {
        let (text, given) = mistake.told();
        let said = match &mistake.predicted {
            Some(Value::String(said)) => said.clone(),
            Some(Value::Array(parts)) => {
                parts.iter().map(|part| part.as_str().unwrap_or("–")).collect::<Vec<_>>().join(" ")
            }
            other => or_dash(other.as_ref().map(Value::to_string)),
        };
        let line = or_dash(mistake.line.map(|line| line.to_string()));
        table.row(vec![line, text, given, said, or_dash(mistake.score.map(|score| format!("{score:.2}")))]);
    }
    page.raw(&table.html(&format!("The surest mistakes of {task}: look whether it is the label that is wrong")));
}

/// A confusion matrix, as a figure and a table.
pub(super) fn confusion(page: &mut Page, task: &str, confusion: &Confusion) -> Result<(), ReportError> {
    let cells = confusion.counts.iter().map(|row| {
        let total: f64 = row.iter().flatten().sum();
        let part = |n: f64| if total > 0.0 { n / total } else { 0.0 };
        row.iter().map(|n| n.map(|n| (part(n), format!("{n:.0}")))).collect()
    });
    let map = HeatMap {
        row_title: "given".to_owned(),
        rows: confusion.labels.clone(),
        column_title: "predicted".to_owned(),
        columns: confusion.labels.clone(),
        cells: cells.collect(),
        ramp: Ramp::Sequential,
        ends: ["0 %".to_owned(), "100 %".to_owned()],
    };
    let title = format!("{task}: confusion matrix");
    match map.draw(&title)? {
        Some(drawing) => {
            let text = format!("Labels given against labels predicted, {} labels.", confusion.labels.len());
            page.figure(&title, &text, &drawing);
        }
        None => page.raw(&format!("<p>No figure: more than {MAX_CELLS} labels.</p>\n")),
    }
    let mut columns = vec![("given \\ predicted", Words)];
    columns.extend(confusion.labels.iter().map(|label| (label.as_str(), Numbers)));
    let mut table = Table::new(&columns);
    for (label, row) in confusion.labels.iter().zip(&confusion.counts) {
        let counts = row.iter().map(|n| or_dash(n.map(|n| format!("{n:.0}"))));
        table.row(std::iter::once(label.clone()).chain(counts).collect());
    }
    page.raw(&table.folded(&format!("Counts of {task}")));
    Ok(())
}

fn every_run(page: &mut Page, report: &Report) {
    page.section("Runs", "Every run that was done. Intervals are those of the held-out metric.");
    page.raw("<div id=\"runs\"></div>\n");
    let columns = [("task", Words), ("method", Words), ("seed", Numbers), ("held out", Numbers)];
    let more = [("interval", Numbers), ("dev", Numbers), ("sparsity (%)", Numbers), ("pack (bytes)", Numbers)];
    let last = [("steps", Numbers), ("training (s)", Numbers), ("run", Words)];
    let mut table = Table::new(&[columns.as_slice(), more.as_slice(), last.as_slice()].concat());
    for run in &report.runs {
        let unit = Unit::of_metric(&run.metric);
        let interval = run.interval.map(|[low, high]| format!("{} to {}", unit.show(low), unit.show(high)));
        table.row(vec![
            run.task.clone(),
            run.method.clone(),
            seed(run.seed),
            or_dash(run.held_out.map(|n| unit.show(n))),
            or_dash(interval),
            or_dash(run.dev.map(|n| unit.show(n))),
            or_dash(run.sparsity.map(|n| Unit::Percent.show(n))),
            or_dash(run.pack_bytes.map(|n| n.to_string())),
            or_dash(run.steps.map(|n| n.to_string())),
            or_dash(run.train_seconds.map(|n| format!("{n:.0}"))),
            run.run.clone(),
        ]);
    }
    page.raw(&table.folded("All runs"));
}

fn failures(page: &mut Page, report: &Report) {
    if report.failures.is_empty() {
        return;
    }
    page.section("Failed runs", "They are in no figure. The option --retry-failed of a sweep repeats them.");
    let columns = [("task", Words), ("method", Words), ("seed", Numbers), ("what it said last", Words), ("run", Words)];
    let mut table = Table::new(&columns);
    for run in &report.failures {
        let said = run.error.lines().last().unwrap_or_default().to_owned();
        table.row(vec![run.task.clone(), run.method.clone(), seed(run.seed), said, run.run.clone()]);
    }
    page.raw(&table.html("Runs that failed"));
}
