//! Losses: of the labels by the kind of task, and of a teacher.

use overmask::pack::TaskKind;
use overmask_graph::proto::data_type;
use overmask_graph::{GraphBuilder, encoder};

use super::{Distillation, Spec, name};

/// The loss of a batch, a scalar: (1 - w) · labels + w · teacher + f · features + s · states, where w is 0
/// without a teacher.
///
/// | kind | labels | teacher |
/// | --- | --- | --- |
/// | one label, tags | cross-entropy | T² · cross-entropy with its probabilities (Hinton et al. 2015) |
/// | several labels | binary cross-entropy | the same with its probabilities |
/// | a number | squared error | squared error |
///
/// Each is the mean over rows, for several labels over labels, too. Of features and states it is the
/// squared error, the mean over rows, or over texts and the tokens of each, and the width.
pub(super) fn loss(b: &mut GraphBuilder, spec: &Spec, logits: &str, pooled: &str, width: usize) -> String {
    let (rows, labels) = (spec.rows(), spec.labels.to_string());
    let of_labels = match spec.kind {
        TaskKind::Classify | TaskKind::Tag => {
            let targets = b.input(name::TARGETS, data_type::INT64, &[rows]);
            let (depth, values) = (b.ints(&[], &[spec.labels as i64]), b.floats(&[0.0, 1.0]));
            let one_hot = b.op("OneHot", &[&targets, &depth, &values], &[]);
            cross_entropy(b, logits, &one_hot)
        }
        TaskKind::Multilabel => {
            let targets = b.input(name::TARGETS, data_type::FLOAT, &[rows, &labels]);
            binary_cross_entropy(b, logits, &targets)
        }
        TaskKind::Regress => {
            let targets = b.input(name::TARGETS, data_type::FLOAT, &[rows, &labels]);
            squared_error(b, logits, &targets)
        }
    };
    let Some(Distillation { weight, temperature, features, states }) = spec.teacher else { return of_labels };
    let teacher = b.input(name::TEACHER, data_type::FLOAT, &[rows, &labels]);
    let (of_teacher, scale) = match spec.kind {
        TaskKind::Classify | TaskKind::Tag => {
            let softer = times(b, logits, 1.0 / temperature);
            (cross_entropy(b, &softer, &teacher), temperature * temperature)
        }
        TaskKind::Multilabel => (binary_cross_entropy(b, logits, &teacher), 1.0),
        TaskKind::Regress => (squared_error(b, logits, &teacher), 1.0),
    };
    let (of_labels, of_teacher) = (times(b, &of_labels, 1.0 - weight), times(b, &of_teacher, weight * scale));
    let mut sum = b.op("Add", &[&of_labels, &of_teacher], &[]);
    let width = width.to_string();
    if features > 0.0 {
        let seen = b.input(name::TEACHER_FEATURES, data_type::FLOAT, &[rows, &width]);
        let difference = squared_error(b, pooled, &seen);
        let difference = times(b, &difference, features);
        sum = b.op("Add", &[&sum, &difference], &[]);
    }
    if states > 0.0 {
        let seen = b.input(name::TEACHER_STATES, data_type::FLOAT, &["batch", "sequence", &width]);
        let difference = squared_error_of_tokens(b, &seen);
        let difference = times(b, &difference, states);
        sum = b.op("Add", &[&sum, &difference], &[]);
    }
    sum
}

/// The squared error of the encoder's output [batch, sequence, width]: the mean over each text's tokens, and of
/// that over texts, so that it does not matter in which parts a batch runs.
fn squared_error_of_tokens(b: &mut GraphBuilder, targets: &str) -> String {
    let difference = b.op("Sub", &[encoder::OUTPUT, targets], &[]);
    let square = b.op("Mul", &[&difference, &difference], &[]);
    let of_token = b.op("ReduceMean", &[&square], &[("axes", vec![2].into()), ("keepdims", 0i64.into())]);
    let mask = b.op("Cast", &["attention_mask"], &[("to", i64::from(data_type::FLOAT).into())]);
    let kept = b.op("Mul", &[&of_token, &mask], &[]);
    let along = b.shape(&[1]);
    let [sum, count] = [&kept, &mask].map(|values| b.op("ReduceSum", &[values, &along], &[("keepdims", 0i64.into())]));
    let of_text = b.op("Div", &[&sum, &count], &[]);
    b.op("ReduceMean", &[&of_text], &[("axes", vec![0].into()), ("keepdims", 0i64.into())])
}

/// Mean over the rows of -Σ probability · log softmax(logits).
fn cross_entropy(b: &mut GraphBuilder, logits: &str, probabilities: &str) -> String {
    let log = b.op("LogSoftmax", &[logits], &[("axis", (-1i64).into())]);
    let picked = b.op("Mul", &[probabilities, &log], &[]);
    let classes = b.shape(&[1]);
    let of_row = b.op("ReduceSum", &[&picked, &classes], &[("keepdims", 0i64.into())]);
    let mean = b.op("ReduceMean", &[&of_row], &[("axes", vec![0].into()), ("keepdims", 0i64.into())]);
    b.op("Neg", &[&mean], &[])
}

