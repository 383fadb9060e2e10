"""The three files that the families of scArches save, read inertly into the start of a card.

`attr.pkl` holds the model's public attributes (their names end in ``_``), `model_params.pt` its weights and `var_names.csv`
its genes, one a line and without a header. None of them names the family: the attributes tell it.
"""

from __future__ import annotations

from ...common.errors import RefmapError
from ...models.card import ModelCard, texts
from ...models.facts import FACTS
from ...models.folder import ModelFolder

ATTRIBUTES, WEIGHTS, GENES = FILES = ("attr.pkl", "model_params.pt", "var_names.csv")


def attributes_of(folder: ModelFolder) -> dict:
    """The model's attributes, inert; empty where the folder holds none."""
    attributes = folder.value(ATTRIBUTES)
    return attributes if isinstance(attributes, dict) else {}


def has_attributes(folder: ModelFolder, *names: str, without: tuple[str, ...] = ()) -> bool:
    """Whether the model has all of these attributes, and none of `without`."""
    attributes = attributes_of(folder)
    return set(names) <= set(attributes) and not set(without) & set(attributes)


def start_card(folder: ModelFolder, class_name: str) -> ModelCard:
    """A card with what all of these models' files say: the class, and the genes in the model's order.

    Raises
    ------
    RefmapError
        If one of the three files is missing or damaged.
    """
    missing = [name for name in FILES if not folder.has(name)]
    if missing:
        raise RefmapError(f"{folder.shown} lacks {', '.join(missing)}, without which no {class_name} model can be loaded.")
    # Looked into for what its pickle names, and so that a truncated file is found before anything else is done.
    if not isinstance(folder.value(WEIGHTS), dict):
        raise RefmapError(f"{folder.show(WEIGHTS)} holds no weights of a model: copy it again from where it came from.")
    card = ModelCard(model=folder.shown, class_name=class_name)
    card.genes = read_genes(folder)
    return card


def read_genes(folder: ModelFolder) -> list[str]:
    """The genes of `var_names.csv`, in the model's order.

    Read line by line: NumPy's reader of text, which the library uses, takes a ``#`` in a name for a comment.
    """
    try:
        lines = (folder.path / GENES).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise RefmapError(f"{folder.show(GENES)} is no text: copy it again from where it came from.") from None
    return [line.strip() for line in lines if line.strip()]


def check_genes(card: ModelCard, folder: ModelFolder, n_genes: object) -> None:
    """Raise `RefmapError` unless the model has `n_genes`, as its attributes say, and none twice; nor those that `refmap.yaml` gives."""
    if n_genes != len(card.genes):
        raise RefmapError(
            f"{folder.show(GENES)} names {len(card.genes)} genes, but the model has {n_genes}: copy the model again."
        )
    given = texts(folder.facts.get("genes", card.genes))
    if n_genes != len(given):
        raise RefmapError(
            f"{folder.show(FACTS)} lists {len(given)} genes, but the model has {n_genes}: give them all, in its order, or leave "
            "'genes' out."
        )
    for name, genes in ((GENES, card.genes), (FACTS, given)):
        if len(set(genes)) != len(genes):
            twice = next(gene for gene in genes if genes.count(gene) > 1)
            raise RefmapError(f"{folder.show(name)} names the gene '{twice}' twice, so its columns cannot be told apart.")


def read_conditions(card: ModelCard, folder: ModelFolder) -> None:
    """Fill in the batch column and its batches, for models of one condition (trVAE, expiMap).

    Raises
    ------
    RefmapError
        If the model has none: the library's surgery adds nothing but conditions.
    """
    attributes = attributes_of(folder)
    card.batch_key, card.batches = attributes.get("condition_key_"), texts(attributes.get("conditions_"))
    if card.batch_key is None or not card.batches:
        raise RefmapError(
            f"{folder.shown} was trained without a batch column, so surgery has nothing to add: "
            "train the reference with a 'condition_key'."
        )
    card.batch_key, card.surgery_ready = str(card.batch_key), True


def input_of(recon_loss: object) -> str:
    """What X must hold for a model with this reconstruction loss: counts, or log-normalised values for ``mse``."""
    return "lognorm" if recon_loss == "mse" else "counts"
