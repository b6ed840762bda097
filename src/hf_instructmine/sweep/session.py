"""Many finetunes, each recorded once and for all (InstructMining, section 3.3: 129 subsets, one finetune each).

A finished run is one file, written whole. Killed at any instant, the same call starts the missing runs and only those.
"""

import errno
import logging
import math
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset
from tqdm.auto import tqdm

from ..data.conversation import Conversation, check_text_columns, read_conversations
from ..data.evaluation_sets import EvaluationSet
from ..data.provenance import get_provenance
from ..data.texts import pool_digest
from ..errors import InstructMineError, one_line
from ..finetuning.recipe import Recipe
from ..models.loading import describe_source
from ..outputs.digests import digest
from ..outputs.records import Records
from .executors import Execution, Inline, Subprocess, ray_session, run_command
from .keeping import STAGE, as_recorded, asked_to_keep, check_keeping, keep_run
from .manifest import DESIGN, MANIFEST, MIXTURES, describe_difference, environment
from .runs import is_result_column, load_runs


logger = logging.getLogger(__name__)

# Not a fault of the run that meets it, and the next one would meet it too.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def run_sweep(
    pool: Dataset,
    mixtures: Dataset,
    recipe: "Recipe | Mapping[str, Any] | str | Path",
    eval_sets: Mapping[str, "Dataset | EvaluationSet"],
    output_dir: str | Path,
    executor: str = "inline",
    *,
    columns: Mapping[str, str] | None = None,
    accelerate_config: str | None = None,
    retry_failed: bool = False,
    keep_models: bool = False,
) -> Dataset:
    """Finetunes the base model on every mixture and measures the loss on every evaluation set.

    A run that fails is recorded with its reason, and the others go on. A run also counts as failed where it diverged:
    where its loss on an evaluation set is not finite, or above both the untrained model's and ln(vocabulary), that of
    guessing. A full or read-only disk stops the sweep.

    Args:
        pool (`Dataset`): What the mixtures' `indices` point into.
        mixtures (`Dataset`): From [`design_mixtures`], or any table with `mixture_id`, `seed` and `indices`.
        recipe ([`Recipe`], mapping or path): How to finetune.
        eval_sets (`Mapping[str, Dataset]`): By name; each gives a column `loss_<name>`.
        output_dir (`str` or `Path`): Keeps the records. A folder of the same sweep is gone on with, and extended where
            the mixtures have become more; one of another pool, recipe, base model or evaluation set is refused. Where
            another process sweeps into it at the same time, the two share the runs.
        executor (`str`, defaults to `"inline"`): `"inline"` loads the base model once and resets it between runs;
            `"accelerate"` launches a process (or several) for each run; `"ray"` spreads those over a Ray cluster that
            shares a file system, with the `num_cpus` and `num_gpus` that the recipe names. `cached_trunk` works with
            `"inline"` alone; the others run the whole model.
        columns (`Mapping[str, str]`, *optional*): Which column of the pool is which, where that is not detected.
        accelerate_config (`str`, *optional*): `accelerate launch --config_file`, for the executors that launch.
        retry_failed (`bool`, defaults to `False`): Whether runs that were recorded as failed are run again.
        keep_models (`bool`, defaults to `False`): Whether the final model of each run (its adapter, with LoRA) is kept
            in `models/<run>` with a card; what they take of the disk is told first. A run that is recorded already is
            not trained again for it.

    Returns:
        `Dataset`: One row per run, failed ones included; see [`load_runs`].

    Raises:
        [`InstructMineError`]: Before the first run, where pool, mixtures, recipe or folder do not fit together; later,
            where a record cannot be written.
    """
    execution = Execution(executor, accelerate_config, columns, retry_failed, keep_models)
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
        pool: Dataset,
        recipe: "Recipe | Mapping[str, Any] | str | Path",
        eval_sets: Mapping[str, "Dataset | EvaluationSet"],
        output_dir: str | Path,
        execution: Execution,
    ):
        self.pool, self.execution = pool, execution
        self.recipe = asked_to_keep(Recipe.load(recipe), execution.keep_models)
        arguments = self.recipe.arguments()
        self.own, self.model = arguments.own, arguments.model
        self.eval_sets = _read_eval_sets(eval_sets)
        self.records = Records(output_dir)
        self.resources = {"num_cpus": self.own.num_cpus, "num_gpus": self.own.num_gpus}
        self.keeps_checkpoints = arguments.sft.save_strategy != "no"
        self.conversations: dict[int, Conversation] = {}
        self._engine: Any = None
        self._complete = False
        if self.own.cached_trunk and execution.executor != "inline":
            logger.warning("cached_trunk works with executor='inline' alone: every run computes the whole model")

    def __enter__(self) -> "SweepSession":
        return self

    def __exit__(self, *_: object) -> None:
        self._engine = None
        if self._complete and self.own.cached_trunk:
            with self.records.lock("trunk", patience=-1):  # large, and of no use once all runs are done
                shutil.rmtree(self.records.folder / "trunk", ignore_errors=True)

    def run(self, mixtures: Dataset) -> Dataset:
        """Runs what is not recorded yet.

        Args:
            mixtures (`Dataset`): As for [`run_sweep`]; they join those of earlier calls.

        Returns:
            `Dataset`: One row per run in the folder, failed ones included; see [`load_runs`].

        Raises:
            [`InstructMineError`]: As [`run_sweep`] does.
        """
        runs = _read_mixtures(mixtures, len(self.pool))
        self._add_conversations(runs)
        self.records.claim(MANIFEST, self._manifest, "sweep", describe_difference, beside=(DESIGN, MIXTURES))
        with self.records.lock("plan", patience=-1):
            _check_recorded(self.records, runs)
            _plan(self.records, runs, get_provenance(mixtures))
        due = [run for run in runs if self._is_due(run)]
        check_keeping(self.records, self.recipe, runs, len(due))
        self._finish(due, len(runs))
        missing = [run["run_id"] for run in runs if self._recorded(run) is None]
        for run in runs:
            if run["run_id"] not in missing:  # its process may have been killed before it could tidy up
                shutil.rmtree(self.records.folder / "work" / run["run_id"], ignore_errors=True)
        with suppress(OSError):  # it holds what other processes work on, or is not there
            (self.records.folder / "work").rmdir()
        if missing:
            logger.warning("%d runs are left to another process, the first of them %s", len(missing), missing[0])
        self._complete = not missing
        return load_runs(self.records.folder)

    def _add_conversations(self, runs: Sequence[dict[str, Any]]) -> None:
        new = sorted({i for run in runs for i in run["indices"]} - self.conversations.keys())
        if new:
            self.conversations |= _read_rows(self.pool, new, self.execution.columns)
            self._engine = None  # which holds the trunk of the rows it knows

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        columns, name = self.execution.columns, self.model.model_name_or_path
        assert name is not None  # a recipe that names no model is refused
        return {
            "pool": f"{len(self.pool)} rows, {pool_digest(self.pool)}",
            "columns": None if columns is None else dict(columns),
            "recipe": self.recipe.comparable,
            "base_model": describe_source(name, self.model.model_revision),
            "evaluation_sets": {name: _set_digest(s) for name, s in sorted(self.eval_sets.items())},
        }

    def _recorded(self, run: Mapping[str, Any]) -> dict[str, Any] | None:
        return self.records.read(self.records.path_of(run["run_id"]))

    def _is_due(self, run: Mapping[str, Any]) -> bool:
        record = self._recorded(run)
        return record is None or (self.execution.retry_failed and record["status"] == "failed")

    def _finish(self, missing: Sequence[dict[str, Any]], total: int) -> None:
        if not missing:
            return
        if self._engine is None:
            given = self.recipe, self.eval_sets, self.conversations
            if self.execution.executor == "inline":
                self._engine = Inline(*given, self.records.folder)
            else:
                self._engine = Subprocess(*given, self.execution.accelerate_config)
        self._base = self._measure_base()
        finish = self._finish_with_ray if self.execution.executor == "ray" else self._finish_here
        with tqdm(total=total, initial=total - len(missing), desc="Finetuning", unit="run", smoothing=0.1) as bar:
            for run_id in finish(missing):
                bar.set_postfix_str(run_id, refresh=False)
                bar.update()

    def _measure_base(self) -> dict[str, Any]:
        path = self.records.folder / "base.json"
        with self.records.lock("base", patience=-1):
            if self.records.read(path) is None:
                self.records.write(path, self._engine.base())
        base = self.records.read(path)
        assert base is not None  # it has just been written
        return base

    def _finish_here(self, missing: Sequence[dict[str, Any]]) -> Iterator[str]:
        for run in missing:
            with self.records.lock(run["run_id"]) as mine:
                # Another sweep on this folder may hold it, or have finished it since we looked.
                if mine and self._is_due(run):
                    started = time.perf_counter()
                    try:
                        outcome = self._engine.run(run["indices"], run["seed"], self._folder(run))
                    except Exception as error:  # one bad run must not stop the others
                        outcome = error
                    self._record(run, outcome, time.perf_counter() - started)
            yield run["run_id"]

    def _finish_with_ray(self, missing: Sequence[dict[str, Any]]) -> Iterator[str]:
        with ray_session() as ray, ExitStack() as locks:
            task = ray.remote(**self.resources, max_retries=0)(run_command)
            waiting = {}
            for run in missing:
                if locks.enter_context(self.records.lock(run["run_id"])) and self._is_due(run):
                    launch = self._engine.command(run["indices"], run["seed"], self._folder(run))
                    waiting[task.remote(*launch)] = run, time.perf_counter()
            while waiting:
                (future,), _ = ray.wait(list(waiting), num_returns=1)
                run, started = waiting.pop(future)
                try:
                    outcome = self._engine.read(ray.get(future))
                except ray.exceptions.RayTaskError as error:
                    outcome = error.cause
                except ray.exceptions.RayError as error:  # a worker or its machine died
                    outcome = error
                self._record(run, outcome, time.perf_counter() - started)
                yield run["run_id"]

    def _folder(self, run: Mapping[str, Any]) -> Path:
        kind = "checkpoints" if self.keeps_checkpoints else "work"
        return (self.records.folder / kind / run["run_id"]).resolve()

    def _record(self, run: dict[str, Any], outcome: dict[str, Any] | Exception, seconds: float) -> None:
        if isinstance(outcome, OSError) and outcome.errno in _DISK_ERRORS:
            raise InstructMineError(
                f"cannot write to '{self.records.folder}': {outcome.strerror}; what is finished is kept: mend it "
                "and start again"
            ) from outcome
        reason: str | None
        if isinstance(outcome, Exception):
            kind = "" if isinstance(outcome, InstructMineError) else f"{type(outcome).__name__}: "
            reason = f"{kind}{one_line(outcome)}"
            result = {"losses": {}, "examples": {}, "seconds": seconds}
        else:
            reason, result = _divergence(outcome["losses"], self._base), as_recorded(outcome)
            if self.execution.keep_models and not reason:
                keep_run(self.records, run, outcome, hash_indices(run["indices"]), self._folder(run))
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
                "recipe_hash": self.recipe.hash,
                "base_model": self.recipe.base_model,
                "executor": self.execution.executor,
                "versions": environment(),
            },
        )
        # A model that is left here is one of a run that failed.
        shutil.rmtree(self._folder(run) / STAGE if self.keeps_checkpoints else self._folder(run), ignore_errors=True)


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


