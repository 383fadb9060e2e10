"""Small models with random weights in the files of SCimilarity, Geneformer and scGPT, as their makers publish them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch


def save_scimilarity(folder: Path, genes: list[str], widths: tuple[int, ...] = (24, 16, 8), seed: int = 0) -> Path:
    """A SCimilarity model: hidden layers of these widths, and the latent's as the last."""
    rng = np.random.default_rng(seed)

    def tensor(*shape: int, mean: float = 0.0, scale: float = 0.2) -> torch.Tensor:
        return torch.from_numpy(rng.normal(mean, scale, shape).astype(np.float32))

    weights, sizes = {}, [len(genes), *widths]
    for number, (n_in, n_out) in enumerate(zip(sizes[:-2], sizes[1:-1])):
        weights |= {f"network.{number}.1.weight": tensor(n_out, n_in), f"network.{number}.1.bias": tensor(n_out)}
        weights |= {f"network.{number}.2.weight": tensor(n_out, mean=1), f"network.{number}.2.bias": tensor(n_out)}
        weights |= {
            f"network.{number}.2.running_mean": tensor(n_out),
            f"network.{number}.2.running_var": tensor(n_out).abs() + 0.5,
        }
        weights |= {f"network.{number}.2.num_batches_tracked": torch.tensor(7), f"network.{number}.3.weight": torch.tensor([0.3])}
    last = f"network.{len(widths) - 1}"
    weights |= {f"{last}.weight": tensor(sizes[-1], sizes[-2]), f"{last}.bias": tensor(sizes[-1])}
    folder.mkdir(parents=True)
    torch.save({"state_dict": weights}, folder / "encoder.ckpt")
    (folder / "layer_sizes.json").write_text(json.dumps({name: list(value.shape) for name, value in weights.items()}))
    (folder / "gene_order.tsv").write_text("\n".join(genes))
    (folder / "label_ints.csv").write_text(",0\n0,B cell\n1,T cell\n")
    return folder
