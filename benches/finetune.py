"""What the masks are measured beside: a task learnt with PyTorch by the usual means.

Example:

    python benches/finetune.py --checkpoint target/assets/minilm-l6 --method lora --learning-rate 1e-3 \\
        --train target/assets/trec/train.jsonl --test target/assets/trec/test.jsonl --json

Methods:

full  every tensor of the encoder trains, the embeddings too
lora  Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models* (ICLR 2022), on all six linear
      layers of each encoder layer: the strong setting, costlier than query and value alone. A starts
      uniform within +-1/sqrt(inputs), B at zero, the product counts alpha / rank; the base does not change.
vera  Kopiczko et al., *VeRA: Vector-based Random Matrix Adaptation* (ICLR 2024), on the same layers: A
      and B are random, the same in every layer and never stored (a seed makes them again); what trains are
      a vector of the rank, 0.1 at the start, and one of the outputs, 0 at the start
bitfit  Ben Zaken et al., *BitFit* (ACL 2022): the biases of the layers, norms included
head  the encoder stays as it is; each text goes through it once

--stored int8 rounds what trains in the encoder to int8 with a scale in f16 for each row of a matrix, or each
vector, where f16 is asked for otherwise; the head stays f16.

All else is as in `overmask-export train`: mean pooling, dropout on the pooled vector, a linear head that
starts at N(0, 0.02), AdamW without weight decay, linear warm-up and decay, gradients clipped by their norm
together, batches of similar length, the epoch that is best on the dev split (the lower loss where two are
equal). The best state is rounded, to f16 unless said otherwise, as a pack would store it, and then measured once
on the test texts. The encoder has no dropout unless --encoder-dropout asks for BERT's. Without --test nothing but the
dev split is measured.

Exit codes: 0 ok, 2 wrong command line, 3 wrong or missing input data, 1 anything else.
"""

import argparse
import functools
import json
import math
import os
import pathlib
import resource
import sys
import time

import torch
import torch.nn.functional as F

import bert
import texts

# Epochs and learning rates (encoder, head) that are used unless said otherwise.
DEFAULTS = {
    "full": (4, 1e-4, 1e-3),
    "lora": (4, 1e-3, 1e-3),
    "vera": (4, 1e-2, 1e-3),
    "bitfit": (4, 3e-3, 1e-3),
    "head": (100, None, 1e-2),
}
# Ranks that are used unless said otherwise.
RANKS = {"lora": 8, "vera": 256}
CLIP_NORM = 1.0


class Data:
    """Tokenised texts with their classes; `features`, once there, stand in for the tokens."""

    def __init__(self, examples, labels, tokenizer, max_tokens):
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
        self.ids = [e.ids for e in tokenizer.encode_batch([e.text for e in examples])]
        self.targets = torch.tensor([labels.index(e.label) for e in examples])
        self.lengths = [len(ids) for ids in self.ids]
        self.pad = tokenizer.token_to_id("[PAD]") or 0
        self.features = None

    def __len__(self):
        return len(self.ids)

    def tokens(self, indices):
        """(ids, attention mask), each [texts, tokens of the longest]."""
        longest = max(self.lengths[i] for i in indices)
        ids = [self.ids[i] + [self.pad] * (longest - self.lengths[i]) for i in indices]
        mask = [[1] * self.lengths[i] + [0] * (longest - self.lengths[i]) for i in indices]
        return torch.tensor(ids), torch.tensor(mask)

    def by_length(self, batch_size):
        """Indices in batches of similar length, for measuring."""
        return texts.chunks(sorted(range(len(self)), key=self.lengths.__getitem__), batch_size)


