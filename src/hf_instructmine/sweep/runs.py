"""What a sweep's folder holds: its runs as a table, and its state as a few lines of text."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

from ..data.provenance import set_provenance
from ..errors import InstructMineError
from ..outputs.shown import Shown
from .manifest import open_records


# Of a finetune's result, what becomes a column of the runs as it is.
_RESULT = {
    "train_loss": "float64",
    "steps": "int64",
    "epochs": "float64",
    "train_tokens": "int64",
    "truncated": "int64",
    "seconds": "float64",
    "seconds_training": "float64",
    "seconds_evaluating": "float64",
    "peak_memory": "int64",
    "processes": "int64",
    "budget": "string",
}
_TEXTS = ("indices_hash", "recipe_hash", "base_model", "executor", "versions")


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

    Example:

    ```python
    rule = him.LossEstimator.fit(him.load_runs("sweep"), target="loss_mine")
    ```
    """
    records = open_records(folder)
    found = records.all()
    if not found:
        raise InstructMineError(f"'{folder}' holds no finished run")
    sets = list((records.read(records.folder / "sweep.json") or {}).get("evaluation_sets", {}))
    base = (records.read(records.folder / "base.json") or {}).get("losses", {})
    features = _result_features(sets, examples)
    rows = [_as_row(record, base, examples) for record in found.values()]
    names = list(dict.fromkeys([*(name for row in rows for name in row if name not in features), *features]))
    columns = {name: [row.get(name) for row in rows] for name in names}
    inferred = Dataset.from_dict({name: values for name, values in columns.items() if name not in features}).features
    for name, feature in inferred.items():  # what no run of the table has a value for has no type
        features[name] = Value("float64") if feature == Value("null") else feature
    table = Dataset.from_dict(columns, features=Features({name: features[name] for name in names}))
    provenance = (records.read(records.folder / "planned.json") or {}).get("provenance", {})
    known = {name: made for name, made in provenance.items() if name in names}
    return set_provenance(table, known) if known else table


class SweepStatus(Shown, str):
    """The lines of [`sweep_status`]: a text that shows itself in a line, and in a notebook as lines."""

    __str__ = str.__str__


def sweep_status(folder: str | Path) -> SweepStatus:
    """A few lines on a sweep: how many runs are done, failed, running and missing, and the time still needed.

    Args:
        folder (`str` or `Path`): The sweep's `output_dir`; it may be running.

    Raises:
        [`InstructMineError`]: Where the folder holds no sweep.

    Example:

    ```python
    print(him.sweep_status("sweep"))
    ```
    """
    records = open_records(folder)
    if records.read(records.folder / "sweep.json") is None:
        raise InstructMineError(f"'{folder}' holds no sweep")
    found = records.all()
    planned = (records.read(records.folder / "planned.json") or {}).get("runs", [])
    waiting = [run_id for run_id in planned if run_id not in found]
    running = [run_id for run_id in waiting if records.is_running(run_id)]
    done = {run_id: r["result"] for run_id, r in found.items() if r["status"] == "done"}
    failed = {run_id: r["reason"] for run_id, r in found.items() if r["status"] == "failed"}
    lines = [
        f"{len(done)} of {len({*planned, *found})} runs done, {len(failed)} failed, {len(running)} running, "
        f"{len(waiting) - len(running)} to do"
    ]
    if done and waiting:
        seconds = sum(result["seconds"] for result in done.values()) / len(done)
        lines.append(f"{seconds:.1f} s a run: about {_duration(seconds * len(waiting))} left on one worker")
    lines += [f"  running  {run_id}" for run_id in running]
    lines += [f"  failed   {run_id}: {reason}" for run_id, reason in failed.items()]
    for run_id, result in done.items():
        losses = ", ".join(f"{name} {loss:.4f}" for name, loss in result["losses"].items())
        lines.append(f"  done     {run_id}: {losses} ({result['seconds']:.1f} s)")
    return SweepStatus("\n".join(lines))


def pure_error(runs: Dataset, target: str) -> tuple[float | None, float | None]:
    """SD of log loss between mixtures (of their means), and of replicates around their mixture's mean; None where
    there are too few.

    Args:
        runs (`Dataset`): Finished ones.
        target (`str`): A column of losses.
    """
    groups: dict[str, list[float]] = {}
    for mixture, loss in zip(runs["mixture_id"], np.log(runs[target])):
        groups.setdefault(mixture, []).append(loss)
    between = float(np.std([np.mean(losses) for losses in groups.values()], ddof=1)) if len(groups) > 1 else None
    freedom = sum(len(losses) - 1 for losses in groups.values())
    within = sum(np.sum((np.array(losses) - np.mean(losses)) ** 2) for losses in groups.values())
    return between, float(np.sqrt(within / freedom)) if freedom else None


def is_result_column(name: str) -> bool:
    """Whether a column is one that a run gives, so that it cannot be one of its mixture."""
    own = {*_RESULT, *_TEXTS, "status", "reason", "run_id"}
    return name in own or name.startswith(("loss_", "base_loss_", "example_nll_", "example_tokens_"))


def _result_features(sets: list[str], examples: bool) -> dict[str, Any]:
    features: dict[str, Any] = {"status": Value("string"), "reason": Value("string")}
    features |= {f"{kind}_{name}": Value("float64") for kind in ("loss", "base_loss") for name in sets}
    features |= {name: Value(dtype) for name, dtype in _RESULT.items()}
    features |= {name: Value("string") for name in _TEXTS}
    if examples:
        features |= {f"example_nll_{name}": List(Value("float64")) for name in sets}
        features |= {f"example_tokens_{name}": List(Value("int64")) for name in sets}
    return features


def _as_row(record: Mapping[str, Any], base: Mapping[str, float], examples: bool) -> dict[str, Any]:
    result = record["result"]
    row = {
        **{name: record["mixture"][name] for name in ("mixture_id", "seed")},
        **{name: value for name, value in record["mixture"].items() if name != "run_id"},
        "status": record["status"],
        "reason": record["reason"],
        **{f"loss_{name}": loss for name, loss in result["losses"].items()},
        **{f"base_loss_{name}": loss for name, loss in base.items()},
        **{name: result.get(name) for name in _RESULT},
        **{name: record[name] for name in _TEXTS if name != "versions"},
        "versions": json.dumps(record["versions"], sort_keys=True),
    }
    if examples:
        for name, measured in result["examples"].items():
            row[f"example_nll_{name}"], row[f"example_tokens_{name}"] = measured["nll"], measured["tokens"]
    return row


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
