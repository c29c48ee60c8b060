"""Peers that are set up in Python: ONNX Runtime's int8 and fused graphs, OpenVINO in its precisions, DeepSparse.

precisions_peer.py quantize BASE TEXTS OUT    # writes OUT/ort-*.onnx and OUT/openvino-int8.xml
precisions_peer.py onnxruntime BASE OUT       # the former alone
precisions_peer.py dynamic MODEL OUT          # a model in ONNX Runtime's dynamic int8
precisions_peer.py openvino MODEL PRECISION THREADS
precisions_peer.py deepsparse MODEL THREADS

The last two answer requests on stdin, a line each: {"input_ids": [[...]], ...} is the batch from now on, "pass" runs it
and prints how many milliseconds that took, measured here. MODEL is a folder's model.onnx or OUT/openvino-int8.xml.
"""
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FIELDS = ("input_ids", "attention_mask", "token_type_ids")

# Texts that OpenVINO's quantisation looks at; its own default is 300.
SAMPLES = 300


def dynamic(model, out):
    """ONNX Runtime's dynamic int8, a scale a channel."""
    import onnx
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic

    # In one file: the preparation works in a folder of its own.
    with tempfile.TemporaryDirectory() as folder:
        whole, prepared = Path(folder) / "whole.onnx", Path(folder) / "prepared.onnx"
        onnx.save(onnx.load(model), whole)
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        quantize_dynamic(prepared, out, per_channel=True, weight_type=QuantType.QInt8)


