//! Which options can be: all are checked before any work.

use overmask::base::Base;
use overmask::engine::Device;
use overmask::mask::Granularity;
use overmask::pack::{Input, MAX_BYTES, Pooling, TaskKind, check_name};
use overmask::task::Tokenizer;

use super::graph::Precision;
use super::options::{Init, Method, Sampling, Teacher, TeacherOptions, TrainOptions};
use super::select::{Layers, Tune};
use super::{TrainError, setup};

impl TrainOptions {
    /// Refuses options that would have no effect: who gave them expects one.
    fn check_effects(&self) -> Result<(), TrainError> {
        let usual = TrainOptions::new("", self.method).tuned(self.tune);
        let chooses = matches!(self.method, Method::Mask | Method::Layers);
        let masks = self.method == Method::Mask;
        let dense = matches!(self.method, Method::Layers | Method::Full) || self.tune != Tune::default();
        let live = self.is_live();
        let pairs = self.granularity == Granularity::TwoOfFour;
        let taught = |weight: fn(&TeacherOptions) -> f64| self.teacher.as_ref().is_some_and(|t| weight(t) > 0.0);
        let is_pack = self.teacher.as_ref().is_some_and(|teacher| matches!(teacher.who, Teacher::Pack(_)));
        let replaces = "`method` layers or full, or `tune`";
        let below_head = "an encoder that trains, not a head alone";
        let of_scores = "the scores of `method` mask; `dense_learning_rate` and `head_learning_rate` are for the rest";
        for (field, given, fits, of) in [
            ("tune", self.tune != Tune::default(), self.method != Method::Full, "`method` mask, layers or head"),
            ("layers", self.layers != Layers::all(), chooses, "`method` mask or layers"),
            ("modules", !self.modules.is_empty(), chooses, "`method` mask or layers"),
            ("granularity", self.granularity != usual.granularity, masks, "`method` mask"),
            ("init", self.init != Init::Magnitude, masks, "`method` mask"),
            ("sampling", self.sampling != Sampling::Threshold, masks, "`method` mask"),
            (
                "initial_sparsity",
                self.initial_sparsity != usual.initial_sparsity,
                masks && !pairs,
                "masks of `weight` or `block:RxC`",
            ),
            ("target_sparsity", self.target_sparsity.is_some(), masks, "`method` mask"),
            ("ramp", self.ramp != usual.ramp, self.target_sparsity.is_some(), "`target_sparsity`"),
            ("polish", self.polish > 0.0, masks, "`method` mask"),
            ("damping", self.damping > 0.0, masks, "`method` mask"),
            ("learning_rate", self.learning_rate != usual.learning_rate, masks, of_scores),
            ("tries", !self.tries.is_empty(), masks, "`method` mask"),
            (
                "dev_folds",
                self.dev_folds.is_some(),
                self.may_be_head_alone(),
                "masks that need no zeros, in whose place a head alone may be kept",
            ),
            ("dense_learning_rate", self.dense_learning_rate != usual.dense_learning_rate, dense, replaces),
            ("precision", self.precision != Precision::F32, live, below_head),
            ("delta_dtype", self.delta_dtype != usual.delta_dtype, dense, replaces),
            (
                "teacher.temperature",
                self.teacher.as_ref().is_some_and(|teacher| teacher.temperature != TeacherOptions::TEMPERATURE),
                matches!(self.form.kind, TaskKind::Classify | TaskKind::Tag),
                "`form.kind` classify or tag",
            ),
            (
                "teacher.temperature",
                self.teacher.as_ref().is_some_and(|teacher| teacher.temperature != TeacherOptions::TEMPERATURE),
                taught(|teacher| teacher.weight),
                "a `teacher.weight` above 0",
            ),
            (
                "teacher",
                self.teacher.is_some(),
                taught(|teacher| teacher.weight + teacher.features + teacher.states),
                "a weight of `teacher.weight`, `teacher.features` or `teacher.states`",
            ),
            ("teacher.features", taught(|teacher| teacher.features), is_pack, "a `teacher` that is a pack"),
            ("teacher.states", taught(|teacher| teacher.states), is_pack, "a `teacher` that is a pack"),
            ("teacher.features", taught(|teacher| teacher.features), live, below_head),
            ("teacher.states", taught(|teacher| teacher.states), live, below_head),
        ] {
            if given && !fits {
                return Err(TrainError::Option { field, reason: format!("is for {of}") });
            }
        }
        Ok(())
    }

