"""A Docker engine on this machine, and runs of the pipeline by a user who is not root."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runs import ENVIRONMENT, ROOT, Published, task_name


class Engine:
    """What `tools/docker_engine` brought up in a folder."""

    def __init__(self, folder: Path):
        # Debian's docker, which is of the engine's own version, before any other
        self.environment = {"DOCKER_HOST": f"unix://{folder}/docker.sock", "PATH": f"/usr/bin:{ENVIRONMENT['PATH']}"}

    def call(self, *command: str | Path, **more) -> str:
        """What a command prints that finds this engine."""
        return subprocess.run(
            command, env=ENVIRONMENT | self.environment, text=True, check=True, stdout=subprocess.PIPE, **more
        ).stdout

    @contextmanager
    def watched(self, log: Path) -> Iterator[list[dict]]:
        """The events of the containers that start meanwhile, and of their networks; complete at the end of the block."""
        events: list[dict] = []
        ask = ["docker", "events", "--format", "{{json .}}", "--filter", "event=start", "--filter", "event=connect"]
        with log.open("w") as stream:
            listener = subprocess.Popen(ask, env=ENVIRONMENT | self.environment, stdout=stream)
        try:
            yield events
        finally:
            listener.terminate()
            listener.wait()
            events += [json.loads(line) for line in log.read_text().splitlines()]


class User:
    """A user of this machine in the group docker, whose home no container has."""

    name = "refmap-test"

    def __init__(self, home: Path):
        facts = pwd.getpwnam(self.name)
        self.uid, self.gid = facts.pw_uid, facts.pw_gid
        self.environment = {"HOME": str(home), "USER": self.name, "LOGNAME": self.name}
        os.chown(home, self.uid, self.gid)

    def call(self, command: list, environment: dict[str, str], **more) -> subprocess.CompletedProcess:
        """The end of a command of this user, and what it printed."""
        return subprocess.run(
            command,
            env=environment | self.environment,
            user=self.uid,
            group=self.gid,
            extra_groups=[grp.getgrnam("docker").gr_gid],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=1500,
            **more,
        )


class UserRun(Published):
    """A finished run by a user, with a checkout that is not theirs and none of this machine's environments."""

    def __init__(self, user: User, checkout: Path, folder: Path, *arguments: str, environment: dict[str, str], config: str = ""):
        super().__init__(folder)
        os.chown(folder, user.uid, user.gid)
        (folder / "more.config").write_text(config)
        path = environment.get("PATH", ENVIRONMENT["PATH"])
        done = user.call(
            ["nextflow", "-c", "more.config", "run", str(checkout), "--outdir", "out", *arguments],
            ENVIRONMENT | environment | {"REFMAP_ENVS": "/nonexistent", "PATH": f"{path}:{checkout}/.tools/bin"},
            cwd=folder,
        )
        self.status, self.printed = done.returncode, done.stdout

    def scripts(self) -> dict[str, str]:
        """What Nextflow wrote to run each task, by the task's name."""
        texts = [path.read_text() for path in self.folder.glob("work/??/*/.command.run")]
        return {task_name(text.split("### name: '", 1)[1].split("'", 1)[0]): text for text in texts}


def read_only_copy(folder: Path) -> Path:
    """A copy of this project, and of the Nextflow that it was set up with, that nobody may write to."""

    def left_out(inside: str, names: list[str]) -> set[str]:
        top = {name for name in names if name.startswith(".") or name in ("results", "work")} if Path(inside) == ROOT else set()
        return top | {"__pycache__"}

    copy = folder / "refmap"
    shutil.copytree(ROOT, copy, ignore=left_out)
    for part in (".tools/bin", ".tools/nextflow"):
        if (ROOT / part).exists():
            shutil.copytree(ROOT / part, copy / part)
    subprocess.run(["chmod", "-R", "a-w,a+rX", copy], check=True)
    return copy


def assert_ran_as_jobs(jobs: list[dict[str, str]], run: UserRun, user: User) -> None:
    """Each task was one job of this user, and was done."""
    assert sorted(job["JobState"] for job in jobs) == ["COMPLETED"] * len(run.scripts())
    assert {job["UserId"] for job in jobs} == {f"{user.name}({user.uid})"}
