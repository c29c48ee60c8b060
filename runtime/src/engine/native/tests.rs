//! Tests of plans: tasks that share work answer as they do alone.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::model::tests::Parts;
use super::*;
use crate::base::Precision;
use crate::base::family::bert::{self, Kin};
use crate::base::family::encoder::Activation;
use crate::base::family::{Family, modernbert};
use crate::mask::{Granularity, Mask};
use crate::pack::{Delta, FloatType};

/// Numbers that differ, from -0.5 to 0.5.
fn numbers(seed: u32) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    }
}

const LAYERS: usize = 3;

/// What a task changes: for the embeddings and each layer, nothing, or one of a few things, which tasks may have in
/// common.
type Recipe = [u32; LAYERS + 1];

/// An encoder whose heads are whole panels wide, and one whose heads are not.
const WIDTHS: [usize; 2] = [64, 40];

/// Every family, with heads that are half as wide as the encoder.
fn family(number: usize, width: usize) -> Family {
    let (heads, intermediate_size, layer_norm_eps) = (2, 2 * width, 1e-6);
    let bert = |kin| Family::Bert(bert::Sizes { heads, intermediate_size, layer_norm_eps, kin });
    match number {
        0 => bert(Kin::Bert),
        1 => bert(Kin::Electra { embedding_size: 24 }),
        2 => bert(Kin::Mpnet),
        3 => bert(Kin::Albert { embedding_size: 24, activation: Activation::GeluTanh }),
        _ => Family::ModernBert(modernbert::Sizes {
            heads,
            intermediate_size,
            layer_norm_eps,
            global_every: 2,
            window: 3,
            global_theta: 1e5,
            local_theta: 1e4,
        }),
    }
}

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

/// Adds a task.
fn add(engine: &NativeEngine, parts: &Parts, recipe: Recipe) -> TaskId {
    let (mut masks, mut deltas) = (Vec::new(), Vec::new());
    for (step, kind) in recipe.into_iter().enumerate().filter(|(_, kind)| *kind > 0) {
        let mut next = numbers(1000 * kind + step as u32);
        let of_step = match step.checked_sub(1) {
            None => "embeddings.".to_owned(),
            Some(layer) => format!("layer.{layer}."),
        };
        let is_of_step = |name: &str| name.contains(&of_step) || step == 0 && name.contains("relative");
        for (name, shape) in parts.shapes().filter(|(name, _)| is_of_step(name)) {
            let is_masked = engine.base.maskable(name).is_some() && kind != 2;
            match (is_masked, kind) {
                (true, _) => {
                    let mask = Mask::from_units(
                        Granularity::Weight,
                        shape[0],
                        shape[1],
                        (0..).map_while(|i| (i < shape[0] * shape[1]).then(|| next() > -0.3)),
                    );
                    masks.push(NamedMask { tensor: name.to_owned(), mask: mask.unwrap() });
                }
                (false, 1) if step > 0 => {}
                (false, _) => {
                    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
                    let (tensor, shape) = (name.to_owned(), shape.to_vec());
                    deltas.push(Delta { tensor, shape, values, dtype: FloatType::F32 });
                }
            }
        }
    }
    engine.add(Changes::Decoded { masks: &masks, deltas: &deltas }).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn tasks_that_share_work_answer_as_they_do_alone(
        width in prop::sample::select(&WIDTHS[..]),
        family in (0usize..5),
        precision in prop::sample::select(&PRECISIONS[..]),
        recipes in prop::collection::vec(prop::array::uniform4(0u32..4), 1..6),
        texts in prop::collection::vec((1usize..17, prop::collection::vec(any::<prop::sample::Index>(), 0..5)), 1..6),
        threads in 1usize..3,
        seed: u32,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let family = self::family(family, width);
        let parts = Parts::of_family(family, LAYERS, width).stored_as(precision);
        let base = Arc::new(parts.base(dir.path(), numbers(seed), |_| ()));
        for isa in Isa::available() {
            let options = EngineOptions::default().threads(Some(threads)).isa(Some(isa));
            let engine = NativeEngine::new(Arc::clone(&base), &options).unwrap();
            let tasks: Vec<TaskId> = recipes.iter().map(|recipe| add(&engine, &parts, *recipe)).collect();

            // What is alike from the start is shared, and nothing else.
            let sharing = engine.sharing(&tasks).unwrap().unwrap();
            // Where layers share their weights, what a task changes is in all of them.
            let is_shared = family.name() == "albert";
            for (layer, groups) in sharing.layers().iter().enumerate().filter(|_| !is_shared) {
                let mut alike: BTreeMap<&[u32], Vec<TaskId>> = BTreeMap::new();
                let with = recipes.iter().zip(&tasks);
                with.for_each(|(recipe, task)| alike.entry(&recipe[..=layer + 1]).or_default().push(*task));
                let sorted = |mut groups: Vec<Vec<TaskId>>| { groups.sort(); groups };
                prop_assert_eq!(sorted(groups.clone()), sorted(alike.into_values().collect()));
            }

            let (mut batch, mut next) = (TokenBatch::new(0), numbers(seed ^ 1));
            for (length, _) in &texts {
                let ids: Vec<u32> = (0..*length).map(|_| ((next() + 0.5) * 9.0) as u32).collect();
                let segments = base.segments().unwrap_or(1) as u32;
                batch.push(&ids, &ids.iter().map(|id| id % segments).collect::<Vec<_>>());
            }
            let of_text = texts.iter().map(|(_, chosen)| chosen.iter().map(|index| *index.get(&tasks)).collect());
            let plan = Plan::new(batch, &of_text.collect::<Vec<Vec<TaskId>>>());
            let found = engine.run(&plan).unwrap();
            prop_assert_eq!(found.len(), plan.tasks().len());
            for ((task, of_task), hidden) in plan.tasks().iter().zip(&found) {
                let alone = engine.encode(*task, &plan.texts().select(of_task)).unwrap();
                prop_assert_eq!(hidden.len(), of_task.len());
                prop_assert_eq!(hidden.data().len(), alone.data().len());
                for (a, b) in hidden.data().iter().zip(alone.data()) {
                    prop_assert!((a - b).abs() < 1e-5, "{isa}: {a} {b}");
                }
            }
        }
    }
}