class Model:
    """The encoder with what a method trains in it, and the head."""

    def __init__(self, method, config, params, classes, seed, rank=8, alpha=16.0):
        self.config, self.scale = config, alpha / rank
        # Copies: what is read lies in a map of the file, at any offset.
        self.params = {name: tensor.to(torch.float32, copy=True) for name, tensor in params.items()}
        width = config["hidden_size"]
        generator = torch.Generator().manual_seed(texts.generator(seed, "start").getrandbits(63))
        self.head = {
            "head.weight": torch.randn(classes, width, generator=generator) * 0.02,
            "head.bias": torch.zeros(classes),
        }
        self.encoder = {}
        if method == "full":
            self.encoder = self.params
        elif method == "lora":
            for name in bert.maskable_names(config):
                outputs, inputs = params[name].shape
                low = torch.rand(rank, inputs, generator=generator) * 2.0 - 1.0
                layer = name.removesuffix(".weight")
                self.encoder[layer + ".lora_a"] = low / math.sqrt(inputs)
                self.encoder[layer + ".lora_b"] = torch.zeros(outputs, rank)
        elif method == "vera":
            self.shared = shared_matrices(config, params, rank, generator)
            for name in bert.maskable_names(config):
                layer = name.removesuffix(".weight")
                self.encoder[layer + ".vera_d"] = torch.full((rank,), 0.1)
                self.encoder[layer + ".vera_b"] = torch.zeros(params[name].shape[0])
        elif method == "bitfit":
            layers = lambda name: name.startswith("encoder.layer.") and name.endswith(".bias")
            self.encoder = {name: tensor for name, tensor in self.params.items() if layers(name)}
        adapted = {"lora": self.lora_linear, "vera": self.vera_linear}
        self.linear = adapted.get(method, bert.plain_linear)
        self.trained = self.encoder | self.head
        for tensor in self.trained.values():
            tensor.requires_grad_()

    def vera_linear(self, params, name, x):
        """x W^T + b + ((x A^T) d B^T) times the outputs' vector; A and B are cut to the layer's size."""
        a, b = self.shared
        outputs, inputs = params[name + ".weight"].shape
        low = F.linear(x, a[:, :inputs]) * self.encoder[name + ".vera_d"]
        return bert.plain_linear(params, name, x) + F.linear(low, b[:outputs]) * self.encoder[name + ".vera_b"]

    def lora_linear(self, params, name, x):
        """x W^T + b + scale x A^T B^T."""
        low = F.linear(x, self.encoder[name + ".lora_a"])
        return bert.plain_linear(params, name, x) + self.scale * F.linear(
            low, self.encoder[name + ".lora_b"]
        )

    def pool(self, data, indices, dropout=0.0):
        """The pooled vectors [texts, width]; `dropout` is the encoder's own."""
        if data.features is not None:
            return data.features[indices]
        ids, mask = data.tokens(indices)
        attention = functools.partial(bert.sdpa_attention, dropout=dropout)
        hidden = bert.encode(
            self.params,
            self.config,
            ids,
            mask,
            torch.zeros_like(ids),
            attention=attention,
            linear=self.linear,
            dropout=dropout,
        )
        return bert.mean_pool(hidden, mask)

    def logits(self, pooled):
        return F.linear(pooled, self.head["head.weight"], self.head["head.bias"])

    @torch.no_grad()
    def extract(self, data, batch_size):
        """Lets the pooled vectors stand in for the tokens: for an encoder that does not train."""
        features = torch.empty(len(data), self.config["hidden_size"])
        for indices in data.by_length(batch_size):
            features[indices] = self.pool(data, indices)
        data.features = features

    @torch.no_grad()
    def classify(self, data, batch_size):
        """(predicted classes, mean loss)."""
        predicted, loss = torch.empty_like(data.targets), 0.0
        for indices in data.by_length(batch_size):
            logits = self.logits(self.pool(data, indices))
            predicted[indices] = logits.argmax(1)
            loss += F.cross_entropy(logits, data.targets[indices], reduction="sum").item()
        return predicted.tolist(), loss / len(data)

    def state(self):
        return {name: tensor.detach().clone() for name, tensor in self.trained.items()}

    @torch.no_grad()
    def restore_as_stored(self, state, stored="f16"):
        """Takes over a state as f16 keeps it, or int8 that of the encoder."""
        for name, tensor in self.trained.items():
            as_int8 = stored == "int8" and name in self.encoder
            tensor.copy_(in_int8(state[name]) if as_int8 else state[name].half())


