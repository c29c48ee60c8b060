//! Every rule against finite differences, on random shapes, run by ONNX Runtime.

mod broken;

use ort::session::Session;
use ort::value::{DynValue, Tensor};
use overmask_graph::GraphBuilder;
use overmask_graph::proto::data_type;
use proptest::prelude::*;

use super::*;

fn session(b: GraphBuilder) -> Session {
    let environment = overmask_ort::environment().expect("ONNX Runtime: run `cargo xtask test`");
    let mut builder = Session::builder(environment).unwrap().with_intra_threads(1).unwrap();
    builder.commit_from_memory(&overmask_graph::encode(&b.finish())).unwrap()
}

fn run(session: &mut Session, inputs: &[(Vec<usize>, Vec<f32>)], names: &[String]) -> Vec<Vec<f32>> {
    let feed: Vec<(String, DynValue)> = inputs
        .iter()
        .enumerate()
        .map(|(i, (shape, v))| (format!("x{i}"), Tensor::from_array((shape.clone(), v.clone())).unwrap().into_dyn()))
        .collect();
    let outputs = session.run(feed).unwrap();
    names.iter().map(|n| outputs[n.as_str()].try_extract_tensor::<f32>().unwrap().1.to_vec()).collect()
}

/// Numbers that look random, from -1 to 1, the same every time.
fn values(count: usize, seed: u64) -> Vec<f32> {
    crate::data::rng::uniform(seed, 0, 0, count).into_iter().map(|u| 2.0 * u - 1.0).collect()
}

