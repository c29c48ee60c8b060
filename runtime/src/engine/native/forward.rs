//! The forward pass over the tokens of a batch, without padding.
//!
//! All activations lie in panels, [width / 32, tokens, 32]: that is what a product gives, what the
//! next one reads, and what a head is that is 32 wide. So nothing is ever packed but keys.
//!
//! Several tasks run as their schedule says: what they share once, then side by side, each product over the rows of one
//! class.

use std::cell::Cell;
use std::ops::Range;

use overmask_kernels::{Activations, NR, Product, Row};
use rten_simd::{SimdOp, SimdUnaryOp};
use rten_vecmath::Gelu;

use super::Task;
use super::attention::Spread;
use super::budget::Stage;
use super::cache::Prefixes;
use super::model::{Linear, Model, Norm};
use super::norm::LayerNorm;
use super::pass::{Memory, Pass, by_rows};
use super::schedule::{self, Asked, Group, Schedule, Source, Step, Stream, Trunk};
use crate::engine::{EngineError, TokenBatch};

/// What a product does besides adding the bias.
#[derive(Clone, Copy)]
enum Epilogue<'a> {
    Nothing,
    Gelu,
    /// Adds values that lie as the product does.
    Add(&'a [Row]),
}

/// Rows that go on from one task's steps to another's, at most, but always those of one task.
const MAX_ROWS: usize = 2048;

/// Memory of a pass that the next one on the same thread uses again.
#[derive(Default)]
struct Workspace {
    flow: Flow,
    /// Query, key and value.
    projected: Vec<Row>,
    context: Vec<Row>,
    intermediate: Vec<Row>,
    sums: Vec<Row>,
    spread: Spread,
}

/// What goes from one step to the next.
#[derive(Clone, Default)]
struct Flow {
    x: Vec<Row>,
    /// The rows of each stream.
    streams: Vec<Range<usize>>,
}

thread_local! {
    /// Taken while a pass runs, as a waiting thread of a pool may begin another one.
    static WORKSPACE: Cell<Workspace> = Cell::default();
}

