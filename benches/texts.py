"""Labelled texts for the PyTorch yardsticks: reading, splitting, batching, scoring.

The rules are those of exporter/src/data and exporter/src/metrics. Only the random numbers differ: Python's
own generator shuffles here, so that the same seed holds out other texts. Needs nothing but the standard
library.
"""

import hashlib
import json
import math
import pathlib
import random
import typing

# Batches a pool, as in exporter/src/data/batches.rs.
POOL = 50


class DataError(Exception):
    """A file that cannot be used: where and why."""


class Example(typing.NamedTuple):
    """A text, its label and the line that they are on, from 1."""

    text: str
    label: str
    line: int


def read(path):
    """The examples of a JSONL file: `text` is a string, `label` a string, whole number or truth value."""
    path = pathlib.Path(path)
    if path.suffix not in (".jsonl", ".ndjson"):
        raise DataError(f"{path}: only .jsonl is read here")
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}") from error
    examples = []
    for line, entry in enumerate(content.split("\n"), 1):
        if entry.strip():
            examples.append(example(f"{path}:{line}", line, entry))
    if not examples:
        raise DataError(f"{path}: holds no example")
    return examples


def example(place, line, entry):
    """The example of one line."""
    try:
        fields = json.loads(entry)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON (column {error.colno}): {error.msg}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{place}: not a JSON object")
    text, label = fields.get("text"), fields.get("label")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{place}: field text: is missing, blank or no string")
    if isinstance(label, (bool, int)):
        label = json.dumps(label)
    if not isinstance(label, str) or not label.strip():
        raise DataError(f"{place}: field label: is missing, blank or no string or whole number")
    return Example(text, label, line)


def digest(examples):
    """SHA-256 over the canonical JSONL, as `train_sha256` in the provenance of a pack."""
    hasher = hashlib.sha256()
    for e in examples:
        entry = {"text": e.text, "label": e.label}
        hasher.update(json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    return hasher.hexdigest()


def labels(examples):
    """The labels in the order of their numbers: that of their UTF-8 bytes."""
    return sorted({e.label for e in examples}, key=str.encode)


def generator(seed, purpose, counter=0):
    """A generator of its own for each purpose, so that drawing more for one never moves another's."""
    return random.Random(f"{purpose} {counter} {seed}")


def split(examples, fraction, seed):
    """(what remains, what is held out), both in the file's order."""
    order = list(range(len(examples)))
    generator(seed, "split").shuffle(order)
    held = set(order[: math.floor(fraction * len(examples) + 0.5)])
    return (
        [e for i, e in enumerate(examples) if i not in held],
        [e for i, e in enumerate(examples) if i in held],
    )


def shared(a, b):
    """How many texts of `b` are in `a` too, whatever their case and white space."""
    known = {normalise(e.text) for e in a}
    return sum(normalise(e.text) in known for e in b)


def normalise(text):
    return " ".join(text.lower().split())


def epoch_batches(lengths, batch_size, seed, epoch):
    """The batches of an epoch: each index exactly once, texts of similar length together.

    A random order is cut into pools, each pool is sorted and cut into batches, the batches are shuffled."""
    order, batches = list(range(len(lengths))), []
    shuffler = generator(seed, "epoch", epoch)
    shuffler.shuffle(order)
    for pool in chunks(order, batch_size * POOL):
        batches += chunks(sorted(pool, key=lengths.__getitem__), batch_size)
    shuffler.shuffle(batches)
    return batches


def chunks(items, size):
    return [items[start : start + size] for start in range(0, len(items), size)]


def accuracy(gold, predicted):
    """The share of right predictions."""
    return sum(g == p for g, p in zip(gold, predicted)) / len(gold)


def macro_f1(gold, predicted):
    """The mean of the labels' F1 over those that are true or predicted, as scikit-learn has it."""
    scores = []
    for label in set(gold) | set(predicted):
        hits = sum(g == p == label for g, p in zip(gold, predicted))
        scores.append(2 * hits / (gold.count(label) + predicted.count(label)))
    return sum(scores) / len(scores)
