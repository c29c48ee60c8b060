//! `overmask bench`: how fast a task runs here, and what it takes.

use std::time::Instant;

use clap::Args;
use overmask::engine::{TaskId, TokenBatch};
use overmask::pack::{Input, TaskKind};
use overmask::task::Runner;
use overmask_cli::together::{self, Together, WORDS, texts};
use overmask_cli::{CodedError, ExitCode, Output};
use serde::Serialize;

use super::packs::{Opened, TaskArgs};

/// Arguments of `overmask bench`.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    task: TaskArgs,
    /// Tokens in a text; several lengths are measured one after the other
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "16,64,128",
          value_parser = clap::value_parser!(u16).range(1..))]
    seq: Vec<u16>,
    /// Texts in a batch
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Passes that count; a tenth of them comes before that does not
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    passes: u32,
    /// Print one JSON object for each length
    #[arg(long)]
    json: bool,
}

/// What is printed for a length.
#[derive(Serialize)]
struct Report<'a> {
    task: &'a str,
    pack: &'a str,
    engine: String,
    precision: &'static str,
    /// The instructions or the library that compute, and what is done with a mask.
    kernels: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mask_kernel: Option<&'a str>,
    /// What was asked for; without it the engine decides.
    threads: Option<u16>,
    tokens: usize,
    batch: usize,
    passes: u32,
    /// A pass of the encoder.
    median_ms: f64,
    p95_ms: f64,
    tokens_per_second: f64,
    /// From opening the base to the first label.
    first_result_ms: f64,
    /// What a pass takes longer when each runs another task than the one before.
    switch_us: f64,
    /// All packs at once on each text, if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    together: Option<Together>,
    /// Memory of the process, where the system tells it.
    resident_bytes: Option<u64>,
}

pub(super) fn run(args: &BenchArgs, out: &mut Output) -> anyhow::Result<()> {
    let begin = Instant::now();
    let usage = |message| CodedError { message, code: ExitCode::Usage };
    let Opened { base, mut packs, engine, left_out } = args.task.open(|base, _| {
        let limit = base.manifest().architecture.max_positions;
        let long = args.seq.iter().find(|seq| usize::from(**seq) > limit);
        let long = long.map(|seq| usage(format!("--seq {seq}: the base takes texts of {limit} tokens at most")));
        long.map_or(Ok(()), |error| Err(error.into()))
    })?;
    let runner = Runner::new(engine, base)?;
    let first = packs.remove(0);
    let (pack, second) = (first.path, packs.first().map_or_else(|| first.file.clone(), |second| second.file.clone()));
    let task = runner.add_file(first.file)?;
    runner.predict(task, &[input(&runner, task)?])?;
    let first_result_ms = milliseconds(begin);
    // Not what the engine may have kept, which would be one memory for both.
    let other = runner.add_pack(second.decode(Some(runner.base()))?)?;

    let more = packs.into_iter().map(|given| runner.add_file(given.file));
    let all = std::iter::once(Ok(task)).chain(more).collect::<Result<Vec<TaskId>, _>>()?;

    let (info, name) = (runner.describe(), runner.task(task)?.name().to_owned());
    let mut together = Vec::new();
    for seq in &args.seq {
        let (tokens, batch) = (usize::from(*seq), usize::from(args.batch));
        let input = texts(&runner, tokens, batch)?;
        let mut times = passes(&runner, task, &input, args.passes)?;
        let median_ms = percentile(&mut times, 50);
        let report = Report {
            task: &name,
            pack: &pack,
            engine: info.engine.to_string(),
            precision: info.precision.name(),
            kernels: &info.kernels,
            mask_kernel: mask_kernel(&runner, task, tokens * batch)?,
            threads: args.task.engine.threads,
            tokens,
            batch,
            passes: args.passes,
            median_ms,
            p95_ms: percentile(&mut times, 95),
            tokens_per_second: (tokens * batch) as f64 / median_ms * 1e3,
            first_result_ms,
            switch_us: switch(&runner, [task, other], &input, args.passes)?,
            together: (all.len() > 1).then(|| Together::measure(&runner, &all, &input, args.passes)).transpose()?,
            resident_bytes: resident_bytes(),
        };
        if args.json {
            out.json(&report)?;
        } else {
            print(&report, seq == &args.seq[0], out)?;
        }
        together.extend(report.together.map(|times| (tokens, times)));
        out.flush()?;
    }
    if !args.json {
        print_together(&together::explain(&runner, &all)?, &together, out)?;
    }
    left_out.map_or(Ok(()), |error| Err(error.into()))
}

/// What our own kernels do with a task's masks; nothing for an engine that has others.
#[cfg(feature = "native")]
fn mask_kernel(runner: &Runner, task: TaskId, rows: usize) -> anyhow::Result<Option<&'static str>> {
    let engine: &dyn std::any::Any = runner.engine();
    let native = engine.downcast_ref::<overmask::engine::native::NativeEngine>();
    Ok(native.map(|native| native.mask_kernel(task, rows)).transpose()?)
}

