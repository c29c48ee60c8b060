//! Exports that were changed: a sound one becomes a base all the same, a broken one is an error.

use overmask::error::ErrorKind;
use overmask_graph::proto::StringStringEntryProto;

use super::*;

/// An export that was changed, in a folder of its own.
fn changed(name: &str, change: impl FnOnce(&mut ModelProto)) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    let mut model = overmask_graph::read_model(&export(name)).unwrap();
    change(&mut model);
    fs::write(&path, encode(&model)).unwrap();
    (dir, path)
}

fn graph(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

fn refused(path: &Path, options: &Options) -> ImportError {
    let dir = tempfile::tempdir().unwrap();
    let error = import(path, &dir.path().join("base"), options).unwrap_err();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    error
}

#[test]
fn an_operator_without_a_gradient_is_named_and_the_base_runs() {
    let (_dir, path) = changed("bert-torchscript.onnx", |m| {
        let erf = graph(m).node.iter_mut().rfind(|n| n.op_type == "Erf").unwrap();
        erf.op_type = "Ceil".into();
    });
    let (_base, Imported { base, untrainable, .. }) = imported(&path);
    let reason = untrainable.unwrap().to_string();
    assert!(reason.contains("`Ceil`") && reason.contains("/encoder/layer.1/"), "{reason}");
    hidden(&Arc::new(base), "ort", &[], &batch());
}

#[test]
fn what_is_no_text_encoder_is_refused_with_a_reason() {
    type Change = fn(&mut ModelProto);
    let cases: [(Change, &str); 16] = [
        (|m| m.opset_import[0].version = 10, "`opset_import`: is 10"),
        (|m| m.opset_import.clear(), "operator set is missing"),
        (|m| m.functions.push(Vec::new()), "`functions`"),
        (|m| graph(m).sparse_initializer.push(Vec::new()), "`sparse_initializer`"),
        (|m| m.graph = None, "no graph"),
        (|m| graph(m).node.iter_mut().for_each(|n| n.domain = "com.microsoft".into()), "`com.microsoft`"),
        (
            |m| graph(m).node.iter_mut().find(|n| n.op_type == "Add").unwrap().input[0] = "last_hidden_state".into(),
            "is there a cycle?",
        ),
        (
            |m| {
                let again = graph(m).node[0].clone();
                graph(m).node.push(again);
            },
            "which is there already",
        ),
        (|m| graph(m).initializer[3].dims = vec![-1], "tensor `embeddings.LayerNorm.weight`: shape [-1]"),
        (|m| graph(m).initializer[3].dims = vec![1 << 60, 1 << 60], "shape [1152921504606846976"),
        (|m| graph(m).initializer[3].dims = vec![17], "has 64 bytes, shape [17] takes 68"),
        (
            |m| graph(m).initializer[3].raw_data[20..24].copy_from_slice(&f32::NAN.to_le_bytes()),
            "tensor `embeddings.LayerNorm.weight`: the value at [5] is NaN",
        ),
        (|m| graph(m).input.retain(|i| i.name != "attention_mask"), "reads `attention_mask`, which nothing"),
        (
            |m| graph(m).output.retain(|o| o.name == "pooler_output"),
            "has three axes; name the [batch, sequence, width] one with --output-name, which may be an inner value: that \
             of the last layer norm is `last_hidden_state`",
        ),
        (
            |m| {
                graph(m).output.retain(|o| o.name != "pooler_output");
                normal::rename(graph(m), "last_hidden_state", "logits");
            },
            "`logits` is what a head says of each token, no hidden state; name the [batch, sequence, width] one with \
             --output-name, which may be an inner value",
        ),
        (
            |m| graph(m).node.iter_mut().filter(|n| n.op_type == "Softmax").for_each(|n| n.op_type = "Relu".into()),
            "Softmax",
        ),
    ];
    for (change, said) in cases {
        let (_dir, path) = changed("bert-torchscript.onnx", change);
        let error = refused(&path, &options());
        assert!(error.to_string().contains(said), "{said}: {error}");
        assert_eq!(error.kind(), ErrorKind::CorruptFile, "{error}");
    }
    let fixed: Change = |m| {
        let dims = [1i64, 8];
        graph(m).input[0] = ValueInfoProto::fixed("input_ids", data_type::INT64, &dims);
    };
    let other: Change = |m| normal::rename(graph(m), "token_type_ids", "position_ids");
    for (change, said) in [(fixed, "has the fixed size 1; export with dynamic batch"), (other, "input `position_ids`")]
    {
        let (_dir, path) = changed("bert-torchscript.onnx", change);
        assert!(refused(&path, &options()).to_string().contains(said), "{said}");
    }
}

#[test]
fn what_the_options_say_is_held_against_the_model() {
    let path = export("bert-torchscript.onnx");
    let wrong = [
        (Options { output: Some("nothing".into()), ..options() }, "no value `nothing`"),
        (Options { output: Some("pooler_output".into()), ..options() }, "has 2 axes"),
        (Options { max_positions: Some(33), ..options() }, "hold 32"),
    ];
    for (options, said) in wrong {
        let error = refused(&path, &options);
        assert!(error.to_string().contains(said), "{error}");
    }
    let error = refused(&path, &Options { tokenizer: "absent.json".into(), ..options() });
    assert_eq!(error.kind(), ErrorKind::InputData);
    let dir = tempfile::tempdir().unwrap();
    // The states after the first layer.
    let inner = Some("/encoder/layer.0/output/LayerNorm/LayerNormalization_output_0".to_owned());
    let options = Options { output: inner, max_positions: Some(20), ..options() };
    let Imported { base, .. } = import(&path, &dir.path().join("base"), &options).unwrap();
    let a = &base.manifest().architecture;
    assert_eq!((a.layers, a.max_positions, base.manifest().maskable.len()), (1, 20, 6));
}

#[test]
fn inputs_of_other_names_and_types_become_ours() {
    let batch = batch();
    let (_dir, path) = changed("bert-torchscript.onnx", |m| {
        normal::rename(graph(m), "attention_mask", "input_mask");
        // As if it had been exported with 32-bit tokens.
        let ids = ValueInfoProto::symbolic("ids", data_type::INT32, &["b", "s"]);
        normal::rename(graph(m), "input_ids", "ids");
        graph(m).input[0] = ids;
    });
    let (_base, Imported { base, .. }) = imported(&path);
    let model = overmask_graph::read_model(&base.model_path()).unwrap();
    assert_eq!(overmask_graph::inputs(&model), ["input_ids", "attention_mask", "token_type_ids"]);
    assert_eq!(model.opset_import[0].version, overmask_graph::OPSET);
    let expected = original(&export("bert-torchscript.onnx"), &batch);
    let found = hidden(&Arc::new(base), "ort", &[], &batch);
    assert!(difference(&found, &expected) <= 1e-5);
}

#[test]
fn external_data_stay_in_the_models_folder() {
    let name = "prenorm-dynamo.onnx";
    let refuse = |entries: &[(&str, &str)]| {
        let (dir, path) = changed(name, |m| {
            let tensor = graph(m).initializer.iter_mut().find(|t| !t.external_data.is_empty()).unwrap();
            for (key, value) in entries {
                tensor.external_data.retain(|e| e.key != *key);
                tensor.external_data.push(StringStringEntryProto { key: (*key).into(), value: (*value).into() });
            }
        });
        fs::copy(export("prenorm-dynamo.onnx.data"), dir.path().join("prenorm-dynamo.onnx.data")).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("link")).unwrap();
        refused(&path, &options())
    };
    for outside in ["../x", "/etc/hostname", "", "a/../../b"] {
        let error = refuse(&[("location", outside)]).to_string();
        assert!(error.contains("outside the model's folder"), "{outside}: {error}");
    }
    if cfg!(unix) {
        assert!(refuse(&[("location", "link")]).to_string().contains("outside the model's folder"));
    }
    assert_eq!(refuse(&[("location", "absent")]).kind(), ErrorKind::InputData);
    assert!(refuse(&[("offset", "24000")]).to_string().contains("is it complete?"));
    assert!(refuse(&[("offset", "18446744073709551615")]).to_string().contains("is it complete?"));
    assert!(refuse(&[("offset", "x")]).to_string().contains("`offset` is no number"));
    assert!(refuse(&[("length", "4")]).to_string().contains("has 4 bytes in"));
    // Many tensors of the same bytes would take more memory than there are bytes, however the file is spelt.
    for (step, file) in [("", name), ("./", name), ("./", "link")] {
        let (dir, path) = changed(name, |m| {
            let first = graph(m).initializer[0].clone();
            for i in 0..9 {
                let mut again = TensorProto { name: format!("again{i}"), ..first.clone() };
                let location = again.external_data.iter_mut().find(|e| e.key == "location").unwrap();
                location.value = format!("{}{}.data", step.repeat(i), file);
                graph(m).initializer.push(again);
            }
        });
        let data = dir.path().join(format!("{name}.data"));
        fs::copy(export("prenorm-dynamo.onnx.data"), &data).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(&data, dir.path().join("link.data")).unwrap();
        #[cfg(not(unix))]
        fs::hard_link(&data, dir.path().join("link.data")).unwrap();
        assert!(refused(&path, &options()).to_string().contains("overlaps others"), "{step}{file}");
    }
}

