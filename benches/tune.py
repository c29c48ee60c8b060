"""Chooses a learning rate for benches/finetune.py on the dev split, then measures it with several seeds.

Example:

    python benches/tune.py --checkpoint target/assets/minilm-l6 --train target/assets/trec/train.jsonl \\
        --test target/assets/trec/test.jsonl --method lora --learning-rates 5e-4 1e-3 2e-3 \\
        --output target/bench/finetune.jsonl -- --epochs 4 --threads 1

Options after -- go to finetune.py. The rate is the encoder's, for --method head the head's. It is chosen
by the accuracy on the dev split, the mean over --grid-seeds, the lower loss where two are equal; the test
texts are neither read nor given to a run before the choice is made. Then each of --seeds learns with the
chosen rate and is measured on them.

Every run is a line of --output. A run that is there, with the same data, checkpoint and options, is not
done again: start the same command again after an interruption. One file may serve many tasks and methods.

Exit codes: 0 ok, 2 wrong command line, 3 wrong or missing input data, 1 anything else.
"""

import argparse
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
# What this program decides itself, so that -- may not.
OURS = ("checkpoint", "train", "test", "dev", "method", "learning-rate", "seed", "json", "help")


def note(text):
    print(text, file=sys.stderr, flush=True)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Runs:
    """The runs that a JSONL file records."""

    def __init__(self, path):
        self.path, self.done = path, {}
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            file.seek(0)
            whole = file.read()
            # What follows the last line end was being written when a run was killed.
            kept = whole.rfind(b"\n") + 1
            if kept < len(whole):
                note(f"{path}: its last line is incomplete and is dropped")
                file.truncate(kept)
        for line, record in enumerate(whole[:kept].decode().splitlines(), 1):
            try:
                record = json.loads(record)
                self.done[json.dumps(record["run"], sort_keys=True)] = record["result"]
            except (ValueError, TypeError, KeyError) as error:
                raise OSError(f"{path}:{line}: not a run of this program: {error!r}") from error

    def result(self, run, command):
        """What `command` printed when the run was done, now or before."""
        key = json.dumps(run, sort_keys=True)
        if key not in self.done:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode != 0:
                note(f"exit status {done.returncode} from: {' '.join(map(str, command))}")
                sys.exit(done.returncode if done.returncode in (2, 3) else 1)
            self.done[key] = json.loads(done.stdout)
            record = json.dumps({"run": run, "result": self.done[key]}) + "\n"
            # One write at the end of the file: programs that share it do not mix their lines.
            with open(self.path, "ab", buffering=0) as file:
                file.write(record.encode())
                os.fsync(file.fileno())
        return self.done[key]


class Tuner:
    """The runs of one task and method."""

    def __init__(self, options):
        self.options, self.runs = options, Runs(options.output)
        weights = options.checkpoint / "model.safetensors"
        self.same = {
            "method": options.method,
            "checkpoint": sha256(weights),
            "train": sha256(options.train),
            "dev": sha256(options.dev) if options.dev else None,
            "options": options.more,
        }

    def run(self, rate, seed, test=None, test_sha256=None):
        o = self.options
        option = "--head-learning-rate" if o.method == "head" else "--learning-rate"
        command = [
            sys.executable,
            HERE / "finetune.py",
            "--checkpoint",
            o.checkpoint,
            "--train",
            o.train,
        ]
        command += ["--method", o.method, option, repr(rate), "--seed", str(seed), "--json", *o.more]
        command += ["--dev", o.dev] if o.dev else []
        command += ["--test", test] if test else []
        key = self.same | {"learning_rate": rate, "seed": seed, "test": test_sha256}
        note(
            f"{o.method}, learning rate {rate:g}, seed {seed}{', with the test texts' if test else ''}"
        )
        return self.runs.result(key, command)

    def grid(self):
        """For each rate the mean dev accuracy and loss of its best epochs."""
        rows = []
        for rate in self.options.learning_rates:
            results = [self.run(rate, seed) for seed in self.options.grid_seeds]
            best = [
                (r["dev_accuracy"][r["best_epoch"] - 1], r["dev_loss"][r["best_epoch"] - 1])
                for r in results
            ]
            accuracy, loss = map(statistics.mean, zip(*best))
            rows.append({"learning_rate": rate, "dev_accuracy": accuracy, "dev_loss": loss})
        return rows

    def measure(self, rate):
        """For each seed what the chosen rate reaches on the test texts."""
        test = self.options.test
        digest = sha256(test)
        rows = []
        for seed in self.options.seeds:
            result = self.run(rate, seed, test, digest)
            rows.append(
                {"seed": seed, "dev_accuracy": result["dev_accuracy"][result["best_epoch"] - 1]}
            )
            for name in (
                "test_accuracy",
                "test_macro_f1",
                "task_bytes",
                "seconds",
                "peak_rss_bytes",
            ):
                rows[-1][name] = result[name]
        return rows


