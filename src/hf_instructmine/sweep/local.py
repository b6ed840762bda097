"""Runs side by side on one machine: a process for each GPU, each with a base model of its own. They share the folder.

Which process trains which run is settled by the runs' locks, as between sweeps that were started apart.
"""

import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Self

from ..data.conversation import Conversation
from ..data.evaluation_sets import EvaluationSet
from ..errors import InstructMineError
from ..finetuning.handover import pack, pack_set
from ..finetuning.recipe import Recipe
from .recorder import RunRecorder


if TYPE_CHECKING:
    from ..finetuning.recipe import Arguments

logger = logging.getLogger(__name__)

# How often a run may cost the worker that trains it, and each worker may end before it trains.
_TRIES = 2


class LocalWorkers:
    """Workers that train the runs of a sweep.

    Args:
        recipe, eval_sets, conversations: As for [`Inline`].
        workers (`int`, *optional*): How many; see [`worker_environments`].

    Raises:
        [`InstructMineError`]: Where there are fewer GPUs.
    """

    def __init__(
        self,
        recipe: Recipe,
        eval_sets: Mapping[str, EvaluationSet],
        conversations: Mapping[int, Conversation],
        workers: int | None = None,
    ):
        self.environments = worker_environments(recipe.arguments(), workers)
        self.request = {
            "recipe": recipe.settings,
            "eval_sets": [pack_set(examples) for examples in eval_sets.values()],
            "numbers": list(conversations),
            "conversations": pack(conversations.values()),
        }

    def finish(self, recorder: RunRecorder, runs: Sequence[dict[str, Any]]) -> Iterator[str]:
        """Has what is due trained and recorded; yields the id of each run that came to an end.

        Args:
            recorder ([`RunRecorder`]): Says what is due. It gets the runs that were lost.
            runs (`Sequence[dict]`): As for [`~recorder.finish_here`].

        Raises:
            [`InstructMineError`]: Where a worker cannot work.
        """
        while True:
            before = len(left := self._left(recorder, runs))
            if not left:
                return
            yield from self._round(recorder, left)
            # What a process elsewhere held, and was killed with, is free now.
            if len(self._left(recorder, runs)) in (0, before):
                return

    def _left(self, recorder: RunRecorder, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        due = [run for run in runs if run["run_id"] not in recorder.lost and recorder.is_due(run)]
        return [run for run in due if not recorder.records.is_running(run["run_id"])]

    def _round(self, recorder: RunRecorder, runs: Sequence[dict[str, Any]]) -> Iterator[str]:
        events: queue.Queue[tuple[_Worker, dict[str, Any]]] = queue.Queue()
        common = {
            **self.request,
            "folder": str(recorder.records.folder.resolve()),
            "known": dict(recorder.known),
            "keeps_checkpoints": recorder.keeps_checkpoints,
            "retried": dict(recorder.retried),
        }
        plain = json.loads(json.dumps(runs, default=str))  # as in their records
        deaths: Counter[str | None] = Counter()

        def due(run: dict[str, Any]) -> bool:
            return run["run_id"] not in recorder.lost and recorder.is_due(run)

        def start(environment: Mapping[str, str]) -> _Worker:
            return _Worker.start({**common, "runs": [run for run in plain if due(run)]}, environment, events)

        with _all_ended() as working:
            working += [start(environment) for environment in self.environments[: len(runs)]]
            while working:
                worker, event = events.get()
                if event and (finished := worker.hear(event)) is not None:
                    deaths[None] = 0
                    yield finished
                elif not event:
                    working.remove(worker)
                    if reason := worker.end():
                        self._note_death(worker.run_id, reason, deaths, recorder)
                        if any(due(run) for run in runs):
                            working.append(start(worker.environment))

    def _note_death(self, run_id: str | None, reason: str, deaths: Counter[str | None], recorder: RunRecorder) -> None:
        """Tells of a worker that was ended from outside, at a run or before its first one."""
        deaths[run_id] += 1
        if run_id is None:
            if deaths[None] > _TRIES * len(self.environments):
                raise InstructMineError(f"the workers of executor='local' end before they can train: {reason}")
            logger.warning("a worker ended (%s): another is started", reason)
        elif deaths[run_id] < _TRIES:
            logger.warning("run %s was stopped by a fault of the machine (%s): it is tried once more", run_id, reason)
        else:
            recorder.lost[run_id] = reason


@dataclass(eq=False)
class _Worker:
    """A worker as its sweep sees it.

    Attributes:
        process (`Popen`): Ends itself once its standard input closes, as it does when this process dies.
        errors (`IO`): What it writes to its standard error.
        environment (`Mapping[str, str]`): Its device, as environment variables.
        run_id (`str`, *optional*): What it is training.
        stopped (`str`, *optional*): The fault of the machine that it has met.
    """

    process: "subprocess.Popen[bytes]"
    errors: IO[bytes]
    environment: Mapping[str, str]
    run_id: str | None = None
    stopped: str | None = None

    @classmethod
    def start(cls, request: Mapping[str, Any], environment: Mapping[str, str], events: "queue.Queue[Any]") -> Self:
        errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `end` or `kill`)
        process = subprocess.Popen(
            [sys.executable, "-m", "hf_instructmine.sweep.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **environment},
            start_new_session=True,  # an interrupt is this process's to handle
        )
        worker = cls(process, errors, environment)
        threading.Thread(target=worker._talk, args=(request, events), daemon=True).start()
        return worker

    def _talk(self, request: Mapping[str, Any], events: "queue.Queue[Any]") -> None:
        assert self.process.stdin is not None and self.process.stdout is not None  # they are pipes
        with suppress(BrokenPipeError):  # it was killed: its output ends too
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.endswith(b"\n"):  # else it was killed while it wrote
                events.put((self, json.loads(line)))
        events.put((self, {}))

    def hear(self, event: Mapping[str, Any]) -> str | None:
        """Takes note of what it tells; returns the id of a run that it has finished.

        Raises:
            [`InstructMineError`]: Where it cannot work.
        """
        if "log" in event:
            logger.warning("%s", event["log"])
        elif "started" in event:
            self.run_id = event["started"]
        elif "stopped" in event:
            self.stopped = event["stopped"]
        elif "refused" in event:
            raise InstructMineError(event["refused"])
        elif "finished" in event:
            self.run_id = None
            return event["finished"]
        return None

    def end(self) -> str | None:
        """Waits for its end. Returns why it ended before its work was done, or None."""
        code = self.process.wait()
        self.errors.seek(0)
        said = [line for line in self.errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
        self.errors.close()
        if code == 0:
            return None
        if code < 0:
            return f"its process was killed by the signal {-code}"
        return self.stopped or f"{(said or ['it said nothing'])[-1]} (exit code {code})"

    def kill(self) -> None:
        """Ends it at once, wherever it is."""
        self.process.kill()
        self.process.wait()
        self.errors.close()


@contextmanager
def _all_ended() -> Iterator[list[_Worker]]:
    """Yields a list of workers; those that are still in it at the end are killed."""
    working: list[_Worker] = []
    try:
        yield working
    finally:
        for worker in working:
            worker.kill()


def worker_environments(arguments: "Arguments", workers: int | None) -> list[dict[str, str]]:
    """The environment variables of each worker: one for each visible GPU, or so many as are asked for. On a CPU they
    divide the cores, and there is one by default.

    Raises:
        [`InstructMineError`]: Where more are asked for than there are GPUs.
    """
    import torch

    if arguments.sft.device.type == "cuda":
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = [str(k) for k in range(torch.cuda.device_count())] if chosen is None else chosen.split(",")
        if workers is not None and workers > len(visible):
            raise InstructMineError(f"workers is {workers}, but {len(visible)} GPUs are visible: each needs its own")
        return [{"CUDA_VISIBLE_DEVICES": device} for device in visible[:workers]]
    count = workers or 1
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    return [{"OMP_NUM_THREADS": str(max(1, threads // count))} for _ in range(count)]
