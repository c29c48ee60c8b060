"""The PyTorch side of the training-step comparison: prints the time of a step as one JSON line.

    python benches/step.py CHECKPOINT_OR_BASE_DIR --threads 1 --granularity block:32x1 --steps 20

A step: a batch of token ids through the encoder with all its linear weights masked by scores
(straight-through), mean pooling, dropout 0.1, a linear head, cross-entropy, backward, gradient norm clipped
to 1, AdamW on scores (4e-3) and head (1e-3), and the loss read as a number. With --granularity full there
are no masks: all tensors of the encoder train. PyTorch offers several ways to do the same thing; each is
timed first and the fastest is used, unless --attention, --clip and --optimizer name one. --compile runs the
forward and backward pass through torch.compile, --precision through autocast, for f16 with a scaled loss.
Run it from benches/step.sh to have it side by side with `overmask-export bench-step`.
"""

import argparse
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F

import bert

ATTENTIONS = {"sdpa": bert.sdpa_attention, "plain": bert.plain_attention}
CLIPS = {"foreach": True, "loop": False}
OPTIMIZERS = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
PARTS = ("attention", "clip", "optimizer")
PRECISIONS = {"f32": None, "f16": torch.float16, "bf16": torch.bfloat16}
LABELS = 6


def rank_scores(weight, block, sparsity):
    """The starting scores: the rank of a block's mean square within its tensor, minus the sparsity."""
    rows, cols = block
    outputs, inputs = weight.shape
    size = weight.square().view(outputs // rows, rows, inputs // cols, cols).mean((1, 3))
    rank = torch.empty(size.numel())
    rank[size.flatten().argsort()] = torch.arange(size.numel()) / size.numel()
    return rank.view(size.shape) - sparsity


class Step:
    """The model, its trained tensors and one batch."""

    def __init__(self, checkpoint, granularity, batch, tokens, device, seed, precision, compiled):
        self.device, self.precision = torch.device(device), PRECISIONS[precision]
        self.config, params = bert.load(checkpoint)
        self.params = {name: tensor.to(self.device) for name, tensor in params.items()}
        if granularity == "full":
            self.block, self.scores = None, {}
            self.encoder = [tensor.requires_grad_() for tensor in self.params.values()]
        else:
            self.block = bert.block_of(granularity)
            self.scores = {
                name: rank_scores(params[name], self.block, 0.05).to(self.device).requires_grad_()
                for name in bert.maskable_names(self.config)
            }
            self.encoder = list(self.scores.values())
        generator = torch.Generator().manual_seed(seed)
        head = torch.randn(LABELS, self.config["hidden_size"], generator=generator) * 0.02
        self.head = [
            head.to(self.device).requires_grad_(),
            torch.zeros(LABELS, device=self.device, requires_grad=True),
        ]
        vocab = self.config["vocab_size"]
        ids = torch.randint(vocab, (batch, tokens), generator=generator)
        labels = torch.randint(LABELS, (batch,), generator=generator)
        self.ids, self.labels = ids.to(self.device), labels.to(self.device)
        self.mask, self.types = torch.ones_like(self.ids), torch.zeros_like(self.ids)
        self.trained = self.encoder + self.head
        self.loss = torch.compile(self.forward) if compiled else self.forward
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "f16")

    def forward(self, attention):
        params = dict(self.params)
        for name, score in self.scores.items():
            params[name] = bert.MaskedWeight.apply(score, params[name], *self.block)
        hidden = bert.encode(
            params, self.config, self.ids, self.mask, self.types, ATTENTIONS[attention]
        )
        pooled = F.dropout(bert.mean_pool(hidden, self.mask), 0.1)
        return F.cross_entropy(F.linear(pooled, *self.head), self.labels)

    def optimizer(self, name):
        return torch.optim.AdamW(
            [
                {"params": self.encoder, "lr": 4e-3 if self.scores else 1e-4},
                {"params": self.head, "lr": 1e-3},
            ],
            weight_decay=0.0,
            **OPTIMIZERS[name],
        )

    def clock(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def run(self, attention, clip, optimizer):
        """One step; milliseconds of its three parts and of the whole."""
        start = self.clock()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            loss = self.loss(attention)
        self.scaler.scale(loss).backward()
        passed = self.clock()
        self.scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0, foreach=CLIPS[clip])
        clipped = self.clock()
        self.scaler.step(optimizer)
        self.scaler.update()
        value = loss.item()
        end = self.clock()
        assert math.isfinite(value), f"the loss is {value}"
        return [1e3 * t for t in (passed - start, clipped - passed, end - clipped, end - start)]