/// A text by its number, of 1, 4, 7 and so on tokens.
fn text(number: usize) -> Vec<u32> {
    (0..1 + number * 3).map(|place| ((number * 7 + place * place) % 10) as u32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn texts_that_come_again_get_the_same_answers(
        width in prop::sample::select(&WIDTHS[..]),
        precision in prop::sample::select(&PRECISIONS[..]),
        // So many steps are the base's own, at least; the rest is anything.
        recipes in prop::collection::vec((0..=LAYERS + 1, prop::array::uniform4(0u32..4)), 1..6),
        plans in prop::collection::vec(
            prop::collection::vec((0usize..6, prop::collection::vec(any::<prop::sample::Index>(), 0..4)), 1..5),
            1..8,
        ),
        capacity in 1usize..12,
        removed: prop::sample::Index,
        threads in 1usize..3,
        seed: u32,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let parts = Parts::of(LAYERS, width).stored_as(precision);
        let base = Arc::new(parts.base(dir.path(), numbers(seed), |_| ()));
        let recipe = |(own, recipe): &(usize, Recipe)| std::array::from_fn(|i| if i < *own { 0 } else { recipe[i] });
        let recipes: Vec<Recipe> = recipes.iter().map(recipe).collect();
        for isa in Isa::available() {
            let options = EngineOptions::default().threads(Some(threads)).isa(Some(isa));
            let plain = NativeEngine::new(Arc::clone(&base), &options).unwrap();
            let cached = NativeEngine::new(Arc::clone(&base), &options.cache_texts(capacity)).unwrap();
            let mut tasks: Vec<[TaskId; 2]> =
                recipes.iter().map(|recipe| [&plain, &cached].map(|engine| add(engine, &parts, *recipe))).collect();
            for (number, texts) in plans.iter().enumerate() {
                // Tasks go and come, in another order: their classes are others then.
                let again = removed.index(tasks.len());
                if number % 3 == 2 {
                    for (engine, task) in [&plain, &cached].into_iter().zip(tasks[again]) {
                        engine.remove(task).unwrap();
                    }
                    tasks[again] = [&plain, &cached].map(|engine| add(engine, &parts, recipes[again]));
                }
                let mut batch = TokenBatch::new(0);
                for (number, _) in texts {
                    let ids = text(*number % 5);
                    // The last one has the tokens of another, and other segments.
                    batch.push(&ids, &vec![u32::from(*number == 5); ids.len()]);
                }
                let plan = |engine: usize| {
                    let tasks = |(_, chosen): &(usize, Vec<prop::sample::Index>)| {
                        chosen.iter().map(|index| index.get(&tasks)[engine]).collect::<Vec<_>>()
                    };
                    Plan::new(batch.clone(), &texts.iter().map(tasks).collect::<Vec<_>>())
                };
                let [wanted, found] = [plain.run(&plan(0)).unwrap(), cached.run(&plan(1)).unwrap()];
                prop_assert_eq!(&found, &wanted, "{}, plan {}", isa, number);

                let used = cached.cache().unwrap();
                let of_longest = text(4).len() * width.next_multiple_of(32) * 4;
                prop_assert!(used.texts <= capacity && used.bytes <= used.texts * of_longest, "{:?}", used);
                prop_assert!(used.hits + used.misses >= used.texts as u64, "{:?}", used);
                prop_assert_eq!(plain.cache(), None);
            }
        }
    }
}

#[test]
fn as_many_threads_as_may_be_give_the_same() {
    for precision in PRECISIONS {
        let dir = tempfile::tempdir().unwrap();
        let parts = Parts::of(LAYERS, 64).stored_as(precision);
        let base = Arc::new(parts.base(dir.path(), numbers(1), |_| ()));
        // Enough rows for threads to keep to rows of their own, of one text and of many, with two tasks; and a few.
        for lengths in [vec![10; 15], vec![9, 9, 9], (1..11).collect()] {
            let mut batch = TokenBatch::new(0);
            for length in &lengths {
                batch.push(&(0..*length).map(|i| i % 10).collect::<Vec<u32>>(), &vec![0; *length as usize]);
            }
            for isa in Isa::available() {
                let run = |threads: usize| {
                    let options = EngineOptions::default().threads(threads).isa(Some(isa));
                    let engine = NativeEngine::new(Arc::clone(&base), &options).unwrap();
                    let tasks = [[0, 1, 0, 0], [0, 1, 2, 0]].map(|recipe| add(&engine, &parts, recipe));
                    engine.run(&Plan::new(batch.clone(), &vec![tasks.to_vec(); lengths.len()])).unwrap()
                };
                let alone = run(1);
                for threads in [2, 3, 5] {
                    assert_eq!(run(threads), alone, "{precision}, {isa}, {threads} threads");
                }
            }
        }
    }
}

#[test]
fn a_text_that_came_before_starts_where_its_task_does() {
    let dir = tempfile::tempdir().unwrap();
    let parts = Parts::of(LAYERS, 64);
    let base = Arc::new(parts.base(dir.path(), numbers(1), |_| ()));
    let engine = NativeEngine::new(base, &EngineOptions::default().cache_texts(3)).unwrap();
    // The embeddings and two layers, the embeddings alone, nothing, and everything are the base's own.
    let tasks = [[0, 0, 0, 1], [0, 1, 0, 0], [3, 0, 0, 0], [0, 0, 0, 0]];
    let [upper, lower, own, head] = tasks.map(|recipe| add(&engine, &parts, recipe));
    let run = |task: TaskId, number: usize| {
        let (mut batch, ids) = (TokenBatch::new(0), text(number));
        batch.push(&ids, &vec![0; ids.len()]);
        engine.encode(task, &batch).unwrap();
        let CacheUse { hits, misses, texts, bytes } = engine.cache().unwrap();
        (hits, misses, texts, bytes / (64 * 4))
    };
    assert_eq!(run(lower, 1), (0, 0, 0, 0));
    assert_eq!(run(own, 1), (0, 0, 0, 0));
    assert_eq!(run(upper, 1), (0, 1, 1, 4));
    assert_eq!(run(upper, 1), (1, 1, 1, 4));
    // It is known to a part of its way, then all of it.
    assert_eq!(run(head, 1), (1, 2, 2, 8));
    assert_eq!(run(head, 1), (2, 2, 2, 8));
    assert_eq!(run(upper, 1), (3, 2, 2, 8));
    // The least recently used one goes: what `head` had of the first text.
    assert_eq!(run(upper, 2), (3, 3, 3, 15));
    assert_eq!(run(upper, 3), (3, 4, 3, 4 + 7 + 10));
    assert_eq!(run(upper, 1), (4, 4, 3, 21));
    assert_eq!(run(upper, 2), (5, 4, 3, 21));
    assert_eq!(run(upper, 0), (5, 5, 3, 4 + 7 + 1));
}

#[test]
fn threads_share_what_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let parts = Parts::of(LAYERS, 64);
    let base = Arc::new(parts.base(dir.path(), numbers(1), |_| ()));
    let engine = NativeEngine::new(base, &EngineOptions::default().threads(2).cache_texts(2)).unwrap();
    let tasks = [[0, 0, 0, 1], [0, 0, 2, 1]].map(|recipe| add(&engine, &parts, recipe));
    let ask = |number: usize| {
        let (mut batch, ids) = (TokenBatch::new(0), text(number));
        batch.push(&ids, &vec![0; ids.len()]);
        engine.run(&Plan::new(batch, &[tasks])).unwrap()
    };
    let wanted: Vec<Vec<Hidden>> = (0..5).map(ask).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (ask, wanted) = (&ask, &wanted);
            scope.spawn(move || (0..60).for_each(|i| assert_eq!(ask((i + thread) % 5), wanted[(i + thread) % 5])));
        }
    });
    let used = engine.cache().unwrap();
    assert_eq!((used.hits + used.misses, used.texts), (2 * (5 + 4 * 60), 2));
}

