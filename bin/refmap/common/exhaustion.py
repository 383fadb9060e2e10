"""What a command does where the machine, and not its input, is at fault, as when no memory or no disk space is left."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The status of a process that is killed for memory: a workflow tries it again with more.
NO_MEMORY = 137
# EX_IOERR of sysexits.h: the next attempt, and the next mapping, would end likewise.
NO_SPACE = 74

# What libraries say that raise neither MemoryError nor an OSError with a number.
MEMORY_WORDS = ("DefaultCPUAllocator", "std::bad_alloc", "annot allocate memory", "failed to map segment")
SPACE_WORDS = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing", "unexpected pos ")


class MachineFault(Exception):
    """The machine, and not the input, is at fault: one sentence, and the exit status that tells a workflow what to do."""

    def __init__(self, sentence: str, status: int = 1):
        super().__init__(sentence)
        self.status = status


class Exhausted(MachineFault):
    """No memory or no disk space."""


@contextmanager
def exhaustion() -> Iterator[None]:
    """Raise :class:`Exhausted` for what is raised, or was wrapped on its way here, because memory or disk space ran out."""
    try:
        yield
    except Exception as error:
        causes = list(_causes(error))
        if any(_lacks_memory(cause) for cause in causes):
            raise Exhausted("This task has less memory than it needs: give it more.", NO_MEMORY) from error
        if any(_lacks_space(cause) for cause in causes):
            raise Exhausted(
                f"No space is left on the disk that holds {_fullest()}: free some, and run again with -resume.", NO_SPACE
            ) from error
        raise


def exhausted(error: BaseException) -> bool:
    """Whether memory or disk space ran out, by what was raised or was wrapped on its way here."""
    return any(_lacks_memory(cause) or _lacks_space(cause) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _lacks_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or _says(error, (errno.ENOMEM,), MEMORY_WORDS)


def _lacks_space(error: BaseException) -> bool:
    return _says(error, (errno.ENOSPC, errno.EDQUOT), SPACE_WORDS)


def _says(error: BaseException, numbers: tuple[int, ...], words: tuple[str, ...]) -> bool:
    return getattr(error, "errno", None) in numbers or any(word in str(error) for word in words)


def _fullest() -> Path:
    """Of the folders that a task writes to, the one with the least space."""
    return min((Path.cwd(), Path(tempfile.gettempdir())), key=lambda folder: shutil.disk_usage(folder).free)
