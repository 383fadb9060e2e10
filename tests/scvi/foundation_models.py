"""Small models with random weights in the files of SCimilarity, Geneformer and scGPT, as their makers publish them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import torch


def files_of(folder: Path) -> dict[str, bytes]:
    """What a model's folder holds, by file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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


def save_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """By the format's description: the header's length, a JSON of types, shapes and places, the bytes."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, values in tensors.items():
        held = values.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(held)]}
        data += held
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def save_geneformer(
    folder: Path, genes: list[str], special: bool = True, longest: int = 64, size: int = 16, n_layers: int = 3, seed: int = 0
) -> Path:
    """A Geneformer of these genes: of the second release (`special`: with tokens before and behind a cell's genes) or the first."""
    rng = np.random.default_rng(seed)
    names = ["<pad>", "<mask>", *(["<cls>", "<eos>"] if special else []), *genes]
    config = {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "hidden_act": "gelu" if special else "relu",
        "hidden_size": size,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * size,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": longest,
        "type_vocab_size": 2,
        "vocab_size": len(names),
        "pad_token_id": 0,
        "transformers_version": "4.37.2",
    }

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": rng.normal(1, 0.2, size), f"{name}.bias": rng.normal(0, 0.2, size)}

    def linear(name: str, n_out: int, n_in: int) -> dict[str, np.ndarray]:
        return {f"{name}.weight": rng.normal(0, 0.3, (n_out, n_in)), f"{name}.bias": rng.normal(0, 0.2, n_out)}

    embeddings = {"word": len(names), "position": longest, "token_type": 2}
    weights = {f"bert.embeddings.{name}_embeddings.weight": rng.normal(0, 1, (n, size)) for name, n in embeddings.items()}
    weights |= norm("bert.embeddings.LayerNorm")
    for number in range(n_layers):
        layer = f"bert.encoder.layer.{number}"
        for name in ("query", "key", "value"):
            weights |= linear(f"{layer}.attention.self.{name}", size, size)
        weights |= linear(f"{layer}.attention.output.dense", size, size) | norm(f"{layer}.attention.output.LayerNorm")
        weights |= linear(f"{layer}.intermediate.dense", 2 * size, size) | linear(f"{layer}.output.dense", size, 2 * size)
        weights |= norm(f"{layer}.output.LayerNorm")
    weights |= linear("cls.predictions.transform.dense", size, size) | norm("cls.predictions.transform.LayerNorm")
    weights |= {"cls.predictions.bias": np.zeros(len(names))}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_safetensors(folder / "model.safetensors", weights)
    (folder / "token_dictionary_gc104M.pkl").write_bytes(pickle.dumps({name: token for token, name in enumerate(names)}))
    medians = {gene: np.float64(median) for gene, median in zip(genes, rng.uniform(0.5, 5, len(genes)))}
    (folder / "gene_median_dictionary_gc104M.pkl").write_bytes(pickle.dumps(medians))
    return folder


def save_scgpt(folder: Path, genes: list[str], size: int = 16, n_layers: int = 2, flash: bool = False, seed: int = 0) -> Path:
    """A scGPT of these genes; `flash`: with the names that flash attention has for its layers."""
    rng = np.random.default_rng(seed)
    vocabulary = {word: token for token, word in enumerate([*genes, "<pad>", "<cls>", "<eoc>"])}

    def tensor(*shape: int, mean: float = 0.0, scale: float = 0.3) -> torch.Tensor:
        return torch.from_numpy(rng.normal(mean, scale, shape).astype(np.float32))

    def norm(name: str) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": tensor(size, mean=1), f"{name}.bias": tensor(size)}

    def linear(name: str, n_out: int, n_in: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": tensor(n_out, n_in), f"{name}.bias": tensor(n_out)}

    weights = {"encoder.embedding.weight": tensor(len(vocabulary), size, scale=1)} | norm("encoder.enc_norm")
    weights |= linear("value_encoder.linear1", size, 1) | linear("value_encoder.linear2", size, size) | norm("value_encoder.norm")
    for number in range(n_layers):
        layer = f"transformer_encoder.layers.{number}"
        joint = f"{layer}.self_attn." + ("Wqkv." if flash else "in_proj_")
        weights |= {f"{joint}weight": tensor(3 * size, size), f"{joint}bias": tensor(3 * size)}
        weights |= linear(f"{layer}.self_attn.out_proj", size, size) | norm(f"{layer}.norm1") | norm(f"{layer}.norm2")
        weights |= linear(f"{layer}.linear1", 2 * size, size) | linear(f"{layer}.linear2", size, 2 * size)
    weights |= linear("decoder.fc.0", size, size)
    folder.mkdir(parents=True)
    torch.save(weights, folder / "best_model.pt")
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    sizes = {"embsize": size, "nheads": 4, "d_hid": 2 * size, "nlayers": n_layers, "n_layers_cls": 3, "dropout": 0.2}
    (folder / "args.json").write_text(json.dumps(sizes | {"pad_token": "<pad>", "pad_value": -2, "n_bins": 51}))
    return folder
