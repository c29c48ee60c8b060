//! Plans: texts for several tasks in one call, and what tasks have in common computed once.

use std::sync::Arc;

use overmask::engine::{Changes, EngineError, Plan, TaskId};
use overmask::mask::Granularity;
use overmask::task::{Answer, Runner};
use overmask_tests::{Recipe, base, classify, difference, engine, engine_with};

use crate::conformance::{ENGINES, batch, deltas, mixed_texts, row};

/// Any texts for any tasks give what each task gives for each text alone.
#[test]
fn a_plan_is_what_its_tasks_are_one_by_one() {
    let base = base();
    let packs = [61, 62, 63].map(|seed| Recipe { seed, sparsity: 0.3, ..Default::default() }.pack(&base));
    let texts = ["Who wrote Hamlet?", "Where is Lima, the capital of Peru?", "one", ""];
    let all = batch(&texts);
    for name in ENGINES {
        let engine = engine(name, &base);
        let [a, b, c] = [&packs[0], &packs[1], &packs[2]].map(|pack| engine.add(Changes::from(pack)).unwrap());
        let plan = Plan::new(all.clone(), &[vec![a, b], vec![b, c, a], vec![], vec![c]]);
        let found = engine.run(&plan).unwrap();
        assert_eq!(found.len(), 3);
        for ((task, of_task), hidden) in plan.tasks().iter().zip(&found) {
            assert_eq!(hidden.len(), of_task.len());
            for (text, vectors) in of_task.iter().zip(hidden.rows()) {
                let alone = row(engine.as_ref(), *task, &batch(&[texts[*text]]), 0);
                let apart = difference(&alone, vectors);
                assert!(apart <= 1e-4, "{name}, task {task}, text {text}: {apart}");
            }
        }
        engine.remove(b).unwrap();
        assert!(matches!(engine.run(&plan), Err(EngineError::NoTask(task)) if task == b), "{name}");
    }
}

/// Tasks that leave the lower layers as they are, one that replaces tensors, and one twice: logits on many texts at once
/// are those of each task alone.
#[test]
fn tasks_that_share_layers_answer_as_they_do_alone() {
    let base = base();
    let layers = base.manifest().architecture.layers;
    let packs = [
        Recipe { seed: 71, from_layer: 3, ..Default::default() }.pack(&base),
        Recipe { seed: 72, from_layer: 3, granularity: Granularity::Weight, ..Default::default() }.pack(&base),
        Recipe { seed: 73, from_layer: 5, sparsity: 0.5, ..Default::default() }.pack(&base),
        Recipe { seed: 74, ..Default::default() }.pack(&base),
        Recipe { seed: 71, from_layer: 3, ..Default::default() }.pack(&base),
        Recipe { seed: 75, from_layer: layers, ..Default::default() }.pack(&base).with_deltas(deltas(&base)).unwrap(),
    ];
    let texts = mixed_texts();
    for threads in [1, 2] {
        let runner = Runner::new(engine_with("native", &base, threads), Arc::clone(&base)).unwrap();
        let tasks: Vec<TaskId> = packs.iter().map(|pack| runner.add_pack(pack.clone()).unwrap()).collect();
        let [a, b, c, d, again, replaced] = tasks[..] else { panic!("six tasks") };
        let sharing = runner.engine().sharing(&[a, b, c, d, again]).unwrap().unwrap();
        let parts = [(0, vec![vec![a, b, c, again], vec![d]]), (3, vec![vec![a, again], vec![b], vec![c], vec![d]])];
        for (layer, groups) in parts {
            assert_eq!(sharing.layers()[layer], groups, "layer {layer}");
        }
        assert_eq!(sharing.computed_layers(), 3 * 2 + 3 * 4);
        let requests: Vec<(&str, &[TaskId])> = texts.iter().map(|text| (text.as_str(), &tasks[..])).collect();
        let together = runner.run(&requests).unwrap();
        for (i, task) in [a, b, c, d, again, replaced].into_iter().enumerate() {
            let alone = classify(&runner, task, &texts);
            for (answers, alone) in together.iter().zip(&alone) {
                let Answer::Label(found) = &answers[i] else { panic!("{:?}", answers[i]) };
                assert_eq!(found.label, alone.label);
                assert!(
                    difference(&found.logits, &alone.logits) <= 1e-5,
                    "task {i}: {:?} {:?}",
                    found.logits,
                    alone.logits
                );
            }
        }
    }
}