#[test]
fn damaged_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    assert_eq!(refused(&path, &options()).kind(), ErrorKind::InputData);
    let bytes = fs::read(export("distilbert-torchscript.onnx")).unwrap();
    for part in 0..40 {
        fs::write(&path, &bytes[..bytes.len() * part / 40]).unwrap();
        let error = Encoder::read(&path, &options()).err().expect("a part of a model");
        assert_eq!(error.kind(), ErrorKind::CorruptFile, "{error}");
    }
}

/// Any byte may be wrong: an error or another model, never a panic.
#[test]
fn changed_bytes_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    fs::copy(export("prenorm-dynamo.onnx.data"), dir.path().join("prenorm-dynamo.onnx.data")).unwrap();
    let mut read = 0;
    for (of, (name, ..)) in EXPORTS.iter().enumerate() {
        let bytes = fs::read(export(name)).unwrap();
        for round in 0..120 {
            let numbers = rng::uniform(11, of as u64, round, 8);
            let mut bytes = bytes.clone();
            for pair in numbers.chunks(2).take(1 + round as usize % 4) {
                let at = (pair[0] * bytes.len() as f32) as usize % bytes.len();
                bytes[at] = (pair[1] * 256.0) as u8;
            }
            fs::write(&path, &bytes).unwrap();
            if let Ok(encoder) = Encoder::read(&path, &options()) {
                let _ = trainable(&encoder.graph, &encoder.weights, &encoder.maskable);
                read += 1;
            }
        }
    }
    assert!((100..700).contains(&read), "{read} of 720 models were read all the same");
}