def choose(rows):
    """The row with the highest accuracy; where two are equal the lower loss, then the lower rate."""
    return min(rows, key=lambda row: (-row["dev_accuracy"], row["dev_loss"], row["learning_rate"]))


def tune(options):
    """Everything; returns what is printed."""
    tuner = Tuner(options)
    grid = tuner.grid()
    rate = choose(grid)["learning_rate"]
    note(f"chosen: learning rate {rate:g}")
    if len(grid) > 1 and rate in (min(options.learning_rates), max(options.learning_rates)):
        note("it lies at the edge of the grid: the best may lie beyond")
    seeds = tuner.measure(rate)
    result = {"method": options.method, "grid": grid, "learning_rate": rate, "seeds": seeds}
    for name in ("test_accuracy", "test_macro_f1"):
        values = [row[name] for row in seeds]
        result[name] = {"mean": round(statistics.mean(values), 6)}
        if len(values) > 1:
            result[name]["standard_deviation"] = round(statistics.stdev(values), 6)
    return result


def markdown(result):
    """The result as two tables."""
    rate = result["learning_rate"]
    yield "| learning rate | dev accuracy | dev loss | |\n| --- | --- | --- | --- |"
    for row in result["grid"]:
        chosen = "chosen" if row["learning_rate"] == rate else ""
        yield f"| {row['learning_rate']:g} | {row['dev_accuracy']:.4f} | {row['dev_loss']:.4f} | {chosen} |"
    yield f"\n| {result['method']} at {rate:g} | dev accuracy | test accuracy | macro F1 | s | MiB |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in result["seeds"]:
        figures = f"{row['dev_accuracy']:.4f} | {row['test_accuracy']:.4f} | {row['test_macro_f1']:.4f}"
        cost = f"{row['seconds']:.0f} | {row['peak_rss_bytes'] >> 20}"
        yield f"| seed {row['seed']} | {figures} | {cost} |"
    yield f"| mean | | {result['test_accuracy']['mean']:.4f} | {result['test_macro_f1']['mean']:.4f} | | |"
    yield f"\n{result['seeds'][0]['task_bytes']} bytes a task"


def arguments(words=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add, file = parser.add_argument, pathlib.Path
    add("--checkpoint", type=file, required=True, metavar="DIR")
    add("--train", type=file, required=True, metavar="FILE")
    add("--dev", type=file, metavar="FILE", help="default: a part of --train, by seed")
    add("--test", type=file, required=True, metavar="FILE")
    add("--method", choices=("full", "lora", "vera", "bitfit", "head"), required=True)
    add("--learning-rates", type=float, nargs="+", required=True, metavar="RATE")
    add("--grid-seeds", type=int, nargs="+", default=[1], metavar="SEED", help="for choosing (1)")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="SEED", help="for measuring (1 2 3)")
    add("--output", type=file, required=True, metavar="FILE", help="JSONL that records every run")
    add("--json", action="store_true", help="print one JSON object instead of tables")
    add("more", nargs="*", metavar="OPTION", help="options of finetune.py, after --")
    options = parser.parse_args(words)
    ours = OURS + (("head-learning-rate",) if options.method == "head" else ())
    for word in options.more:
        if word.startswith("--") and word[2:].partition("=")[0] in ours:
            parser.error(f"{word} is not for finetune.py alone: see tune.py --help")
    for path in (options.checkpoint, options.train, options.test, options.dev):
        if path and not path.exists():
            note(f"{path}: no such file or directory")
            sys.exit(3)
    return options


def main():
    options = arguments()
    try:
        result = tune(options)
    except OSError as error:
        note(error)
        sys.exit(3)
    if options.json:
        print(json.dumps(result))
    else:
        print("\n".join(markdown(result)))


if __name__ == "__main__":
    main()
