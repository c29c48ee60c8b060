"""A BERT encoder in plain PyTorch: the reference that the Rust side is compared with.

Post-layer-norm BERT, exact (erf) GELU, additive attention mask, parameter names as in a Hugging Face
checkpoint without the `bert.` prefix. It needs torch and safetensors, not transformers. Parameters are a
flat dict name -> tensor, so that masked weights or 64-bit copies can be put in their place.
"""

import json
import pathlib

import torch
import torch.nn.functional as F

# The linear weights that a mask may touch, in the order of the forward pass, relative to a layer.
MASKABLE = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)


def maskable_names(config):
    """Names of the maskable weights, layer by layer."""
    return [
        f"encoder.layer.{layer}.{part}.weight"
        for layer in range(config["num_hidden_layers"])
        for part in MASKABLE
    ]


def load(directory):
    """Config and the parameters that the encoder uses (no pooler, no position_ids), from a checkpoint
    directory (config.json) or a base bundle (base.json)."""
    from safetensors.torch import load_file

    directory = pathlib.Path(directory)
    if (directory / "config.json").exists():
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    else:
        manifest = json.loads((directory / "base.json").read_text(encoding="utf-8"))
        architecture = manifest["architecture"]
        config = {
            "hidden_size": architecture["hidden_size"],
            "num_hidden_layers": architecture["layers"],
            "num_attention_heads": architecture["heads"],
            "vocab_size": architecture["vocab_size"],
            "layer_norm_eps": architecture["layer_norm_eps"],
        }
    params = {
        name.removeprefix("bert."): tensor
        for name, tensor in load_file(directory / "model.safetensors").items()
    }
    params = {
        name: tensor
        for name, tensor in params.items()
        if name.startswith(("embeddings.", "encoder.")) and name != "embeddings.position_ids"
    }
    return config, params


def plain_attention(query, key, value, mask):
    """softmax(q k^T / sqrt(d) + mask) v for [batch, heads, sequence, d] and an additive mask."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + mask
    return scores.softmax(-1) @ value


def sdpa_attention(query, key, value, mask, dropout=0.0):
    """The same through PyTorch's fused operator; `dropout` is for the weights that softmax gives."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def plain_linear(params, name, x):
    """x W^T + b of the linear layer `name`."""
    return F.linear(x, params[name + ".weight"], params[name + ".bias"])


def encode(
    params,
    config,
    input_ids,
    attention_mask,
    token_type_ids,
    attention=plain_attention,
    linear=plain_linear,
    dropout=0.0,
):
    """last_hidden_state [batch, sequence, hidden] from int64 [batch, sequence] inputs.

    `dropout` is BERT's on hidden states, the rate while it trains; `attention` has its own."""
    batch, sequence = input_ids.shape
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    eps = config["layer_norm_eps"]
    dtype = params["embeddings.LayerNorm.weight"].dtype

    def norm(name, x):
        return F.layer_norm(x, (hidden,), params[name + ".weight"], params[name + ".bias"], eps)

    def drop(x):
        return F.dropout(x, dropout) if dropout > 0.0 else x

    def split(x):
        return x.view(batch, sequence, heads, hidden // heads).transpose(1, 2)

    additive = (1.0 - attention_mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min
    positions = torch.arange(sequence, device=input_ids.device)
    x = (
        F.embedding(input_ids, params["embeddings.word_embeddings.weight"])
        + F.embedding(positions, params["embeddings.position_embeddings.weight"])
        + F.embedding(token_type_ids, params["embeddings.token_type_embeddings.weight"])
    )
    x = drop(norm("embeddings.LayerNorm", x))
    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}."
        context = attention(
            split(linear(params, layer + "attention.self.query", x)),
            split(linear(params, layer + "attention.self.key", x)),
            split(linear(params, layer + "attention.self.value", x)),
            additive,
        )
        context = context.transpose(1, 2).reshape(batch, sequence, hidden)
        x = norm(
            layer + "attention.output.LayerNorm",
            drop(linear(params, layer + "attention.output.dense", context)) + x,
        )
        inner = F.gelu(linear(params, layer + "intermediate.dense", x))
        x = norm(
            layer + "output.LayerNorm",
            drop(linear(params, layer + "output.dense", inner)) + x,
        )
    return x


def mean_pool(hidden, attention_mask):
    """Mean over the real tokens: [batch, sequence, hidden] -> [batch, hidden]."""
    weight = attention_mask.to(hidden.dtype)[:, :, None]
    return (hidden * weight).sum(1) / weight.sum(1)


class MaskedWeight(torch.autograd.Function):
    """W where score > 0, else 0. The gradient of a score is that of its mask bit (identity
    straight-through): grad * W, summed over the block that the score stands for. W is frozen.

    The forms below are the fastest of those tried on a CPU: `torch.where` takes ten times as long."""

    @staticmethod
    def forward(ctx, score, weight, rows, cols):
        ctx.save_for_backward(weight)
        ctx.block = rows, cols
        if (rows, cols) == (1, 1):
            # The backward pass of a threshold is exactly "keep where the other is above".
            return torch.ops.aten.threshold_backward(weight, score, 0)
        keep = torch.gt(score, 0, out=torch.empty_like(score))
        blocks = weight.view(keep.shape[0], rows, keep.shape[1], cols)
        return (blocks * keep[:, None, :, None]).view(weight.shape)

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        rows, cols = ctx.block
        grad = grad * weight
        if (rows, cols) != (1, 1):
            outputs, inputs = weight.shape
            grad = grad.view(outputs // rows, rows, inputs // cols, cols).sum((1, 3))
        return grad, None, None, None


def block_of(granularity):
    """(rows, cols) of `weight` or `block:RxC`."""
    if granularity == "weight":
        return 1, 1
    rows, cols = granularity.removeprefix("block:").split("x")
    return int(rows), int(cols)
