"""Which runs are due, and what each gave, in the folder of a sweep."""

import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..outputs.digests import digest
from ..outputs.records import Records
from .faults import Failure, attempt
from .keeping import STAGE, as_recorded, keep_run
from .manifest import environment


logger = logging.getLogger(__name__)


class Engine(Protocol):
    """What carries out the runs of a sweep."""

    def base(self) -> dict[str, Any]:
        """The untrained model's losses, and the size of its vocabulary."""

    def run(self, indices: Sequence[int], seed: int, folder: Path, max_steps: int | None = None) -> dict[str, Any]:
        """Trains on the rows `indices`, so many optimiser steps or as the recipe says, and measures."""


@dataclass
class RunRecorder:
    """Records each run of a sweep once.

    Attributes:
        records ([`Records`]): The sweep's folder.
        known (`Mapping[str, Any]`): What all records say alike: `recipe_hash`, `base_model`, `executor`.
        keeps_checkpoints (`bool`): Whether what a run writes stays.
        retried (`Mapping[str, str]`): Failed runs that are due again, by id, with the digest of the record there.
        lost (`dict[str, str]`): Runs that a fault of the machine stopped, by id, with the reason. They have no record.
    """

    records: Records
    known: Mapping[str, Any]
    keeps_checkpoints: bool
    retried: Mapping[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    def recorded(self, run: Mapping[str, Any]) -> dict[str, Any] | None:
        """The run's record, where there is one."""
        return self.records.read(self.records.path_of(run["run_id"]))

    def is_due(self, run: Mapping[str, Any]) -> bool:
        """Whether the run has no record, or still the failed one that is to be tried again."""
        record = self.recorded(run)
        return record is None or self.retried.get(run["run_id"]) == digest(record)

    def folder_of(self, run: Mapping[str, Any]) -> Path:
        """Where the run may write."""
        kind = "checkpoints" if self.keeps_checkpoints else "work"
        return (self.records.folder / kind / run["run_id"]).resolve()

    def measure_base(self, engine: Engine) -> None:
        """Has the untrained model measured, where nobody has."""
        path = self.records.folder / "base.json"
        with self.records.lock("base", patience=-1):
            if self.records.read(path) is None:
                self.records.write(path, engine.base())

    def tell_of_second_try(self, run: Mapping[str, Any], failure: Failure) -> None:
        """Says that a run is tried once more."""
        logger.warning(
            "run %s was stopped by a fault of the machine (%s): it is tried once more", run["run_id"], failure.reason
        )

    def record(self, run: dict[str, Any], outcome: dict[str, Any] | Failure, seconds: float) -> None:
        """Writes down what a run gave. One that a fault of the machine stopped is not recorded: it is `lost`.

        Args:
            run (`dict`): Its mixture, with its `run_id`.
            outcome (`dict` or [`Failure`]): Its result, or what stopped it.
            seconds (`float`): What a failed one took.
        """
        folder = self.folder_of(run)
        if isinstance(outcome, Failure) and outcome.of_machine:
            self.lost[run["run_id"]] = outcome.reason
        else:
            self._write(run, outcome, seconds)
        # A model that is left here is one of a run that failed.
        shutil.rmtree(folder / STAGE if self.keeps_checkpoints else folder, ignore_errors=True)

    def _write(self, run: dict[str, Any], outcome: dict[str, Any] | Failure, seconds: float) -> None:
        reason: str | None
        if isinstance(outcome, Failure):
            reason, result = outcome.reason, {"losses": {}, "examples": {}, "seconds": seconds}
        else:
            base = self.records.read(self.records.folder / "base.json")
            assert base is not None  # it is measured before any run
            reason, result = _divergence(outcome["losses"], base), as_recorded(outcome)
            if not reason:
                keep_run(self.records, run, outcome, hash_indices(run["indices"]), self.folder_of(run))
        if reason:
            logger.warning("run %s failed: %s", run["run_id"], reason)
        self.records.write(
            self.records.path_of(run["run_id"]),
            {
                "mixture": run,
                "indices_hash": hash_indices(run["indices"]),
                "status": "failed" if reason else "done",
                "reason": reason,
                "result": result,
                **self.known,
                "versions": environment(),
            },
        )


def finish_here(
    engine: Engine, recorder: RunRecorder, runs: Sequence[dict[str, Any]], tries: int = 2
) -> Iterator[str]:
    """Runs what is due one after another and records it; yields the id of each run that was looked at.

    Args:
        engine ([`Engine`]): Carries out each run.
        recorder ([`RunRecorder`]): Records what it gives.
        runs (`Sequence[dict]`): Mixtures, each with its `run_id`.
        tries (`int`, defaults to 2): How often a run is begun that a fault of the machine stops.

    Raises:
        [`InstructMineError`]: Where the disk is full or read-only.
    """
    for run in runs:
        with recorder.records.lock(run["run_id"]) as mine:
            # Another sweep on this folder may hold it, or have finished it since we looked.
            if mine and recorder.is_due(run):
                _run_once(engine, recorder, run, tries)
        yield run["run_id"]


def _run_once(engine: Engine, recorder: RunRecorder, run: dict[str, Any], tries: int) -> None:
    def work() -> dict[str, Any]:
        return engine.run(run["indices"], run["seed"], recorder.folder_of(run), **steps_of(run))

    started = time.perf_counter()
    outcome = attempt(work, recorder.records.folder)
    while tries > 1 and isinstance(outcome, Failure) and outcome.of_machine:
        recorder.tell_of_second_try(run, outcome)
        outcome, tries = attempt(work, recorder.records.folder), tries - 1
    recorder.record(run, outcome, time.perf_counter() - started)


def steps_of(run: Mapping[str, Any]) -> dict[str, int]:
    """The optimiser steps that a run asks for itself, as an argument; none where the recipe decides."""
    return {} if run.get("max_steps") is None else {"max_steps": run["max_steps"]}


def hash_indices(indices: Sequence[int]) -> str:
    """Digest of the rows of a subset, in order."""
    return digest(list(indices))


def _divergence(losses: Mapping[str, float], base: Mapping[str, Any]) -> str | None:
    for name, loss in losses.items():
        untrained, guessing = base["losses"][name], math.log(base["vocabulary"])
        if not loss <= max(untrained, guessing):
            return (
                f"diverged: the loss on '{name}' is {loss:.2f} after training, that of the untrained model "
                f"{untrained:.2f} and of guessing {guessing:.2f}: lower the learning rate"
            )
    return None
