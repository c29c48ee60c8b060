//! The course of a run: its tries, their epochs and steps, and what is kept of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::batch::salt;
use super::learner::{Learner, Progress, sparsity_of};
use super::loader::{Batch, Loader, Source};
use super::losses::Losses;
use super::options::{Keep, Sampling, Try};
use super::setup::Rates;
use super::sparsity::{Noise, Phases};
use super::state::{Attempt, Best, Course, Epoch, Mark};
use super::{TrainError, checkpoint, go_on, placement, schedule};
use crate::data;

/// So many epochs are told each; of more, only those that are the best so far.
const TOLD: u32 = 20;

/// What to do about a run whose numbers grow without end.
pub(super) const STEADIER: &str = "lower the learning rates (`learning_rate` of scores, `dense_learning_rate`, \
    `head_learning_rate`), lengthen `warmup`, or leave `precision` f16";

/// What a run comes to.
pub(super) struct Learnt {
    /// The best state of all tries.
    pub(super) best: Best,
    /// The tries, the last one perhaps cut short.
    pub(super) attempts: Vec<Attempt>,
    /// Steps of all tries.
    pub(super) steps: u64,
    pub(super) stopped: bool,
    pub(super) time: Duration,
    /// How much of it was spent in waiting for batches.
    pub(super) waited: Duration,
}

/// What stays the same from step to step.
struct Plan<'a> {
    facts: &'a BTreeMap<String, Value>,
    stop: &'a AtomicBool,
    /// How good the state is from which it starts, if that is known.
    start: Option<Mark>,
    epoch_steps: u64,
    /// Steps of all tries.
    steps: u64,
    tries: Vec<Try>,
    started: Instant,
}

