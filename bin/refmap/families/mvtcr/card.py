"""The card of an mvTCR model, from its inert file and from `refmap.yaml`.

The library saves one file: settings, weights and the numbers of the amino acids. Genes and conditions have no names in it.
"""

from __future__ import annotations

from typing import Any

from ...common.errors import RefmapError
from ...models.card import ModelCard, texts
from ...models.facts import FACTS
from ...models.folder import ModelFolder
from ...models.pickles import Tensor

FILE = "model.pt"
# What the library puts behind the column of obs whose one-hot matrix holds the conditions.
ONE_HOT = "_ohe"
# The models of RNA and receptors, by the library's names, and whether a cell without a receptor has an embedding.
NAMES = {"poe": "PoE", "moe": "MoE", "separate": "concat"}
ALONE = ("poe", "moe")


def is_mvtcr(folder: ModelFolder) -> bool:
    saved = folder.value(FILE)
    return isinstance(saved, dict) and {"state_dict", "params_architecture", "aa_to_id", "model_type"} <= set(saved)


def kind_of(saved: dict) -> str:
    """The kind of a saved model: a key of `NAMES`, or what else its file names."""
    kind = str(saved["model_type"]).lower().removeprefix("debug_").replace("_supervised", "")
    return "separate" if kind == "concat" else kind


def mvtcr_card(folder: ModelFolder) -> ModelCard:
    """Raises `RefmapError` for a model that is incomplete, or that has not both RNA and receptors."""
    saved = folder.value(FILE)
    parameters, kind = saved["params_architecture"], kind_of(saved)
    if kind not in NAMES or not parameters.get("rna") or not parameters.get("tcr"):
        raise RefmapError(
            f"{folder.shown} is an mvTCR of '{saved['model_type']}' alone: refmap maps those of RNA and receptors ("
            f"{', '.join(NAMES.values())}); of RNA alone, train a reference of another family."
        )
    card = ModelCard(model=folder.shown, class_name=f"mvTCR {NAMES[kind]}", input="lognorm")
    card.n_latent = int(parameters["joint"]["zdim"])
    card.genes = _genes(folder, int(parameters["rna"]["xdim"]))
    card.receptors = "taken" if kind in ALONE else "needed"
    card.adds = ["receptor_type", "receptor_subtype", "chain_pairing", "clone_id", "embedded_by"]
    _read_conditions(card, folder, saved)
    if "normalization" not in folder.facts:
        card.warnings.append(
            f"{folder.shown} lacks how its data was normalised: give log-normalised values of the same kind, or say so in {FACTS} "
            "beside it as 'normalization'."
        )
    if saved.get("label_key"):
        card.warnings.append(
            f"{folder.shown} has a classifier of '{saved['label_key']}', whose labels have no names in its file: it is kept and not used."
        )
    return card


def _genes(folder: ModelFolder, n_genes: int) -> list[str]:
    genes = texts(folder.facts.get("genes"))
    if not genes:
        raise RefmapError(
            f"{folder.shown} is an mvTCR as its library saves it, without the names of its {n_genes:,} genes: put it into a folder, "
            f"and list them there in order as 'genes' in a file {FACTS}, and its conditions as 'batches'."
        )
    if len(genes) != n_genes:
        raise RefmapError(
            f"{folder.show(FACTS)} lists {len(genes):,} genes, but the model has {n_genes:,}: give them all, in its order."
        )
    if len(set(genes)) != len(genes):
        twice = next(gene for gene in genes if genes.count(gene) > 1)
        raise RefmapError(f"{folder.show(FACTS)} names the gene '{twice}' twice, so its columns cannot be told apart.")
    return genes


def n_conditions(saved: dict[str, Any]) -> int:
    """How many conditions the weights have room for; what the settings say is not kept up by the library's own surgery."""
    embedding = saved["state_dict"].get("cond_emb.weight")
    if embedding is not None:
        return int(embedding.shape[0])
    joint = saved["params_architecture"]["joint"]
    return int(joint.get("num_conditional_labels") or 0) if saved.get("conditional") else 0


def _read_conditions(card: ModelCard, folder: ModelFolder, saved: dict) -> None:
    known = saved["state_dict"].get("cond_emb.weight")
    if known is not None and not isinstance(known, Tensor):
        raise RefmapError(f"{folder.show(FILE)} holds no weights of its conditions: copy it again from where it came from.")
    number = n_conditions(saved)
    if not number:
        card.warnings.append(
            f"{folder.shown} was trained without conditions: surgery has nothing to add, and the query is embedded as the reference would."
        )
        return
    card.batch_key = folder.facts.get("batch_key") or str(saved["conditional"]).removesuffix(ONE_HOT)
    card.batches, card.surgery_ready = texts(folder.facts.get("batches")), True
    if not card.batches:
        card.batches = [str(condition) for condition in range(number)]
        card.warnings.append(
            f"{folder.shown} does not say what its conditions are: they stay numbers, unless {FACTS} beside it names them as 'batches'."
        )
    if len(set(card.batches)) != number:
        raise RefmapError(
            f"{folder.show(FACTS)} names {len(set(card.batches))} batches, but the model has {number} conditions: name each once, in the "
            "order of their columns."
        )