impl Pass<'_> {
    /// Runs the encoder: for each task the vectors of its texts, [tokens of its texts, width].
    pub(super) fn run(&self, batch: &TokenBatch, asked: &[Asked<'_>]) -> Result<Vec<Vec<f32>>, EngineError> {
        let lengths: Vec<usize> = batch.lengths().collect();
        let mut work = WORKSPACE.take();
        let mut found = vec![Vec::new(); asked.len()];
        let Some(first) = asked.first() else { return Ok(found) };
        let mut prefixes = Prefixes::find(self.cache, batch, asked);
        let sources = prefixes.sources(asked);

        // What all tasks share, once.
        let shared = schedule::shared(asked);
        let trunk = Trunk::new(asked, &sources, &lengths);
        work.flow.streams.clear();
        self.steps(&trunk.steps, 0, batch, &mut prefixes, &mut work)?;

        // The rest, for so many tasks at once that their rows do not take any amount of memory.
        let rows_of = |task: &usize| asked[*task].texts.iter().map(|text| lengths[*text]).sum::<usize>();
        let order = schedule::order(asked);
        let mut left = &order[..];
        while !left.is_empty() {
            let mut rows = 0;
            let fitting = left.iter().take_while(|task| {
                rows += rows_of(task);
                rows <= MAX_ROWS
            });
            let (tasks, others) = left.split_at(fitting.count().max(1));
            left = others;
            let flow = (!left.is_empty()).then(|| work.flow.clone());
            let these: Vec<Asked<'_>> = tasks.iter().map(|task| asked[*task]).collect();
            let from = tasks.iter().map(|task| trunk.leads_to(&asked[*task], &sources[*task])).collect();
            let mut rest = Schedule::new(&these, from, shared..first.classes.len(), &lengths);
            rest.steps.iter_mut().flat_map(|step| &mut step.groups).for_each(|group| group.task = tasks[group.task]);
            self.steps(&rest.steps, shared, batch, &mut prefixes, &mut work)?;
            for (task, ends) in tasks.iter().zip(rest.ends) {
                let ends: Vec<(usize, Source)> = asked[*task].texts.iter().copied().zip(ends).collect();
                found[*task] = self.timed(Stage::Embedding, || self.hidden(&work.flow, &ends, &lengths, &prefixes));
            }
            work.flow = flow.unwrap_or(std::mem::take(&mut work.flow));
        }
        WORKSPACE.set(work);
        prefixes.put();
        Ok(found)
    }

    /// Runs some steps, of which the first has this number: 0 are the embeddings, then come the layers.
    fn steps(
        &self,
        steps: &[Step],
        first: usize,
        batch: &TokenBatch,
        prefixes: &mut Prefixes<'_>,
        work: &mut Workspace,
    ) -> Result<(), EngineError> {
        // Before the first text comes in there is nothing to do.
        for (step, number) in steps.iter().zip(first..).filter(|(step, _)| step.rows() > 0) {
            match number.checked_sub(1) {
                None => self.embed(step, batch, &mut work.flow)?,
                Some(layer) => {
                    self.timed(Stage::Embedding, || {
                        branch(step, prefixes, &mut work.flow, &mut work.sums, self.panels())
                    });
                    self.layer(layer, step, work);
                }
            }
            let rows = step.rows();
            for Stream { text, rows: of_text, .. } in step.streams.iter().filter(|stream| stream.is_base) {
                let panels = work.flow.x.chunks_exact(rows).map(|panel| &panel[of_text.clone()]);
                prefixes.keep(*text, number + 1, panels);
            }
        }
        Ok(())
    }

    fn layer(&self, layer: usize, step: &Step, work: &mut Workspace) {
        let Workspace { flow: Flow { x, streams }, projected, context, intermediate, sums, spread } = work;
        let (width, rows) = (self.width(), step.rows());
        let of = |task: usize| &self.tasks[task].model.layers[layer];
        let all = Activations::new(x, rows, width);
        self.linears(step, |task| [&of(task).query, &of(task).key, &of(task).value], all, projected, Epilogue::Nothing);
        self.attention(projected, streams, rows, spread, context);
        let context = Activations::new(context, rows, width);
        self.linears(step, |task| [&of(task).attended], context, sums, Epilogue::Add(x));
        std::mem::swap(x, sums);
        self.norm(step, |task| &of(task).attention_norm, x);
        let all = Activations::new(x, rows, width);
        self.linears(step, |task| [&of(task).intermediate], all, intermediate, Epilogue::Gelu);
        let inner = Activations::new(intermediate, rows, of(0).output.inputs());
        self.linears(step, |task| [&of(task).output], inner, sums, Epilogue::Add(x));
        std::mem::swap(x, sums);
        self.norm(step, |task| &of(task).output_norm, x);
    }

    /// Products of the same activations with one or more weights, with their biases, one after the
    /// other; each group of rows with the weights of its task.
    fn linears<'m, const N: usize>(
        &self,
        step: &Step,
        of: impl Fn(usize) -> [&'m Linear; N] + Sync,
        activations: Activations<'_>,
        out: &mut Vec<Row>,
        epilogue: Epilogue<'_>,
    ) {
        let rows = activations.rows();
        // Linear layers of one place have the same shape in all tasks.
        let panels: Vec<(usize, usize)> = of(0)
            .iter()
            .enumerate()
            .flat_map(|(linear, of)| (0..of.panels()).map(move |panel| (linear, panel)))
            .collect();
        out.resize(panels.len() * rows, [0.0; NR]);
        let mut parts = Vec::with_capacity(panels.len() * step.groups.len());
        for (i, ((linear, panel), mut sums)) in panels.into_iter().zip(out.chunks_exact_mut(rows)).enumerate() {
            // All groups of a panel one after the other: its weights come from memory once.
            for group in &step.groups {
                let (these, others) = sums.split_at_mut(group.rows.len());
                parts.push((i, linear, panel, group, these));
                sums = others;
            }
        }
        self.each(parts, |(i, linear, panel, group, sums), memory| {
            let Group { rows: of_group, task } = group;
            let linear = of(*task)[linear];
            self.timed(Stage::Linears, || {
                let mut bias = Some(&linear.bias[panel]);
                if let Epilogue::Add(x) = epilogue {
                    for (sums, x) in sums.iter_mut().zip(&x[i * rows + of_group.start..]) {
                        let values = x.iter().zip(&linear.bias[panel]);
                        sums.iter_mut().zip(values).for_each(|(sum, (x, bias))| *sum = x + bias);
                    }
                    bias = None;
                }
                let Task { model, masks, .. } = &*self.tasks[*task];
                let (weight, mask) = (linear.weight(&model.packed), masks.of(linear.index));
                let activations = activations.of_rows(of_group.clone());
                let product = Product { activations, weight, mask, panel, bias };
                product.run(self.isa, &mut memory.scratch, sums);
            });
            if let Epilogue::Gelu = epilogue {
                self.timed(Stage::Gelu, || Gelu {}.map_mut(sums.as_flattened_mut()));
            }
        });
    }

    /// Layer norm of each row.
    fn norm<'m>(&self, step: &Step, of: impl Fn(usize) -> &'m Norm + Sync, x: &mut [Row]) {
        let (parts, tasks) = self.parts_of(step);
        let parts = by_rows(x, step.rows(), &parts).into_iter().zip(tasks).collect();
        self.each(parts, |(mut panels, task), memory| {
            self.timed(Stage::Norms, || self.norm_rows(of(task), &mut panels, memory));
        });
    }

    fn norm_rows(&self, norm: &Norm, panels: &mut [&mut [Row]], memory: &mut Memory) {
        LayerNorm { norm, epsilon: self.tasks[0].model.epsilon, panels, row: &mut memory.row }.dispatch();
    }

    /// The rows of a step in parts of one class each, with their tasks.
    fn parts_of(&self, step: &Step) -> (Vec<Range<usize>>, Vec<usize>) {
        let of_group = |group: &Group| {
            let (start, task) = (group.rows.start, group.task);
            self.parts(group.rows.len()).into_iter().map(move |part| (start + part.start..start + part.end, task))
        };
        step.groups.iter().flat_map(of_group).unzip()
    }

    /// Norms of the sums of token, position and segment embeddings.
    fn embed(&self, step: &Step, batch: &TokenBatch, flow: &mut Flow) -> Result<(), EngineError> {
        let (width, rows) = (self.width(), step.rows());
        let mut tokens: Vec<[&[f32]; 3]> = Vec::with_capacity(rows);
        for group in &step.groups {
            let Model { words, positions, segments, .. } = &*self.tasks[group.task].model;
            let [words, positions, segments] = [words, positions, segments].map(|table| table.values(self.base));
            let (words, positions, segments) = (words?, positions?, segments?);
            let within = |stream: &&Stream| group.rows.start <= stream.rows.start && stream.rows.end <= group.rows.end;
            for stream in step.streams.iter().filter(within) {
                let (ids, of_segments) = batch.row(stream.text);
                // Numbers of tokens, positions and segments were checked against the tables.
                let values = ids.iter().zip(of_segments).zip(positions.chunks_exact(width));
                tokens.extend(values.map(|((id, segment), position)| {
                    [row(words, *id, width), row(segments, *segment, width), position]
                }));
            }
        }
        let Flow { x, streams } = flow;
        x.resize(rows * width.div_ceil(NR), [0.0; NR]);
        streams.clear();
        streams.extend(step.streams.iter().map(|stream| stream.rows.clone()));
        let (parts, tasks) = self.parts_of(step);
        let parts = by_rows(x, rows, &parts).into_iter().zip(parts.into_iter().zip(tasks)).collect();
        self.each(parts, |(mut panels, (part, task)), memory| {
            self.timed(Stage::Embedding, || {
                for (i, [word, segment, position]) in tokens[part].iter().enumerate() {
                    let values = word.chunks(NR).zip(segment.chunks(NR)).zip(position.chunks(NR));
                    for (panel, ((word, segment), position)) in panels.iter_mut().zip(values) {
                        let values = word.iter().zip(segment).zip(position);
                        panel[i].iter_mut().zip(values).for_each(|(x, ((w, s), p))| *x = w + s + p);
                    }
                }
                self.norm_rows(&self.tasks[task].model.norm, &mut panels, memory);
            });
        });
        Ok(())
    }

    /// The vectors of some texts as the engine gives them.
    fn hidden(&self, flow: &Flow, these: &[(usize, Source)], lengths: &[usize], prefixes: &Prefixes<'_>) -> Vec<f32> {
        let width = self.width();
        let mut hidden = vec![0.0; these.iter().map(|(text, _)| lengths[*text]).sum::<usize>() * width];
        let mut left = &mut hidden[..];
        for (text, from) in these {
            let (out, others) = left.split_at_mut(lengths[*text] * width);
            left = others;
            for panel in 0..self.panels() {
                let rows = flow.panel(*text, *from, panel, lengths[*text], prefixes);
                for (row, out) in rows.iter().zip(out.chunks_exact_mut(width)) {
                    let part = &mut out[panel * NR..width.min((panel + 1) * NR)];
                    part.copy_from_slice(&row[..part.len()]);
                }
            }
        }
        hidden
    }
}

