"""Times training steps of PyTorch and of overmask-export in turns and prints a Markdown table.

benches/step.sh calls it; by hand:

    python benches/compare_steps.py --exporter target/release/overmask-export --base target/demo/base

Each side runs as a process of its own for a block of steps, then the other, and so on, so that a slow spell
of the machine hits both. Which of its own ways PyTorch does best with is found once per row, before the
blocks. The ratio is that of the medians over the blocks. Memory is the most that a process of a side had
resident at once, on the CPU's side.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def last_json(command, environment):
    """Runs a command and parses the last line it prints; stops with its words when it fails."""
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    printed = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"exit status {child.returncode} from: {' '.join(map(str, command))}")
    # Linux counts in kibibytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return json.loads(printed.strip().splitlines()[-1]) | {"peak_bytes": usage.ru_maxrss * unit}


class Row:
    """The two commands of one row of the table."""

    def __init__(self, arguments, threads, granularity):
        self.threads, self.granularity, self.steps = threads, granularity, str(arguments.steps)
        shape = ["--batch", str(arguments.batch), "--tokens", str(arguments.tokens)]
        shape += ["--threads", str(threads), "--precision", arguments.precision]
        shape += [] if arguments.device == "cpu" else ["--device", arguments.device]
        self.peer = [sys.executable, str(HERE / "step.py"), str(arguments.base), *shape]
        self.peer += ["--granularity", granularity]
        self.peer += [flag for flag in ("--tf32", "--compile") if getattr(arguments, flag[2:])]
        self.ours = [arguments.exporter, "bench-step", "--base", str(arguments.base), *shape, "--json"]
        self.ours += ["--full"] if granularity == "full" else ["--granularity", granularity]
        # For our side only: PyTorch brings CUDA libraries of its own.
        path = arguments.exporter_library_path
        self.environments = {"peer": {}, "ours": {"LD_LIBRARY_PATH": path} if path else {}}

    def choose(self):
        """Lets PyTorch find its fastest way and keeps to it."""
        chosen = last_json([*self.peer, "--steps", "1", "--warm-up", "0"], {})
        self.ways = {name: chosen[name] for name in ("attention", "clip", "optimizer")}
        self.torch = chosen["torch"]
        for name, way in self.ways.items():
            self.peer += ["--" + name, way]

    def block(self, who):
        command = [*getattr(self, who), "--steps", self.steps]
        return last_json(command, self.environments[who])

    def measure(self, rounds):
        """(peer blocks, our blocks), in turns and with the order swapped every round."""
        blocks = {"peer": [], "ours": []}
        for turn in range(rounds):
            for who in ("peer", "ours") if turn % 2 == 0 else ("ours", "peer"):
                blocks[who].append(self.block(who))
                note(f"  {who}: {blocks[who][-1]['median_ms']:.1f} ms")
        return blocks["peer"], blocks["ours"]


def note(text):
    print(text, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exporter", default="overmask-export", help="the program to time")
    parser.add_argument("--base", type=pathlib.Path, required=True, help="base bundle")
    parser.add_argument("--exporter-library-path", help="LD_LIBRARY_PATH for --exporter")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--granularity", nargs="+", default=["weight", "block:32x1", "full"])
    parser.add_argument("--steps", type=int, default=8, help="steps of a block")
    parser.add_argument("--rounds", type=int, default=4, help="blocks of each side, per row")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--tf32", action="store_true", help="PyTorch with TF32 products (cuda)")
    parser.add_argument("--compile", action="store_true", help="PyTorch through torch.compile")
    parser.add_argument("--precision", default="f32", help="f32, f16 or bf16, of both sides")
    parser.add_argument("--output", type=pathlib.Path, help="also write every block there as JSON")
    arguments = parser.parse_args()

    lines, record = [], []
    for threads in arguments.threads:
        for granularity in arguments.granularity:
            note(f"{granularity}, {threads} thread(s)")
            row = Row(arguments, threads, granularity)
            row.choose()
            peer, ours = row.measure(arguments.rounds)
            a = statistics.median(block["median_ms"] for block in ours)
            b = statistics.median(block["median_ms"] for block in peer)
            a_min, b_min = (min(block["min_ms"] for block in blocks) for blocks in (ours, peer))
            a_peak, b_peak = (max(block["peak_bytes"] for block in blocks) for blocks in (ours, peer))
            lines.append(
                f"| {granularity} | {threads} | {a:.1f} ({a_min:.1f}) | {b:.1f} ({b_min:.1f}) | {a / b:.3f} "
                f"| {a_peak / 1e6:.0f} | {b_peak / 1e6:.0f} | {a_peak / b_peak:.3f} | {', '.join(row.ways.values())} |"
            )
            record.append(
                {
                    "granularity": granularity,
                    "threads": threads,
                    "ours_ms": a,
                    "torch_ms": b,
                    "ratio": a / b,
                    "ours_peak_bytes": a_peak,
                    "torch_peak_bytes": b_peak,
                    "ours": ours,
                    "torch": peer,
                }
            )
            version = row.torch
    print(
        f"Training step, batch {arguments.batch} x {arguments.tokens} tokens, {arguments.device}, "
        f"{arguments.precision}, PyTorch {version}{' with torch.compile' if arguments.compile else ''}, {arguments.rounds} blocks of {arguments.steps} steps each, in turns:\n"
    )
    print("| granularity | threads | ms (min) | PyTorch ms (min) | ratio | MB | PyTorch MB | ratio | PyTorch's way |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(lines))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