/// Checks the gradient of Σ w ⊙ f(x…), w random, for each input against central differences.
fn check(shapes: &[&[usize]], seed: u64, domain: fn(f32) -> f32, f: impl Fn(&mut GraphBuilder, &[String]) -> String) {
    let inputs: Vec<(Vec<usize>, Vec<f32>)> = shapes
        .iter()
        .enumerate()
        .map(|(i, s)| (s.to_vec(), values(s.iter().product(), seed + i as u64).into_iter().map(domain).collect()))
        .collect();
    let mut b = GraphBuilder::new("rule");
    let names: Vec<String> = (0..inputs.len()).map(|i| format!("x{i}")).collect();
    for (name, (shape, _)) in names.iter().zip(&inputs) {
        let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
        b.input(name, data_type::FLOAT, &dims.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let y = f(&mut b, &names);
    let count = Shapes::infer(b.graph())
        .unwrap()
        .get(&y)
        .expect("an output shape")
        .iter()
        .map(|d| d.value().unwrap())
        .product();
    // A different weight for every output: else errors of a permutation would cancel.
    let flat = b.shape(&[count]);
    let y = b.op("Reshape", &[&y, &flat], &[]);
    let weights = b.floats(&values(count as usize, seed + 99));
    let weighted = b.op("Mul", &[&y, &weights], &[]);
    let loss = b.op("ReduceSum", &[&weighted], &[("keepdims", 0i64.into())]);
    let gradients = differentiate(&mut b, &loss, &names).unwrap();
    let mut outputs = vec!["loss".to_owned()];
    b.output_as(&loss, "loss", data_type::FLOAT, &[]);
    for (i, gradient) in gradients.iter().enumerate() {
        outputs.push(format!("g{i}"));
        let dims: Vec<String> = inputs[i].0.iter().map(usize::to_string).collect();
        let dims: Vec<&str> = dims.iter().map(String::as_str).collect();
        b.output_as(gradient, &format!("g{i}"), data_type::FLOAT, &dims);
    }
    let mut session = session(b);
    let gradients = run(&mut session, &inputs, &outputs).split_off(1);
    let h = 1e-2f32;
    for (i, gradient) in gradients.iter().enumerate() {
        assert_eq!(gradient.len(), inputs[i].1.len());
        for (element, analytic) in gradient.iter().enumerate() {
            let mut at = |delta: f32| {
                let mut moved = inputs.clone();
                moved[i].1[element] += delta;
                f64::from(run(&mut session, &moved, &outputs[..1])[0][0])
            };
            let numeric = (at(h) - at(-h)) / (2.0 * f64::from(h));
            let error = (numeric - f64::from(*analytic)).abs();
            assert!(
                error < 2e-3 + 1e-2 * numeric.abs(),
                "input {i} element {element}: numeric {numeric}, analytic {analytic}"
            );
        }
    }
}

fn any(x: f32) -> f32 {
    x
}

/// Away from 0, where some operators have a pole or a kink.
fn away_from_zero(x: f32) -> f32 {
    x + 0.5f32.copysign(x)
}

fn positive(x: f32) -> f32 {
    x.abs() + 0.5
}

fn unary(op: &'static str, domain: fn(f32) -> f32, seed: u64, shape: &[usize]) {
    check(&[shape], seed, domain, |b, x| b.op(op, &[&x[0]], &[]));
}

fn binary(op: &'static str, domain: fn(f32) -> f32, seed: u64, left: &[usize], right: &[usize]) {
    check(&[left, right], seed, domain, |b, x| b.op(op, &[&x[0], &x[1]], &[]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..Default::default() })]

    #[test]
    fn elementwise((a, b, c) in (1usize..4, 1usize..4, 2usize..5), seed: u32) {
        let seed = u64::from(seed);
        for op in ["Neg", "Exp", "Erf", "Tanh", "Sigmoid", "Identity", "Sin", "Cos"] {
            unary(op, any, seed, &[a, b, c]);
        }
        unary("Relu", away_from_zero, seed, &[a, b, c]);
        unary("Abs", away_from_zero, seed, &[a, b, c]);
        unary("Reciprocal", away_from_zero, seed, &[a, c]);
        // Some values are cut and some are not, and none is near a limit.
        for limits in [(-0.25, 9.0), (-9.0, 0.25)] {
            check(&[&[a, b, c]], seed, away_from_zero, |g, x| {
                let (low, high) = (g.float(limits.0), g.float(limits.1));
                g.op("Clip", &[&x[0], &low, &high], &[])
            });
        }
        for exponent in [2.0, 3.0, 0.5] {
            check(&[&[a, c]], seed, positive, |g, x| {
                let exponent = g.float(exponent);
                g.op("Pow", &[&x[0], &exponent], &[])
            });
        }
        // Of two that are far from each other, so that a small step changes nothing.
        for op in ["Max", "Min"] {
            check(&[&[b, c], &[c]], seed, away_from_zero, |g, x| {
                let less = g.float(0.01);
                let small = g.op("Mul", &[&x[1], &less], &[]);
                g.op(op, &[&x[0], &small], &[])
            });
        }
        unary("Sqrt", positive, seed, &[a, c]);
        unary("Log", positive, seed, &[a, c]);
        for op in ["Add", "Sub", "Mul"] {
            binary(op, any, seed, &[a, b, c], &[a, b, c]);
            binary(op, any, seed, &[a, b, c], &[c]);
            binary(op, any, seed, &[a, 1, c], &[1, b, 1]);
            binary(op, any, seed, &[c], &[]);
        }
        binary("Div", away_from_zero, seed, &[a, c], &[c]);
        // A difference over the condition's own step would measure that step.
        check(&[&[b, c], &[c]], seed, away_from_zero, |g, x| {
            let zero = g.float(0.0);
            let condition = g.op("Greater", &[&x[0], &zero], &[]);
            // The condition itself has no gradient; constants take its place as an input.
            let chosen = g.op("Where", &[&condition, &zero, &x[1]], &[]);
            g.op("Add", &[&chosen, &x[0]], &[])
        });
        // Either branch, one of them broadcast.
        for (yes, no) in [(1, 0), (0, 1)] {
            check(&[&[b, c], &[c]], seed, away_from_zero, |g, x| {
                let zero = g.float(0.0);
                let condition = g.op("Greater", &[&x[0], &zero], &[]);
                g.op("Where", &[&condition, &x[yes], &x[no]], &[])
            });
        }
    }

    #[test]
    fn products((m, k, n, batch) in (1usize..5, 1usize..5, 1usize..5, 1usize..4), seed: u32) {
        let seed = u64::from(seed);
        for (ta, tb) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let left = if ta == 0 { [m, k] } else { [k, m] };
            let right = if tb == 0 { [k, n] } else { [n, k] };
            check(&[&left, &right, &[n]], seed, any, |b, x| {
                let attributes =
                    [("transA", i64::from(ta).into()), ("transB", i64::from(tb).into()), ("alpha", 0.5.into()), ("beta", 2.0.into())];
                b.op("Gemm", &[&x[0], &x[1], &x[2]], &attributes)
            });
        }
        binary("MatMul", any, seed, &[m, k], &[k, n]);
        binary("MatMul", any, seed, &[batch, 2, m, k], &[batch, 2, k, n]);
        binary("MatMul", any, seed, &[batch, m, k], &[k, n]);
    }

    #[test]
    fn normalisations((a, b) in (1usize..5, 2usize..6), seed: u32) {
        let seed = u64::from(seed);
        for op in ["Softmax", "LogSoftmax"] {
            check(&[&[a, b]], seed, any, |g, x| g.op(op, &[&x[0]], &[("axis", (-1i64).into())]));
        }
        check(&[&[a, 2, b], &[b], &[b]], seed, any, |g, x| {
            // An epsilon that keeps the slope of nearly equal rows within reach of differences.
            let attributes = [("axis", (-1i64).into()), ("epsilon", 0.5.into())];
            g.op("LayerNormalization", &[&x[0], &x[1], &x[2]], &attributes)
        });
    }

    #[test]
    fn movements((a, b, c) in (1usize..4, 1usize..4, 2usize..4), seed: u32) {
        let seed = u64::from(seed);
        check(&[&[a, b, c]], seed, any, |g, x| {
            let turned = g.op("Transpose", &[&x[0]], &[("perm", vec![2, 0, 1].into())]);
            let flat = g.shape(&[-1, b as i64]);
            let flat = g.op("Reshape", &[&turned, &flat], &[]);
            let axes = g.shape(&[0]);
            let open = g.op("Unsqueeze", &[&flat, &axes], &[]);
            let closed = g.op("Squeeze", &[&open, &axes], &[]);
            g.op("Mul", &[&closed, &closed], &[])
        });
        check(&[&[a, b, c]], seed, any, |g, x| {
            // Without an order, all axes are reversed.
            let turned = g.op("Transpose", &[&x[0]], &[]);
            let same = g.op("Cast", &[&turned], &[("to", i64::from(data_type::FLOAT).into())]);
            g.op("Mul", &[&same, &same], &[])
        });
        check(&[&[1, c]], seed, any, |g, x| {
            let shape = g.shape(&[a as i64, b as i64, c as i64]);
            g.op("Expand", &[&x[0], &shape], &[])
        });
    }

    #[test]
    fn parts((a, b, c) in (1usize..4, 1usize..4, 3usize..6), seed: u32) {
        let seed = u64::from(seed);
        // With and without axes, from the end, past the end.
        for (from, to) in [(0, 2), (1, i64::MAX), (-2, -1), (-9, 1)] {
            check(&[&[a, c, b]], seed, any, |g, x| {
                let lists = [from, to, 1, 1].map(|i| g.shape(&[i]));
                let [from, to, axis, step] = lists.each_ref().map(String::as_str);
                let part = g.op("Slice", &[&x[0], from, to, axis, step], &[]);
                g.op("Mul", &[&part, &part], &[])
            });
        }
        check(&[&[a, c]], seed, any, |g, x| {
            let (from, to) = (g.shape(&[0, 1]), g.shape(&[1, 3]));
            g.op("Slice", &[&x[0], &from, &to], &[])
        });
        for index in [0, -1] {
            check(&[&[a, c, b]], seed, any, |g, x| {
                let index = g.ints(&[], &[index]);
                g.op("Gather", &[&x[0], &index], &[("axis", 1i64.into())])
            });
        }
        check(&[&[a, b], &[a, c], &[a, 1]], seed, any, |g, x| {
            let all = g.op("Concat", &[&x[0], &x[1], &x[2]], &[("axis", (-1i64).into())]);
            g.op("Mul", &[&all, &all], &[])
        });
        // The second part is of no effect.
        for sizes in [Some([1, c as i64 - 2, 1]), None] {
            check(&[&[a, if sizes.is_some() { c } else { 3 * c }]], seed, any, |g, x| {
                let sizes = sizes.map(|s| g.shape(&s));
                let inputs: Vec<&str> = [Some(x[0].as_str()), sizes.as_deref()].into_iter().flatten().collect();
                g.node("Split", &inputs, &["p", "q", "r"], &[("axis", 1i64.into())]);
                g.op("Mul", &["p", "r"], &[])
            });
        }
    }

    #[test]
    fn places((a, b, c) in (1usize..4, 1usize..4, 3usize..6), seed: u32) {
        let seed = u64::from(seed);
        check(&[&[a, b, c]], seed, any, |g, x| {
            let flat = g.op("Flatten", &[&x[0]], &[("axis", (-1i64).into())]);
            g.op("Mul", &[&flat, &flat], &[])
        });
        check(&[&[a, c]], seed, any, |g, x| {
            let pads = g.shape(&[0, 2, 1, 0]);
            let wide = g.op("Pad", &[&x[0], &pads], &[]);
            g.op("Mul", &[&wide, &wide], &[])
        });
        check(&[&[a, c]], seed, any, |g, x| {
            let repeats = g.shape(&[3, 2]);
            let laid = g.op("Tile", &[&x[0], &repeats], &[]);
            g.op("Mul", &[&laid, &laid], &[])
        });
        // One place is taken twice, another never.
        check(&[&[a, c]], seed, any, |g, x| {
            let places: Vec<i64> = (0..a as i64).flat_map(|row| [row % 2, 2, 2]).collect();
            let places = g.ints(&[a as i64, 3], &places);
            let taken = g.op("GatherElements", &[&x[0], &places], &[("axis", 1i64.into())]);
            g.op("Mul", &[&taken, &taken], &[])
        });
    }

    #[test]
    fn convolutions((batch, groups, length) in (1usize..3, 1usize..3, 4usize..7), seed: u32) {
        for dilation in [1i64, 2] {
            check(&[&[batch, 2 * groups, length], &[3 * groups]], seed.into(), any, |g, x| {
                let weight = g.floats(&values(3 * groups * 2 * 2, 7));
                let shape = g.shape(&[3 * groups as i64, 2, 2]);
                let weight = g.op("Reshape", &[&weight, &shape], &[]);
                let attributes = [
                    ("group", (groups as i64).into()),
                    ("pads", vec![1, 0].into()),
                    ("dilations", vec![dilation].into()),
                ];
                g.op("Conv", &[&x[0], &weight, &x[1]], &attributes)
            });
        }
    }

    #[test]
    fn rows_of_a_table((rows, width) in (4usize..7, 1usize..5), seed: u32) {
        check(&[&[rows, width]], seed.into(), any, |g, x| {
            // One row is looked up twice, another never.
            let ids = g.ints(&[2, 2], &[0, 3, 3, 1]);
            let found = g.op("Gather", &[&x[0], &ids], &[]);
            g.op("Mul", &[&found, &found], &[])
        });
    }

    #[test]
    fn reductions((a, b, c) in (1usize..4, 1usize..4, 1usize..4), seed: u32) {
        let seed = u64::from(seed);
        for keep in [0i64, 1] {
            check(&[&[a, b, c]], seed, any, |g, x| {
                let axes = g.shape(&[0, -1]);
                g.op("ReduceSum", &[&x[0], &axes], &[("keepdims", keep.into())])
            });
            check(&[&[a, b, c]], seed, any, |g, x| {
                g.op("ReduceMean", &[&x[0]], &[("axes", vec![1].into()), ("keepdims", keep.into())])
            });
            check(&[&[a, b]], seed, any, |g, x| g.op("ReduceMean", &[&x[0]], &[("keepdims", keep.into())]));
        }
    }
}