def _read_eval_sets(eval_sets: Mapping[str, "Dataset | EvaluationSet"]) -> dict[str, EvaluationSet]:
    if not eval_sets:
        raise InstructMineError("no evaluation set was given: there would be no loss to record")
    wrong = next((name for name in eval_sets if not name.isidentifier()), None)
    if wrong is not None:
        raise InstructMineError(f"the evaluation set's name {wrong!r} must be letters, digits and underscores")
    sets = {n: s if isinstance(s, EvaluationSet) else EvaluationSet.read(n, s) for n, s in eval_sets.items()}
    for name, examples in sets.items():
        if examples.skipped:
            logger.warning("%s: %d rows without a reference answer are left out", name, examples.skipped)
    return sets


def _read_mixtures(mixtures: Dataset, pool_size: int) -> list[dict[str, Any]]:
    """One dict per run, with a `run_id`; refuses what cannot be run."""
    absent = [name for name in ("mixture_id", "seed", "indices") if name not in mixtures.column_names]
    if absent:
        raise InstructMineError(f"the mixtures have no column '{absent[0]}': make them with design_mixtures")
    own = mixtures.remove_columns([name for name in mixtures.column_names if is_result_column(name)])
    runs = [{**row, "run_id": f"{row['mixture_id']}-seed{row['seed']}"} for row in own]
    if not runs:
        raise InstructMineError("the mixtures have no row: there is nothing to run")
    seen: dict[str, list[int]] = {}
    for run in runs:
        name, indices = run["mixture_id"], run["indices"]
        # It names files.
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]{0,99}", name):
            raise InstructMineError(f"mixture_id {name!r:.60} must be letters, digits, '-', '_' and '.' (at most 100)")
        if not isinstance(run["seed"], int) or not 0 <= run["seed"] < 2**32:
            raise InstructMineError(f"the seed of mixture '{name}' is {run['seed']!r}, not a number from 0 to 2**32-1")
        if not indices:
            raise InstructMineError(f"mixture '{name}' is empty: it has no row to train on")
        outside = next((i for i in indices if not 0 <= i < pool_size), None)
        if outside is not None:
            raise InstructMineError(
                f"mixture '{name}' names row {outside} of a pool of {pool_size} rows: it was designed for another pool"
            )
        if seen.setdefault(name, indices) != indices:
            raise InstructMineError(f"mixture '{name}' stands twice in the mixtures, with other rows: rename one")
    run_ids = [run["run_id"] for run in runs]
    twice = next((run_id for run_id in run_ids if run_ids.count(run_id) > 1), None)
    if twice is not None:
        raise InstructMineError(f"'{twice}' stands twice in the mixtures: give replicates other seeds")
    return runs


