"""The card of an expiMap, from its inert files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ...common.errors import RefmapError
from ...models.card import ModelCard
from ...models.facts import FACTS
from ...models.folder import ModelFolder
from ..scarches.files import attributes_of, check_genes, has_attributes, input_of, read_conditions, start_card


def is_expimap(folder: ModelFolder) -> bool:
    return has_attributes(folder, "condition_key_", "mask_", "latent_dim_", without=("prototypes_labeled_",))


@dataclass(frozen=True)
class Programs:
    """How many gene programmes of each kind a model has.

    They stand in its latent in this order, whatever the order in which they were learned: those of the reference
    (`main`), then those that queries brought with genes (`constrained`), then those that they found (`unconstrained`).
    """

    main: int
    constrained: int = 0
    unconstrained: int = 0

    @property
    def n(self) -> int:
        return self.main + self.constrained + self.unconstrained

    @property
    def kinds(self) -> list[str]:
        """What each latent dimension is."""
        kinds = {"reference": self.main, "constrained": self.constrained, "unconstrained": self.unconstrained}
        return [kind for kind, count in kinds.items() for _ in range(count)]


def programs_in(attributes: dict) -> Programs:
    """The programmes of a saved model; those of early versions lack the attributes of new ones."""
    return Programs(int(attributes["latent_dim_"]), int(attributes.get("n_ext_m_") or 0), int(attributes.get("n_ext_") or 0))


def expimap_card(folder: ModelFolder) -> ModelCard:
    """Raises `RefmapError` for a model that is incomplete, or has no batches, or not as many names as programmes."""
    card, attributes = start_card(folder, "expiMap"), attributes_of(folder)
    check_genes(card, folder, attributes.get("input_dim_"))
    read_conditions(card, folder)
    programs = programs_in(attributes)
    card.input = input_of(attributes["recon_loss_"])
    card.n_latent = programs.n
    card.takes_gmt = True
    card.latent_names = folder.facts.get("latent_names") or _unnamed(programs)
    _check_names(card.latent_names, programs.n, folder)
    if "latent_names" not in folder.facts:
        card.warnings.append(
            f"The files of {folder.shown} do not name its {programs.n} gene programmes, so they are numbered: "
            f"write their names, in the order of the mask, as latent_names into a file {FACTS} beside the model."
        )
    return card


def _check_names(names: list[str], n: int, folder: ModelFolder) -> None:
    if len(names) != n:
        raise RefmapError(
            f"{folder.show(FACTS)} names {len(names)} programmes in latent_names, but the model has {n}: "
            "name each, in the order of its mask."
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise RefmapError(f"{folder.show(FACTS)} names two programmes '{twice[0]}' in latent_names: rename one.")


def _unnamed(programs: Programs) -> list[str]:
    counts: Counter[str] = Counter()
    names = []
    for kind in programs.kinds:
        counts[kind] += 1
        names.append(f"{'programme' if kind == 'reference' else kind}_{counts[kind]}")
    return names