#[test]
fn a_value_used_twice_gets_both_gradients() {
    check(&[&[2, 3]], 1, any, |b, x| {
        let square = b.op("Mul", &[&x[0], &x[0]], &[]);
        let cube = b.op("Mul", &[&square, &x[0]], &[]);
        b.op("Add", &[&cube, &square], &[])
    });
}

#[test]
fn an_operator_without_a_rule_is_named() {
    let mut b = GraphBuilder::new("g");
    b.input("x", data_type::FLOAT, &["2"]);
    let y = b.op("Ceil", &["x"], &[]);
    let error = differentiate(&mut b, &y, &["x".to_owned()]).unwrap_err();
    assert!(matches!(&error, AutodiffError::NoRule { op, .. } if op == "Ceil"), "{error}");
}

#[test]
fn what_the_loss_does_not_depend_on_is_an_error() {
    let mut b = GraphBuilder::new("g");
    b.input("x", data_type::FLOAT, &["2"]);
    b.input("z", data_type::FLOAT, &["2"]);
    let y = b.op("ReduceSum", &["x"], &[("keepdims", 0i64.into())]);
    let error = differentiate(&mut b, &y, &["z".to_owned()]).unwrap_err();
    assert!(matches!(&error, AutodiffError::Unconnected { value } if value == "z"), "{error}");
}