def fused(base, out):
    """The base of ONNX Runtime's own operators for transformers, as its optimiser for BERT leaves them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    manifest = json.loads((base / "base.json").read_text())["architecture"]
    values = {t.name: numpy_helper.to_array(t) for t in onnx.load(base / "model.onnx").graph.initializer}
    prefix = next(name for name in values if name.endswith("word_embeddings.weight")).split("embeddings.")[0]
    of = lambda name: values[prefix + name]
    constants, nodes = [], []

    def constant(name, value):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(op, inputs, output, **attributes):
        domain = "" if op == "Cast" or op == "MatMul" else "com.microsoft"
        nodes.append(helper.make_node(op, inputs, [output], domain=domain, **attributes))
        return output

    def norm(name, where):
        return [constant(where + part, of(name + part)) for part in (".weight", ".bias")]

    epsilon = manifest["layer_norm_eps"]
    ids = [node("Cast", [name], name + "/int32", to=TensorProto.INT32) for name in FIELDS]
    tables = [constant(name, of(f"embeddings.{name}_embeddings.weight")) for name in ("word", "position", "token_type")]
    embedding = [ids[0], ids[2], *tables, *norm("embeddings.LayerNorm", "embeddings")]
    nodes.append(helper.make_node("EmbedLayerNormalization", embedding, ["x", "mask"], domain="com.microsoft", epsilon=epsilon))
    x = "x"
    for i in range(manifest["layers"]):
        layer, here = f"encoder.layer.{i}.", f"{i}/"
        qkv = [f"attention.self.{name}" for name in ("query", "key", "value")]
        weight = constant(here + "qkv", np.concatenate([of(f"{layer}{name}.weight") for name in qkv]).T)
        bias = constant(here + "qkv-bias", np.concatenate([of(f"{layer}{name}.bias") for name in qkv]))
        context = node("Attention", [x, weight, bias, ids[1]], here + "context", num_heads=manifest["heads"])

        def linear(name, x):
            weight = constant(here + name, of(f"{layer}{name}.weight").T)
            return node("MatMul", [x, weight], f"{here}{name}/product"), constant(f"{here}{name}/bias", of(f"{layer}{name}.bias"))

        def added(name, x, skip, output):
            product, bias = linear(f"{name}.dense", x)
            inputs = [product, skip, *norm(f"{layer}{name}.LayerNorm", here + name), bias]
            return node("SkipLayerNormalization", inputs, output, epsilon=epsilon)

        x = added("attention.output", context, x, here + "attended")
        middle = node("BiasGelu", list(linear("intermediate.dense", x)), here + "gelu")
        last = i + 1 == manifest["layers"]
        x = added("output", middle, x, "last_hidden_state" if last else here + "out")
    shape = ["batch", "sequence"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in FIELDS]
    outputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, [*shape, manifest["hidden_size"]])]
    graph = helper.make_graph(nodes, "fused", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), out)


def same(base, model, feed):
    """Ends with an error where a model gives other vectors than the base."""
    from onnxruntime import InferenceSession

    feed = {name: np.array(values, dtype=np.int64) for name, values in feed.items()}
    run = lambda path: InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed)[0]
    difference = np.abs(run(base / "model.onnx") - run(model)).max()
    if not difference < 1e-3:
        sys.exit(f"{model}: differs from the base by {difference}")


def onnxruntime(base, out):
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out.mkdir(parents=True, exist_ok=True)
    dynamic(base / "model.onnx", out / "ort-int8.onnx")
    fused(base, out / "ort-fused.onnx")
    same(base, out / "ort-fused.onnx", {"input_ids": [[1, 2, 3]], "attention_mask": [[1, 1, 1]], "token_type_ids": [[0, 0, 0]]})
    # Types are not inferred through operators of ONNX Runtime's own.
    options = {"DefaultTensorType": TensorProto.FLOAT}
    kinds = {"per_channel": True, "weight_type": QuantType.QInt8, "extra_options": options}
    quantize_dynamic(out / "ort-fused.onnx", out / "ort-fused-int8.onnx", **kinds)


def quantize(base, texts, out):
    import nncf
    import openvino

    onnxruntime(base, out)
    # Token numbers come one text a line.
    rows = [json.loads(line) for line in texts.read_text().splitlines()[:SAMPLES]]
    fill = lambda row: {"input_ids": row, "attention_mask": [1] * len(row), "token_type_ids": [0] * len(row)}
    model = openvino.Core().read_model(base / "model.onnx")
    names = [port.any_name for port in model.inputs]
    model.reshape({name: [-1, -1] for name in names})
    samples = [{name: np.array([fill(row)[name]], dtype=np.int64) for name in names} for row in rows]
    quantized = nncf.quantize(model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=SAMPLES)
    openvino.save_model(quantized, out / "openvino-int8.xml", compress_to_fp16=False)


def answer(start):
    """Answers requests; `start` takes arrays and gives what runs a pass on them."""
    run = None
    for line in sys.stdin:
        said = json.loads(line)
        if said == "pass":
            begin = time.perf_counter()
            run()
            print((time.perf_counter() - begin) * 1e3, flush=True)
        else:
            run = start({name: np.array(said[name], dtype=np.int64) for name in FIELDS})
            print("ready", flush=True)


def openvino(model, precision, threads):
    import openvino

    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads})
    core.set_property("CPU", {"PERFORMANCE_HINT": "LATENCY"})
    compiled = {}

    def start(feed):
        shape = feed["input_ids"].shape
        if shape not in compiled:
            graph = core.read_model(model)
            graph.reshape({port.any_name: list(shape) for port in graph.inputs})
            compiled[shape] = core.compile_model(graph, "CPU")
            # A hint that is not followed would make a row of something else.
            got = compiled[shape].get_property("INFERENCE_PRECISION_HINT").get_type_name()
            if got != precision:
                sys.exit(f"OpenVINO computes in {got} here, not in {precision}")
        feed = {name: feed[name] for name in (port.any_name for port in compiled[shape].inputs)}
        request = compiled[shape].create_infer_request()
        return lambda: request.infer(feed)

    answer(start)


def deepsparse(model, threads):
    import deepsparse

    def start(feed):
        shape = list(feed["input_ids"].shape)
        engine = deepsparse.Engine(model, batch_size=shape[0], num_cores=threads, input_shapes=[shape] * len(FIELDS))
        feed = [np.ascontiguousarray(feed[name]) for name in engine.input_names]
        return lambda: engine.run(feed)

    answer(start)


match sys.argv[1:]:
    case ["quantize", base, texts, out]:
        quantize(Path(base), Path(texts), Path(out))
    case ["onnxruntime", base, out]:
        onnxruntime(Path(base), Path(out))
    case ["dynamic", model, out]:
        dynamic(Path(model), Path(out))
    case ["openvino", model, precision, threads]:
        openvino(model, precision, int(threads))
    case ["deepsparse", model, threads]:
        deepsparse(model, int(threads))
    case _:
        sys.exit(__doc__)
