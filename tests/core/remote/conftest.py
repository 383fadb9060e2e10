"""A server that speaks as the services do, in whose place it is."""

import pytest
from refmap.remote import http
from services import Services


@pytest.fixture
def services(monkeypatch):
    running = Services()
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    # The library reads its endpoint once
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(http, "PAUSE", 0)
    for name in ("HF_TOKEN", "ZENODO_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield running
    running.close()
