"""Peers that are set up in Python: ONNX Runtime's dynamic int8, and OpenVINO in its precisions.

precisions_peer.py quantize BASE TEXTS OUT    # writes OUT/ort-int8.onnx and OUT/openvino-int8.xml
precisions_peer.py openvino MODEL PRECISION THREADS

The second answers requests on stdin, a line each: {"input_ids": [[...]], ...} is the batch from now on, "pass" runs it
and prints how many milliseconds that took, measured here. MODEL is a base's model.onnx or OUT/openvino-int8.xml.
"""
import json
import sys
import time
from pathlib import Path

import numpy as np

FIELDS = ("input_ids", "attention_mask", "token_type_ids")

# Texts that OpenVINO's quantisation looks at; its own default is 300.
SAMPLES = 300


def quantize(base, texts, out):
    import nncf
    import onnx
    import openvino
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic

    out.mkdir(parents=True, exist_ok=True)
    # In one file: the preparation works in a folder of its own.
    whole, prepared = out / "f32.onnx", out / "prepared.onnx"
    onnx.save(onnx.load(base / "model.onnx"), whole)
    quant_pre_process(whole, prepared, skip_symbolic_shape=True)
    quantize_dynamic(prepared, out / "ort-int8.onnx", per_channel=True, weight_type=QuantType.QInt8)

    # Token numbers come one text a line.
    rows = [json.loads(line) for line in texts.read_text().splitlines()[:SAMPLES]]
    fill = lambda row: {"input_ids": row, "attention_mask": [1] * len(row), "token_type_ids": [0] * len(row)}
    model = openvino.Core().read_model(base / "model.onnx")
    names = [port.any_name for port in model.inputs]
    model.reshape({name: [-1, -1] for name in names})
    samples = [{name: np.array([fill(row)[name]], dtype=np.int64) for name in names} for row in rows]
    quantized = nncf.quantize(model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=SAMPLES)
    openvino.save_model(quantized, out / "openvino-int8.xml", compress_to_fp16=False)


def openvino(model, precision, threads):
    import openvino

    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads})
    core.set_property("CPU", {"PERFORMANCE_HINT": "LATENCY"})
    compiled, request, feed = {}, None, None
    for line in sys.stdin:
        said = json.loads(line)
        if said == "pass":
            begin = time.perf_counter()
            request.infer(feed)
            print((time.perf_counter() - begin) * 1e3, flush=True)
            continue
        feed = {name: np.array(said[name], dtype=np.int64) for name in FIELDS}
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
        print("ready", flush=True)


match sys.argv[1:]:
    case ["quantize", base, texts, out]:
        quantize(Path(base), Path(texts), Path(out))
    case ["openvino", model, precision, threads]:
        openvino(model, precision, int(threads))
    case _:
        sys.exit(__doc__)