#[test]
fn a_wanted_inner_value_is_a_leaf() {
    let mut b = GraphBuilder::new("g");
    b.input("x0", data_type::FLOAT, &["2"]);
    let y = b.op("Neg", &["x0"], &[]);
    let sum = b.op("Add", &["x0", &y], &[]);
    let loss = b.op("ReduceSum", &[&sum], &[("keepdims", 0i64.into())]);
    let gradients = differentiate(&mut b, &loss, &["x0".to_owned(), y]).unwrap();
    let inputs = [(vec![2], vec![1.0, 2.0])];
    for gradient in &gradients {
        b.output(gradient, data_type::FLOAT, &["2"]);
    }
    // Through y, x would get -1 more.
    assert_eq!(run(&mut session(b), &inputs, &gradients), [[1.0, 1.0], [1.0, 1.0]]);
}

/// A row of -∞ has no softmax; where the graph puts zeros in its place, no gradient comes from it.
#[test]
fn rows_without_a_softmax_have_no_gradient() {
    let mut b = GraphBuilder::new("g");
    b.input("x0", data_type::FLOAT, &["2", "2"]);
    let least = b.float(f32::NEG_INFINITY);
    let (keep, shape) = (b.ints(&[2, 1], &[1, 0]), b.shape(&[2, 2]));
    let keep = b.op("Cast", &[&keep], &[("to", i64::from(data_type::BOOL).into())]);
    let keep = b.op("Expand", &[&keep, &shape], &[]);
    let scores = b.op("Where", &[&keep, "x0", &least], &[]);
    let y = b.op("Softmax", &[&scores], &[("axis", (-1i64).into())]);
    let (none, zero) = (b.op("IsNaN", &[&y], &[]), b.float(0.0));
    let y = b.op("Where", &[&none, &zero, &y], &[]);
    let weights = b.floats(&[1.0, 2.0]);
    let y = b.op("Mul", &[&y, &weights], &[]);
    let loss = b.op("ReduceSum", &[&y], &[("keepdims", 0i64.into())]);
    let gradients = differentiate(&mut b, &loss, &["x0".to_owned()]).unwrap();
    b.output(&gradients[0], data_type::FLOAT, &["2", "2"]);
    let found = run(&mut session(b), &[(vec![2, 2], vec![0.0; 4])], &gradients);
    assert_eq!(found, [[-0.25, 0.25, 0.0, 0.0]]);
}

