"""Runs as Ray tasks: the processes of `accelerate`, spread over a cluster that shares a file system."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ..outputs.ray_cluster import ray_session
from .faults import Failure, as_failure
from .recorder import RunRecorder, steps_of
from .subprocesses import Subprocess, run_command


def finish_with_ray(
    engine: Subprocess, recorder: RunRecorder, runs: Sequence[dict[str, Any]], resources: Mapping[str, float]
) -> Iterator[str]:
    """Runs what is due side by side and records it; yields the id of each run that came to an end.

    Args:
        engine ([`Subprocess`]): Makes the commands.
        recorder ([`RunRecorder`]): Records what they give.
        runs (`Sequence[dict]`): As for [`~recorder.finish_here`].
        resources (`Mapping[str, float]`): What a task takes, as `ray.remote` is told.
    """
    with ray_session() as ray, ExitStack() as locks:
        task = ray.remote(**resources, max_retries=0)(run_command)
        waiting = {}

        def submit(run: dict[str, Any], tries: int) -> None:
            launch = engine.command(run["indices"], run["seed"], recorder.folder_of(run), **steps_of(run))
            waiting[task.remote(*launch)] = run, time.perf_counter(), tries

        for run in runs:
            if locks.enter_context(recorder.records.lock(run["run_id"])) and recorder.is_due(run):
                submit(run, 1)
        while waiting:
            (future,), _ = ray.wait(list(waiting), num_returns=1)
            run, started, tries = waiting.pop(future)
            outcome = _result(ray, future)
            if isinstance(outcome, Failure) and outcome.of_machine and tries == 1:
                recorder.tell_of_second_try(run, outcome)
                submit(run, 2)
                continue
            recorder.record(run, outcome, time.perf_counter() - started)
            yield run["run_id"]


def _result(ray: Any, future: Any) -> dict[str, Any] | Failure:
    try:
        return ray.get(future)
    except ray.exceptions.RayTaskError as error:
        return as_failure(error.cause)
    except ray.exceptions.RayError as error:  # a worker or its machine died
        return Failure(as_failure(error).reason, of_machine=True)
