"""Tests of the PyTorch yardsticks, on a tiny encoder with random weights; a few seconds.

    "$(benches/step.sh --setup-only)" -m unittest discover benches

Not part of `cargo xtask test`, which never needs PyTorch.
"""

import contextlib
import io
import json
import pathlib
import random
import tempfile
import unittest

import tokenizers
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import bert
import finetune
import split
import texts
import tune

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "one", "two", "three", "four"]
HIDDEN, INNER, LAYERS = 16, 32, 2


def write_checkpoint(directory):
    """An encoder with random weights and a tokenizer of a few words."""
    config = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
    config |= {"vocab_size": len(WORDS), "layer_norm_eps": 1e-12}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator) * 0.2

    tensors = {}
    for kind, count in (("word", len(WORDS)), ("position", 16), ("token_type", 2)):
        tensors[f"embeddings.{kind}_embeddings.weight"] = normal(count, HIDDEN)
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        for part in bert.MASKABLE:
            outputs = INNER if part == "intermediate.dense" else HIDDEN
            inputs = INNER if part == "output.dense" else HIDDEN
            tensors[prefix + part + ".weight"] = normal(outputs, inputs)
            tensors[prefix + part + ".bias"] = normal(outputs)
        norms += [prefix + "attention.output.LayerNorm", prefix + "output.LayerNorm"]
    for norm in norms:
        tensors[norm + ".weight"], tensors[norm + ".bias"] = torch.ones(HIDDEN), torch.zeros(HIDDEN)
    save_file(tensors, directory / "model.safetensors")
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))


def write_examples(path, count, seed):
    """Texts whose label is the one colour in them, whichever its place."""
    generator = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            colour = generator.choice(WORDS[4:7])
            words = generator.choices(WORDS[7:], k=generator.randint(1, 6))
            words.insert(generator.randint(0, len(words)), colour)
            file.write(json.dumps({"text": " ".join(words), "label": colour}) + "\n")


