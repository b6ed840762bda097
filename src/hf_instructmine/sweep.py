"""Many finetunes, each recorded once and for all (InstructMining, section 3.3: 129 subsets, one finetune each).

A finished run is one file, written whole. Killed at any instant, the same call starts the missing runs and only those.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from datasets import Dataset, Value
from tqdm.auto import tqdm

from .conversation import Conversation, read_conversations
from .errors import InstructMineError
from .evaluation.loss import EvaluationSet
from .executors import EXECUTORS, Inline, Subprocess, ray_session, run_command
from .provenance import get_provenance, set_provenance
from .recipe import Recipe
from .scoring import pool_digest
from .sweep_records import Records, environment


logger = logging.getLogger(__name__)

# Of a finetune's result, what becomes a column of the runs as it is.
_RESULT_COLUMNS = (
    "train_loss", "steps", "epochs", "train_tokens", "truncated", "seconds", "seconds_training", "seconds_evaluating",
    "peak_memory", "processes",
)  # fmt: skip


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
) -> Dataset:
    """Finetunes the base model on every mixture and measures the loss on every evaluation set.

    Args:
        pool (`Dataset`): What the mixtures' `indices` point into.
        mixtures (`Dataset`): From [`design_mixtures`], or any table with `mixture_id`, `seed` and `indices`.
        recipe ([`Recipe`], mapping or path): How to finetune.
        eval_sets (`Mapping[str, Dataset]`): By name; each gives a column `loss_<name>`.
        output_dir (`str` or `Path`): Keeps the records. A folder of the same sweep is gone on with; one of another
            pool, recipe or evaluation set is refused.
        executor (`str`, defaults to `"inline"`): `"inline"` loads the base model once and resets it between runs;
            `"accelerate"` launches a process (or several) for each run; `"ray"` spreads those over a Ray cluster, with
            the `num_cpus` and `num_gpus` that the recipe names.
        columns (`Mapping[str, str]`, *optional*): Which column of the pool is which, where that is not detected.
        accelerate_config (`str`, *optional*): `accelerate launch --config_file`, for the executors that launch.
        retry_failed (`bool`, defaults to `False`): Whether runs that were recorded as failed are run again.

    Returns:
        `Dataset`: One row per run, failed ones included; see [`load_runs`].

    Raises:
        [`InstructMineError`]: Before the first run, where pool, mixtures, recipe or folder do not fit together.
    """
    recipe = Recipe.load(recipe)
    own, _, _ = recipe.arguments()
    if executor not in EXECUTORS:
        raise InstructMineError(f"executor must be one of {', '.join(EXECUTORS)}, not {executor!r}")
    sets = {n: s if isinstance(s, EvaluationSet) else EvaluationSet.read(n, s) for n, s in eval_sets.items()}
    if not sets:
        raise InstructMineError("no evaluation set was given: there would be no loss to record")
    runs = _read_mixtures(mixtures, len(pool))
    conversations = _read_rows(pool, runs, columns)
    records = Records(output_dir)
    records.claim(
        {
            "pool": f"{len(pool)} rows, {pool_digest(pool)}",
            "recipe": recipe.settings,
            "evaluation_sets": {name: _set_digest(s) for name, s in sorted(sets.items())},
        }
    )
    _check_recorded(records, runs)
    sweep = _Sweep(records, recipe, sets, conversations, accelerate_config, retry_failed)
    sweep.run(runs, executor)
    records.write(records.folder / "indicators.json", {"provenance": get_provenance(mixtures)})
    if own.cached_trunk and not sweep.missing(runs):
        shutil.rmtree(records.folder / "trunk", ignore_errors=True)  # large, and of no use once all runs are done
    return load_runs(output_dir)


def load_runs(folder: str | Path, examples: bool = False) -> Dataset:
    """Opens the records of a sweep as a table, one row per run.

    Args:
        folder (`str` or `Path`): The sweep's `output_dir`.
        examples (`bool`, defaults to `False`): Whether to add, for each evaluation set, the columns
            `example_nll_<set>` (Σ NLL, nats) and `example_tokens_<set>` of each of its examples.

    Returns:
        `Dataset`: The mixture's columns (`mixture_id`, `indices`, `proportions`, mean indicators, …), `seed`,
        `status` (`"done"` or `"failed"`) and `reason`, `loss_<set>` and the untrained model's `base_loss_<set>`
        (Σ NLL / Σ tokens, nats), `train_tokens` (response tokens trained on, repeats included), `steps`, `epochs`,
        `seconds` and its parts, `peak_memory` (bytes), `recipe_hash`, `base_model`, `executor`, `versions` (JSON).

    Raises:
        [`InstructMineError`]: Where the folder holds no finished run.
    """
    records = Records(folder)
    found = records.all()
    if not found:
        raise InstructMineError(f"'{folder}' holds no finished run")
    base = (records.read(records.folder / "base.json") or {}).get("losses", {})
    rows = [_as_row(record, base, examples) for record in found.values()]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})
    for name in table.column_names:  # a column of None alone has no type of its own
        if table.features[name] == Value("null"):
            table = table.cast_column(name, Value("string" if name == "reason" else "float64"))
    provenance = (records.read(records.folder / "indicators.json") or {}).get("provenance", {})
    return set_provenance(table, {name: c for name, c in provenance.items() if name in names})


def sweep_status(folder: str | Path) -> str:
    """A few lines on a sweep: how many runs are done, failed, running and missing, and the time still needed."""
    records = Records(folder)
    planned = (records.read(records.folder / "planned.json") or {}).get("runs", [])
    found = records.all()
    done = [r for r in found.values() if r["status"] == "done"]
    failed = {run_id: r["reason"] for run_id, r in found.items() if r["status"] == "failed"}
    running = [run_id for run_id in planned if run_id not in found and not _is_free(records, run_id)]
    missing = [run_id for run_id in planned if run_id not in found and run_id not in running]
    lines = [
        f"{len(done)} of {len(planned)} runs done, {len(failed)} failed, {len(running)} running, {len(missing)} to do"
    ]
    if done and (running or missing):
        seconds = sum(r["result"]["seconds"] for r in done) / len(done)
        lines.append(
            f"{seconds:.0f} s a run: about {seconds * len(running + missing) / 60:.0f} minutes left on one worker"
        )
    lines += [f"  running  {run_id}" for run_id in running]
    lines += [f"  failed   {run_id}: {reason}" for run_id, reason in failed.items()]
    for run_id, record in found.items():
        if record["status"] == "done":
            losses = ", ".join(f"{name} {loss:.4f}" for name, loss in record["result"]["losses"].items())
            lines.append(f"  done     {run_id}: {losses} ({record['result']['seconds']:.0f} s)")
    return "\n".join(lines)


class _Sweep:
    def __init__(
        self,
        records: Records,
        recipe: Recipe,
        eval_sets: dict[str, EvaluationSet],
        conversations: dict[int, Conversation],
        accelerate_config: str | None,
        retry_failed: bool,
    ):
        self.records, self.recipe, self.eval_sets, self.conversations = records, recipe, eval_sets, conversations
        self.accelerate_config, self.retry_failed = accelerate_config, retry_failed

    def missing(self, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [run for run in runs if not self._is_recorded(run["run_id"])]

    def _is_recorded(self, run_id: str) -> bool:
        record = self.records.read(self.records.path_of(run_id))
        return record is not None and not (self.retry_failed and record["status"] == "failed")

    def run(self, runs: Sequence[dict[str, Any]], executor: str) -> None:
        self.records.write(self.records.folder / "planned.json", {"runs": [run["run_id"] for run in runs]})
        missing = self.missing(runs)
        with tqdm(total=len(runs), initial=len(runs) - len(missing), desc="Finetuning", unit="run") as bar:
            if not missing:
                return
            if executor == "inline":
                engine: Any = Inline(self.recipe, self.eval_sets, self.conversations, self.records.folder)
            else:
                engine = Subprocess(
                    self.recipe, self.eval_sets, self.conversations, self.records.folder, self.accelerate_config
                )
            self._measure_base(engine)
            for run_id in (
                self._run_with_ray(engine, missing) if executor == "ray" else self._run_here(engine, missing)
            ):
                bar.set_postfix_str(run_id)
                bar.update()
        shutil.rmtree(self.records.folder / "work", ignore_errors=True)

    def _measure_base(self, engine: Any) -> None:
        path = self.records.folder / "base.json"
        if self.records.read(path) is None:
            self.records.write(path, {"losses": engine.base(), "recipe_hash": self.recipe.hash})

    def _run_here(self, engine: Any, missing: Sequence[dict[str, Any]]) -> Iterator[str]:
        for run in missing:
            with self.records.lock(run["run_id"]) as mine:
                # Another sweep on this folder may hold it, or have finished it since we looked.
                if not mine or self._is_recorded(run["run_id"]):
                    continue
                started = time.perf_counter()
                try:
                    result = engine.run(run["indices"], run["seed"], self._work(run["run_id"]))
                    self._record(run, type(engine).__name__.lower(), result=result)
                except Exception as error:  # recorded with its reason: one bad run must not stop the others
                    if isinstance(error, InstructMineError) and str(error).startswith("cannot write"):
                        raise
                    self._record(
                        run, type(engine).__name__.lower(), error=error, seconds=time.perf_counter() - started
                    )
            yield run["run_id"]

    def _run_with_ray(self, engine: Subprocess, missing: Sequence[dict[str, Any]]) -> Iterator[str]:
        own, _, _ = self.recipe.arguments()
        with ray_session() as ray, ExitStack() as locks:
            task = ray.remote(num_cpus=own.num_cpus, num_gpus=own.num_gpus, max_retries=0)(run_command)
            waiting = {}
            for run in missing:
                if locks.enter_context(self.records.lock(run["run_id"])) and not self._is_recorded(run["run_id"]):
                    command, result = engine.command(run["indices"], run["seed"], self._work(run["run_id"]))
                    waiting[task.remote(command, result)] = run
            while waiting:
                (future,), _ = ray.wait(list(waiting), num_returns=1)
                run = waiting.pop(future)
                try:
                    self._record(run, "ray", result=engine.read(ray.get(future)))
                except ray.exceptions.RayTaskError as error:
                    self._record(run, "ray", error=error.cause)
                yield run["run_id"]

    def _work(self, run_id: str) -> Path:
        return (self.records.folder / "work" / run_id).resolve()

    def _record(
        self,
        run: dict[str, Any],
        executor: str,
        result: dict[str, Any] | None = None,
        error: Exception | None = None,
        seconds: float | None = None,
    ) -> None:
        reason = None if error is None else " ".join(f"{type(error).__name__}: {error}".split())
        if reason:
            logger.warning("run %s failed: %s", run["run_id"], reason)
        self.records.write(
            self.records.path_of(run["run_id"]),
            {
                "mixture": run,
                "indices_hash": hash_indices(run["indices"]),
                "status": "done" if error is None else "failed",
                "reason": reason,
                "result": result or {"losses": {}, "examples": {}, "seconds": seconds},
                "recipe_hash": self.recipe.hash,
                "base_model": base_model_name(self.recipe),
                "executor": executor,
                "versions": environment(),
            },
        )


def hash_indices(indices: Sequence[int]) -> str:
    """Digest of the rows of a subset, in order."""
    return hashlib.sha256(json.dumps(list(indices)).encode()).hexdigest()[:16]


def base_model_name(recipe: Recipe) -> str:
    """The base model's Hub id, or the name (not the path) of its folder."""
    name = str(recipe.settings["model_name_or_path"])
    return Path(name).name if Path(name).exists() else name