/// Mean of log(1 + e^x) - t·x, the cross-entropy of σ(x) with t, which never overflows as
/// max(x, 0) - t·x + log(1 + e^-|x|).
fn binary_cross_entropy(b: &mut GraphBuilder, logits: &str, targets: &str) -> String {
    let above = b.op("Relu", &[logits], &[]);
    let negative = b.op("Neg", &[logits], &[]);
    let below = b.op("Relu", &[&negative], &[]);
    let size = b.op("Add", &[&above, &below], &[]);
    let size = b.op("Neg", &[&size], &[]);
    let small = b.op("Exp", &[&size], &[]);
    let one = b.float(1.0);
    let sum = b.op("Add", &[&small, &one], &[]);
    let rest = b.op("Log", &[&sum], &[]);
    let product = b.op("Mul", &[targets, logits], &[]);
    let loss = b.op("Sub", &[&above, &product], &[]);
    let loss = b.op("Add", &[&loss, &rest], &[]);
    mean(b, &loss)
}

fn squared_error(b: &mut GraphBuilder, values: &str, targets: &str) -> String {
    let difference = b.op("Sub", &[values, targets], &[]);
    let square = b.op("Mul", &[&difference, &difference], &[]);
    mean(b, &square)
}

fn mean(b: &mut GraphBuilder, values: &str) -> String {
    b.op("ReduceMean", &[values], &[("axes", vec![0, 1].into()), ("keepdims", 0i64.into())])
}

fn times(b: &mut GraphBuilder, value: &str, factor: f32) -> String {
    let factor = b.float(factor);
    b.op("Mul", &[value, &factor], &[])
}

#[cfg(test)]
mod tests {
    use ort::session::Session;
    use ort::value::{DynValue, Tensor};
    use overmask::pack::Pooling;

    use super::*;
    use crate::train::graph::{Encoder, Precision};

    const LOGITS: [f32; 6] = [1.0, -0.5, 0.25, -2.0, 0.75, 1.5];
    const TEACHER: [f32; 6] = [0.7, 0.2, 0.1, 0.05, 0.25, 0.7];
    const POOLED: [f32; 4] = [0.5, -1.0, 2.0, 0.25];
    const SEEN: [f32; 4] = [0.25, -0.5, 1.0, 0.75];

    /// The loss of two rows.
    fn of(kind: TaskKind, labels: usize, targets: DynValue, teacher: Option<Distillation>) -> f32 {
        let (encoder, pooling, precision) = (Encoder::Frozen, Pooling::Mean, Precision::F32);
        let spec = Spec {
            encoder,
            kind,
            pooling,
            labels,
            clip_norm: 1.0,
            damping: 0.0,
            teacher,
            cut_prefix: false,
            precision,
        };
        let mut b = GraphBuilder::new("loss");
        b.input("logits", data_type::FLOAT, &["2", &labels.to_string()]);
        b.input("pooled", data_type::FLOAT, &["2", "2"]);
        let value = loss(&mut b, &spec, "logits", "pooled", 2);
        b.output_as(&value, "loss", data_type::FLOAT, &[]);
        let mut session = Session::builder(overmask_ort::environment().unwrap()).unwrap();
        let mut session = session.commit_from_memory(&overmask_graph::encode(&b.finish())).unwrap();
        let matrix =
            |values: &[f32], width: usize| Tensor::from_array(([2, width], values.to_vec())).unwrap().into_dyn();
        // The first columns.
        let columns =
            |values: &[f32]| -> Vec<f32> { values.chunks(3).flat_map(|row| &row[..labels]).copied().collect() };
        let mut feed = vec![("logits", matrix(&columns(&LOGITS), labels)), ("pooled", matrix(&POOLED, 2))];
        feed.push((name::TARGETS, targets));
        if teacher.is_some() {
            feed.push((name::TEACHER, matrix(&columns(&TEACHER), labels)));
            feed.push((name::TEACHER_FEATURES, matrix(&SEEN, 2)));
        }
        session.run(feed).unwrap()["loss"].try_extract_tensor::<f32>().unwrap().1[0]
    }

    /// What PyTorch computes: `cross_entropy`, `binary_cross_entropy_with_logits` and `mse_loss`, and of the
    /// teacher T² times `kl_div` and its entropy.
    #[test]
    fn losses_are_those_of_pytorch() {
        let classes = || Tensor::from_array(([2], vec![0i64, 1])).unwrap().into_dyn();
        let sets = Tensor::from_array(([2, 3], vec![1f32, 0.0, 1.0, 0.0, 0.0, 1.0])).unwrap().into_dyn();
        let values = Tensor::from_array(([2, 1], vec![0.5f32, -1.0])).unwrap().into_dyn();
        let teacher = Some(Distillation { weight: 0.3, temperature: 2.0, features: 0.25, states: 0.0 });
        for (found, wanted) in [
            (of(TaskKind::Classify, 3, classes(), None), 0.842_574_4),
            (of(TaskKind::Classify, 3, classes(), teacher), 1.743_366_4),
            (of(TaskKind::Multilabel, 3, sets, teacher), 0.618_446_35),
            (of(TaskKind::Regress, 1, values, teacher), 1.179_031_3),
        ] {
            assert!((found - wanted).abs() < 1e-5, "{found} for {wanted}");
        }
    }
}
