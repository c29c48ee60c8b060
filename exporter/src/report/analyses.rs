//! Sections about analyses: closeness, overlap, sensitivity, many solutions.

use super::chart::{Axis, Drawing, HALF, Series, plot};
use super::html::{Column, Table, or_dash};
use super::input::{Analysis, Closeness, Overlap, Sensitivity, SharedZeros, Solution, SparsityGroup, TensorDistance};
use super::page::Page;
use super::palette::Ramp;
use super::scale::{Scale, Unit, drawable, words};
use super::summary::distinct;
use super::tiles::{Bar, HeatMap, bars};
use super::{ReportError, html};

use Column::{Numbers, Words};

/// All sections about analyses, as far as there is something to show.
pub(super) fn sections(page: &mut Page, all: &[Analysis]) -> Result<(), ReportError> {
    let mut closeness = Vec::new();
    let mut overlap = Vec::new();
    let mut sensitivity = Vec::new();
    let (mut solutions, mut groups) = (Vec::new(), Vec::new());
    for analysis in all {
        match analysis {
            Analysis::Closeness(one) => closeness.push(one),
            Analysis::Overlap(one) => overlap.push(one),
            Analysis::Sensitivity(one) => sensitivity.push(one),
            Analysis::Solutions { metric, points, groups: of_points } => {
                let metric = metric.as_deref().unwrap_or("metric");
                solutions.extend(points.iter().map(|point| (metric, point)));
                groups.extend(of_points.iter().map(|group| (metric, group)));
            }
        }
    }
    if !closeness.is_empty() {
        page.section(
            "Closeness to the base",
            "How far each masked tensor is from the base's, by layer and module: the mean absolute difference \
             of a weight (the L1 distance over their number) and the angle in radians. The table has those of a random initialisation beside them.",
        );
        closeness.iter().try_for_each(|one| draw_closeness(page, one))?;
    }
    if !overlap.is_empty() {
        page.section(
            "Overlap of packs",
            "How many zeros two packs share, divided by how many they would share by chance. 1 is chance; \
             above it, tasks choose the same weights.",
        );
        overlap.iter().try_for_each(|one| draw_overlap(page, one))?;
    }
    if !sensitivity.is_empty() {
        page.section(
            "Sensitivity",
            "What a pack's metric loses when what the pack does to a group of tensors is taken away, or is all \
             that is kept.",
        );
        sensitivity.iter().try_for_each(|one| draw_sensitivity(page, one))?;
    }
    if !solutions.is_empty() {
        page.section("Solutions", "Many masks of one task: each mark is one, by its sparsity and its metric.");
        draw_solutions(page, &solutions)?;
        tabulate_groups(page, &groups);
    }
    Ok(())
}

fn number(value: Option<f64>) -> String {
    or_dash(value.map(|value| Unit::Plain.show(value)))
}

fn percent(value: Option<f64>) -> String {
    or_dash(value.map(|value| Unit::Percent.show(value)))
}

fn draw_closeness(page: &mut Page, one: &Closeness) -> Result<(), ReportError> {
    type Number = fn(&TensorDistance) -> Option<f64>;
    page.raw(&format!("<h3>{}</h3>\n", html::escape(&one.pack)));
    let kinds: [(&str, Number); 2] = [("mean absolute difference", |t| t.l1), ("angle in radians", |t| t.angle)];
    let mut figures = Vec::new();
    for (what, of) in kinds {
        let title = format!("{}: {what}", one.pack);
        if let Some(drawing) = closeness_map(&title, &one.tensors, of)? {
            figures.push((title, format!("{what} of each tensor from the base's, by layer and module."), drawing));
        }
    }
    page.row(&figures);
    let columns = [("tensor", Words), ("layer", Numbers), ("module", Words), ("difference", Numbers)];
    let more = [("difference, random init", Numbers), ("angle", Numbers), ("angle, random init", Numbers)];
    let mut table = Table::new(&[columns.as_slice(), more.as_slice()].concat());
    for tensor in &one.tensors {
        table.row(vec![
            tensor.tensor.clone(),
            or_dash(tensor.layer.map(|layer| layer.to_string())),
            or_dash(tensor.module.clone()),
            number(tensor.l1),
            number(tensor.l1_random),
            number(tensor.angle),
            number(tensor.angle_random),
        ]);
    }
    page.raw(&table.folded(&format!("All tensors of {}", one.pack)));
    Ok(())
}