/// Newer operator sets: what changed since is taken back.
#[test]
fn newer_operators_are_taken_apart_or_refused() {
    let convert = |op: &str, version: i64| {
        let mut b = GraphBuilder::new("g");
        b.input("x", data_type::FLOAT, &["n", "4"]);
        let axes = b.shape(&[1]);
        let inputs: &[&str] = if op == "ReduceMean" { &["x", &axes] } else { &["x"] };
        b.node(op, inputs, &["y"], &[]);
        b.output("y", data_type::FLOAT, &["n", "4"]);
        opset::convert(graph_of(b), version)
    };
    let operators = |graph: GraphProto| graph.node.into_iter().map(|n| n.op_type).collect::<Vec<_>>();
    assert_eq!(operators(convert("Gelu", 20).unwrap()), ["Div", "Erf", "Add", "Mul", "Mul"]);
    let mean = convert("ReduceMean", 18).unwrap();
    assert_eq!((mean.node[0].input.len(), mean.node[0].attribute("axes").unwrap().ints.clone()), (1, vec![1]));
    assert!(convert("Mish", 18).unwrap_err().reason.contains("newer than operator set 17"));
    // Over axis 1 of two axes there is one reading, of three there are two.
    assert_eq!(operators(convert("Softmax", 11).unwrap()), ["Softmax"]);
    let mut b = GraphBuilder::new("g");
    b.input("x", data_type::FLOAT, &["n", "4", "4"]);
    b.node("Softmax", &["x"], &["y"], &[]);
    assert!(opset::convert(graph_of(b), 11).unwrap_err().reason.contains("operator set 13 or newer"));
}

/// As many look-ups as nodes before them: to follow each back by itself would take hours.
#[test]
fn sizes_are_found_in_one_pass() {
    let mut b = GraphBuilder::new("g");
    b.input("input_ids", data_type::INT64, &["batch", "sequence"]);
    let one = b.shape(&[1]);
    b.op("Gather", &["table", "input_ids"], &[]);
    let mut at = "input_ids".to_owned();
    for _ in 0..20_000 {
        at = b.op("Add", &[&at, &one], &[]);
        b.op("Gather", &["table", &at], &[]);
    }
    let mut graph = graph_of(b);
    let table =
        TensorProto { name: "table".into(), dims: vec![100, 4], data_type: data_type::FLOAT, ..Default::default() };
    graph.initializer.push(table);
    assert_eq!((sizes::vocabulary(&graph).unwrap(), sizes::positions(&graph, 4, None).unwrap()), (100, 99));
}