/// How the shapes of padding masks' look-ups and of padded lengths are followed, with sizes that have names only.
#[test]
fn shapes_with_names_are_followed() {
    let mut b = GraphBuilder::new("g");
    b.input("mask", data_type::INT64, &["batch", "sequence"]);
    b.input("places", data_type::INT64, &["batch", "1", "sequence", "2"]);
    b.input("x", data_type::FLOAT, &["batch", "8", "sequence"]);
    let flat = b.op("Flatten", &["mask"], &[("axis", 2i64.into())]);
    let looked_up = b.op("GatherND", &["mask", "places"], &[]);
    let of_batch = b.op("GatherND", &["x", "mask"], &[("batch_dims", 1i64.into())]);
    let pads = b.shape(&[0, 0, 2, 0, 0, 1]);
    let wide = b.op("Pad", &["x", &pads], &[]);
    let kernel = b.ints(&[8, 1, 4], &[0; 32]);
    let same = b.op("Conv", &[&wide, &kernel], &[("group", 8i64.into())]);
    let (one, end, axis) = (b.shape(&[1]), b.shape(&[i64::MAX]), b.shape(&[2]));
    let cut = b.op("Slice", &["x", &one, &end, &axis], &[]);
    let zero = b.shape(&[0]);
    let column = b.op("Slice", &["x", &zero, &one, &axis], &[]);
    let whole = b.op("Concat", &[&cut, &column], &[("axis", 2i64.into())]);
    let rows = b.shape(&[0, -1]);
    let open = b.op("Reshape", &[&wide, &rows], &[]);
    let shapes = Shapes::infer(b.graph()).unwrap();
    let said = |value: &str| shapes.get(value).map(|shape| shape.iter().map(Dim::to_string).collect::<Vec<_>>());
    assert_eq!(said(&flat).unwrap(), ["batch·sequence", "1"]);
    assert_eq!(said(&looked_up).unwrap(), ["batch", "1", "sequence"]);
    // `sequence` indices of three axes: not so, and no shape is made up for it.
    assert_eq!(said(&of_batch), None);
    assert_eq!(said(&wide).unwrap(), ["batch", "8", "sequence+3"]);
    assert_eq!(shapes.get(&same), shapes.get("x"));
    assert_eq!(said(&open).unwrap(), ["batch", "8·(sequence+3)"]);
    assert_eq!(said(&cut).unwrap(), ["batch", "8", "sequence-1"]);
    assert_eq!(shapes.get(&whole), shapes.get("x"));
}