    /// Refuses what cannot be, before any work.
    pub(super) fn check(&self, base: &Base) -> Result<(), TrainError> {
        let wrong = |field, reason: String| Err(TrainError::Option { field, reason });
        let a = &base.manifest().architecture;
        check_name(&self.name).or_else(|reason| wrong("name", reason))?;
        for (field, value) in [
            ("initial_sparsity", self.initial_sparsity),
            ("polish", self.polish),
            ("dropout", self.dropout),
            ("warmup", self.warmup),
            ("dev_fraction", self.dev_fraction),
        ] {
            if !(0.0..1.0).contains(&value) {
                return wrong(field, format!("{value} is not from 0 to below 1"));
            }
        }
        for (field, value) in [
            ("learning_rate", self.learning_rate),
            ("dense_learning_rate", self.dense_learning_rate),
            ("head_learning_rate", self.head_learning_rate),
            ("clip_norm", self.clip_norm),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return wrong(field, format!("{value} is not a finite number above 0"));
            }
        }
        if let Some(one) = self.tries.iter().find(|one| !(one.learning_rate.is_finite() && one.learning_rate > 0.0)) {
            return wrong("tries", format!("{} is not a finite number above 0", one.learning_rate));
        }
        if self.dev_folds.is_some_and(|parts| parts < 2) {
            return wrong("dev_folds", "is less than 2".to_owned());
        }
        if !(self.damping.is_finite() && self.damping >= 0.0) {
            return wrong("damping", format!("{} is not a finite number from 0 on", self.damping));
        }
        if let Some(target) = self.target_sparsity {
            if !(target > 0.0 && target < 1.0) {
                return wrong("target_sparsity", format!("{target} is not between 0 and 1"));
            }
            // Sums of decimals are a little off.
            if !(self.ramp > 0.0 && self.ramp + self.polish <= 1.0 + 1e-9) {
                return wrong("ramp", format!("{} is not above 0 and at most 1 - polish", self.ramp));
            }
            if self.granularity == Granularity::TwoOfFour {
                return wrong("target_sparsity", "is for masks of `weight` or `block:RxC`".to_owned());
            }
            if self.sampling == Sampling::Bernoulli {
                return wrong("target_sparsity", "is not for `sampling` bernoulli".to_owned());
            }
        }
        self.check_effects()?;
        if self.sampling == Sampling::Bernoulli && self.granularity == Granularity::TwoOfFour {
            return wrong("sampling", "bernoulli is not for `2:4`, which keeps the best two of four".to_owned());
        }
        if let Some(teacher) = &self.teacher {
            if !(0.0..=1.0).contains(&teacher.weight) {
                return wrong("teacher.weight", format!("{} is not from 0 to 1", teacher.weight));
            }
            if let Teacher::Folds(parts @ 0..2) = teacher.who {
                return wrong("teacher.folds", format!("{parts} parts: two are the fewest"));
            }
            if !(teacher.temperature.is_finite() && teacher.temperature > 0.0) {
                return wrong("teacher.temperature", format!("{} is not a finite number above 0", teacher.temperature));
            }
            for (field, weight) in [("teacher.features", teacher.features), ("teacher.states", teacher.states)] {
                if !(weight.is_finite() && weight >= 0.0) {
                    return wrong(field, format!("{weight} is not a number from 0 on"));
                }
            }
        }
        if matches!(self.method, Method::Mask | Method::Layers) {
            self.selection().tensors(base)?;
        }
        let replaced = setup::dense(base, self)?.iter().try_fold(0, |sum, name| {
            let values = base.tensor_f32(name)?.1.len() as u64;
            Ok::<_, TrainError>(sum + values * self.delta_dtype.bytes() as u64)
        })?;
        if replaced > MAX_BYTES {
            let reason = format!(
                "{} takes {} bytes for the tensors that would train, and a pack has {MAX_BYTES} at most: use f16 or \
                 bf16, or `method` layers with fewer `layers`",
                self.delta_dtype, replaced
            );
            return wrong("delta_dtype", reason);
        }
        if self.form.kind == TaskKind::Tag && self.form.pair {
            return wrong("form.pair", "is not for `form.kind` tag, whose examples are lists of words".to_owned());
        }
        if self.form.pair {
            Self::check_segments(base)?;
        }
        if (self.form.kind == TaskKind::Tag) != (self.pooling == Pooling::First) {
            return wrong("pooling", "is `first` for `form.kind` tag, and for no other".to_owned());
        }
        let states = self.teacher.as_ref().is_some_and(|teacher| teacher.states > 0.0);
        if states && self.form.kind == TaskKind::Tag && self.in_parts() {
            return wrong("teacher.states", "is not for `micro_batch` with `form.kind` tag".to_owned());
        }
        if self.max_tokens < 3 || self.max_tokens > a.max_positions {
            let reason =
                format!("{} is not from 3 to {}, the most that this base takes", self.max_tokens, a.max_positions);
            return wrong("max_tokens", reason);
        }
        let every = self.checkpoint.as_ref().map_or(1, |checkpoint| checkpoint.every as usize);
        for (field, value) in [
            ("epochs", self.epochs as usize),
            ("tries", self.tries.iter().map(|one| one.epochs as usize).min().unwrap_or(1)),
            ("batch_size", self.batch_size),
            ("micro_batch", self.micro_batch.unwrap_or(1)),
            ("threads", self.threads),
            ("checkpoint.every", every),
        ] {
            if value == 0 {
                return wrong(field, "is 0".to_owned());
            }
        }
        if self.precision == Precision::Bf16 && self.device == Device::Cpu {
            let reason = "bf16 is for `device` cuda: ONNX Runtime has no such products on a CPU".to_owned();
            return wrong("precision", reason);
        }
        if self.max_steps == Some(0) {
            return wrong("max_steps", "is 0".to_owned());
        }
        Ok(())
    }
    /// Refuses pairs on a base whose tokenizer marks second texts with a segment that the base does not know.
    fn check_segments(base: &Base) -> Result<(), TrainError> {
        let pair = Input::Pair("a".to_owned(), "a".to_owned());
        let tokens = Tokenizer::open(base)?.encode(&pair, base.manifest().architecture.max_positions)?;
        let largest = tokens.segments.iter().max().map_or(0, |segment| *segment as usize);
        match base.segments().filter(|known| largest >= *known) {
            None => Ok(()),
            Some(known) => {
                let reason = format!(
                    "the tokenizer gives second texts the segment {largest}, and this base has segments up to {} \
                     (`type_vocab_size` {known}): make one text of the two",
                    known - 1
                );
                Err(TrainError::Option { field: "form.pair", reason })
            }
        }
    }
}
