//! Many solutions of one task: packs learnt with different seeds and at different sparsities, how good
//! each is, and how far their zeros are the same (Radiya-Dixit & Wang, *How fine can fine-tuning be?*,
//! 2020: "there are many good solutions" among sparsified pre-trained weights).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use overmask::base::Base;
use overmask::engine::Engine;
use overmask::pack::Pack;
use overmask::task::Runner;
use serde::Serialize;

use super::{AnalyzeError, Overlaps, overlaps};
use crate::data::{Dataset, Form, LabelSet};
use crate::evaluate::{EvaluateError, measure};
use crate::report::Stat;

/// The solutions of a task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Solutions {
    /// Always `solutions`.
    pub analysis: &'static str,
    /// The name of the metric by which the task's kind is judged.
    pub metric: &'static str,
    /// One a pack, in the order given.
    pub points: Vec<Solution>,
    /// Packs of the same sparsity, the lowest first.
    pub groups: Vec<SparsityGroup>,
}

/// A pack.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Solution {
    /// The task's name: that of the first pack.
    pub task: String,
    /// The fraction of zeros over all maskable weights, 0 to 1.
    pub sparsity: f64,
    /// The seed that its provenance names, if it does.
    pub seed: Option<u64>,
    /// The metric.
    pub metric: f64,
    /// The pack's file, or SET#NAME.
    pub pack: String,
}

/// Packs whose sparsity is the same whole per cent. What masks nothing, a head alone for example, is of
/// the group 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SparsityGroup {
    /// As [`Solution::task`].
    pub task: String,
    /// The fraction of zeros, rounded to a whole per cent, 0 to 1.
    pub sparsity: f64,
    /// How many packs, and their metric.
    #[serde(flatten)]
    pub metric: Stat,
    /// The zeros that two of its packs share; none unless two have zeros.
    pub overlap: Option<SharedZeros>,
}

/// Means over all pairs of packs of what [`Overlaps`] has of each.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SharedZeros {
    /// What there is.
    pub observed: f64,
    /// By chance.
    pub chance: f64,
    /// By chance among weights of the same magnitude.
    pub chance_by_magnitude: f64,
}

/// The form of the texts that all packs read.
///
/// # Errors
/// When there is no pack, or one is not of the first one's task: of another kind or other labels, or of
/// pairs where that is of single texts.
pub fn common_form(packs: &[(PathBuf, Pack)]) -> Result<Form, AnalyzeError> {
    let [(first, Pack { document: expected, .. }), others @ ..] = packs else { return Err(AnalyzeError::NoPacks) };
    for (path, Pack { document, .. }) in others {
        let differs = |field: &'static str, found: String, expected: String| {
            Err(AnalyzeError::OtherTask { pack: path.clone(), field, found, first: first.clone(), expected })
        };
        if document.kind != expected.kind {
            return differs("kind", document.kind.to_string(), expected.kind.to_string());
        }
        if document.text.pair != expected.text.pair {
            return differs("text/pair", document.text.pair.to_string(), expected.text.pair.to_string());
        }
        if document.labels != expected.labels {
            return differs("labels", format!("{:?}", document.labels), format!("{:?}", expected.labels));
        }
    }
    Ok(Form { kind: expected.kind, pair: expected.text.pair })
}

/// Measures packs of one task, each under the name of its file, and compares those of the same sparsity.
/// The engine holds one of them at a time.
///
/// `progress` is told how many packs are measured.
///
/// # Errors
/// As [`common_form`], [`evaluate`](crate::evaluate::evaluate) and [`overlaps`].
pub fn solutions(
    base: &Arc<Base>,
    packs: &[(PathBuf, Pack)],
    data: &Dataset,
    engine: Arc<dyn Engine>,
    progress: &mut dyn FnMut(usize),
) -> Result<Solutions, AnalyzeError> {
    let form = common_form(packs)?;
    packs.iter().try_for_each(|(_, pack)| pack.check_base(base))?;
    let metrics = metrics(base, packs, data, engine, progress)?;
    let task = packs.first().map_or("", |(_, pack)| &pack.document.name);
    let point = |((path, pack), metric): (&(PathBuf, Pack), &f64)| Solution {
        task: task.to_owned(),
        sparsity: pack.document.sparsity,
        seed: pack.document.provenance.get("seed").and_then(serde_json::Value::as_u64),
        metric: *metric,
        pack: path.display().to_string(),
    };
    let points: Vec<Solution> = packs.iter().zip(&metrics).map(point).collect();
    let mut groups = Vec::new();
    for (percent, members) in by_percent(&points) {
        let Some(metric) = Stat::of(members.iter().map(|i| metrics[*i])) else { continue };
        let overlap = shared(base, members.iter().map(|i| &packs[*i].1))?;
        groups.push(SparsityGroup { task: task.to_owned(), sparsity: f64::from(percent) / 100.0, metric, overlap });
    }
    Ok(Solutions { analysis: "solutions", metric: form.kind.metric(), points, groups })
}

