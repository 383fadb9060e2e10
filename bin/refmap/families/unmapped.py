"""What lies in a folder that no family maps: a tree of scHPL, a model of another library, or no model at all."""

from __future__ import annotations

from ..common.errors import RefmapError
from ..models.folder import ModelFolder
from ..models.pickles import read_pickle

# What scHPL calls a node of its trees, which it can only save as a pickle.
_FOREIGN_NODE = "scHPL.utils.TreeNode"


def foreign_tree(folder: ModelFolder) -> str | None:
    """The name of a file in the folder that holds a tree of scHPL, which is a pickle and is never loaded; None where there is none."""
    for name in folder.files():
        if not name.endswith((".pkl", ".pickle")) or name == "attr.pkl":
            continue
        try:
            if _FOREIGN_NODE in read_pickle(folder.path / name, folder.show(name)).names:
                return name
        except RefmapError:
            continue  # what cannot be read is no tree
    return None


def about_foreign_tree(folder: ModelFolder, name: str) -> str:
    """What to do about a tree of scHPL, as a sentence."""
    return (
        f"{folder.show(name)} is a tree of scHPL, saved as a pickle without the cells that it was learned from, and is not used: "
        "train the reference again with --family treearches, which learns a tree from its labelled cells"
    )


def unknown(folder: ModelFolder) -> str:
    """What a folder or file holds that is no model which refmap knows, as a sentence."""
    if folder.file:
        return f"{folder.shown} is no model that refmap knows: give a folder, or the model.pt of a scvi-tools model."
    found = folder.files()
    listed = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    return (
        f"{folder.shown} holds no model that refmap knows (found: {listed or 'an empty folder'}); it maps models of "
        "scvi-tools and scArches: a folder with model.pt, or with attr.pkl, model_params.pt and var_names.csv; of SCimilarity "
        "(encoder.ckpt, gene_order.tsv), Geneformer (config.json, model.safetensors) and scGPT (best_model.pt, vocab.json, args.json)."
    )
