//! The forward pass over the tokens of a batch, without padding.
//!
//! All activations lie in panels, [width / 32, tokens, 32]: that is what a product gives, what the
//! next one reads, and what a head is that is 32 wide. So nothing is ever packed but keys.
//!
//! Several tasks run as their schedule says: what they share once, then side by side, each product over the rows of one
//! class.

use std::cell::Cell;
use std::ops::Range;
use std::slice::from_ref;

use overmask_kernels::{Activations, Affine, NR, Product, Row};
use rten_simd::{SimdOp, SimdUnaryOp};
use rten_vecmath::{ApproxGelu, Gelu};

use super::attention::Spread;
use super::budget::Stage;
use super::cache::Prefixes;
use super::model::{Embeddings, Layer, Linear, Norm};
use super::norm::LayerNorm;
use super::packed::Weight;
use super::pass::{Memory, Pass, Piece, by_rows};
use super::rotary::Angles;
use super::schedule::{self, Asked, Schedule, Source, Step, Stream, Trunk};
use crate::base::family::encoder::Activation;
use crate::base::{Precision, Stored};
use crate::engine::{EngineError, TokenBatch};

/// What a product does besides adding the bias.
#[derive(Clone, Copy)]
enum Epilogue<'a> {
    Nothing,
    Activation(Activation),
    /// Adds values that lie as the product does.
    Add(&'a [Row]),
}

/// Puts a function of each value in its place.
fn activate(activation: Activation, x: &mut [Row]) {
    match activation {
        Activation::Gelu => Gelu {}.map_mut(x.as_flattened_mut()),
        Activation::GeluTanh => ApproxGelu {}.map_mut(x.as_flattened_mut()),
    }
}

/// Rows that go on from one task's steps to another's, at most, but always those of one task.
const MAX_ROWS: usize = 2048;

/// Memory of a pass that the next one on the same thread uses again.
#[derive(Default)]
struct Workspace {
    flow: Flow,
    /// What a part of a layer reads that has a norm of its own before it.
    normed: Vec<Row>,
    /// Query, key and value.
    projected: Vec<Row>,
    context: Vec<Row>,
    intermediate: Vec<Row>,
    sums: Vec<Row>,
    spread: Spread,
    codes: Codes,
    /// Turns of rotary positions; few, as they belong to bases.
    angles: Vec<Angles>,
}

/// Activations as int8 codes, for weights that are such codes.
#[derive(Default)]
struct Codes {
    /// The rows of each group, and behind them one that stands for 1.
    values: Vec<Row<u8>>,
    /// What the codes of each row stand for.
    rows: Vec<Affine>,
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
                None => self.embed(step, batch, work)?,
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
        let Workspace { flow: Flow { x, .. }, normed, projected, context, intermediate, sums, spread, codes, angles } =
            work;
        let of = |task: usize| &*self.tasks[task].model.layers[layer];
        // Tasks change values, never what a layer is made of.
        let Layer { activation, up, rotary, .. } = of(0);
        let (activation, is_gated) = (*activation, up.len() > 1);
        let read = self.normed(step, |task| of(task).before_attention.as_ref(), x, normed);
        self.linears(step, |task| &of(task).projections, read, codes, projected, Epilogue::Nothing);
        if let Some(theta) = rotary {
            self.turn(step, *theta, angles, projected);
        }
        self.attention(step, |task| of(task).distances.as_deref(), projected, spread, context);
        self.linears(step, |task| from_ref(&of(task).attended), context, codes, sums, Epilogue::Add(x));
        std::mem::swap(x, sums);
        self.norm(step, |task| of(task).after_attention.as_ref(), x);