#[test]
fn a_plan_of_more_rows_than_run_at_once_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let parts = Parts::of(LAYERS, 64);
    let base = Arc::new(parts.base(dir.path(), numbers(1), |_| ()));
    let tasks = [[0, 0, 1, 1], [0, 0, 1, 3], [0, 0, 2, 0], [0, 0, 0, 0], [0, 1, 0, 0]];
    for (count, texts) in [(3, 0), (5, 0), (5, 40)] {
        let engine = NativeEngine::new(Arc::clone(&base), &EngineOptions::default().cache_texts(texts)).unwrap();
        let tasks: Vec<TaskId> = tasks[..count].iter().map(|recipe| add(&engine, &parts, *recipe)).collect();
        let mut batch = TokenBatch::new(0);
        (0..60).for_each(|text| batch.push(&[text % 10; 16], &[0; 16]));
        let found = engine.run(&Plan::new(batch.clone(), &vec![tasks.clone(); 60])).unwrap();
        for (task, hidden) in tasks.iter().zip(found) {
            let alone = engine.encode(*task, &batch).unwrap();
            let apart = hidden.data().iter().zip(alone.data()).map(|(a, b)| (a - b).abs());
            assert!(apart.fold(0.0, f32::max) < 1e-5);
        }
    }
}

/// A batch of some texts.
fn texts(lengths: &[usize], mut next: impl FnMut() -> f32) -> TokenBatch {
    let mut batch = TokenBatch::new(0);
    for length in lengths {
        let ids: Vec<u32> = (0..*length).map(|_| ((next() + 0.5) * 9.0) as u32).collect();
        batch.push(&ids, &ids.iter().map(|id| id % 2).collect::<Vec<_>>());
    }
    batch
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn variants_answer_like_the_base_on_every_instruction_set(
        width in prop::sample::select(&WIDTHS[..]),
        recipe in prop::array::uniform4(0u32..2),
        lengths in prop::collection::vec(1usize..17, 1..6),
        threads in 1usize..3,
        seed: u32,
    ) {
        let parts = |precision| Parts::of(LAYERS, width).stored_as(precision);
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let run = |precision: Precision, dir: &tempfile::TempDir, isa| {
            let parts = parts(precision);
            let base = Arc::new(parts.base(dir.path(), numbers(seed), |_| ()));
            let options = EngineOptions::default().threads(Some(threads)).isa(Some(isa));
            let engine = NativeEngine::new(base, &options).unwrap();
            let task = add(&engine, &parts, recipe);
            assert_eq!(engine.describe().precision, precision);
            engine.encode(task, &texts(&lengths, numbers(seed ^ 1))).unwrap().data().to_vec()
        };
        let mut first: Vec<Vec<f32>> = Vec::new();
        for isa in Isa::available() {
            let found: Vec<_> = PRECISIONS.iter().zip(&dirs).map(|(precision, dir)| run(*precision, dir, isa)).collect();
            // Norms leave values of about 1; a bf16 has 8 bits of precision, a code 7.
            for (variant, most) in found[1..].iter().zip([0.05, 0.2]) {
                let apart = variant.iter().zip(&found[0]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                prop_assert!(apart < most, "{isa}: {apart}");
            }
            let is_alike = |a: &Vec<f32>, b: &Vec<f32>, most| a.iter().zip(b).all(|(a, b)| (a - b).abs() < most);
            // Where activations are rounded, too, they have 8 bits of precision.
            let of_bf16 = if isa.rounds::<half::bf16>() { 0.05 } else { 1e-4 };
            match first.is_empty() {
                true => first = found,
                // Sums of codes are exact, what is between them rounds a little differently; a code may then be another.
                false => {
                    prop_assert!(is_alike(&first[0], &found[0], 1e-4), "{isa}");
                    prop_assert!(is_alike(&first[1], &found[1], of_bf16), "{isa}");
                    let apart = first[2].iter().zip(&found[2]).map(|(a, b)| (a - b).abs()).sum::<f32>();
                    prop_assert!(apart / (found[2].len() as f32) < 0.01, "{isa}: {apart}");
                }
            }
        }
    }
}
