"""Records what PyTorch computes with all-MiniLM-L6-v2, for the tests that run the real base.

Run, with torch 2.9.1 and safetensors installed and the checkpoint directory at hand:

    python benches/reference_minilm.py CHECKPOINT_DIR

It writes tests/fixtures/minilm_reference.json: the token ids and mask of one padded batch, for every real
token the first hidden values, for every text the first values of the mean-pooled vector. Computed in 64-bit
floats from the f32 weights and rounded to 7 digits, so it is the true value to f32 rounding.
"""

import argparse
import hashlib
import json
import pathlib

import torch

import bert

# Fixed ids of the uncased BERT vocabulary; the texts are for the reader (and for a tokenizer test).
BATCH = [
    (
        "What is the capital of Peru?",
        [101, 2054, 2003, 1996, 3007, 1997, 7304, 1029, 102],
    ),
    (
        "A warm and funny film, and one of the best of the year.",
        [101, 1037, 4010, 1998, 6057, 2143, 1010, 1998, 2028, 1997, 1996, 2190]
        + [1997, 1996, 2095, 1012, 102],
    ),
    ("Terrible.", [101, 6659, 1012, 102]),
]
HIDDEN_VALUES = 8
POOLED_VALUES = 16


def rounded(tensor):
    """Nested lists of numbers with 7 significant digits."""
    if tensor.dim() == 0:
        return float(f"{tensor.item():.7g}")
    return [rounded(row) for row in tensor]


def check_texts(directory):
    """The ids must be what the checkpoint's vocabulary says about the texts (no word is split)."""
    tokenizer = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    for text, ids in BATCH:
        spaced = "".join(f" {c} " if c in ".,?" else c for c in text.lower())
        expected = [vocab[token] for token in ["[CLS]", *spaced.split(), "[SEP]"]]
        assert ids == expected, (text, ids, expected)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=pathlib.Path, help="directory with config.json and weights")
    root = pathlib.Path(__file__).resolve().parent.parent
    default = root / "tests" / "fixtures" / "minilm_reference.json"
    parser.add_argument("-o", "--output", type=pathlib.Path, default=default)
    arguments = parser.parse_args()

    check_texts(arguments.checkpoint)
    config, params = bert.load(arguments.checkpoint)
    sequence = max(len(ids) for _, ids in BATCH)
    input_ids = torch.zeros(len(BATCH), sequence, dtype=torch.int64)
    mask = torch.zeros_like(input_ids)
    for row, (_, ids) in enumerate(BATCH):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
    with torch.no_grad():
        exact = {name: tensor.double() for name, tensor in params.items()}
        hidden = bert.encode(exact, config, input_ids, mask, torch.zeros_like(mask))
        single = bert.encode(params, config, input_ids, mask, torch.zeros_like(mask))
        pooled = bert.mean_pool(hidden, mask)
    real = mask.bool()
    print(f"f32 differs by at most {(single - hidden)[real].abs().max().item():.2e}")

    weights = (arguments.checkpoint / "model.safetensors").read_bytes()
    record = {
        "made_by": "benches/reference_minilm.py",
        "torch": torch.__version__.split("+")[0],
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "texts": [text for text, _ in BATCH],
        "input_ids": input_ids.tolist(),
        "attention_mask": mask.tolist(),
        "hidden": [
            rounded(hidden[row, : len(ids), :HIDDEN_VALUES]) for row, (_, ids) in enumerate(BATCH)
        ],
        "pooled": rounded(pooled[:, :POOLED_VALUES]),
    }
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in record.items())
    arguments.output.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    print(f"{arguments.output.name}: {arguments.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