        let read = self.normed(step, |task| of(task).before_feed_forward.as_ref(), x, normed);
        let epilogue = if is_gated { Epilogue::Nothing } else { Epilogue::Activation(activation) };
        self.linears(step, |task| &of(task).up, read, codes, intermediate, epilogue);
        if is_gated {
            self.gate(activation, step.rows(), intermediate);
        }
        self.linears(step, |task| from_ref(&of(task).output), intermediate, codes, sums, Epilogue::Add(x));
        std::mem::swap(x, sums);
        self.norm(step, |task| of(task).after_feed_forward.as_ref(), x);
    }

    /// Products of the same activations with one or more weights, with their biases, one after the
    /// other; each group of rows with the weights of its task.
    fn linears<'m>(
        &self,
        step: &Step,
        of: impl Fn(usize) -> &'m [Linear] + Sync,
        x: &[Row],
        codes: &mut Codes,
        out: &mut Vec<Row>,
        epilogue: Epilogue<'_>,
    ) {
        let (rows, inputs) = (step.rows(), of(0)[0].inputs());
        let activations = Activations::new(x, rows, inputs);
        let pieces = self.pieces(step);
        if self.base.precision() == Precision::Int8 {
            self.timed(Stage::Linears, || self.quantize(rows, &pieces, x, inputs, codes));
        }
        // Linear layers of one place have the same shape in all tasks.
        let panels: Vec<(usize, usize)> = of(0)
            .iter()
            .enumerate()
            .flat_map(|(linear, of)| (0..of.panels()).map(move |panel| (linear, panel)))
            .collect();
        out.resize(panels.len() * rows, [0.0; NR]);
        let mut parts = Vec::with_capacity(panels.len() * pieces.len());
        for (i, ((linear, panel), mut sums)) in panels.into_iter().zip(out.chunks_exact_mut(rows)).enumerate() {
            // All pieces of a panel one after the other: its weights come from memory once.
            for (number, piece) in pieces.iter().enumerate() {
                let (these, others) = sums.split_at_mut(piece.rows.len());
                parts.push((piece.lane, (i, linear, panel, (number, piece), these)));
                sums = others;
            }
        }
        self.each(parts, |(i, linear, panel, (number, piece), sums), memory| {
            let Piece { rows: of_piece, task, .. } = piece;
            let linear = &of(*task)[linear];
            self.timed(Stage::Linears, || {
                let mut bias = Some(&linear.bias[panel]);
                if let Epilogue::Add(x) = epilogue {
                    for (sums, x) in sums.iter_mut().zip(&x[i * rows + of_piece.start..]) {
                        let values = x.iter().zip(&linear.bias[panel]);
                        sums.iter_mut().zip(values).for_each(|(sum, (x, bias))| *sum = x + bias);
                    }
                    bias = None;
                }
                let of_task = &self.tasks[*task];
                let (isa, mask, packed) = (self.isa, of_task.mask(linear), &of_task.model.packed);
                let activations = activations.of_rows(of_piece.clone());
                match linear.weight(packed) {
                    Weight::F32(weight) => {
                        Product { activations, weight, mask, panel, bias }.run(isa, &mut memory.f32, sums);
                    }
                    Weight::Bf16(weight) => {
                        Product { activations, weight, mask, panel, bias }.run(isa, &mut memory.bf16, sums);
                    }
                    Weight::Int8(weight) => {
                        let Codes { values, rows: affine } = &*codes;
                        let (start, end) = (of_piece.start + number, of_piece.end + number);
                        let activations = Activations::new(values, affine.len(), inputs).of_rows(start..end + 1);
                        let product = Product { activations, weight, mask, panel, bias: Some(&[0; NR]) };
                        memory.sums.resize(end + 1 - start, [0; NR]);
                        product.run(isa, &mut memory.int8, &mut memory.sums);
                        isa.dequantize(&memory.sums, &affine[start..end], &linear.scales[panel], bias, sums);
                    }
                }
            });
            if let Epilogue::Activation(activation) = epilogue {
                self.timed(Stage::Gelu, || activate(activation, sums));
            }
        });
    }

    /// Multiplies the activation of each row's first half with the second one, and keeps the products.
    fn gate(&self, activation: Activation, rows: usize, x: &mut Vec<Row>) {
        let half = x.len() / 2;
        let (up, gates) = x.split_at_mut(half);
        let parts = up.chunks_mut(rows).zip(gates.chunks(rows)).map(|part| (None, part)).collect();
        self.each(parts, |(up, gates), _| {
            self.timed(Stage::Gelu, || {
                activate(activation, up);
                let values = up.as_flattened_mut().iter_mut().zip(gates.as_flattened());
                values.for_each(|(value, gate)| *value *= gate);
            });
        });
        x.truncate(half);
    }

    /// Turns queries and keys with their positions.
    fn turn(&self, step: &Step, theta: f32, known: &mut Vec<Angles>, qkv: &mut [Row]) {
        let (heads, rows) = (self.heads(), step.rows());
        let longest = step.streams.iter().map(|stream| stream.rows.len()).max().unwrap_or(0);
        let angles = Angles::among(known, theta, self.width() / heads, longest);
        let of_stream = |stream: &Stream| {
            let start = stream.rows.start;
            self.parts(stream.rows.len())
                .into_iter()
                .map(move |part| (start + part.start..start + part.end, part.start))
        };
        let (parts, positions): (Vec<_>, Vec<_>) = step.streams.iter().flat_map(of_stream).unzip();
        let panels = self.panels();
        for of_one in qkv.chunks_exact_mut(panels * rows).take(2) {
            let parts = by_rows(of_one, rows, &parts).into_iter().zip(positions.iter().copied());
            let parts = parts.map(|part| (None, part)).collect();
            self.each(parts, |(mut panels, position), _| {
                self.timed(Stage::Attention, || angles.turn(heads, position, &mut panels));
            });
        }
    }

    /// Makes codes of all rows of some activations.
    fn quantize(&self, rows: usize, pieces: &[Piece], x: &[Row], inputs: usize, codes: &mut Codes) {
        let coded = rows + pieces.len();
        codes.values.resize(inputs.div_ceil(NR) * coded, [0; NR]);
        codes.rows.resize(coded, Affine::default());
        // The rows that the parts are made of; none for the one behind a piece's.
        let mut from = Vec::new();
        for piece in pieces {
            let parts = self.parts(piece.rows.len()).into_iter();
            from.extend(
                parts.map(|part| (piece.lane, Some(piece.rows.start + part.start..piece.rows.start + part.end))),
            );
            from.push((piece.lane, None));
        }
        let mut next = 0;
        let of_part = |(_, from): &(_, Option<Range<usize>>)| {
            let start = next;
            next += from.as_ref().map_or(1, Range::len);
            start..next
        };
        let to: Vec<Range<usize>> = from.iter().map(of_part).collect();
        let to = by_rows(&mut codes.values, coded, &to).into_iter().zip(by_rows(&mut codes.rows, coded, &to));
        let parts = from.into_iter().zip(to).map(|((lane, from), to)| (lane, (from, to))).collect();
        self.each(parts, |(from, (mut to, mut affine)), _| match from {
            Some(part) => {
                let from: Vec<&[Row]> = x.chunks_exact(rows).map(|panel| &panel[part.clone()]).collect();
                affine.iter_mut().for_each(|rows| self.isa.quantize(&from, inputs, &mut to, rows));
            }
            None => to.iter_mut().for_each(|row| row.fill([1; NR])),
        });
    }

    /// Layer norm of each row, if there is one.
    fn norm<'m>(&self, step: &Step, of: impl Fn(usize) -> Option<&'m Norm> + Sync, x: &mut [Row]) {
        if of(0).is_none() {
            return;
        }
        let pieces = self.parts_of(step);
        let parts = by_rows(x, step.rows(), pieces.iter().map(|piece| &piece.rows)).into_iter().zip(&pieces);
        let parts = parts.map(|(panels, piece)| (piece.lane, (panels, piece.task))).collect();
        self.each(parts, |(mut panels, task), memory| {
            if let Some(norm) = of(task) {
                self.timed(Stage::Norms, || self.norm_rows(norm, &mut panels, memory));
            }
        });
    }

    /// The rows after a norm, which leaves them as they are; themselves without one.
    fn normed<'m, 'x>(
        &self,
        step: &Step,
        of: impl Fn(usize) -> Option<&'m Norm> + Sync,
        x: &'x [Row],
        normed: &'x mut Vec<Row>,
    ) -> &'x [Row] {
        if of(0).is_none() {
            return x;
        }
        normed.clear();
        normed.extend_from_slice(x);
        self.norm(step, of, normed);
        normed
    }

    fn norm_rows(&self, norm: &Norm, panels: &mut [&mut [Row]], memory: &mut Memory) {
        LayerNorm { norm, epsilon: self.tasks[0].model.epsilon, panels, row: &mut memory.row }.dispatch();
    }

    /// The rows of a step by class, in parts that are worth handing to another thread.
    fn parts_of(&self, step: &Step) -> Vec<Piece> {
        let of_piece = |piece: Piece| {
            let (start, parts) = (piece.rows.start, self.parts(piece.rows.len()));
            parts.into_iter().map(move |part| Piece { rows: start + part.start..start + part.end, ..piece })
        };
        self.pieces(step).into_iter().flat_map(of_piece).collect()
    }

    /// Norms of the sums of token, position and segment embeddings, as wide as the layers.
    fn embed(&self, step: &Step, batch: &TokenBatch, work: &mut Workspace) -> Result<(), EngineError> {
        let of = |task: usize| &self.tasks[task].model.embeddings;
        let (width, rows) = (of(0).width, step.rows());
        // For each row its tables, and its rows in them.
        let mut tokens: Vec<[Option<(Stored<'_>, usize)>; 3]> = Vec::with_capacity(rows);
        for group in &step.groups {
            let Embeddings { words, positions, segments, .. } = of(group.task);
            let [words, positions, segments] = [Some(words), positions.as_ref(), segments.as_ref()]
                .map(|table| table.map(|table| table.values(self.base)).transpose());
            let (words, positions, segments) = (words?, positions?, segments?);
            for stream in step.streams_of(group) {
                let (ids, of_segments) = batch.row(stream.text);
                // Numbers of tokens, positions and segments were checked against the tables.
                tokens.extend(ids.iter().zip(of_segments).enumerate().map(|(position, (id, segment))| {
                    let row = |table: Option<_>, row: usize| table.map(|table| (table, row));
                    [row(words, *id as usize), row(segments, *segment as usize), row(positions, position)]
                }));
            }
        }
        let Workspace { flow: Flow { x, streams }, codes, sums, .. } = work;
        x.resize(rows * width.div_ceil(NR), [0.0; NR]);
        streams.clear();
        streams.extend(step.streams.iter().map(|stream| stream.rows.clone()));
        let pieces = self.parts_of(step);
        let parts = by_rows(x, rows, pieces.iter().map(|piece| &piece.rows)).into_iter().zip(&pieces);
        let parts = parts.map(|(panels, piece)| (piece.lane, (panels, piece))).collect();
        self.each(parts, |(mut panels, piece), memory| {
            self.timed(Stage::Embedding, || {
                for (i, of_row) in tokens[piece.rows.clone()].iter().enumerate() {
                    memory.row.clear();
                    memory.row.resize(width, 0.0);
                    of_row.iter().flatten().for_each(|(table, number)| table.add_row(*number, &mut memory.row));
                    for (panel, values) in panels.iter_mut().zip(memory.row.chunks(NR)) {
                        panel[i][..values.len()].copy_from_slice(values);
                    }
                }
                self.norm_rows(&of(piece.task).norm, &mut panels, memory);
            });
        });
        if of(0).projection.is_some() {
            let projection = |task: usize| of(task).projection.as_slice();
            self.linears(step, projection, x, codes, sums, Epilogue::Nothing);
            std::mem::swap(x, sums);
        }
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
