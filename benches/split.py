"""Writes the splits of benches/finetune.py to files, so that other programs learn and choose on the same texts.

Example:

    python benches/split.py target/assets/movie/train.jsonl --seeds 1 2 3 --output target/bench/splits/movie

writes train-1.jsonl and dev-1.jsonl, train-2.jsonl ... there: what `finetune.py --seed 1` learns and what it
chooses by. Needs nothing but the standard library.

Exit codes: 0 ok, 2 wrong command line, 3 wrong or missing input data.
"""

import argparse
import json
import os
import pathlib
import sys

import texts


def write(path, examples):
    """The examples as JSONL, written beside and renamed."""
    staged = path.with_name(path.name + ".part")
    with open(staged, "w", encoding="utf-8", newline="\n") as file:
        for e in examples:
            file.write(json.dumps({"text": e.text, "label": e.label}, ensure_ascii=False) + "\n")
    os.replace(staged, path)


def write_splits(data, fraction, seeds, directory):
    """The two files of each seed; returns how many examples each holds."""
    examples = texts.read(data)
    directory.mkdir(parents=True, exist_ok=True)
    counts = {}
    for seed in seeds:
        train, dev = texts.split(examples, fraction, seed)
        write(directory / f"train-{seed}.jsonl", train)
        write(directory / f"dev-{seed}.jsonl", dev)
        counts[seed] = (len(train), len(dev))
    return counts


def fraction(word):
    value = float(word)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{word} does not lie between 0 and 1")
    return value


def main(words=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add, file = parser.add_argument, pathlib.Path
    add("data", type=file, metavar="FILE", help="JSONL of text and label")
    add("--fraction", type=fraction, default=0.1, metavar="F", help="held out (0.1, as finetune.py)")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="SEED")
    add("--output", type=file, required=True, metavar="DIR")
    options = parser.parse_args(words)
    try:
        counts = write_splits(options.data, options.fraction, options.seeds, options.output)
    except (texts.DataError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(3)
    for seed, (train, dev) in counts.items():
        print(f"seed {seed}: {train} to learn, {dev} to choose by")


if __name__ == "__main__":
    main()
