"""What the tests of the platforms share."""

import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cluster import Cluster, Job
from demo_runs import by_a_job, start
from engine import Engine, User, UserRun, read_only_copy
from refmap.sheet.demo import make_demo
from runs import ROOT, Head


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
def as_jobs(cluster, tmp_path_factory) -> tuple[Head, dict[str, Job]]:
    """The demo as jobs of a cluster, which a job starts, and what the cluster said of its own jobs while they were there."""
    folder = tmp_path_factory.mktemp("demo")
    options = ("--slurm_account=lab", "--slurm_qos=long", "--slurm_gpu_time=30.m", "--slurm_options=--wckey=atlas")
    head, seen = start(cluster, folder, *options, by=by_a_job(folder)), {}
    while head.process.poll() is None:
        seen.update((job.id, job) for job in cluster.queue() if job.folder != str(folder))
        time.sleep(0.3)
    return head, seen


@pytest.fixture(scope="session")
def demo(as_jobs) -> Head:
    """The demo with a handful of epochs, to which the others are compared."""
    head, _seen = as_jobs
    assert head.wait() == 0, (head.folder / "job.txt").read_text()
    return head


def pytest_collection_modifyitems(items):
    """What needs the images comes last: they are built meanwhile, and those that are unpacked are so meanwhile too."""
    items.sort(key=lambda item: ("engine" in item.fixturenames) + ("images" in item.fixturenames))


@pytest.fixture(scope="session", autouse=True)
def images_built(request, public):
    """Waits for a Docker engine with the images of all environments, which is brought up from the start if a test asks for it;
    $REFMAP_DOCKER_ROOT names a folder that keeps the images between runs."""
    if not any("engine" in item.fixturenames for item in request.session.items):
        yield None
        return
    folder = Path(os.environ.get("REFMAP_DOCKER_ROOT", public / "docker"))
    subprocess.run([ROOT / "tools/docker_engine", "up", folder], check=True)
    engine = Engine(folder)

    def build() -> None:
        for tool in ("base_images", "images"):
            engine.call(ROOT / "tools" / tool)

    try:
        with ThreadPoolExecutor() as beside:
            built = beside.submit(build)
            yield lambda: built.result() or engine
    finally:
        subprocess.run([ROOT / "tools/docker_engine", "down", folder], check=True)


@pytest.fixture(scope="session")
def engine(images_built) -> Engine:
    return images_built()


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
def images_unpacked(request, engine, user, checkout, public):
    """Waits for a folder of the user's with the images that the demo needs, unpacked for Charliecloud if a test asks for it."""
    if not any("images" in item.fixturenames for item in request.session.items):
        yield None
        return
    folder = public / "charliecloud"
    folder.mkdir()
    os.chown(folder, user.uid, user.gid)

    def unpack() -> Path:
        done = user.call([checkout / "tools/unpack_images", folder, "core", "scvi"], engine.environment)
        assert done.returncode == 0, done.stdout
        return folder

    with ThreadPoolExecutor() as beside:
        yield beside.submit(unpack).result


@pytest.fixture(scope="session")
def images(images_unpacked) -> Path:
    return images_unpacked()


@pytest.fixture(scope="session")
def in_docker(engine, user, checkout, public, images_unpacked):
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