class WithFiles(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = pathlib.Path(temporary.name)
        self.train, self.test = self.directory / "train.jsonl", self.directory / "test.jsonl"
        write_checkpoint(self.directory)
        write_examples(self.train, 200, 1)
        write_examples(self.test, 60, 2)
        torch.set_num_threads(1)
        quiet = contextlib.redirect_stderr(io.StringIO())
        self.said = quiet.__enter__()
        self.addCleanup(quiet.__exit__, None, None, None)

    def options(self, method, *more):
        words = ["--checkpoint", self.directory, "--train", self.train, "--test", self.test]
        words += ["--method", method, "--threads", "1", "--max-tokens", "12", *more]
        return finetune.arguments([str(word) for word in words])

    def model(self, method):
        return finetune.Model(method, *bert.load(self.directory), 3, seed=1)

    def data(self):
        tokenizer = tokenizers.Tokenizer.from_file(str(self.directory / "tokenizer.json"))
        examples = texts.read(self.train)
        return finetune.Data(examples, texts.labels(examples), tokenizer, 12)


class Learning(WithFiles):
    def test_every_method_learns(self):
        rates = {"full": "3e-3", "lora": "1e-2", "vera": "1e-1", "bitfit": "1e-1"}
        for method in finetune.DEFAULTS:
            with self.subTest(method):
                rate = ["--learning-rate", rates[method]] if method in rates else []
                options = self.options(method, "--epochs", "20", *rate)
                result = finetune.run(options)
                losses = result["train_loss"]
                self.assertLess(losses[-1], 0.9 * losses[0])
                self.assertEqual(len(result["dev_accuracy"]), 20)
                self.assertEqual((result["train_texts"], result["dev_texts"]), (180, 20))
                best = list(zip(result["dev_accuracy"], (-x for x in result["dev_loss"])))
                self.assertEqual(result["best_epoch"] - 1, best.index(max(best)))
                if method != "head":  # a random encoder loses the colour, a trained one finds it
                    # Biases alone move little in an encoder as small as this.
                    least = 0.7 if method == "bitfit" else 0.95
                    self.assertGreater(result["test_accuracy"], least)
                    self.assertGreater(result["test_macro_f1"], least)

    def test_a_seed_repeats_and_another_differs(self):
        def losses(seed):
            result = finetune.run(self.options("lora", "--epochs", "2", "--seed", seed))
            return result["train_loss"], result["dev_accuracy"], result["test_accuracy"]

        self.assertEqual(losses("1"), losses("1"))
        self.assertNotEqual(losses("1")[0], losses("2")[0])

    def test_without_a_test_file_none_is_measured(self):
        options = self.options("head", "--epochs", "1")
        options.test = None
        self.assertNotIn("test_accuracy", finetune.run(options))

    def test_encoder_dropout_disturbs_training_alone(self):
        model, data = self.model("full"), self.data()
        with torch.no_grad():
            calm = [model.pool(data, [0, 1, 2]) for _ in range(2)]
            shaken = [model.pool(data, [0, 1, 2], 0.5) for _ in range(2)]
        self.assertTrue(torch.equal(*calm))
        self.assertFalse(torch.equal(*shaken))

    def test_what_does_not_train_does_not_change(self):
        _, before = bert.load(self.directory)
        for method in finetune.DEFAULTS:
            with self.subTest(method):
                options, data, model = (
                    self.options(method, "--epochs", "1"),
                    self.data(),
                    self.model(method),
                )
                head = model.state()["head.weight"]
                finetune.learn(model, data, data, options)
                changed = {n for n, tensor in before.items() if not torch.equal(model.params[n], tensor)}
                self.assertEqual(bool(changed), method in ("full", "bitfit"))
                if method == "bitfit":
                    self.assertTrue(all(name.endswith(".bias") for name in changed))
                    self.assertEqual(changed, set(model.encoder))
                self.assertFalse(torch.equal(model.head["head.weight"], head))
                if method == "lora":
                    moved = [
                        t.abs().max() > 0 for n, t in model.encoder.items() if n.endswith("lora_b")
                    ]
                    self.assertTrue(all(moved) and len(moved) == 6 * LAYERS)
                # The file is a map of the tensors that were read: it must not change either.
                _, after = bert.load(self.directory)
                self.assertTrue(all(torch.equal(after[name], before[name]) for name in before))


class Adapters(WithFiles):
    def test_they_start_as_nothing_and_equal_the_merged_weights(self):
        model, plain, data = self.model("lora"), self.model("head"), self.data()
        with torch.no_grad():
            self.assertTrue(torch.equal(model.pool(data, [0, 5]), plain.pool(data, [0, 5])))
            for tensor in model.encoder.values():
                tensor.normal_(std=0.1)
            for name in bert.maskable_names(model.config):
                layer = name.removesuffix(".weight")
                low, high = model.encoder[layer + ".lora_a"], model.encoder[layer + ".lora_b"]
                plain.params[name] += 16 / 8 * high @ low
            torch.testing.assert_close(model.pool(data, [0, 5]), plain.pool(data, [0, 5]))

    def test_rank_8_takes_663_kilobytes(self):
        config = {"hidden_size": 384, "num_hidden_layers": 6}
        shapes = {name: (384, 384) for name in bert.maskable_names(config)}
        for layer in range(6):
            shapes[f"encoder.layer.{layer}.intermediate.dense.weight"] = (1536, 384)
            shapes[f"encoder.layer.{layer}.output.dense.weight"] = (384, 1536)
        params = {name: torch.zeros(shape) for name, shape in shapes.items()}
        model = finetune.Model("lora", config, params, 6, seed=1)
        self.assertEqual(finetune.stored_bytes(model.encoder), 663_552)
        self.assertEqual(finetune.stored_bytes(model.head), 2 * (6 * 384 + 6))

    def test_measured_as_stored(self):
        model = self.model("lora")
        state = {name: torch.full_like(tensor, 0.1) for name, tensor in model.trained.items()}
        model.restore_as_stored(state)
        self.assertEqual(model.head["head.bias"][0].item(), torch.tensor(0.1).half().item())


    def test_int8_rounds_each_row_of_the_encoder_alone(self):
        model = self.model("lora")
        state = {name: torch.randn_like(tensor) for name, tensor in model.trained.items()}
        model.restore_as_stored(state, "int8")
        for name, tensor in model.encoder.items():
            steps = state[name].abs().amax(-1, keepdim=True) / 127.0
            off = (tensor.detach() - state[name]).abs()
            self.assertTrue((off <= 0.51 * steps + 1e-3 * state[name].abs()).all() and off.max() > 0)
        self.assertTrue(torch.equal(model.head["head.bias"].detach(), state["head.bias"].half().float()))
        sizes = [(t.numel(), t.numel() // t.shape[-1]) for t in model.encoder.values()]
        expected = sum(values + 2 * rows for values, rows in sizes)
        self.assertEqual(finetune.stored_bytes(model.encoder, "int8"), expected)
        self.assertEqual(finetune.in_int8(torch.zeros(3)).tolist(), [0.0] * 3)

    def test_vera_starts_as_nothing_and_shares_its_matrices(self):
        model, plain, data = self.model("vera"), self.model("head"), self.data()
        with torch.no_grad():
            self.assertTrue(torch.equal(model.pool(data, [0, 5]), plain.pool(data, [0, 5])))
            for tensor in model.encoder.values():
                tensor.normal_(std=0.1)
            a, b = model.shared
            for name in bert.maskable_names(model.config):
                layer, (outputs, inputs) = name.removesuffix(".weight"), plain.params[name].shape
                low = model.encoder[layer + ".vera_d"][:, None] * a[:, :inputs]
                plain.params[name] += model.encoder[layer + ".vera_b"][:, None] * (b[:outputs] @ low)
            torch.testing.assert_close(model.pool(data, [0, 5]), plain.pool(data, [0, 5]))


class Batches(WithFiles):
    def test_padding_changes_nothing(self):
        model, data = self.model("full"), self.data()
        by_length = sorted(range(len(data)), key=data.lengths.__getitem__)
        pair = [by_length[0], by_length[-1]]
        with torch.no_grad():
            together = model.pool(data, pair)
            alone = torch.cat([model.pool(data, [index]) for index in pair])
        torch.testing.assert_close(together, alone)

    def test_each_text_comes_once_beside_its_like(self):
        lengths = [5 + i * 7 % 60 for i in range(1000)]
        batches = texts.epoch_batches(lengths, 16, 1, 0)
        self.assertEqual(sorted(i for batch in batches for i in batch), list(range(1000)))
        padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
        self.assertLess(padded, 1.1 * sum(lengths))
        self.assertEqual(batches, texts.epoch_batches(lengths, 16, 1, 0))
        self.assertNotEqual(batches, texts.epoch_batches(lengths, 16, 1, 1))

    def test_rates_rise_then_fall(self):
        factors = [finetune.factor(step, 100, 0.06) for step in range(100)]
        self.assertEqual(factors[5], 1.0)
        self.assertEqual(factors, sorted(factors[:6]) + sorted(factors[6:], reverse=True))
        self.assertTrue(factors[0] > 0.0 and 0.0 < factors[-1] < 0.02)


class Data(WithFiles):
    def test_the_dev_split_is_disjoint(self):
        examples = texts.read(self.train)
        for seed in range(20):
            rest, held = texts.split(examples, 0.1, seed)
            lines = [e.line for e in rest], [e.line for e in held]
            self.assertEqual((len(rest), len(held)), (180, 20))
            self.assertFalse(set(lines[0]) & set(lines[1]))
            self.assertEqual(sorted(lines[0] + lines[1]), list(range(1, 201)))
            self.assertTrue(all(part == sorted(part) for part in lines))

    def test_written_splits_are_those_of_a_run(self):
        directory = self.directory / "splits"
        counts = split.write_splits(self.train, 0.25, [1, 2], directory)
        examples = texts.read(self.train)
        for seed in (1, 2):
            files = [texts.read(directory / f"{name}-{seed}.jsonl") for name in ("train", "dev")]
            self.assertEqual(counts[seed], tuple(map(len, files)))
            for file, part in zip(files, texts.split(examples, 0.25, seed)):
                self.assertEqual(texts.digest(file), texts.digest(part))
        self.assertEqual(len(list(directory.iterdir())), 4, "nothing unfinished is left")

    def test_the_digest_is_that_of_the_canonical_file(self):
        # From exporter/src/data: text before label, no spaces, nothing escaped that need not be.
        canonical = '{"text":"a \\"quoted\\" text","label":"x"}\n{"text":"ümlaut\u2028","label":"y"}\n'
        path = self.directory / "canonical.jsonl"
        path.write_bytes(canonical.encode())
        self.assertEqual(texts.digest(texts.read(path)), tune.sha256(path))

    def test_wrong_lines_are_named(self):
        path = self.directory / "wrong.jsonl"
        good = '{"text":"a","label":"x"}\n'
        for line, words in (
            ("{", "not JSON"),
            ("[]", "not a JSON object"),
            ('{"label":"x"}', "field text"),
            ('{"text":" ","label":"x"}', "field text"),
            ('{"text":"a","label":0.5}', "field label"),
        ):
            path.write_text(good + "\n" + line + "\n", encoding="utf-8")
            with (
                self.subTest(line),
                self.assertRaisesRegex(texts.DataError, f"wrong.jsonl:3: .*{words}"),
            ):
                texts.read(path)
        path.write_bytes(b"\xff")
        with self.assertRaisesRegex(texts.DataError, "not UTF-8 at byte 0"):
            texts.read(path)

    def test_labels_that_training_lacks_are_named(self):
        with open(self.test, "a", encoding="utf-8") as file:
            file.write('{"text":"a","label":"violet"}\n')
        with self.assertRaisesRegex(texts.DataError, "test.jsonl:61: .*violet"):
            finetune.run(self.options("head", "--epochs", "1"))

    def test_scores_are_those_of_scikit_learn(self):
        gold, predicted = [0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 1, 1, 2, 2, 2, 0]
        self.assertEqual(texts.accuracy(gold, predicted), 0.625)
        self.assertAlmostEqual(texts.macro_f1(gold, predicted), 11 / 18)
        self.assertAlmostEqual(texts.macro_f1([0, 0], [0, 1]), 1 / 3)


class Tuning(WithFiles):
    def setUp(self):
        super().setUp()
        self.output = self.directory / "runs.jsonl"

    def tune(self, *rates):
        words = ["--checkpoint", self.directory, "--train", self.train, "--test", self.test]
        words += ["--method", "head", "--output", self.output, "--seeds", "1", "2"]
        words += [
            "--learning-rates",
            *rates,
            "--",
            "--epochs",
            "3",
            "--threads",
            "1",
            "--max-tokens",
            "12",
        ]
        return tune.tune(tune.arguments([str(word) for word in words]))

    def test_it_chooses_by_the_dev_split_and_goes_on_where_it_was(self):
        result = self.tune("1e-5", "1e-1")
        self.assertEqual(result["learning_rate"], 1e-1)
        lines = self.output.read_text(encoding="utf-8").splitlines()
        runs = [json.loads(line) for line in lines]
        self.assertEqual([run["run"]["test"] is None for run in runs], [True, True, False, False])
        self.assertEqual(["test_accuracy" in run["result"] for run in runs], [False, False, True, True])
        self.assertEqual([run["run"]["learning_rate"] for run in runs], [1e-5, 1e-1, 1e-1, 1e-1])
        # Cut within the last line, as by a kill: that run alone is done again.
        self.output.write_text("\n".join(lines)[:-40], encoding="utf-8")
        again = self.tune("1e-5", "1e-1")
        self.assertEqual(again["test_accuracy"], result["test_accuracy"])
        self.assertEqual(self.output.read_text(encoding="utf-8").splitlines()[:3], lines[:3])
        self.assertEqual(len(self.output.read_text(encoding="utf-8").splitlines()), 4)

    def test_equal_accuracies_are_told_apart_by_loss_then_rate(self):
        rows = [(1e-3, 0.9, 0.5), (3e-4, 0.9, 0.4), (1e-4, 0.9, 0.4), (1e-2, 0.8, 0.1)]
        rows = [dict(zip(("learning_rate", "dev_accuracy", "dev_loss"), row)) for row in rows]
        self.assertEqual(tune.choose(rows)["learning_rate"], 1e-4)


class Attention(unittest.TestCase):
    def test_both_forms_agree(self):
        query, key, value = torch.randn(3, 2, 4, 5, 8, generator=torch.Generator().manual_seed(3))
        mask = F.pad(torch.zeros(2, 1, 1, 3), (0, 2), value=torch.finfo(torch.float32).min)
        plain = bert.plain_attention(query, key, value, mask)
        torch.testing.assert_close(bert.sdpa_attention(query, key, value, mask), plain)


if __name__ == "__main__":
    unittest.main()
