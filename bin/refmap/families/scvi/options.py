"""What a mapping onto a model of genes and proteins may set."""

from __future__ import annotations

from ..options import Option

PROTEIN_OPTIONS = {
    "impute_proteins": Option(
        "text",
        "missing",
        "Which proteins the model imputes: those that the query, or one of its batches, lacks; all of the model's; or none.",
        choices=("missing", "all", "none"),
    ),
    "protein_samples": Option(
        "int", 25, "Over how many samples of each cell's latent an imputed protein is averaged.", least=1, most=1000
    ),
    "protein_batches": Option(
        "text",
        None,
        "As measured in which of the reference's batches proteins are imputed, names parted by ','; by default the mean over all.",
    ),
}


def chosen_batches(chosen: str | None, batches: list[str]) -> list[str]:
    """The batches of ``protein_batches`` by name, all of `batches` where none is given; a name may hold a comma."""
    if chosen is None:
        return list(batches)
    return [chosen] if chosen in batches else [name.strip() for name in chosen.split(",")]