def _read_mixtures(mixtures: Dataset, pool_size: int) -> list[dict[str, Any]]:
    """One dict per run, with a `run_id`; refuses what cannot be run."""
    absent = [name for name in ("mixture_id", "seed", "indices") if name not in mixtures.column_names]
    if absent:
        raise InstructMineError(f"the mixtures have no column '{absent[0]}': make them with design_mixtures")
    runs = [{**row, "run_id": f"{row['mixture_id']}-seed{row['seed']}"} for row in mixtures]
    seen: set[str] = set()
    for run in runs:
        if not run["indices"]:
            raise InstructMineError(f"mixture '{run['mixture_id']}' is empty: it has no row to train on")
        if not 0 <= min(run["indices"]) <= max(run["indices"]) < pool_size:
            raise InstructMineError(
                f"mixture '{run['mixture_id']}' names row {max(run['indices'])} of a pool of {pool_size} rows: "
                "it was designed for another pool"
            )
        if run["run_id"] in seen:
            raise InstructMineError(f"'{run['run_id']}' stands twice in the mixtures: give replicates other seeds")
        seen.add(run["run_id"])
    return runs


def _read_rows(
    pool: Dataset, runs: Sequence[dict[str, Any]], columns: Mapping[str, str] | None
) -> dict[int, Conversation]:
    numbers = sorted({i for run in runs for i in run["indices"]})
    rows = dict(zip(numbers, read_conversations(pool[numbers], columns)))
    wrong = next(((i, row.problem) for i, row in rows.items() if row.problem), None)
    if wrong is not None:
        raise InstructMineError(f"row {wrong[0]} of the pool is in a mixture but cannot be learnt from: {wrong[1]}")
    return rows