def shared_matrices(config, params, rank, generator):
    """VeRA's A [rank, most inputs] and B [most outputs, rank], uniform as Kaiming has it."""
    shapes = [params[name].shape for name in bert.maskable_names(config)]
    outputs, inputs = (max(sizes) for sizes in zip(*shapes))
    uniform = lambda *shape: (torch.rand(*shape, generator=generator) * 2.0 - 1.0) * math.sqrt(3.0 / shape[1])
    return uniform(rank, inputs), uniform(outputs, rank)


def in_int8(tensor):
    """What int8 codes with a scale in f16 for each row, or for a vector, keep of a tensor."""
    scale = (tensor.abs().amax(-1, keepdim=True) / 127.0).half().float()
    return torch.where(scale > 0, (tensor / scale).round().clamp(-127, 127) * scale, torch.zeros(()))


def factor(step, steps, warmup):
    """The factor on learning rates at `step` (from 0), as in exporter/src/train/schedule.rs."""
    rising = max(math.ceil(warmup * steps), 1)
    return (step + 1) / rising if step < rising else (steps - step) / (steps - rising)


def learn(model, train, dev, options):
    """Trains, leaves the model with its best state and returns what happened, epoch by epoch."""
    groups = [{"params": list(model.head.values()), "lr": options.head_learning_rate}]
    if model.encoder:
        groups.append({"params": list(model.encoder.values()), "lr": options.learning_rate})
    peaks = [group["lr"] for group in groups]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    steps = options.epochs * math.ceil(len(train) / options.batch_size)
    step, best, kept, epochs = 0, None, None, []
    for epoch in range(options.epochs):
        total = 0.0
        for indices in texts.epoch_batches(train.lengths, options.batch_size, options.seed, epoch):
            for group, peak in zip(optimizer.param_groups, peaks):
                group["lr"] = peak * factor(step, steps, options.warmup)
            optimizer.zero_grad(set_to_none=True)
            pooled = model.pool(train, indices, options.encoder_dropout)
            loss = F.cross_entropy(
                model.logits(F.dropout(pooled, options.dropout)), train.targets[indices]
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.trained.values(), CLIP_NORM)
            optimizer.step()
            step += 1
            if not math.isfinite(value := loss.item()):
                sys.exit(f"the loss is {value} at step {step}: choose a lower learning rate")
            total += value * len(indices)
        predicted, dev_loss = model.classify(dev, options.batch_size)
        epochs.append((total / len(train), texts.accuracy(dev.targets.tolist(), predicted), dev_loss))
        if options.method != "head":  # a head alone has a hundred epochs, of a blink each
            loss, accuracy, _ = epochs[-1]
            note(
                f"epoch {epoch + 1}: loss {loss:.4f}, dev accuracy {accuracy:.4f}, dev loss {dev_loss:.4f}"
            )
        # Equal accuracies are common on small dev splits; then the lower loss is better.
        if best is None or (epochs[-1][1], -dev_loss) > (epochs[best][1], -epochs[best][2]):
            best, kept = epoch, model.state()
    model.restore_as_stored(kept, options.stored)
    losses, accuracies, dev_losses = ([round(v, 6) for v in values] for values in zip(*epochs))
    return {
        "train_loss": losses,
        "dev_accuracy": accuracies,
        "dev_loss": dev_losses,
        "best_epoch": best + 1,
    }


