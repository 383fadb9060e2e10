"""BERT (Devlin et al. 2019, https://doi.org/10.18653/v1/N19-1423) by torch's own transformer layers, and where its weights go there."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_LAYER = {
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
    "output.LayerNorm": "norm2",
}


class Bert(nn.Module):
    """The embeddings of tokens and places, and the layers up to one before the last.

    Its library embeds cells by that layer, as the last is bent on the task of training (Theodoris et al. 2023).
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        size, eps = config["hidden_size"], config.get("layer_norm_eps", 1e-12)
        self.words = nn.Embedding(config["vocab_size"], size)
        self.places = nn.Embedding(config["max_position_embeddings"], size)
        self.kind = nn.Parameter(torch.empty(size))  # of a first sentence, and there is no second
        self.norm = nn.LayerNorm(size, eps=eps)
        layer = nn.TransformerEncoderLayer(
            size,
            config["num_attention_heads"],
            config["intermediate_size"],
            dropout=0,
            activation=config["hidden_act"],
            layer_norm_eps=eps,
            batch_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, config["num_hidden_layers"] - 1, enable_nested_tensor=False)

    def forward(self, tokens: torch.Tensor, filled: torch.Tensor) -> torch.Tensor:
        """Return the states of tokens (cells x tokens): cells x tokens x units."""
        embedded = self.words(tokens) + self.places.weight[: tokens.shape[1]] + self.kind
        return self.encoder(self.norm(embedded), src_key_padding_mask=~filled)


def weights_of(held: dict[str, torch.Tensor], config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that `Bert` takes, of those in a file, where they stand with or without a head of training around them."""
    held = {name.removeprefix("bert."): tensor for name, tensor in held.items()}
    kept = {
        "words.weight": held["embeddings.word_embeddings.weight"],
        "places.weight": held["embeddings.position_embeddings.weight"],
        "kind": held["embeddings.token_type_embeddings.weight"][0],
    }
    for part in ("weight", "bias"):
        kept[f"norm.{part}"] = held[f"embeddings.LayerNorm.{part}"]
        for number in range(config["num_hidden_layers"] - 1):
            old, new = f"encoder.layer.{number}", f"encoder.layers.{number}"
            inputs = [held[f"{old}.attention.self.{name}.{part}"] for name in ("query", "key", "value")]
            kept[f"{new}.self_attn.in_proj_{part}"] = torch.cat(inputs)
            kept |= {f"{new}.{to}.{part}": held[f"{old}.{name}.{part}"] for name, to in _LAYER.items()}
    return {name: tensor.float() for name, tensor in kept.items()}
