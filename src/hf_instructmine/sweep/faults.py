"""What stops a run: an error of its own, which is recorded, or a fault of the machine, which is not."""

import errno
import gc
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InstructMineError, one_line


# Not a fault of the run that meets it, and the next one would meet it too.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class MachineError(InstructMineError):
    """A fault of the machine: a process that was killed, a connection that was lost, a device that gave up."""


@dataclass(frozen=True)
class Failure:
    """What stopped a run, in words: the exception itself would hold on to the model.

    Attributes:
        reason (`str`): One line.
        of_machine (`bool`): Whether the run is not to blame.
    """

    reason: str
    of_machine: bool = False


def attempt(work: Callable[[], dict[str, Any]], folder: Path) -> dict[str, Any] | Failure:
    """Calls `work`. Where it fails, nothing of it stays in memory: the next run's model must find room.

    Args:
        work (`Callable`): Gives a run's result.
        folder (`Path`): The sweep's, for the error.

    Raises:
        [`InstructMineError`]: Where the disk is full or read-only, which stops the sweep.
    """
    try:
        return work()
    except Exception as error:  # one bad run must not stop the others
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise InstructMineError(
                f"cannot write to '{folder}': {error.strerror}; what is finished is kept: mend it and start again"
            ) from error
        failure = as_failure(error)
        forget(error)
    free_memory()
    return failure


def as_failure(error: BaseException) -> Failure:
    """An exception in words."""
    kind = "" if isinstance(error, InstructMineError) else f"{type(error).__name__}: "
    return Failure(f"{kind}{one_line(error)}", _is_of_machine(error))


def _is_of_machine(error: BaseException) -> bool:
    import torch

    # A device that met an error (not: too little memory) answers every later call with it.
    return isinstance(error, MachineError | ConnectionError | TimeoutError | torch.AcceleratorError)


def forget(error: BaseException) -> None:
    """Empties the frames that an exception and those before it went through: they hold a model and its optimizer."""
    chain: list[BaseException | None] = [error]
    seen: set[int] = set()
    while chain:
        link = chain.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        traceback.clear_frames(link.__traceback__)
        chain += [link.__cause__, link.__context__]


def free_memory() -> None:
    """Collects garbage, of which a trainer is a cycle, and gives the accelerator's memory back."""
    from accelerate.utils.memory import clear_device_cache

    gc.collect()
    clear_device_cache()