def _read_rows(pool: Dataset, numbers: Sequence[int], columns: Mapping[str, str] | None) -> dict[int, Conversation]:
    check_text_columns(pool, columns)
    batch = pool.with_format(None)[numbers]
    rows = {}
    for k, i in enumerate(numbers):
        (rows[i],) = read_conversations({name: values[k : k + 1] for name, values in batch.items()}, columns, i)
        if rows[i].problem:
            raise InstructMineError(
                f"row {i} of the pool is in a mixture but cannot be learnt from: {rows[i].problem}"
            )
    return rows


def _set_digest(examples: EvaluationSet) -> str:
    texts = [[turn.prompt, turn.response] for turn in examples.turns]
    return f"{len(examples.rows)} examples, {digest(texts)}"


def _check_recorded(records: Records, runs: Sequence[dict[str, Any]]) -> None:
    planned = (records.read(records.folder / "planned.json") or {}).get("mixtures", {})
    for run in runs:
        if planned.get(run["mixture_id"], hash_indices(run["indices"])) != hash_indices(run["indices"]):
            raise InstructMineError(
                f"'{records.folder}' holds a mixture '{run['mixture_id']}' of other rows: the mixtures were designed "
                "anew; choose another output_dir"
            )


def _plan(records: Records, runs: Sequence[dict[str, Any]], provenance: Mapping[str, Any]) -> None:
    """Adds the runs to those that were planned before, and how their indicators were made."""
    path = records.folder / "planned.json"
    before = records.read(path) or {"runs": [], "mixtures": {}, "provenance": {}}
    for name, made in provenance.items():
        if before["provenance"].get(name, made) != made:
            raise InstructMineError(
                f"'{records.folder}' holds mixtures whose '{name}' was made otherwise: choose another output_dir"
            )
    records.write(
        path,
        {
            "runs": list(dict.fromkeys([*before["runs"], *(run["run_id"] for run in runs)])),
            "mixtures": {**before["mixtures"], **{run["mixture_id"]: hash_indices(run["indices"]) for run in runs}},
            "provenance": {**before["provenance"], **provenance},
        },
    )
