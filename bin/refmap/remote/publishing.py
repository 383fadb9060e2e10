"""A model's folder published at an address: a repository of a model hub, or a deposition at Zenodo that is left as a draft.

Tokens are read from HF_TOKEN and ZENODO_TOKEN.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from pathlib import Path

from ..common.errors import RefmapError
from . import hub
from .addresses import parse
from .http import ask
from .resolving import ZENODO_TOKEN, zenodo_endpoint


def publish(folder: Path, address: str, about: dict, files: dict[str, str], public: bool = False) -> str:
    """Publish all files of a model's folder; return where they are.

    Parameters
    ----------
    folder
        The model's folder, with whatever is kept beside the model.
    address
        `hf://org/name`, which is made if there is none; or `zenodo:` for a new deposition.
    about
        `title`, `description`, `licence` and `creators` (names).
    files
        Texts that go along, by name; they stand in for files of the folder that are called so.
    public
        Whether a new repository is open to everyone.

    Raises
    ------
    RefmapError
        If the token is missing or has no right to it, or the service does not answer.
    """
    if address.rstrip("/") == "zenodo:":
        return _to_zenodo(folder, about, files)
    where = parse(address)
    if where.kind != "hf" or where.path or where.revision:
        raise RefmapError(f"'{address}' is nowhere that a model can be published: give hf://org/name or zenodo:.")
    return _to_hub(folder, where.place, address, files, public)


def _to_hub(folder: Path, place: str, address: str, files: dict[str, str], public: bool) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    if not hub.token():
        raise RefmapError(f"{address} cannot be written to without a token: set {hub.TOKEN}.")
    api = HfApi(token=hub.token())
    operations = [
        *(CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in _files(folder, files)),
        *(CommitOperationAdd(name, text.encode()) for name, text in files.items()),
    ]
    hub.calling(address, None, lambda: api.create_repo(place, private=not public, exist_ok=True))
    done = hub.calling(address, None, lambda: api.create_commit(place, operations, commit_message="Publish with refmap"))
    return f"hf://{place}@{done.oid}"


def _to_zenodo(folder: Path, about: dict, files: dict[str, str]) -> str:
    endpoint, token = zenodo_endpoint(), os.environ.get(ZENODO_TOKEN)
    if not token:
        raise RefmapError(f"Zenodo takes nothing without a token: set {ZENODO_TOKEN}.")
    drafts = f"{endpoint}/api/deposit/depositions"
    made = ask("POST", drafts, "zenodo:", token, ZENODO_TOKEN, json={}).json()
    metadata = {
        "title": about["title"],
        "upload_type": "dataset",
        "description": about["description"],
        "creators": [{"name": name} for name in about["creators"]],
        "license": about["licence"],
    }
    ask("PUT", f"{drafts}/{made['id']}", "zenodo:", token, ZENODO_TOKEN, json={"metadata": metadata})
    name = f"{folder.resolve().name}.zip"
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch) / name
        # A model's numbers hardly shrink
        with zipfile.ZipFile(packed, "w") as archive:
            for path in _files(folder, files):
                archive.write(path, f"{folder.resolve().name}/{path.relative_to(folder).as_posix()}")
            for file, text in files.items():
                archive.writestr(f"{folder.resolve().name}/{file}", text)
        with packed.open("rb") as stream:
            ask("PUT", f"{made['links']['bucket']}/{name}", "zenodo:", token, ZENODO_TOKEN, data=stream)
    return f"zenodo:{made['id']}/{name}"


def _files(folder: Path, replaced: dict[str, str]) -> list[Path]:
    """The files of the folder that go along."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return [path for path in files if path.relative_to(folder).as_posix() not in replaced]


def hub_files(card: dict, about: dict, data: bool) -> dict[str, str]:
    """The model card, and what scvi-hub wants to know of a model of scvi-tools; `data` says whether cells go along.

    `card` is what is known of the model: see :class:`..models.card.ModelCard`.
    """
    tags = [
        "biology",
        "genomics",
        "single-cell",
        f"model_cls_name:{card['class_name']}",
        "modality:rna",
        f"annotated:{bool(card['labels'])}",
    ]
    of_scvi = card["env"] == "scvi" and bool(card["version"])
    if of_scvi:
        tags.insert(4, f"scvi_version:{card['version']}")
    head = {"license": about["licence"], "library_name": "scvi-tools" if of_scvi else "refmap", "tags": tags}
    # JSON is YAML, and needs no care for what a name may hold
    yaml = "\n".join(f"{name}: {json.dumps(value)}" for name, value in head.items())
    facts = {
        "class": card["class_name"],
        "genes": f"{len(card['genes']):,}, such as {', '.join(card['genes'][:3])}",
        "batches": f"{len(card['batches']):,} in `{card['batch_key']}`" if card["batch_key"] else "none",
        "labels": "; ".join(f"{len(values):,} in `{key}`" for key, values in card["labels"].items()) or "none",
        "latent dimensions": card["n_latent"],
        "cells": "saved beside the model" if data else "none",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    texts = {
        "README.md": f"---\n{yaml}\n---\n\n# {about['title']}\n\n{about['description']}\n\n| what | value |\n| --- | --- |\n{table}\n"
    }
    if of_scvi:
        known = {
            "scvi_version": card["version"],
            "anndata_version": about["anndata_version"],
            "model_cls_name": card["class_name"],
            "training_data_url": None,
            "model_parent_module": "scvi.model",
        }
        texts["_scvi_required_metadata.json"] = json.dumps(known, indent=4) + "\n"
    return texts