/// The metric of each pack.
fn metrics(
    base: &Arc<Base>,
    packs: &[(PathBuf, Pack)],
    data: &Dataset,
    engine: Arc<dyn Engine>,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<f64>, EvaluateError> {
    if let Some((_, pack)) = packs.first() {
        LabelSet::new(pack.document.labels.clone()).gold(data)?;
    }
    let runner = Runner::new(engine, Arc::clone(base))?;
    let mut metrics = Vec::with_capacity(packs.len());
    for (_, pack) in packs {
        metrics.push(measure(&runner, pack.clone(), data, &mut |_| ())?.card.main());
        progress(metrics.len());
    }
    Ok(metrics)
}

/// The places of the points of each whole per cent of zeros.
fn by_percent(points: &[Solution]) -> BTreeMap<u8, Vec<usize>> {
    let mut groups: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
    for (place, point) in points.iter().enumerate() {
        groups.entry((100.0 * point.sparsity).round() as u8).or_default().push(place);
    }
    groups
}

/// What the packs that have zeros share.
fn shared<'a>(base: &Base, packs: impl Iterator<Item = &'a Pack>) -> Result<Option<SharedZeros>, AnalyzeError> {
    let packs: Vec<&Pack> = packs.filter(|pack| pack.masks.iter().any(|named| named.mask.zero_weights() > 0)).collect();
    if packs.len() < 2 {
        return Ok(None);
    }
    Ok(Some(SharedZeros::new(&overlaps(base, &packs)?)))
}

impl SharedZeros {
    /// Of two packs or more.
    fn new(found: &Overlaps) -> Self {
        let mean = |matrix: &[Vec<f64>]| {
            let pairs = matrix.iter().enumerate().flat_map(|(i, row)| row.iter().skip(i + 1));
            pairs.clone().sum::<f64>() / pairs.count() as f64
        };
        SharedZeros {
            observed: mean(&found.observed),
            chance: mean(&found.chance),
            chance_by_magnitude: mean(&found.chance_by_magnitude),
        }
    }
}

#[cfg(test)]
mod tests {
    use overmask::engine::EngineOptions;
    use overmask::engine::native::NativeEngine;
    use overmask::error::ErrorKind;
    use overmask::pack::{Pooling, TaskKind};

    use super::super::tests::{base, pack};
    use super::*;
    use crate::data;

    fn point(sparsity: f64) -> Solution {
        Solution { task: "t".into(), sparsity, seed: None, metric: 0.5, pack: "p".into() }
    }

    #[test]
    fn a_group_is_a_whole_per_cent_of_zeros() {
        let points = [0.0712, 0.0, 0.5, 0.0651, 0.0649, 0.004, 0.006, 1.0, 0.0749].map(point);
        let groups: Vec<(u8, Vec<usize>)> = by_percent(&points).into_iter().collect();
        let expected = [(0, vec![1, 5]), (1, vec![6]), (6, vec![4]), (7, vec![0, 3, 8]), (50, vec![2]), (100, vec![7])];
        assert_eq!(groups, expected);
    }

    #[test]
    fn shared_zeros_are_means_over_pairs() {
        let symmetric = |[ab, ac, bc]: [f64; 3]| vec![vec![1.0, ab, ac], vec![ab, 1.0, bc], vec![ac, bc, 1.0]];
        let found = SharedZeros::new(&Overlaps {
            analysis: "overlap",
            packs: vec!["a".into(), "b".into(), "c".into()],
            observed: symmetric([0.5, 0.25, 0.75]),
            chance: symmetric([0.0, 0.25, 0.125]),
            chance_by_magnitude: symmetric([0.25, 0.25, 0.25]),
        });
        assert_eq!((found.observed, found.chance, found.chance_by_magnitude), (0.5, 0.125, 0.25));
    }

    fn texts(lines: &str) -> Dataset {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("texts.jsonl");
        std::fs::write(&path, lines).unwrap();
        data::read(&path, Form::CLASSIFY).unwrap()
    }

    fn engine(base: &Arc<Base>) -> Arc<dyn Engine> {
        Arc::new(NativeEngine::new(Arc::clone(base), &EngineOptions::default().threads(1)).unwrap())
    }