/// A hub's cache has links in one folder and the files behind them in another.
#[cfg(unix)]
#[test]
fn external_data_are_found_behind_the_links_of_a_hubs_cache() {
    let dir = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (dir.path().join("blobs"), dir.path().join("snapshots/main"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    for (blob, name) in [("1f", "prenorm-dynamo.onnx"), ("2e", "prenorm-dynamo.onnx.data")] {
        fs::copy(export(name), blobs.join(blob)).unwrap();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(blob), snapshot.join(name)).unwrap();
    }
    let (_base, through_links) = imported(&snapshot.join("prenorm-dynamo.onnx"));
    let (_other, direct) = imported(&export("prenorm-dynamo.onnx"));
    assert_eq!(through_links.base.base_id(), direct.base.base_id());
    // The data beside the real file alone.
    fs::rename(blobs.join("2e"), blobs.join("prenorm-dynamo.onnx.data")).unwrap();
    fs::remove_file(snapshot.join("prenorm-dynamo.onnx.data")).unwrap();
    let (_base, beside) = imported(&snapshot.join("prenorm-dynamo.onnx"));
    assert_eq!(beside.base.base_id(), direct.base.base_id());
    // A link that leads out of both folders.
    fs::remove_file(blobs.join("prenorm-dynamo.onnx.data")).unwrap();
    fs::copy(export("prenorm-dynamo.onnx.data"), dir.path().join("data")).unwrap();
    std::os::unix::fs::symlink("../../data", snapshot.join("prenorm-dynamo.onnx.data")).unwrap();
    let error = refused(&snapshot.join("prenorm-dynamo.onnx"), &options()).to_string();
    assert!(error.contains("outside the model's folder"), "{error}");
}

/// Codes of rows, of columns, with zeros; through a `Cast` and a product; of a type that nobody knows.
#[test]
fn quantised_constants_become_what_they_stand_for() {
    let folded = |node: &str, axis: Option<i64>, scale: &[f32], zero: Option<&[u8]>| {
        let mut b = GraphBuilder::new("g");
        b.input("x", data_type::FLOAT, &["n", "2"]);
        let scales = b.floats(scale);
        let mut inputs = vec!["w_quantized".to_owned()];
        let weight = match node {
            "Cast" => {
                let whole = b.op("Cast", &["w_quantized"], &[("to", 1i64.into())]);
                b.op("Mul", &[&whole, &scales], &[])
            }
            _ => {
                inputs.push(scales);
                inputs.extend(zero.map(|_| "zero".to_owned()));
                let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                let axis: Vec<_> = axis.map(|axis| ("axis", axis.into())).into_iter().collect();
                b.op(node, &inputs, &axis)
            }
        };
        b.node("MatMul", &["x", &weight], &["y"], &[]);
        b.output("y", data_type::FLOAT, &["n", "3"]);
        let mut graph = graph_of(b);
        let codes = |name: &str, dims: &[i64], values: &[u8]| TensorProto {
            name: name.into(),
            dims: dims.to_vec(),
            data_type: data_type::UINT8,
            raw_data: values.to_vec(),
            ..Default::default()
        };
        graph.initializer.push(codes("w_quantized", &[2, 3], &[0, 1, 2, 3, 4, 5]));
        graph.initializer.extend(zero.map(|zero| codes("zero", &[zero.len() as i64], zero)));
        let widened = precision::widen(&mut graph).map_err(|problem| problem.reason)?;
        assert_eq!((widened.codes, graph.node.len(), graph.initializer.len()), (1, 1, 1));
        assert_eq!(graph.node[0].input, ["x", "w"]);
        let values = graph.initializer[0].raw_data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        Ok::<_, String>(values.collect::<Vec<f32>>())
    };
    let linear = "DequantizeLinear";
    assert_eq!(folded(linear, None, &[0.5], None).unwrap(), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]);
    assert_eq!(folded(linear, None, &[1.0, 2.0, 3.0], Some(&[1, 1, 2])).unwrap(), [-1.0, 0.0, 0.0, 2.0, 6.0, 9.0]);
    assert_eq!(folded(linear, Some(0), &[1.0, 2.0], Some(&[1, 0])).unwrap(), [-1.0, 0.0, 1.0, 6.0, 8.0, 10.0]);
    assert_eq!(folded("Cast", None, &[1.0, 2.0, 3.0], None).unwrap(), [0.0, 2.0, 6.0, 3.0, 8.0, 15.0]);
    let error = folded(linear, None, &[1.0, 2.0], None).unwrap_err();
    assert!(error.contains("other numbers of scales"), "{error}");
}
