"""Repositories of a model hub, by huggingface_hub: its endpoint is HF_ENDPOINT's, its token HF_TOKEN's and nobody else's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..common.errors import RefmapError, brief
from .addresses import Address
from .http import Unreachable

TOKEN = "HF_TOKEN"


def token() -> str | bool:
    """The token of the environment; False keeps the library from looking for one in the home."""
    return os.environ.get(TOKEN) or False


def calling(shown: str, revision: str | None, work: Callable[[], Any]) -> Any:
    """What a call of the library gives; what goes wrong in it as a sentence about the address `shown`.

    Raises
    ------
    Unreachable, RefmapError
    """
    import httpx2
    from huggingface_hub import errors

    has = token()
    how = (
        f"the token in {TOKEN} has no right to it" if has else f"if it is private, set {TOKEN} to a token that has a right to it"
    )
    try:
        return work()
    except errors.RevisionNotFoundError:
        raise RefmapError(
            f"{shown}: the repository has no revision '{revision or 'main'}'; give a branch, a tag or a commit."
        ) from None
    except errors.GatedRepoError:
        raise RefmapError(
            f"{shown} is open only to those who accept its terms: accept them on its page, and set {TOKEN}."
        ) from None
    except errors.RepositoryNotFoundError:
        raise RefmapError(
            f"There is no model repository at {shown}, or it is not open to everyone: check the address; {how}."
        ) from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise RefmapError(f"{shown} is not open to everyone ({status}): {how}.") from None
        if status is not None and status < 500 and status != 429:
            raise RefmapError(f"{shown} is not given ({status}): check the address.") from None
        raise Unreachable(f"{shown} cannot be reached (the service answers {status}): try again later.") from None
    except (errors.HFValidationError, errors.RevisionResolutionError) as error:
        raise RefmapError(f"{shown} is no address of a model repository ({brief(error, 120)}): check it.") from None
    except (httpx2.HTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError) as error:
        raise Unreachable(
            f"{shown} cannot be reached ({type(error).__name__}): see whether this machine has a network; behind a proxy set "
            "https_proxy, and what is named by its commit is taken from --cache without one."
        ) from None


def look(address: Address) -> tuple[str, str | None, list[tuple]]:
    """The commit, the licence of the card, and of each file the name, path, size, checksum and tag."""
    from huggingface_hub import HfApi

    info = calling(
        address.text,
        address.revision,
        lambda: HfApi(token=token()).model_info(address.place, revision=address.revision, files_metadata=True, timeout=30),
    )
    card = info.card_data or {}
    files = [
        (
            file.rfilename,
            file.rfilename,
            file.size,
            f"sha256:{file.lfs.sha256}" if file.lfs else None,
            file.blob_id,
        )
        for file in info.siblings or []
    ]
    return info.sha, card.get("license"), files


def fetch(address: Address, commit: str, names: Iterable[str], folder: Path) -> None:
    """Bring these files of a repository into a folder, by their paths in the repository; what lies there already is gone on with."""
    from huggingface_hub import snapshot_download

    # Names are patterns to the library
    patterns = ["".join(f"[{letter}]" if letter in "*?[" else letter for letter in name) for name in names]
    calling(
        address.text,
        commit,
        lambda: snapshot_download(
            address.place, revision=commit, allow_patterns=patterns, local_dir=folder, token=token(), max_workers=2
        ),
    )
