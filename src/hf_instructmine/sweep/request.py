"""What a sweep is asked for: read, checked and noted down before its first run."""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from ..data.conversation import Conversation, check_text_columns, read_conversations
from ..data.evaluation_sets import EvaluationSet
from ..errors import InstructMineError
from ..outputs.digests import digest
from ..outputs.records import Records
from .manifest import MANIFEST, TOKENS
from .recorder import hash_indices
from .runs import is_result_column


logger = logging.getLogger(__name__)


def read_eval_sets(eval_sets: Mapping[str, "Dataset | EvaluationSet"]) -> dict[str, EvaluationSet]:
    """The evaluation sets by name.

    Raises:
        [`InstructMineError`]: Where there is none, or a name cannot be that of a column.
    """
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


def read_mixtures(mixtures: Dataset, pool_size: int) -> list[dict[str, Any]]:
    """One dict per run, with a `run_id`.

    Raises:
        [`InstructMineError`]: Where the mixtures are not a table of them, or name rows that the pool does not have.
    """
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
        steps = run.get("max_steps")
        if steps is not None and not (isinstance(steps, int) and steps > 0):
            raise InstructMineError(f"max_steps of mixture '{name}' is {steps!r}, not a whole number of at least 1")
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


def read_rows(pool: Dataset, numbers: Sequence[int], columns: Mapping[str, str] | None) -> dict[int, Conversation]:
    """Rows of the pool by their numbers.

    Raises:
        [`InstructMineError`]: Where one cannot be learnt from.
    """
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


def describe_set(examples: EvaluationSet) -> str:
    """How a folder knows an evaluation set: how many examples it has, and a digest of their texts."""
    return f"{len(examples.rows)} examples, {digest([turn.identity for turn in examples.turns])}"


def check_recorded(records: Records, runs: Sequence[dict[str, Any]], processes: int | None) -> None:
    """Looks whether runs can join those of the folder.

    Raises:
        [`InstructMineError`]: Where a mixture of the same name has other rows there, or runs there were trained by
            another number of processes.
    """
    trained = {record["result"].get("processes", processes) for record in records.all().values()}
    others = sorted(trained - {processes, None})
    if others and processes is not None:  # else Accelerate's configuration does not say
        raise InstructMineError(
            f"'{records.folder}' holds runs of {others[0]} processes, and this sweep would train with {processes}: "
            "the batch would be another; choose another output_dir, or undo the change"
        )
    planned = (records.read(records.folder / "planned.json") or {}).get("mixtures", {})
    for run in runs:
        before, now = planned.get(run["mixture_id"], _plan_of(run)), _plan_of(run)
        if before != now:
            what = "steps" if before.partition(",")[0] == now.partition(",")[0] else "rows"
            raise InstructMineError(
                f"'{records.folder}' holds a mixture '{run['mixture_id']}' of other {what}: the mixtures were "
                "designed anew; choose another output_dir"
            )


def check_tokens(records: Records, due: Sequence[dict[str, Any]]) -> None:
    """Looks whether the runs of the folder have learnt the tokens that those which are due would.

    Raises:
        [`InstructMineError`]: Where they have not: their losses could not be compared.
    """
    manifest = records.read(records.folder / MANIFEST) or {}
    if due and manifest.get("tokens") != TOKENS:
        raise InstructMineError(
            f"'{records.folder}' holds runs of an earlier version, which ended turns in EOS and not as the chat "
            f"template does; '{due[0]['run_id']}' would learn other tokens: choose another output_dir"
        )


def plan_runs(records: Records, runs: Sequence[dict[str, Any]], provenance: Mapping[str, Any]) -> None:
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
            "mixtures": {**before["mixtures"], **{run["mixture_id"]: _plan_of(run) for run in runs}},
            "provenance": {**before["provenance"], **provenance},
        },
    )


def _plan_of(run: Mapping[str, Any]) -> str:
    """What a mixture of this name is known by: its rows, and its optimiser steps where it asks for some."""
    steps = run.get("max_steps")
    return hash_indices(run["indices"]) + ("" if steps is None else f", {steps} steps")