def read(options):
    """(labels, all training texts, those that train, those that choose the epoch, those only measured)."""
    examples = texts.read(options.train)
    labels = texts.labels(examples)
    if len(labels) < 2:
        raise texts.DataError(f"{options.train}: every text has the label {labels[0]}")
    if options.dev:
        train, dev = examples, texts.read(options.dev)
    else:
        train, dev = texts.split(examples, options.dev_fraction, options.seed)
    if not train or not dev:
        split = f"{len(train)} texts to train on, {len(dev)} to choose by"
        raise texts.DataError(f"{options.train}: --dev-fraction leaves {split}")
    test = texts.read(options.test) if options.test else []
    for path, held in ((options.dev or options.train, dev), (options.test, test)):
        for e in held:
            if e.label not in labels:
                raise texts.DataError(f"{path}:{e.line}: field label: no training text has {e.label}")
        if repeated := texts.shared(train, held):
            note(
                f"{path}: {repeated} of the {len(held)} held-out texts are trained on too: figures flatter"
            )
    return labels, examples, train, dev, test


def load(options):
    """(config, parameters, tokenizer) of the checkpoint."""
    import tokenizers

    for name in ("model.safetensors", "tokenizer.json"):
        if not (options.checkpoint / name).is_file():
            raise texts.DataError(f"{options.checkpoint}: holds no {name}: no checkpoint's directory")
    config, params = bert.load(options.checkpoint)
    positions = params["embeddings.position_embeddings.weight"].shape[0]
    if options.max_tokens > positions:
        raise texts.DataError(
            f"{options.checkpoint}: has {positions} positions, --max-tokens asks for more"
        )
    return config, params, tokenizers.Tokenizer.from_file(str(options.checkpoint / "tokenizer.json"))


def run(options):
    """Learns and measures as the options say; returns the figures."""
    labels, examples, train, dev, test = read(options)
    config, params, tokenizer = load(options)
    data = [Data(part, labels, tokenizer, options.max_tokens) for part in (train, dev, test) if part]
    note(
        f"{options.method}: {len(labels)} labels, {len(train)} texts to train on, {len(dev)} to choose by"
    )

    torch.manual_seed(texts.generator(options.seed, "dropout").getrandbits(63))
    adapters = options.rank or 1, options.alpha
    model = Model(options.method, config, params, len(labels), options.seed, *adapters)
    del params
    start = time.perf_counter()
    if options.method == "head":
        for part in data[:2]:
            model.extract(part, options.batch_size)
    learnt = learn(model, data[0], data[1], options)
    seconds = time.perf_counter() - start

    result = {"method": options.method, "settings": settings(options)}
    result |= {"train_texts": len(train), "dev_texts": len(dev), "train_sha256": texts.digest(examples)}
    if options.dev:
        result["dev_sha256"] = texts.digest(dev)
    result |= learnt
    if test:
        predicted, _ = model.classify(data[2], options.batch_size)
        gold = data[2].targets.tolist()
        result |= {
            "test_texts": len(test),
            "test_sha256": texts.digest(test),
            "test_accuracy": round(texts.accuracy(gold, predicted), 6),
            "test_macro_f1": round(texts.macro_f1(gold, predicted), 6),
        }
    return result | {
        "encoder_bytes": stored_bytes(model.encoder, options.stored),
        "head_bytes": stored_bytes(model.head),
        "task_bytes": stored_bytes(model.encoder, options.stored) + stored_bytes(model.head),
        "seconds": round(seconds, 3),
        "peak_rss_bytes": peak_rss(),
        "torch": torch.__version__,
    }


def settings(options):
    """The numbers that decide what is learnt; paths and what the method does not use are left out."""
    unused = {"checkpoint", "train", "dev", "test", "json", "method"}
    if options.dev:
        unused |= {"dev_fraction"}
    if options.method not in RANKS:
        unused |= {"rank"}
    if options.method != "lora":
        unused |= {"alpha"}
    if options.method == "head":
        unused |= {"learning_rate", "encoder_dropout"}
    return {name: value for name, value in vars(options).items() if name not in unused}