fn closeness_map(
    title: &str,
    tensors: &[TensorDistance],
    of: fn(&TensorDistance) -> Option<f64>,
) -> Result<Option<Drawing>, ReportError> {
    let value = |tensor: &TensorDistance| of(tensor).filter(|v| drawable(*v));
    let placed = || tensors.iter().filter(|tensor| tensor.layer.is_some() && tensor.module.is_some());
    let mut layers: Vec<u64> = placed().filter_map(|tensor| tensor.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let modules = distinct(placed().filter_map(|tensor| tensor.module.as_deref()));
    // A base has a tensor for each place; of two in one place the last is shown, and the table has both.
    let at = |layer: u64, module: &str| {
        placed().filter(|t| t.layer == Some(layer) && t.module.as_deref() == Some(module)).filter_map(value).next_back()
    };
    // From 0: a map of distances that hardly differ shall not look as if they did.
    let high = placed().filter_map(value).fold(0.0, f64::max);
    if layers.len() > super::tiles::MAX_CELLS || modules.len() > super::tiles::MAX_CELLS {
        return Ok(None);
    }
    let cell = |value: f64| (if high > 0.0 { value / high } else { 0.0 }, Unit::Plain.show(value));
    let row = |module: &&str| layers.iter().map(|&layer| at(layer, module).map(cell)).collect();
    let map = HeatMap {
        row_title: "module".to_owned(),
        rows: modules.iter().map(|&name| name.to_owned()).collect(),
        column_title: "layer".to_owned(),
        columns: layers.iter().map(u64::to_string).collect(),
        cells: modules.iter().map(row).collect(),
        ramp: Ramp::Sequential,
        ends: ["0".to_owned(), Unit::Plain.show(high)],
    };
    map.draw(title)
}

fn draw_overlap(page: &mut Page, one: &Overlap) -> Result<(), ReportError> {
    let ratio = |i: usize, j: usize| {
        let (observed, chance) = (one.observed[i][j]?, one.chance[i][j]?);
        let ratio = observed / chance;
        (chance > 0.0 && ratio.is_finite() && ratio >= 0.0).then_some(ratio)
    };
    let n = one.packs.len();
    // A pack and itself share all zeros: that says nothing, and would outshine the rest.
    let pairs = || (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).filter(|(i, j)| i != j);
    let furthest = pairs().filter_map(|(i, j)| ratio(i, j)).filter(|&r| r > 0.0).map(|r| r.ln().abs());
    let furthest = furthest.fold(0.1, f64::max);
    let cell = |ratio: f64| (0.5 + 0.5 * ratio.max(1e-9).ln() / furthest, format!("{ratio:.2}"));
    let row = |i: usize| (0..n).map(|j| ratio(i, j).filter(|_| i != j).map(cell)).collect();
    let map = HeatMap {
        row_title: "pack".to_owned(),
        rows: one.packs.clone(),
        column_title: "pack".to_owned(),
        columns: one.packs.clone(),
        cells: (0..n).map(row).collect(),
        ramp: Ramp::Diverging,
        ends: [format!("{:.2}", (-furthest).exp()), format!("{:.2}", furthest.exp())],
    };
    let title = "Overlap, observed / chance";
    if let Some(drawing) = map.draw(title)? {
        page.figure(title, &format!("Shared zeros of {n} packs, observed divided by chance."), &drawing);
    }
    let columns = [("pack", Words), ("other pack", Words), ("observed", Numbers)];
    let more = [("by chance", Numbers), ("by magnitude", Numbers), ("observed / chance", Numbers)];
    let mut table = Table::new(&[columns.as_slice(), more.as_slice()].concat());
    for (i, j) in pairs().filter(|(i, j)| i < j) {
        let by_magnitude = one.chance_by_magnitude.as_ref().and_then(|matrix| matrix[i][j]);
        let numbers = [one.observed[i][j], one.chance[i][j], by_magnitude, ratio(i, j)].map(number);
        table.row([one.packs[i].clone(), one.packs[j].clone()].into_iter().chain(numbers).collect());
    }
    page.raw(&table.html("Pairs of packs"));
    Ok(())
}

fn draw_sensitivity(page: &mut Page, one: &Sensitivity) -> Result<(), ReportError> {
    let metric = one.metric.as_deref().unwrap_or("metric");
    let unit = Unit::of_metric(metric);
    let what = match one.by.as_deref() {
        Some("layer") => "layer",
        Some("module") => "module",
        Some("both") => "module of a layer",
        _ => "group",
    };
    let (how, it) = match one.only {
        Some(true) => (format!("with a {what} alone"), "with it alone"),
        _ => (format!("without a {what}"), "without it"),
    };
    let bar = |group: &super::Group| {
        let value = group.drop.filter(|v| drawable(*v))?;
        Some(Bar { name: group.group.clone(), value, shown: unit.show(value) })
    };
    let all: Vec<Bar> = one.groups.iter().filter_map(bar).collect();
    let title = format!("{}: loss of {} {how}", one.pack, words(metric));
    if let Some(drawing) = bars(&title, &format!("drop {it}{}", unit.suffix()), &all)? {
        page.figure(&title, &format!("A bar for each of {} groups of tensors.", all.len()), &drawing);
    }
    if let Some(base) = one.base {
        let about = format!("The whole pack: {} {}.", words(metric), unit.say(base));
        page.raw(&format!("<p class=\"about\">{}</p>\n", html::escape(&about)));
    }
    let [left, lost] = [format!("{} {it}", words(metric)), "drop".to_owned()].map(|name| name + unit.suffix());
    let mut table = Table::new(&[(what, Words), (left.as_str(), Numbers), (lost.as_str(), Numbers)]);
    let shown = |value: Option<f64>| or_dash(value.map(|value| unit.show(value)));
    for group in &one.groups {
        table.row(vec![group.group.clone(), shown(group.metric), shown(group.drop)]);
    }
    page.raw(&table.folded(&format!("All groups of {}, {how}", one.pack)));
    Ok(())
}

/// A metric's name and its unit.
fn label(metric: &str) -> String {
    format!("{}{}", words(metric), Unit::of_metric(metric).suffix())
}

/// Solutions, each with the name of its metric.
fn draw_solutions(page: &mut Page, all: &[(&str, &Solution)]) -> Result<(), ReportError> {
    let tasks = distinct(all.iter().map(|(_, point)| point.task.as_str()));
    let mut figures = Vec::new();
    for &task in &tasks {
        let of_task = || all.iter().filter(|(_, point)| point.task == task);
        for metric in distinct(of_task().map(|(metric, _)| *metric)) {
            let points = of_task().filter(|(of, _)| *of == metric);
            let points: Vec<(f64, f64)> = points.filter_map(|(_, p)| Some((p.sparsity?, p.metric?))).collect();
            let x = Scale::linear(points.iter().map(|p| p.0), Unit::Percent);
            let y = Scale::linear(points.iter().map(|p| p.1), Unit::of_metric(metric));
            let Some((x, y)) = x.zip(y) else { continue };
            let x = Axis { label: format!("sparsity{}", Unit::Percent.suffix()), scale: x };
            let y = Axis { label: label(metric), scale: y };
            let text = format!("{task}: {} against sparsity, {} solutions.", words(metric), points.len());
            let drawing = plot(task, HALF, &x, &y, &[Series { style: 0, points, line: false }])?;
            figures.push((task.to_owned(), text, drawing));
        }
    }
    page.row(&figures);
    let columns = [("task", Words), ("seed", Numbers), ("sparsity (%)", Numbers), ("metric", Words)];
    let mut table = Table::new(&[columns.as_slice(), &[("value", Numbers)]].concat());
    for (metric, point) in all {
        table.row(vec![
            point.task.clone(),
            or_dash(point.seed.map(|seed| seed.to_string())),
            percent(point.sparsity),
            label(metric),
            or_dash(point.metric.map(|value| Unit::of_metric(metric).show(value))),
        ]);
    }
    page.raw(&table.folded("All solutions"));
    Ok(())
}

/// Groups of solutions, each with the name of its metric.
fn tabulate_groups(page: &mut Page, groups: &[(&str, &SparsityGroup)]) {
    if groups.is_empty() {
        return;
    }
    let columns = [("task", Words), ("metric", Words), ("zeros (%)", Numbers), ("packs", Numbers), ("mean", Numbers)];
    let spread = [("standard deviation", Numbers), ("lowest", Numbers), ("highest", Numbers)];
    let shared = [("shared zeros (%)", Numbers), ("by chance (%)", Numbers), ("by magnitude (%)", Numbers)];
    let mut table = Table::new(&[columns.as_slice(), &spread, &shared].concat());
    for (metric, group) in groups {
        let value = |value: Option<f64>| or_dash(value.map(|value| Unit::of_metric(metric).show(value)));
        let share = |of: fn(&SharedZeros) -> Option<f64>| percent(group.overlap.as_ref().and_then(of));
        table.row(vec![
            group.task.clone(),
            label(metric),
            // A whole per cent is what makes the group.
            or_dash(group.sparsity.map(|part| format!("{:.0}", 100.0 * part))),
            or_dash(group.n.map(|n| n.to_string())),
            value(group.mean),
            value(group.sd),
            value(group.min),
            value(group.max),
            share(|zeros| zeros.observed),
            share(|zeros| zeros.chance),
            share(|zeros| zeros.chance_by_magnitude),
        ]);
    }
    page.raw(&table.html("Solutions of the same sparsity"));
}
