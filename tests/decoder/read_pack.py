#!/usr/bin/env python3
"""Decode the masks of a pack, written from docs/pack-format.md alone.

    read_pack.py BASE_DIR PACK [NAME]

BASE_DIR holds model.safetensors with the f32 weights of the base. PACK is a pack or a pack set;
NAME picks a pack of a set, and a set without NAME lists its names. Prints a JSON line about the
pack, then one for each mask with the SHA-256 of its bitmap. Needs numpy. What is wrong goes to
standard error, with exit status 1.
"""

import hashlib
import json
import math
import re
import struct
import sys
from pathlib import Path

import numpy as np

SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def need(condition, message):
    if not condition:
        raise ValueError(message)


def read_container(data):
    """The metadata and the tensors, name to (type, shape, bytes), of a safetensors file."""
    need(len(data) >= 8, "shorter than the length of a header")
    start = 8 + struct.unpack_from("<Q", data)[0]
    need(start <= len(data), "the header is longer than the file")
    header = json.loads(str(data[8:start], "utf-8"))
    metadata = header.pop("__metadata__", {})
    tensors, end = {}, start
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        kind, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        need(start + first == end <= start + last <= len(data), f"{name}: offsets")
        need(math.prod(shape) * SIZES[kind] == last - first, f"{name}: its shape needs other bytes")
        end = start + last
        tensors[name] = (kind, shape, data[start + first:end])
    need(end == len(data), "bytes after the last tensor")
    return metadata, tensors


def open_document(data, metadata, tensors, key):
    """The document, after a check of the file's SHA-256."""
    kind, shape, digest = tensors["sha256"]
    need((kind, shape) == ("U8", [32]) and digest == data[-32:], "sha256: not the last 32 bytes")
    need(digest == hashlib.sha256(data[:-32]).digest(), "sha256: the file is damaged")
    need(set(metadata) == {key}, f"__metadata__ has not just the key {key}")
    document = json.loads(metadata[key])
    need(document["schema"] == 1, f"schema {document['schema']} is unknown")
    need(document.get("requires", []) == [], f"unknown features: {document.get('requires')}")
    return document


def check_document(doc):
    labels, masks = doc["labels"], doc.get("masks", [])
    need(doc["kind"] in ("classify", "multilabel", "regress", "tag"), f"kind {doc['kind']} is unknown")
    need(doc["kind"] != "regress" or len(labels) == 1, "labels: a regression has one")
    need(doc["codec"] in ("plain", "ranked"), f"codec {doc['codec']} is unknown")
    need(set(doc["text"]) | {"pair"} == {"max_tokens", "pooling", "pair"}, "text: a field is missing or unknown")
    need(doc["text"]["pooling"] in ("mean", "cls", "first"), "text.pooling is unknown")
    need((doc["kind"] == "tag") == (doc["text"]["pooling"] == "first"), "text.pooling is of another kind")
    pair = doc["text"].get("pair", False)
    need(isinstance(pair, bool) and not (pair and doc["kind"] == "tag"), "text.pair")
    for text in doc.get("golden", []):
        form = "tag" if isinstance(text, dict) else "pair" if isinstance(text, list) else "text"
        need(form == ("tag" if doc["kind"] == "tag" else "pair" if pair else "text"), "golden: an input's form")
    need(labels and len(set(labels)) == len(labels), "labels: none, or one twice")
    need(all(min(mask[1:]) > 0 for mask in masks), "masks: a size of nothing")
    need(len({tensor for tensor, _, _, _ in masks}) == len(masks), "masks: a tensor comes twice")


def check_tensors(doc, tensors):
    kind, shape, _ = tensors["head/weight"]
    labels, masks = len(doc["labels"]), doc.get("masks", [])
    golden = sum(len(text["words"]) if isinstance(text, dict) else 1 for text in doc.get("golden", []))
    need(kind in ("F16", "BF16", "F32"), "head/weight: type")
    expected = {"head/weight": (kind, [labels, shape[-1]]), "head/bias": (kind, [labels]),
                "sha256": ("U8", [32])}
    if golden:
        expected["golden/logits"] = ("F32", [golden, labels])
    if masks:
        expected["mask"] = ("U8", [sum(mask[3] for mask in masks)])
    masked = {mask[0] for mask in masks}
    for name, (kind, shape, _) in tensors.items():
        if name.startswith("delta/"):
            need(kind in ("F16", "BF16", "F32"), f"{name}: type")
            need(name[6:] not in masked, f"{name}: has a mask, too")
            expected[name] = (kind, shape)
    for name in sorted(expected.keys() | tensors.keys()):
        need(expected.get(name) == tensors.get(name, (None, None))[:2],
             f"{name}: unknown, missing, or not of its type and shape")