def stored_bytes(tensors, stored="f16"):
    """Bytes of what a task brings along."""
    if stored == "int8":
        # Codes, and a scale for each row.
        return sum(tensor.numel() + 2 * (tensor.numel() // tensor.shape[-1]) for tensor in tensors.values())
    return sum(2 * tensor.numel() for tensor in tensors.values())


def peak_rss():
    """Bytes; the kernel counts in KiB, that of macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def note(text):
    print(text, file=sys.stderr, flush=True)


def positive(kind):
    """Parses a finite number above 0."""

    def parse(text):
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    parse.__name__ = "number above 0"
    return parse


def fraction(text):
    value = float(text)
    if not 0.0 <= value < 1.0:
        raise ValueError
    return value


def arguments(words=None):
    """The parsed command line, with the defaults of the method filled in."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add, file = parser.add_argument, pathlib.Path
    add(
        "--checkpoint",
        type=file,
        required=True,
        metavar="DIR",
        help="with config.json and tokenizer.json",
    )
    add("--train", type=file, required=True, metavar="FILE", help="JSONL with `text` and `label`")
    add("--test", type=file, metavar="FILE", help="texts that are only measured, at the end")
    dev = parser.add_mutually_exclusive_group()
    dev.add_argument("--dev", type=file, metavar="FILE", help="texts that choose the epoch")
    dev.add_argument("--dev-fraction", type=fraction, default=0.1, help="or this part of --train (0.1)")
    add("--method", choices=DEFAULTS, required=True)
    add(
        "--epochs",
        type=positive(int),
        help="default: 4; 100 for a head alone, whose epochs cost nothing",
    )
    add(
        "--learning-rate",
        type=positive(float),
        help="the encoder's; default: 1e-4 for full, 1e-3 for lora, 1e-2 for vera, 3e-3 for bitfit",
    )
    add("--head-learning-rate", type=positive(float), help="default: 1e-3; 1e-2 for a head alone")
    add("--batch-size", type=positive(int), default=32)
    add("--max-tokens", type=positive(int), default=64, help="longer texts are cut")
    add("--warmup", type=fraction, default=0.06, help="the part of all steps in which the rates rise")
    add("--dropout", type=fraction, default=0.1, help="on the pooled vector")
    add("--encoder-dropout", type=fraction, default=0.0, help="on hidden states and attention weights")
    add("--rank", type=positive(int), help="of lora (8) and vera (256)")
    add("--stored", choices=("f16", "int8"), default="f16", help="what of the encoder trains, at the end")
    add("--alpha", type=positive(float), default=16.0, help="of lora")
    add("--seed", type=int, default=1, help="decides the dev split, order, dropout and starting values")
    add("--threads", type=positive(int), default=os.cpu_count(), help="default: all processors")
    add("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(words)
    if options.method == "head" and options.learning_rate:
        parser.error(
            "--learning-rate is the encoder's, which does not train: --head-learning-rate is the head's"
        )
    if options.rank and options.method not in RANKS:
        parser.error(f"--rank is of {' and '.join(RANKS)}")
    options.rank = options.rank or RANKS.get(options.method)
    epochs, rate, head_rate = DEFAULTS[options.method]
    options.epochs = options.epochs or epochs
    options.learning_rate = options.learning_rate or rate
    options.head_learning_rate = options.head_learning_rate or head_rate
    return options


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.set_num_interop_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        result = run(options)
    except (texts.DataError, OSError) as error:
        note(error)
        sys.exit(3)
    if options.json:
        print(json.dumps(result))
        return
    best = result["best_epoch"]
    print(f"dev accuracy   {result['dev_accuracy'][best - 1]:.4f} after epoch {best}")
    if "test_accuracy" in result:
        print(f"test accuracy  {result['test_accuracy']:.4f}, macro F1 {result['test_macro_f1']:.4f}")
    print(f"bytes a task   {result['task_bytes']}")
    print(
        f"seconds        {result['seconds']:.0f}, at most {result['peak_rss_bytes'] >> 20} MiB resident"
    )


if __name__ == "__main__":
    main()