impl Flow {
    /// A panel of a text, of a stream or as it comes in.
    fn panel<'a>(
        &'a self,
        text: usize,
        from: Source,
        panel: usize,
        tokens: usize,
        prefixes: &'a Prefixes<'_>,
    ) -> &'a [Row] {
        match from {
            Source::Enters(step) => prefixes.panel(text, step, panel, tokens),
            Source::Stream(stream) => {
                let rows = self.streams.last().map_or(0, |last| last.end);
                &self.x[panel * rows..][self.streams[stream].clone()]
            }
        }
    }
}

/// Copies the rows of streams to all that go on from them, and of texts that come in, unless each goes on alone.
fn branch(step: &Step, prefixes: &Prefixes<'_>, flow: &mut Flow, memory: &mut Vec<Row>, panels: usize) {
    let goes_on = |(place, stream): (usize, &Stream)| stream.from == Source::Stream(place);
    if step.streams.len() == flow.streams.len() && step.streams.iter().enumerate().all(goes_on) {
        return;
    }
    memory.clear();
    for panel in 0..panels {
        for Stream { text, from, rows, .. } in &step.streams {
            memory.extend_from_slice(flow.panel(*text, *from, panel, rows.len(), prefixes));
        }
    }
    std::mem::swap(&mut flow.x, memory);
    flow.streams = step.streams.iter().map(|stream| stream.rows.clone()).collect();
}

/// A row of a table.
fn row(table: &[f32], number: u32, width: usize) -> &[f32] {
    &table[number as usize * width..][..width]
}
