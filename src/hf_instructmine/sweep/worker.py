"""A worker of the executor `local`: `python -m hf_instructmine.sweep.worker`, which a sweep starts and talks to.

Its standard input holds a request, one line of JSON, and then nothing: once it closes, the sweep is gone, and so is
the worker. Its standard output tells of each run as a line of JSON.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InstructMineError
from ..finetuning.handover import unpack, unpack_set
from ..finetuning.recipe import Recipe
from .inline import Inline
from .manifest import open_records
from .recorder import RunRecorder, finish_here


# The exit code of a worker that leaves its run to another: its device may answer nothing more.
FAULT = 3


class _Told(logging.Handler):
    """Sends what is logged to the sweep."""

    def __init__(self, tell: Callable[..., None]):
        super().__init__(logging.WARNING)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one line."""
        self.tell(log=record.getMessage())


class _Engine(Inline):
    """Tells the sweep which run begins: where this process is killed, that run is tried again."""

    tell: Callable[..., None]
    begun: str | None = None

    def run(self, indices: Sequence[int], seed: int, folder: Path, max_steps: int | None = None) -> dict[str, Any]:
        """As [`Inline.run`]."""
        self.begun = folder.name
        self.tell(started=self.begun)
        return super().run(indices, seed, folder, max_steps)


def work(request: dict[str, Any], tell: Callable[..., None]) -> int:
    """Trains what is due and nobody else is training; returns the exit code."""
    sets = {packed["name"]: unpack_set(packed) for packed in request["eval_sets"]}
    conversations = dict(zip(request["numbers"], unpack(request["conversations"])))
    recorder = RunRecorder(
        open_records(request["folder"]), request["known"], request["keeps_checkpoints"], request["retried"]
    )
    engine = _Engine(Recipe(request["recipe"]), sets, conversations, recorder.records.folder)
    engine.tell = tell
    # Of the texts the sweep has told itself.
    logging.getLogger("hf_instructmine").addHandler(_Told(tell))
    recorder.measure_base(engine)
    for run_id in finish_here(engine, recorder, request["runs"], tries=1):
        if recorder.lost:
            tell(stopped=recorder.lost[run_id])
            return FAULT
        if run_id == engine.begun:
            tell(finished=run_id)
    return 0


def _end_with_the_sweep() -> None:
    os.read(0, 1)
    os._exit(1)


def main() -> int:
    """Entry point; returns the exit code."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print is no event

    def tell(**event: Any) -> None:
        events.write(f"{json.dumps(event)}\n")
        events.flush()

    request = json.loads(_read_line())
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    try:
        return work(request, tell)
    except InstructMineError as error:
        tell(refused=str(error))
        return 1


def _read_line() -> bytes:
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):
        parts.append(os.read(0, 1 << 20))
        if not parts[-1]:
            os._exit(1)
    return b"".join(parts)


if __name__ == "__main__":
    sys.exit(main())