def fastest(step, choices, rounds):
    """The fastest way for each part, timed in turns so that a disturbance hits all alike. What a way is
    timed on: the forward and backward pass, the clipping, the optimizer."""
    optimizers = {name: step.optimizer(name) for name in choices[2]}
    times = {}
    for turn in range(rounds + 1):
        for index in range(max(len(names) for names in choices)):
            ways = [names[index % len(names)] for names in choices]
            parts = step.run(ways[0], ways[1], optimizers[ways[2]])
            if turn > 0:  # the first turn warms up
                for part, way in enumerate(ways):
                    times.setdefault((part, way), []).append(parts[part])
    best = []
    for part, names in enumerate(choices):
        best.append(min(names, key=lambda way: statistics.median(times[part, way])))
    tried = {
        f"{PARTS[part]} {way}": round(statistics.median(ms), 3)
        for (part, way), ms in sorted(times.items())
    }
    return best, tried


def available(names, step):
    """Those AdamW forms that this build and device have; an absent one is named on stderr."""
    kept = []
    for name in names:
        try:
            step.optimizer(name)
        except RuntimeError as error:
            print(f"AdamW {name}: {error}", file=sys.stderr)
        else:
            kept.append(name)
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="checkpoint directory or base bundle")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--granularity", default="weight", help="weight, block:RxC, or full: no masks")
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before the timed ones")
    parser.add_argument("--try-rounds", type=int, default=3, help="rounds for choosing the fastest")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--tf32", action="store_true", help="let CUDA round products to TF32")
    parser.add_argument("--precision", choices=PRECISIONS, default="f32", help="of autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile for the two passes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--attention", choices=ATTENTIONS)
    parser.add_argument("--clip", choices=CLIPS)
    parser.add_argument("--optimizer", choices=OPTIMIZERS)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high" if arguments.tf32 else "highest")
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("this PyTorch finds no CUDA device")

    step = Step(
        arguments.checkpoint,
        arguments.granularity,
        arguments.batch,
        arguments.tokens,
        arguments.device,
        arguments.seed,
        arguments.precision,
        arguments.compile,
    )
    choices = [
        [arguments.attention] if arguments.attention else list(ATTENTIONS),
        [arguments.clip] if arguments.clip else list(CLIPS),
        [arguments.optimizer] if arguments.optimizer else available(OPTIMIZERS, step),
    ]
    tried = {}
    if any(len(names) > 1 for names in choices):
        best, tried = fastest(step, choices, arguments.try_rounds)
    else:
        best = [names[0] for names in choices]
    attention, clip, way = best
    optimizer = step.optimizer(way)
    for _ in range(arguments.warm_up):
        step.run(attention, clip, optimizer)
    times = [step.run(attention, clip, optimizer) for _ in range(arguments.steps)]
    parts = [statistics.median(part) for part in zip(*times)]
    result = {
        "median_ms": round(parts[3], 3),
        "min_ms": round(min(total for *_, total in times), 3),
        "steps": arguments.steps,
        "forward_backward_ms": round(parts[0], 3),
        "clip_ms": round(parts[1], 3),
        "optimizer_ms": round(parts[2], 3),
        "attention": attention,
        "clip": clip,
        "optimizer": way,
        "threads": arguments.threads,
        "granularity": arguments.granularity,
        "device": arguments.device,
        "precision": arguments.precision,
        "compile": arguments.compile,
        "torch": torch.__version__,
    }
    if tried:
        result["tried_ms"] = tried
    print(json.dumps(result))


if __name__ == "__main__":
    main()