    #[test]
    fn packs_are_measured_in_their_order_and_grouped_by_sparsity() {
        let (_dir, base) = base();
        // 3 % and 3 % of 16384 weights, one without zeros, and one that shares its group but no zero.
        let masked = |name: &str, zeros: std::ops::Range<usize>| {
            pack(&base, name, &[(4, &move |weight| zeros.contains(&weight)), (5, &|_| false)])
        };
        let mut packs: Vec<(PathBuf, Pack)> = vec![
            ("a.pack".into(), masked("trec", 0..490)),
            ("head.pack".into(), pack(&base, "trec-head", &[])),
            ("b.pack".into(), masked("trec-2", 245..735)),
            ("c.pack".into(), masked("trec-3", 980..1470)),
        ];
        packs[0].1.document.provenance.insert("seed".into(), 7.into());
        // The head that is turned round says the opposite of each text.
        let head = &mut packs[1].1.head;
        head.weight.iter_mut().for_each(|w| *w = -*w);
        let data = texts(&(0..8).map(|i| format!("{{\"text\":\"{i}\",\"label\":\"yes\"}}\n")).collect::<String>());
        let engine = engine(&base);
        let mut told = Vec::new();
        let found = solutions(&base, &packs, &data, Arc::clone(&engine), &mut |done| told.push(done)).unwrap();
        assert_eq!(told, [1, 2, 3, 4]);
        assert_eq!((found.analysis, found.metric), ("solutions", "accuracy"));
        for (point, (path, pack)) in found.points.iter().zip(&packs) {
            let alone =
                crate::evaluate::evaluate(&base, pack.clone(), &data, Arc::clone(&engine), &mut |_| ()).unwrap();
            assert_eq!((point.metric, &point.pack), (alone.card.main(), &path.display().to_string()));
            // All are of one task, whatever they are called.
            assert_eq!((point.task.as_str(), point.sparsity), ("trec", pack.document.sparsity));
        }
        assert_eq!(found.points.iter().map(|point| point.seed).collect::<Vec<_>>(), [Some(7), None, None, None]);
        let metrics: Vec<f64> = found.points.iter().map(|point| point.metric).collect();
        assert_ne!(metrics[0], metrics[1], "packs that all say the same show nothing");
        let [none, three] = &found.groups[..] else { panic!("{:?}", found.groups) };
        assert_eq!((none.sparsity, none.metric.n, none.metric.sd, none.overlap), (0.0, 1, None, None));
        assert_eq!((three.sparsity, three.metric.n), (0.03, 3));
        assert_eq!(Some(three.metric), Stat::of([0, 2, 3].map(|i| metrics[i]).into_iter()));
        // Half of the zeros of `a` are zeros of `b`; `c` shares none with either.
        let shared = three.overlap.unwrap();
        assert!((shared.observed - 0.5 / 3.0).abs() < 1e-12, "{shared:?}");
        assert!((shared.chance - 490.0 / 2048.0).abs() < 1e-12, "{shared:?}");
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!((&json["groups"][1]["n"], &json["groups"][0]["sd"]), (&3.into(), &serde_json::Value::Null));
    }

    #[test]
    fn packs_of_another_task_are_refused_by_name() {
        let (_dir, base) = base();
        let first = pack(&base, "trec", &[]);
        let refused = |change: fn(&mut Pack)| {
            let mut other = first.clone();
            change(&mut other);
            let packs = [("a.pack".into(), first.clone()), ("b.pack".into(), other)];
            let error = common_form(&packs).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InputData);
            error.to_string()
        };
        assert_eq!(
            refused(|pack| pack.document.kind = TaskKind::Multilabel),
            "b.pack: field `kind`: is multilabel, but a.pack has classify; name packs of one task"
        );
        let error = refused(|pack| pack.document.text.pair = true);
        assert!(error.contains("b.pack: field `text/pair`: is true, but a.pack has false"), "{error}");
        let error = refused(|pack| pack.document.labels[1] = "maybe".into());
        assert!(error.contains(r#"field `labels`: is ["no", "maybe"], but a.pack has ["no", "yes"]"#), "{error}");
        assert!(matches!(common_form(&[]), Err(AnalyzeError::NoPacks)));
        // Neither name nor settings make another task.
        let mut same = first.clone();
        same.document.name = "other".into();
        same.document.text.pooling = Pooling::Cls;
        common_form(&[("a.pack".into(), first), ("b.pack".into(), same)]).unwrap();
    }

    #[test]
    fn labels_that_no_pack_has_and_other_bases_are_errors() {
        let (_dir, base) = base();
        let mut packs: Vec<(PathBuf, Pack)> =
            ["a.pack", "b.pack"].map(|name| (name.into(), pack(&base, "t", &[]))).into();
        let engine = engine(&base);
        let data = texts("{\"text\":\"x\",\"label\":\"maybe\"}\n");
        let error = solutions(&base, &packs, &data, Arc::clone(&engine), &mut |_| ()).unwrap_err();
        assert!(error.kind() == ErrorKind::InputData && error.to_string().contains("maybe"), "{error}");
        packs[1].1.document.base_id = "0".repeat(64);
        let error = solutions(&base, &packs, &data, Arc::clone(&engine), &mut |_| ()).unwrap_err();
        assert!(error.kind() == ErrorKind::BaseMismatch, "{error}");
    }
}