def floats(tensors, name):
    kind, _, data = tensors[name]
    if kind == "BF16":  # the upper half of an f32
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(data, {"F16": "<f2", "F32": "<f4"}[kind])
    need(np.isfinite(values).all(), f"{name}: a value is not finite")
    return values.astype(np.float64).tolist()


def block_of(granularity):
    if granularity in ("weight", "2:4"):
        return 1, 1
    match = re.fullmatch("block:([1-9][0-9]*)x([1-9][0-9]*)", granularity)
    need(match and granularity != "block:1x1", f"granularity {granularity} is unknown")
    return int(match[1]), int(match[2])


def int8_codes(weights):
    """The codes, as integers in f32, and the scale of each row."""
    bits = weights.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).view(np.float32)
    largest = np.abs(rounded).max(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        inverse = np.float32(127) / largest
        used = np.isfinite(largest) & np.isfinite(inverse) & ~np.isnan(weights).any(axis=1, keepdims=True)
        scale = np.where(used, largest / np.float32(127), np.float32(0))
        return np.where(used, np.rint(rounded * inverse), np.float32(0)), scale


def magnitudes(weights, rows, columns):
    codes, scale = int8_codes(weights)
    if (rows, columns) == (1, 1):
        return np.abs(codes) * scale
    outputs, inputs = codes.shape
    lefts, tops = np.arange(0, inputs, columns), np.arange(0, outputs, rows)
    squares = np.add.reduceat(codes.astype(np.int64) ** 2, lefts, axis=1)
    parts = squares.astype(np.float64) * scale.astype(np.float64) ** 2
    sums = np.zeros((len(tops), len(lefts)))
    for row in range(min(rows, outputs)):  # one row of every block at a time: the order is fixed
        part = parts[row::rows]
        sums[:len(part)] += part
    sizes = np.outer(np.minimum(rows, outputs - tops), np.minimum(columns, inputs - lefts))
    with np.errstate(over="ignore"):  # to infinity, as f32 rounds
        return (sums / sizes).astype(np.float32)


def group_classes_of(weights):
    """The classes of 2:4: first the place among the four, then the rank in the tensor."""
    codes = np.abs(int8_codes(weights)[0])
    classes = np.frombuffer(classes_of(magnitudes(weights, 1, 1)), np.uint8).reshape(codes.shape) // 4
    for left in range(0, codes.shape[1], 4):
        group = codes[:, left:left + 4]
        for i in range(group.shape[1]):
            this = group[:, i:i + 1]
            lower = (group[:, :i] <= this).sum(axis=1) + (group[:, i + 1:] < this).sum(axis=1)
            classes[:, left + i] += 16 * lower.astype(np.uint8)
    return classes.tobytes()


def classes_of(values):
    keys = values.ravel().view(np.uint32) >> 12
    counts = np.bincount(keys)
    below = np.cumsum(counts) - counts
    return (64 * below // keys.size).astype(np.uint8)[keys].tobytes()


def shares_of(knots):
    """The share of zero of each of the 64 classes."""
    shares = []
    for c in range(64):
        j, t = divmod(c * (len(knots) - 1), 63)
        logit = (knots[j] * (63 - t) + knots[min(j + 1, len(knots) - 1)] * t + 31) // 63
        shares.append(round(65536 / (1 + math.exp((128 - logit) / 12))))
    return shares


def decode_stream(stream, classes, shares):
    lanes = 4 if len(classes) >= 65536 else 1
    need(len(stream) >= 8 * lanes and len(stream) % 4 == 0, "the stream is cut")
    states = list(struct.unpack_from(f"<{lanes}Q", stream))
    need(min(states) >= 2**32, "a state is too small")
    words = iter(struct.unpack(f"<{len(stream) // 4 - 2 * lanes}I", stream[8 * lanes:]))
    bits, last, word = bytearray(len(classes)), lanes - 1, words.__next__
    try:
        for i, p in enumerate(map(shares.__getitem__, classes)):
            x = states[i & last]
            slot = x & 65535
            if slot < p:
                x = (x >> 16) * p + slot
            else:
                bits[i] = 1
                x = (x >> 16) * (65536 - p) + slot - p
            if x < 4294967296:
                x = x << 32 | word()
            states[i & last] = x
    except StopIteration:
        raise ValueError("the stream ends too early") from None
    need(states == [2**32] * lanes and next(words, None) is None, "damaged, or another base")
    return np.packbits(np.frombuffer(bits, np.uint8), bitorder="little").tobytes()


def decode_mask(coded, codec, weights, granularity):
    """The number of units and their bitmap."""
    block = block_of(granularity)
    units = math.prod(-(-n // size) for n, size in zip(weights.shape, block))
    if codec == "ranked":
        count, coded = coded[0], coded[1:]
        if count > 0:
            need(count <= min(64, len(coded)), "number of knots")
            of_groups = granularity == "2:4"
            classes = group_classes_of(weights) if of_groups else classes_of(magnitudes(weights, *block))
            return units, decode_stream(coded[count:], classes, shares_of(coded[:count]))
    need(len(coded) == -(-units // 8), "the bitmap has another length")
    need(units % 8 == 0 or coded[-1] >> units % 8 == 0, "a bit after the last unit")
    return units, bytes(coded)


def read_pack(base, data, metadata, tensors):
    """The lines to print about the pack."""
    doc = open_document(data, metadata, tensors, "overmask")
    check_document(doc)
    check_tensors(doc, tensors)
    for name in tensors:
        if name.startswith("delta/"):
            need(name[6:] in base and base[name[6:]][1] == tensors[name][1], f"{name}: the base has not this tensor")
            floats(tensors, name)
    if "golden/logits" in tensors:
        floats(tensors, "golden/logits")
    head = floats(tensors, "head/weight") + floats(tensors, "head/bias")
    lines = [{"name": doc["name"], "codec": doc["codec"], "granularity": doc["granularity"],
              "labels": doc["labels"], "head_dtype": tensors["head/weight"][0],
              "head_sum": math.fsum(head)}]
    start = 0
    for tensor, outputs, inputs, length in doc.get("masks", []):
        kind, shape, weights = base.get(tensor, (None, None, None))
        need((kind, shape) == ("F32", [outputs, inputs]), f"{tensor}: the base has not this tensor")
        weights = np.frombuffer(weights, "<f4").reshape(shape)
        coded = tensors["mask"][2][start:start + length]
        try:
            units, bitmap = decode_mask(coded, doc["codec"], weights, doc["granularity"])
        except ValueError as error:
            raise ValueError(f"{tensor}: {error}") from None
        kept = int(np.unpackbits(np.frombuffer(bitmap, np.uint8)).sum())
        lines.append({"tensor": tensor, "outputs": outputs, "inputs": inputs, "zeros": units - kept,
                      "sha256": hashlib.sha256(bitmap).hexdigest()})
        start += length
    return lines


def read_file(base, data, name):
    """The lines about a pack, or about the pack called name of a set; the names without one."""
    metadata, tensors = read_container(data)
    if "overmask-set" in metadata:
        names = open_document(data, metadata, tensors, "overmask-set")["packs"]
        need(len(set(names)) == len(names), "packs: a name comes twice")
        need(tensors.keys() == {"sha256", *(f"pack/{n}" for n in names)}, "not a tensor a pack")
        if name is None:
            return names
        need(name in names, f"the set has no pack {name}")
        data = tensors[f"pack/{name}"][2]
        metadata, tensors = read_container(data)
    lines = read_pack(base, data, metadata, tensors)
    need(name in (None, lines[0]["name"]), f"the pack's name is {lines[0]['name']}")
    return lines


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        base = memoryview((Path(sys.argv[1]) / "model.safetensors").read_bytes())
        pack = memoryview(Path(sys.argv[2]).read_bytes())
        for line in read_file(read_container(base)[1], pack, (sys.argv + [None])[3]):
            print(line if isinstance(line, str) else json.dumps(line))
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError) as error:
        sys.exit(f"read_pack.py: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
