//! What several tasks on one text cost together: what they have in common, and the time that it takes here.

use std::ops::Range;
use std::time::Instant;

use anyhow::ensure;
use overmask::engine::{Plan, Sharing, TaskId, TokenBatch};
use overmask::pack::Input;
use overmask::task::Runner;
use overmask::text::printable;
use serde::Serialize;

/// What texts of a measurement say; any words will do.
pub const WORDS: &str = "the quick brown fox jumps over the lazy dog and runs into the dark forest where nobody lives ";

/// A batch of texts that are all of one length.
///
/// # Errors
/// When the base's tokenizer makes no such texts.
pub fn texts(runner: &Runner, tokens: usize, count: usize) -> anyhow::Result<TokenBatch> {
    let ids = runner.tokenizer().encode(&Input::Text(WORDS.repeat(tokens.div_ceil(8))), tokens)?;
    ensure!(ids.len() == tokens, "the base's tokenizer makes no text of {tokens} tokens");
    Ok(runner.tokenizer().batch(vec![&ids; count]))
}

/// What some tasks cost together, in medians of passes that take turns.
#[derive(Debug, Serialize)]
pub struct Together {
    /// Number of tasks.
    pub tasks: usize,
    /// Layers that are computed for a text, all tasks together; as many as one by one where nothing is shared.
    pub layers: usize,
    /// All tasks in one plan.
    pub median_ms: f64,
    /// One task after the other.
    pub apart_ms: f64,
    /// The first task alone.
    pub one_ms: f64,
}

impl Together {
    /// Measures some tasks on some texts.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn measure(runner: &Runner, tasks: &[TaskId], texts: &TokenBatch, passes: u32) -> anyhow::Result<Self> {
        let engine = runner.engine();
        let (all, lone) = (runner.base().manifest().architecture.layers, tasks.first());
        let layers = engine.sharing(tasks)?.map_or(all * tasks.len(), |sharing| sharing.computed_layers());
        let together = [Plan::new(texts.clone(), &vec![tasks; texts.len()])];
        let apart: Vec<Plan> = tasks.iter().map(|task| Plan::single(texts.clone(), *task)).collect();
        let one = &apart[..lone.into_iter().len()];
        let mut times: [Vec<f64>; 3] = Default::default();
        let warm_up = passes.div_ceil(10);
        for pass in 0..warm_up + passes {
            for (plans, times) in [&together[..], &apart, one].into_iter().zip(&mut times) {
                let start = Instant::now();
                plans.iter().try_for_each(|plan| engine.run(plan).map(drop))?;
                if pass >= warm_up {
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        let [median_ms, apart_ms, one_ms] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times.get(times.len() / 2).copied().unwrap_or_default()
        });
        Ok(Together { tasks: tasks.len(), layers, median_ms, apart_ms, one_ms })
    }
}

/// In words, a line for each part of the encoder: which tasks it is computed for together.
///
/// # Errors
/// When a task is not of this runner.
pub fn explain(runner: &Runner, tasks: &[TaskId]) -> anyhow::Result<Vec<String>> {
    let names = tasks.iter().map(|task| Ok((*task, printable(runner.task(*task)?.name()))));
    let names = names.collect::<anyhow::Result<Vec<(TaskId, String)>>>()?;
    let name = |task: &TaskId| names.iter().find(|(id, _)| id == task).map_or("", |(_, name)| name);
    Ok(match runner.engine().sharing(tasks)? {
        Some(sharing) => parts(&sharing).iter().map(|(part, groups)| line(part, groups, name)).collect(),
        None => {
            let engine = runner.describe().engine;
            vec![format!("the engine `{engine}` runs one task after the other and shares nothing")]
        }
    })
}

/// Parts of the encoder that are shared alike, with their names.
fn parts(sharing: &Sharing) -> Vec<(String, &[Vec<TaskId>])> {
    let mut parts: Vec<(Range<usize>, &[Vec<TaskId>])> = Vec::new();
    let steps = [sharing.embeddings()].into_iter().chain(sharing.layers().iter().map(Vec::as_slice));
    for (step, groups) in steps.enumerate() {
        match parts.last_mut() {
            Some((range, before)) if *before == groups => range.end = step + 1,
            _ => parts.push((step..step + 1, groups)),
        }
    }
    // The first step are the embeddings, layer 0 is the second.
    let name = |steps: &Range<usize>| {
        let layers = match (steps.start.saturating_sub(1), steps.end - 1) {
            (_, 0) => String::new(),
            (first, end) if first + 1 == end => format!("layer {first}"),
            (first, end) => format!("layers {first}-{}", end - 1),
        };
        match (steps.start, layers.is_empty()) {
            (0, true) => "embeddings".to_owned(),
            (0, false) => format!("embeddings, {layers}"),
            _ => layers,
        }
    };
    parts.into_iter().map(|(steps, groups)| (name(&steps), groups)).collect()
}

fn line<'a>(part: &str, groups: &[Vec<TaskId>], name: impl Fn(&TaskId) -> &'a str) -> String {
    if let [all] = groups {
        return match all.len() {
            2 => format!("{part}: once for both tasks"),
            count => format!("{part}: once for all {count} tasks"),
        };
    }
    let group = |tasks: &Vec<TaskId>| tasks.iter().map(&name).collect::<Vec<_>>().join(" with ");
    format!("{part}: {} times, for {}", groups.len(), groups.iter().map(group).collect::<Vec<_>>().join(", "))
}
