"""scGPT's encoder of cells by torch's own transformer layers, and where its weights go there."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# As the library cuts the values off, which bins never reach.
_GREATEST = 512
_NAMES = {
    "encoder.embedding.": "genes.",
    "encoder.enc_norm.": "norm.",
    "value_encoder.linear1.": "values.0.",
    "value_encoder.linear2.": "values.2.",
    "value_encoder.norm.": "values.3.",
    "transformer_encoder.": "encoder.",
}


class Encoder(nn.Module):
    """Embeddings of genes and of their values, added up; layers of attention between them, in no order."""

    def __init__(self, n_tokens: int, settings: dict[str, Any]) -> None:
        super().__init__()
        size = settings["embsize"]
        self.genes, self.norm = nn.Embedding(n_tokens, size), nn.LayerNorm(size)
        self.values = nn.Sequential(nn.Linear(1, size), nn.ReLU(), nn.Linear(size, size), nn.LayerNorm(size))
        layer = nn.TransformerEncoderLayer(size, settings["nheads"], settings["d_hid"], dropout=0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, settings["nlayers"], enable_nested_tensor=False)

    def forward(self, tokens: torch.Tensor, values: torch.Tensor, filled: torch.Tensor) -> torch.Tensor:
        """Return the states of tokens (cells x tokens) that have these values: cells x tokens x units."""
        embedded = self.norm(self.genes(tokens)) + self.values(values.clamp(max=_GREATEST)[..., None])
        return self.encoder(embedded, src_key_padding_mask=~filled)


def weights_of(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights that `Encoder` takes, of those in a file, without what decodes; layers may be those of flash attention."""
    kept = {}
    for name, tensor in held.items():
        for old, new in _NAMES.items():
            if name.startswith(old):
                kept[new + name.removeprefix(old).replace("Wqkv.", "in_proj_")] = tensor.float()
    return kept