impl Learner<'_> {
    /// Trains; `facts` is what a checkpoint must agree with, `start` how good the head is from which masks start.
    pub(super) fn learn(
        &mut self,
        facts: &BTreeMap<String, Value>,
        start: Option<Mark>,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<Learnt, TrainError> {
        go_on(stop)?;
        let o = self.options;
        let epoch_steps = (self.train.len().div_ceil(o.batch_size) as u64).max(1);
        let steps = |one: &Try| (epoch_steps * u64::from(one.epochs)).min(o.max_steps.unwrap_or(u64::MAX));
        let tries = o.all_tries();
        let steps: Vec<u64> = tries.iter().map(steps).collect();
        let mut course = Course {
            step: 0,
            steps: 0,
            before: 0,
            loss: 0.0,
            curve: Vec::new(),
            attempts: Vec::new(),
            best: None,
            time: [Duration::ZERO; 2],
        };
        if let Some(saved) = self.saved(facts)? {
            (course.step, course.loss, course.curve) = (saved.document.step, saved.document.loss, saved.document.curve);
            (course.attempts, course.best, course.time) = (saved.document.attempts, saved.best, saved.document.time);
            let before: u64 = steps.iter().take(course.attempts.len()).sum();
            log::info!("going on after step {} of {}", before + course.step, steps.iter().sum::<u64>());
        }
        let first = course.attempts.len();
        course.before = steps.iter().take(first).sum();
        let mut losses = Losses::open(o.log_losses.as_deref(), course.before + course.step)?;
        let all = steps.iter().sum();
        let plan = Plan { facts, stop, start, epoch_steps, steps: all, tries, started: Instant::now() };
        let (mut stopped, mut waited) = (false, Duration::ZERO);
        for (index, one) in plan.tries.iter().enumerate().skip(first) {
            if index > first {
                self.restart()?;
                (course.before, course.step, course.loss) = (course.before + course.steps, 0, 0.0);
            }
            course.steps = steps[index];
            if plan.tries.len() > 1 {
                let (n, of, epochs) = (index + 1, plan.tries.len(), one.epochs);
                log::info!("try {n} of {of}: rate {}, {epochs} epochs", one.learning_rate);
            }
            stopped = self.attempt(*one, &plan, &mut course, &mut losses, &mut waited, progress)?;
            let curve = std::mem::take(&mut course.curve);
            course.attempts.push(Attempt { learning_rate: one.learning_rate, epochs: one.epochs, curve });
            if stopped {
                break;
            }
        }
        losses.finish()?;
        let best = course.best.ok_or(TrainError::Stopped)?;
        let (time, waited) = (course.time[0] + plan.started.elapsed(), course.time[1] + waited);
        let steps = course.before + course.step;
        Ok(Learnt { best, attempts: course.attempts, steps, stopped, time, waited })
    }

    /// One try, or the rest of it; returns whether it was stopped.
    fn attempt(
        &mut self,
        one: Try,
        plan: &Plan<'_>,
        course: &mut Course,
        losses: &mut Losses,
        waited: &mut Duration,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<bool, TrainError> {
        let o = self.options;
        let phases = Phases::new(course.steps, o);
        // No more epochs than were asked for.
        let mut now = Progress {
            step: course.before + course.step,
            steps: plan.steps,
            epoch: course.curve.len() as u32,
            epochs: course.steps.div_ceil(plan.epoch_steps) as u32,
            loss: course.loss,
            dev: None,
            attempt: course.attempts.len() + 1,
            attempts: plan.tries.len(),
            part: None,
        };
        let best = |course: &Course| {
            let marks = course.best.iter().map(|best| best.mark).chain(plan.start);
            marks.map(|mark| mark.score).reduce(f64::max)
        };
        now.dev = best(course);
        let source = Arc::new(Source {
            examples: Arc::clone(&self.train),
            tokenizer: Arc::clone(&self.tokenizer),
            width: self.width(),
            dropout: o.dropout,
            seed: o.seed,
            micro_batch: o.micro_batch.unwrap_or(o.batch_size),
            noise: Noise::new(&self.graph.trained, &phases, o),
        });
        let mut stopped = false;
        // A run that goes on from its last step has still to be judged there.
        while u64::from(now.epoch) * plan.epoch_steps < course.steps && !stopped {
            let order = o.seed ^ salt::ORDER;
            let mut batches = data::epoch_batches(&self.train.lengths, o.batch_size, order, u64::from(now.epoch));
            let done = course.step.saturating_sub(u64::from(now.epoch) * plan.epoch_steps).min(plan.epoch_steps);
            let mut loader = Loader::start(Arc::clone(&source), batches.split_off(done as usize), course.step);
            let time = |loader: &Loader, course: &Course, waited: Duration| {
                [course.time[0] + plan.started.elapsed(), course.time[1] + waited + loader.waited()]
            };
            for _ in done..plan.epoch_steps {
                if course.step == course.steps {
                    break;
                }
                // The first step is done in any case, so that there is something to keep.
                stopped = course.before + course.step > 0 && plan.stop.load(Ordering::Relaxed);
                if stopped {
                    break;
                }
                let loss = self.one_step(loader.next()?, one, &phases, course, losses)?;
                course.loss = if course.step == 1 { loss } else { 0.95 * course.loss + 0.05 * loss };
                if let Some(_dir) = self.profiles.take() {
                    for profile in self.step.end_profiling()? {
                        placement::check(&profile, o.device)?;
                    }
                }
                (now.step, now.loss) = (course.before + course.step, course.loss);
                progress(&now);
                if self.is_due(now.step) {
                    self.save(plan.facts, course, time(&loader, course, *waited))?;
                }
            }
            if stopped {
                self.save(plan.facts, course, time(&loader, course, *waited))?;
                if course.step == 0 {
                    // Nothing of this try is there to be judged.
                    break;
                }
            }
            let time = time(&loader, course, *waited);
            *waited += loader.waited();
            now.epoch += 1;
            if !stopped && now.step < plan.steps && plan.stop.load(Ordering::Relaxed) {
                // Before it is judged as the end that it is now: one that goes on from here judges it again.
                stopped = true;
                self.save(plan.facts, course, time)?;
            }
            if self.is_judged(now.epoch, now.epochs) || stopped {
                let ends = stopped || now.epoch == now.epochs;
                self.judge(&phases, now.epoch, [stopped, ends], course)?;
                now.dev = best(course);
            }
            progress(&now);
        }
        Ok(stopped)
    }

    /// How good the state at the end of an epoch is; the best is kept, or if only the last one of a try counts, the best
    /// of those. `[stopped, ends]`: whether the run was stopped, and whether the try is over.
    fn judge(
        &mut self,
        phases: &Phases,
        epoch: u32,
        [stopped, ends]: [bool; 2],
        course: &mut Course,
    ) -> Result<(), TrainError> {
        let o = self.options;
        let step = course.step;
        let reached = phases.reached(step);
        if reached {
            // Scores have moved since it was set: what is judged and kept is what was asked for.
            self.move_threshold(phases, step)?;
        }
        let kept = self.kept()?;
        let (score, loss) = self.evaluate_dev(step)?;
        let sparsity = sparsity_of(&kept);
        let mark = Mark { score, loss, attempt: course.attempts.len(), epoch };
        // A state that has not the sparsity asked for only counts when there is no other.
        let whole = o.keep == Keep::Best || ends && !stopped;
        let counts = reached && whole || stopped && course.best.is_none();
        let is_best = counts && course.best.as_ref().is_none_or(|best| mark.beats(&best.mark));
        // A head alone has a hundred epochs, of a blink each, and few examples have many.
        let few = o.all_tries().iter().all(|one| one.epochs <= TOLD);
        let level = if o.is_live() && (few || is_best) { log::Level::Info } else { log::Level::Debug };
        let metric = o.form.kind.metric();
        let zeros = 100.0 * sparsity;
        log::log!(
            level,
            "epoch {epoch}: dev {metric} {score:.4}, dev loss {loss:.4}, {zeros:.1} % of masked weights zero"
        );
        course.curve.push(Epoch { epoch, step, loss: course.loss, dev: score, dev_loss: loss, sparsity });
        if !reached && stopped && course.best.is_none() {
            log::warn!("{zeros:.1} % of masked weights are zero so far, not yet what --target-sparsity asks for");
        }
        if is_best {
            course.best = Some(Best { mark, kept });
        }
        Ok(())
    }

    fn one_step(
        &mut self,
        batch: Batch,
        one: Try,
        phases: &Phases,
        course: &mut Course,
        losses: &mut Losses,
    ) -> Result<f32, TrainError> {
        let o = self.options;
        if phases.moves_threshold(course.step) {
            self.move_threshold(phases, course.step)?;
        }
        let factor = schedule::factor(course.step, course.steps, o.warmup);
        let of_scores = match course.step < phases.polish {
            true => schedule::factor(course.step, phases.polish, o.warmup),
            false => 0.0,
        };
        let rates = Rates {
            scores: one.learning_rate * of_scores,
            dense: o.dense_learning_rate * factor,
            head: o.head_learning_rate * factor,
        };
        let thresholds = if o.sampling == Sampling::Threshold { self.threshold()? } else { batch.noise };
        let (loss, norm) = self.step.run(batch.parts, thresholds, rates.at(course.step))?;
        course.step += 1;
        if !loss.is_finite() || !norm.is_finite() {
            let what = format!("the loss is {loss} and the norm of its gradients {norm}");
            return Err(TrainError::Diverged { step: course.step, what, advice: STEADIER });
        }
        losses.write(course.before + course.step, loss, norm)?;
        Ok(loss)
    }

    /// Writes the run to disk, if it has a file. A write that fails leaves the last whole file and does
    /// not end the run: there may be room again when the next one is due.
    fn save(&self, facts: &BTreeMap<String, Value>, course: &Course, time: [Duration; 2]) -> Result<(), TrainError> {
        let Some(checkpoint) = &self.options.checkpoint else { return Ok(()) };
        let run = checkpoint::Run {
            facts,
            course,
            loss_scale: self.step.loss_scale(),
            threshold: self.threshold,
            state: self.step.state()?,
            time,
        };
        if let Err(error) = checkpoint::write(&checkpoint.file, &self.graph, run) {
            let step = course.before + course.step;
            log::warn!("step {step}: {error}; a run that is cut off before the next write loses more");
        }
        Ok(())
    }
}
