#!/usr/bin/env python
"""Publish a model's folder."""

import importlib.metadata
from pathlib import Path

import click
from refmap.common.cli import STYLE
from refmap.common.errors import RefmapError
from refmap.models.folder import DATA
from refmap.reference.inspection import inspect_model
from refmap.remote.publishing import hub_files, publish


@click.command(**STYLE)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("address")
@click.option("--title", help="What it is called.  [default: the folder's name]")
@click.option("--description", default="A reference model.", help="What it is, of which cells.")
@click.option("--licence", default="cc-by-4.0", help="Under which terms others may use it.")
@click.option(
    "--creator",
    "creators",
    multiple=True,
    help="Who made it, 'Surname, First name'; several times for several. Zenodo wants one.",
)
@click.option("--public", is_flag=True, help="Whether a repository that is made for it is open to everyone.")
def publish_model(
    folder: Path, address: str, title: str, description: str, licence: str, creators: tuple[str, ...], public: bool
) -> None:
    """Publish FOLDER, with its cells and all that lies beside the model, at ADDRESS: hf://org/name, or zenodo: for a new draft.

    A README.md in the folder is taken as the card; without one it is made. Tokens are read from HF_TOKEN and ZENODO_TOKEN.
    """
    about = {
        "title": title or folder.resolve().name,
        "description": description,
        "licence": licence,
        "creators": list(creators),
        "anndata_version": importlib.metadata.version("anndata"),
    }
    try:
        card = inspect_model(folder, str(folder))
        if card.fault:
            raise RefmapError(card.fault)
        if address.rstrip("/") == "zenodo:" and not creators:
            raise RefmapError("Zenodo wants to know who made a model: give --creator 'Surname, First name'.")
        files = hub_files(card.to_json(), about, any(path.name.endswith(DATA) for path in folder.iterdir()))
        kept = {name: text for name, text in files.items() if not (folder / name).exists()}
        print(publish(folder, address, about, kept, public))
    except RefmapError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    publish_model()