def _set_digest(examples: EvaluationSet) -> str:
    text = json.dumps([[turn.prompt, turn.response] for turn in examples.turns], sort_keys=True, default=str)
    return f"{len(examples.rows)} examples, {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _check_recorded(records: Records, runs: Sequence[dict[str, Any]]) -> None:
    for run in runs:
        record = records.read(records.path_of(run["run_id"]))
        if record is not None and record["indices_hash"] != hash_indices(run["indices"]):
            raise InstructMineError(
                f"'{records.folder}' holds run '{run['run_id']}' on other rows: the mixtures were designed anew; "
                "choose another output_dir"
            )


def _as_row(record: dict[str, Any], base: Mapping[str, float], examples: bool) -> dict[str, Any]:
    result = record["result"]
    mixture = {key: value for key, value in record["mixture"].items() if key != "run_id"}
    row = {
        **mixture,
        "status": record["status"],
        "reason": record["reason"],
        **{f"loss_{name}": loss for name, loss in result["losses"].items()},
        **{f"base_loss_{name}": loss for name, loss in base.items()},
        **{name: result.get(name) for name in _RESULT_COLUMNS},
        "indices_hash": record["indices_hash"],
        "recipe_hash": record["recipe_hash"],
        "base_model": record["base_model"],
        "executor": record["executor"],
        "versions": json.dumps(record["versions"], sort_keys=True),
    }
    if examples:
        for name, measured in result["examples"].items():
            row[f"example_nll_{name}"], row[f"example_tokens_{name}"] = measured["nll"], measured["tokens"]
    return row


def _is_free(records: Records, run_id: str) -> bool:
    with records.lock(run_id) as free:
        return free
