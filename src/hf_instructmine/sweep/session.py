"""Many finetunes, each recorded once and for all (InstructMining, section 3.3: 129 subsets, one finetune each).

A finished run is one file, written whole. Killed at any instant, the same call starts the missing runs and only those.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from tqdm.auto import tqdm

from ..data.containers import as_dataset
from ..data.conversation import Conversation
from ..data.evaluation_sets import EvaluationSet, load_eval_sets
from ..data.provenance import get_provenance
from ..data.texts import pool_digest
from ..errors import InstructMineError
from ..finetuning.evaluation import EncodedSet
from ..finetuning.recipe import Recipe, check_for_sweep
from ..models.loading import describe_source
from ..outputs.digests import digest
from .encoding import encode_all
from .executors import Execution
from .inline import Inline
from .keeping import asked_to_keep, check_keeping
from .local import LocalWorkers
from .manifest import DESIGN, MANIFEST, MIXTURES, TOKENS, describe_difference, open_records, recipe_of
from .outlook import doubts, global_batch
from .ray_tasks import finish_with_ray
from .recorder import RunRecorder, finish_here
from .request import check_recorded, check_tokens, describe_set, plan_runs, read_eval_sets, read_mixtures, read_rows
from .runs import load_runs
from .subprocesses import Subprocess


logger = logging.getLogger(__name__)


def run_sweep(
    pool: Any,
    mixtures: Any,
    recipe: "Recipe | Mapping[str, Any] | str | Path",
    eval_sets: Any,
    output_dir: str | Path,
    executor: str = "inline",
    *,
    columns: Mapping[str, str] | None = None,
    accelerate_config: str | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    keep_models: bool = False,
) -> Dataset:
    """Finetunes the base model on every mixture and measures the loss on every evaluation set.

    A run that fails is recorded with its reason, and the others go on. A run also counts as failed where it diverged:
    where its loss on an evaluation set is not finite, or above both the untrained model's and ln(vocabulary), that of
    guessing. A full or read-only disk stops the sweep. A fault of the machine (a process that is killed, a connection
    that is lost) is no failure of the run: it is tried once more, and left without a record where that happens again.

    Args:
        pool (`Dataset`, or what else [`as_dataset`] takes): What the mixtures' `indices` point into.
        mixtures (`Dataset`, or what else [`as_dataset`] takes): From [`design_mixtures`], or any table with
            `mixture_id`, `seed` and `indices`. A column `max_steps` gives a run optimiser steps of its own, in place
            of what the recipe fixes.
        recipe ([`Recipe`], mapping or path): How to finetune.
        eval_sets (`Mapping[str, Any]`, `str` or `Sequence[str]`): By name, or as `name=source`; see
            [`load_eval_sets`]. Each gives a column `loss_<name>`.
        output_dir (`str` or `Path`): Keeps the records. A folder of the same sweep is gone on with, and extended where
            the mixtures have become more; one of another pool, recipe, base model or evaluation set is refused. Where
            another process sweeps into it at the same time, the two share the runs.
        executor (`str`, defaults to `"inline"`): `"inline"` loads the base model once and resets it between runs;
            `"local"` does so in a process for each visible GPU, and they share the runs; `"accelerate"` launches a
            process (or several) for each run; `"ray"` spreads those over a Ray cluster that shares a file system, with
            the `num_cpus` and `num_gpus` that the recipe names. `cached_trunk` works with `"inline"` and `"local"`;
            the others run the whole model.
        columns (`Mapping[str, str]`, *optional*): Which column of the pool is which, where that is not detected.
        accelerate_config (`str`, *optional*): `accelerate launch --config_file`, for the executors that launch.
        workers (`int`, *optional*): Processes of `"local"`: by default one for each visible GPU, or one on a CPU,
            whose cores they divide.
        retry_failed (`bool`, defaults to `False`): Whether runs that were recorded as failed are run again.
        keep_models (`bool`, defaults to `False`): Whether the final model of each run (its adapter, with LoRA) is kept
            in `models/<run>` with a card; what they take of the disk is told first. A run that is recorded already is
            not trained again for it.

    Returns:
        `Dataset`: One row per run, failed ones included; see [`load_runs`].

    Raises:
        [`InstructMineError`]: Before the first run, where pool, mixtures, recipe or folder do not fit together, or a
            text cannot be encoded; later, where a record cannot be written.

    Example:

    ```python
    runs = him.run_sweep(scored, mixtures, "smollm2-135m-cpu-last-layers", {"mine": "eval.jsonl"}, "sweep")
    ```
    """
    execution = Execution(executor, accelerate_config, columns, retry_failed, workers, keep_models)
    mixtures, eval_sets = as_dataset(mixtures, "mixtures"), load_eval_sets(eval_sets)
    with SweepSession(pool, recipe, eval_sets, output_dir, execution) as session:
        return session.run(mixtures)


class SweepSession:
    """A sweep that is given its mixtures little by little, as a search does that learns from each run.

    Between calls of [`~SweepSession.run`] the base model stays loaded, and so does the cached trunk as long as the
    mixtures name no row that was not among those of an earlier call: give the largest ones first. A context manager.

    Args:
        pool, recipe, eval_sets, output_dir: As for [`run_sweep`].
        execution ([`Execution`]): How its runs are carried out.

    Raises:
        [`InstructMineError`]: Where recipe or evaluation sets are not valid.
    """

    def __init__(
        self,
        pool: Any,
        recipe: "Recipe | Mapping[str, Any] | str | Path",
        eval_sets: Mapping[str, "Dataset | EvaluationSet"],
        output_dir: str | Path,
        execution: Execution,
    ):
        self.pool, self.execution = as_dataset(pool, "pool", columns=execution.columns), execution
        self.recipe = asked_to_keep(Recipe.load(recipe), execution.keep_models)
        self.arguments = self.recipe.arguments()
        self.own, self.model = self.arguments.own, self.arguments.model
        check_for_sweep(self.recipe, self.arguments)
        if execution.executor == "inline" and self.arguments.gpus > 1:
            logger.warning("%d GPUs are visible and one is used: executor='local' runs on each", self.arguments.gpus)
        self.processes = execution.count_processes(self.arguments)
        self.eval_sets = read_eval_sets(eval_sets)
        self.records = open_records(output_dir)
        self.keeps_checkpoints = self.arguments.sft.save_strategy != "no"
        self.conversations: dict[int, Conversation] = {}
        self._encoded: dict[str, EncodedSet] | None = None
        self._engine: Any = None
        self._complete = False
        self._doubted: set[str] = set()  # a search that goes on to smaller subsets says each once
        if self.own.cached_trunk and execution.executor not in ("inline", "local"):
            logger.warning(
                "cached_trunk works with executor='inline' alone, and in the processes of 'local': every run computes "
                "the whole model"
            )

    def __enter__(self) -> "SweepSession":
        return self

    def __exit__(self, *_: object) -> None:
        self._engine = None
        if self._complete and self.own.cached_trunk:
            with self.records.lock("trunk", patience=-1):  # large, and of no use once all runs are done
                shutil.rmtree(self.records.folder / "trunk", ignore_errors=True)

    def run(self, mixtures: Dataset, begun: Callable[[], None] | None = None) -> Dataset:
        """Runs what is not recorded yet.

        Args:
            mixtures (`Dataset`): As for [`run_sweep`]; they join those of earlier calls.
            begun (`Callable`, *optional*): Called before the first run, when nothing can be refused any more.

        Returns:
            `Dataset`: One row per run in the folder, failed ones included; see [`load_runs`].

        Raises:
            [`InstructMineError`]: As [`run_sweep`] does.
        """
        runs = read_mixtures(mixtures, len(self.pool))
        self._add_conversations(runs)
        told = doubts(self.arguments, runs, self.processes)
        request = self._manifest
        if not (self.records.folder / MANIFEST).exists():
            self._encode()  # what is refused here leaves no folder behind
        self.records.claim(MANIFEST, request, "sweep", describe_difference, beside=(DESIGN, MIXTURES))
        recorder = self._recorder(runs)
        due = [run for run in runs if recorder.is_due(run)]
        check_tokens(self.records, due)
        with self.records.lock("plan", patience=-1):
            check_recorded(self.records, runs, self.processes)
            plan_runs(self.records, runs, get_provenance(mixtures))
        for kind in [kind for kind in told if due and kind not in self._doubted]:
            logger.warning("%s", told[kind])
            self._doubted.add(kind)
        check_keeping(self.records, self.recipe, runs, len(due))
        if begun is not None:
            begun()
        self._finish(due, len(runs), recorder)
        self._tidy_up(runs, recorder)
        return load_runs(self.records.folder)

    def _tidy_up(self, runs: Sequence[dict[str, Any]], recorder: RunRecorder) -> None:
        missing = [run["run_id"] for run in runs if recorder.recorded(run) is None]
        for run in runs:
            if run["run_id"] not in missing:  # its process may have been killed before it could tidy up
                shutil.rmtree(self.records.folder / "work" / run["run_id"], ignore_errors=True)
        with suppress(OSError):  # it holds what other processes work on, or is not there
            (self.records.folder / "work").rmdir()
        self._complete = not missing
        lost = [name for name in missing if name in recorder.lost]
        if lost:
            told = (
                f"{len(lost)} runs have no record: the machine stopped them twice, {lost[0]} the last time with: "
                f"{recorder.lost[lost[0]]}; the same call tries them again"
            )
            if len(lost) == len(runs):
                raise InstructMineError(told)
            logger.warning("%s", told)
        left = [name for name in missing if name not in recorder.lost]
        if left:
            logger.warning("%d runs are left to another process, the first of them %s", len(left), left[0])

    def _add_conversations(self, runs: Sequence[dict[str, Any]]) -> None:
        new = sorted({i for run in runs for i in run["indices"]} - self.conversations.keys())
        if new:
            self.conversations |= read_rows(self.pool, new, self.execution.columns)
            self._engine = self._encoded = None  # the trunk is of the rows that were known

    def _encode(self) -> dict[str, EncodedSet]:
        if self._encoded is None:
            self._encoded = encode_all(self.recipe, self.eval_sets, self.conversations)
        return self._encoded

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        columns, name = self.execution.columns, self.model.model_name_or_path
        assert name is not None  # a recipe that names no model is refused
        return {
            "pool": f"{len(self.pool)} rows, {pool_digest(self.pool)}",
            "columns": None if columns is None else dict(columns),
            "recipe": self.recipe.comparable,
            "base_model": describe_source(name, self.model.model_revision),
            "evaluation_sets": {name: describe_set(s) for name, s in sorted(self.eval_sets.items())},
            "tokens": TOKENS,
            "training": {
                "processes": self.processes,
                "global_batch": global_batch(self.arguments.sft, self.processes),
            },
        }

    def _recorder(self, runs: Sequence[dict[str, Any]]) -> RunRecorder:
        # As the folder was begun: what no loss depends on may have changed since, and where the model lies.
        begun = self.records.read(self.records.folder / MANIFEST)
        assert begun is not None  # it is claimed
        known = {
            "recipe_hash": recipe_of(begun).recorded_hash,
            "base_model": begun["base_model"]["model"],
            "executor": self.execution.executor,
        }
        recorder = RunRecorder(self.records, known, self.keeps_checkpoints)
        if self.execution.retry_failed:
            records = {run["run_id"]: recorder.recorded(run) for run in runs}
            failed = {name: r for name, r in records.items() if r is not None and r["status"] == "failed"}
            recorder.retried = {name: digest(record) for name, record in failed.items()}
        return recorder

    def _finish(self, due: Sequence[dict[str, Any]], total: int, recorder: RunRecorder) -> None:
        if not due:
            return
        finish = self._way_of_finishing(recorder)
        with tqdm(total=total, initial=total - len(due), desc="Finetuning", unit="run", smoothing=0.1) as bar:
            for run_id in finish(due):
                bar.set_postfix_str(run_id, refresh=False)
                bar.update()

    def _way_of_finishing(self, recorder: RunRecorder) -> Callable[[Sequence[dict[str, Any]]], Iterator[str]]:
        given, executor = (self.recipe, self.eval_sets, self.conversations), self.execution.executor
        if self._engine is None:
            encoded = self._encode()
            if executor == "inline":
                self._engine = Inline(*given, self.records.folder, encoded)
            elif executor == "local":
                self._engine = LocalWorkers(*given, self.execution.workers)
            else:
                self._engine = Subprocess(*given, self.execution.accelerate_config, encoded)
        if executor == "local":
            return partial(self._engine.finish, recorder)
        recorder.measure_base(self._engine)
        if executor == "ray":
            resources = {"num_cpus": self.own.num_cpus, "num_gpus": self.own.num_gpus}
            return lambda due: finish_with_ray(self._engine, recorder, due, resources)
        return partial(finish_here, self._engine, recorder)
