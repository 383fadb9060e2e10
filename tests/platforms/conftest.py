"""What the tests of the platforms share."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from cluster import Cluster
from engine import Engine, User, UserRun, read_only_copy
from refmap.sheet.demo import make_demo
from runs import ROOT


@pytest.fixture(scope="session")
def public():
    """A folder that every user may look into, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="refmap-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def cluster(public):
    """A SLURM of one node."""
    cluster = Cluster(public / "slurm")
    yield cluster
    cluster.down()


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """The demo's input, made once more outside a run."""
    return make_demo(tmp_path_factory.mktemp("data")).parent


@pytest.fixture(scope="session")
def engine(public):
    """A Docker engine with the images of all environments; $REFMAP_DOCKER_ROOT names a folder that keeps them between runs."""
    folder = Path(os.environ.get("REFMAP_DOCKER_ROOT", public / "docker"))
    subprocess.run([ROOT / "tools/docker_engine", "up", folder], check=True)
    try:
        engine = Engine(folder)
        for tool in ("base_images", "images"):
            engine.call(ROOT / "tools" / tool)
        yield engine
    finally:
        subprocess.run([ROOT / "tools/docker_engine", "down", folder], check=True)


@pytest.fixture(scope="session")
def user(engine, public):
    """A user of this machine who may use the engine."""
    home = public / "home"
    home.mkdir()
    subprocess.run(["/usr/sbin/userdel", User.name], stderr=subprocess.DEVNULL)  # of tests that were killed
    subprocess.run(["/usr/sbin/useradd", "--home-dir", home, "--groups", "docker", User.name], check=True)
    yield User(home)
    subprocess.run(["/usr/sbin/userdel", User.name], check=True)


@pytest.fixture(scope="session")
def checkout(public):
    """This project, where nobody may write to it."""
    return read_only_copy(public)


@pytest.fixture(scope="session")
def in_docker(engine, user, checkout, public):
    """The demo in Docker, and what the engine did meanwhile."""
    with engine.watched(public / "events") as events:
        run = UserRun(user, checkout, public / "in_docker", "-profile", "test,docker", environment=engine.environment)
    assert run.status == 0, run.printed
    return run, events


@pytest.fixture(scope="session")
def public_data(data, public):
    """The demo's input, for every user."""
    copy = shutil.copytree(data, public / "data")
    copy.chmod(0o755)
    return copy