#[cfg(not(feature = "native"))]
fn mask_kernel(_: &Runner, _: TaskId, _: usize) -> anyhow::Result<Option<&'static str>> {
    Ok(None)
}

/// An input of the form that a task reads.
fn input(runner: &Runner, task: TaskId) -> anyhow::Result<Input> {
    let words = || WORDS.split_whitespace().map(str::to_owned).collect();
    let task = runner.task(task)?;
    Ok(match (task.kind(), task.text().pair) {
        (TaskKind::Tag, _) => Input::Words { words: words() },
        (_, true) => Input::Pair(WORDS.to_owned(), WORDS.to_owned()),
        (_, false) => Input::from(WORDS),
    })
}

/// Milliseconds of passes, after some to warm up.
fn passes(runner: &Runner, task: TaskId, input: &TokenBatch, count: u32) -> anyhow::Result<Vec<f64>> {
    let warm_up = count.div_ceil(10);
    let mut times = Vec::new();
    for i in 0..warm_up + count {
        let start = Instant::now();
        runner.encode(task, input)?;
        if i >= warm_up {
            times.push(milliseconds(start));
        }
    }
    Ok(times)
}

/// Microseconds: the median of A, B, A, B ... less the mean of those of A, A ... and B, B ...
///
/// They take turns in short runs, so that a change of the machine's speed is in all of them; the
/// first passes of a run, which find the caches of another, do not count.
fn switch(runner: &Runner, [a, b]: [TaskId; 2], input: &TokenBatch, count: u32) -> anyhow::Result<f64> {
    const RUN: u32 = 10;
    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..count.div_ceil(RUN - 2) {
        for (order, times) in [[a, a], [b, b], [a, b]].iter().zip(&mut times) {
            for i in 0..RUN {
                let start = Instant::now();
                runner.encode(order[i as usize % 2], input)?;
                if i >= 2 {
                    times.push(milliseconds(start));
                }
            }
        }
    }
    let [only_a, only_b, both] = times.map(|mut times| percentile(&mut times, 50));
    Ok(1e3 * (both - (only_a + only_b) / 2.0))
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// The value that so many percent of the times do not exceed.
fn percentile(times: &mut [f64], percent: usize) -> f64 {
    times.sort_by(f64::total_cmp);
    times[(times.len() * percent).div_ceil(100).clamp(1, times.len()) - 1]
}

/// Memory of this process that lies in RAM, shared pages included.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn print(report: &Report<'_>, is_first: bool, out: &mut Output) -> anyhow::Result<()> {
    if is_first {
        let threads = report.threads.map_or_else(|| "its own number of".to_owned(), |n| n.to_string());
        let (engine, precision, kernels) = (&report.engine, report.precision, report.kernels);
        out.line(&format!("engine        {engine}, {precision}, {kernels}, {threads} threads"))?;
        out.line(&format!("first result  {:.1} ms after the start", report.first_result_ms))?;
        if let Some(bytes) = report.resident_bytes {
            out.line(&format!("memory        {:.1} MB resident", bytes as f64 / 1e6))?;
        }
        out.line(&format!(
            "{:>6} {:>6} {:>10} {:>10} {:>10} {:>10}  kernel",
            "tokens", "batch", "median ms", "p95 ms", "tokens/s", "switch us"
        ))?;
    }
    out.line(&format!(
        "{:>6} {:>6} {:>10.3} {:>10.3} {:>10.0} {:>10.1}  {}",
        report.tokens,
        report.batch,
        report.median_ms,
        report.p95_ms,
        report.tokens_per_second,
        report.switch_us,
        report.mask_kernel.unwrap_or("the engine's own"),
    ))
}

/// What all tasks cost at once.
fn print_together(plan: &[String], times: &[(usize, Together)], out: &mut Output) -> anyhow::Result<()> {
    let Some((_, Together { tasks, .. })) = times.first() else { return Ok(()) };
    out.line(&format!("\n{tasks} tasks on each text"))?;
    plan.iter().try_for_each(|line| out.line(&format!("  {line}")))?;
    out.line(&format!("{:>6} {:>12} {:>12} {:>12} {:>10}", "tokens", "together ms", "apart ms", "first ms", "layers"))?;
    times.iter().try_for_each(|(tokens, Together { layers, median_ms, apart_ms, one_ms, .. })| {
        out.line(&format!("{tokens:>6} {median_ms:>12.3} {apart_ms:>12.3} {one_ms:>12.3} {layers:>10}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let mut times: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        assert_eq!([50, 95, 100].map(|percent| percentile(&mut times, percent)), [10.0, 19.0, 20.0]);
        assert_eq!(percentile(&mut [3.0], 50), 3.0);
    }
}
