"""A table of runs (one row per finetune), read and checked before anything is fitted to it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data.columns import column_names, indicator_of, numeric_column, row_count
from ..errors import InstructMineError
from ..outputs.digests import digest, digest_of_text
from ..outputs.reading import parse_json


# Columns that tell how much each finetune trained on.
BUDGETS = ("subset_size", "train_tokens", "steps")


@dataclass
class RunTable:
    """The finished runs of a table.

    Attributes:
        losses (`np.ndarray` of shape (n, sets)): The target losses, one column per evaluation set.
        columns (`dict[str, np.ndarray]`): Indicators and covariates by name, each of shape (n,).
        indicators (`list[str]`): The indicators among them.
        mixtures (`np.ndarray` of shape (n,)): Code of the mixture; replicates share it.
        weights (`np.ndarray` of shape (n,)): With mean 1.
        rows (`np.ndarray` of shape (n,)): Where the runs are in the table.
        groups (`list`): Per run, the value of the grouping column; empty without one.
        sources (`list[str]`): The sources of the subsets, where recorded.
        shares (`np.ndarray` of shape (n, sources)): The proportion of each source in each subset, where recorded.
        other_losses (`dict[str, np.ndarray]`): The other evaluation sets, those measured on every run.
        provenance (`dict[str, dict]`): The configuration behind each indicator, where recorded.
        ids (`list[str]`): A hash of each run.
        failed (`int`): How many rows were left out because their status is "failed".
        left_out (`int`): How many were left out because they contain a source that was to be left out.
        facts (`dict[str, Any]`): Base model and recipe, and the least and most of each of `BUDGETS`, for the record.
        notes (`list[str]`): What a reader of the rule should know of the table.
    """

    losses: np.ndarray
    columns: dict[str, np.ndarray]
    indicators: list[str]
    mixtures: np.ndarray
    weights: np.ndarray
    rows: np.ndarray
    groups: list[Any] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    shares: np.ndarray | None = None
    other_losses: dict[str, np.ndarray] = field(default_factory=dict)
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    failed: int = 0
    left_out: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.losses)

    @property
    def hash(self) -> str:
        """Of all runs, whatever their order."""
        return digest_of_text("".join(sorted(self.ids)))


def read_runs(
    table: Any,
    targets: Sequence[str],
    indicators: Sequence[str] | None,
    covariates: Sequence[str] = (),
    weights: str | None = None,
    group: str | None = None,
    without_sources: Sequence[str] = (),
    constant: bool = False,
) -> RunTable:
    """Reads a `Dataset`, a pandas `DataFrame` or a mapping of sequences with one row per run.

    Args:
        constant (`bool`, *optional*, defaults to `False`): Accept an indicator that is the same in every run, where no
            rule is fitted to it. The other arguments are those of [`LossEstimator.fit`].

    Returns:
        [`RunTable`]: The finished runs.

    Raises:
        [`InstructMineError`]: Where a column is missing or holds something else than numbers, a loss or an indicator
            is NaN, an indicator is constant, base models or recipes are mixed, or provenance differs between runs.
    """
    names = column_names(table)
    for name in filter(None, (*targets, *(indicators or ()), *covariates, weights, group)):
        if name not in names:
            known = ", ".join(n for n in names if n.startswith("loss_")) or "none"
            hint = f"; the losses there are: {known}" if name in targets else ""
            raise InstructMineError(f"the runs have no column '{name}'{hint}")
    chosen = list(indicators) if indicators is not None else _recognised(table, names)
    if not chosen and not constant:
        raise InstructMineError("the runs have no indicator column: name them with indicators=[...]")

    # Which runs count: those that ended, without the sources to be left out.
    done, shares, sources = _rows(table, names)
    failed = len(done) - int(done.sum())
    kept = done.copy()
    for source in without_sources:
        if source not in sources:
            raise InstructMineError(f"no run has a source '{source}': there are {', '.join(sources) or 'none'}")
        kept &= shares[:, sources.index(source)] <= 0
    if not kept.any():
        raise InstructMineError("the table has no finished run left to fit")

    # Their numbers, all of which a fit needs.
    columns = {name: numeric_column(table, name)[kept] for name in dict.fromkeys((*chosen, *covariates))}
    losses = np.stack([numeric_column(table, name)[kept] for name in targets], axis=1)
    rows = np.flatnonzero(kept)
    for name, values in (*zip(targets, losses.T), *columns.items()):
        _refuse_missing(name, values, rows)
    for name, values in columns.items():
        if not constant and np.ptp(values) <= 1e-12 * np.abs(values).max():
            raise InstructMineError(f"the column '{name}' is {values[0]:g} in every run: leave it out")
    runs = RunTable(
        losses=losses,
        columns=columns,
        indicators=chosen,
        mixtures=_mixtures(table, names, kept),
        weights=_weights(table, weights, kept, rows),
        groups=_values(table, group, kept) if group else [],
        sources=sources,
        shares=shares[kept] if sources else None,
        other_losses=_other_losses(table, names, targets, kept),
        provenance=_provenance(table, names, chosen, kept),
        rows=rows,
        failed=failed,
        left_out=int(done.sum() - kept.sum()),
    )
    runs.facts = {**_one_setting(table, names, kept, runs.groups, group), **_budgets(table, names, kept)}
    runs.ids = run_ids(table, rows, targets, chosen)
    runs.notes = _notes(runs, names)
    return runs


def run_ids(
    table: Any, rows: Sequence[int] | np.ndarray, targets: Sequence[str], indicators: Sequence[str]
) -> list[str]:
    """A hash of what each run was and gave, to tell later whether a rule has seen it."""
    names = column_names(table)
    parts = [numeric_column(table, name)[rows].tolist() for name in (*targets, *sorted(indicators))]
    parts += [[str(v) for v in _values(table, name, rows)] for name in ("mixture_id", "seed") if name in names]
    return [digest(row) for row in zip(*parts)]


def _recognised(table: Any, names: list[str]) -> list[str]:
    if hasattr(table, "features"):
        from ..data.columns import indicator_names

        return indicator_names(table)
    return [name for name in names if indicator_of(name) and not name.startswith("pool_")]


def _values(table: Any, name: str, rows: Any) -> list[Any]:
    values = table[name][:] if hasattr(table, "column_names") else list(table[name])
    return [values[i] for i in (np.flatnonzero(rows) if np.asarray(rows).dtype == bool else rows)]


def _rows(table: Any, names: list[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Which rows are finished runs, and the shares of the sources in them."""
    count = row_count(table)
    every = range(count)
    done = np.ones(count, bool)
    if "status" in names:
        status = _values(table, "status", every)
        for row, value in enumerate(status):
            if value not in ("done", "failed"):
                raise InstructMineError(f"run {row} has status {value!r}: a run is 'done' or 'failed'")
        done = np.array([value == "done" for value in status], bool)
    if "proportions" not in names:
        return done, np.empty((count, 0)), []
    mixes = [_mapping(m, i, "proportions") for i, m in enumerate(_values(table, "proportions", every))]
    sources = sorted({source for mix in mixes for source, share in mix.items() if share})
    return (
        done,
        np.array([[mix.get(s) or 0.0 for s in sources] for mix in mixes]).reshape(count, len(sources)),
        sources,
    )


def _mapping(value: Any, run: int, column: str) -> dict[str, Any]:
    """A cell that holds a mapping, or JSON text of one."""
    where, mend = f"the {column} of run {run}", "mend the table"
    value = parse_json(value, where, mend) if isinstance(value, str) else {} if value is None else value
    if not isinstance(value, dict):
        raise InstructMineError(f"{where} is {value!r:.60}, no mapping: {mend}")
    return value


def _refuse_missing(name: str, values: np.ndarray, rows: np.ndarray) -> None:
    bad = rows[~np.isfinite(values)]
    if len(bad):
        raise InstructMineError(
            f"the column '{name}' has no finite value in run {', '.join(map(str, bad[:5]))}"
            f"{' and others' if len(bad) > 5 else ''}: leave out the column, or those runs (status 'failed')"
        )


def _mixtures(table: Any, names: list[str], kept: np.ndarray) -> np.ndarray:
    """Codes 0 … G − 1. A run that replicates another's mixture, under its id or by `replicate_of`, shares its code."""
    if "mixture_id" not in names:
        return np.arange(kept.sum())
    keys = _values(table, "mixture_id", kept)
    if "replicate_of" in names:
        original = _values(table, "replicate_of", kept)
        keys = [key if of is None or of != of or of == "" else of for key, of in zip(keys, original)]
    codes = {key: code for code, key in enumerate(dict.fromkeys(map(_key, keys)))}
    if len(codes) == 1 and len(keys) > 1:
        raise InstructMineError(f"all {len(keys)} runs are of one mixture: only its noise can be measured, not a rule")
    return np.array([codes[_key(key)] for key in keys])


def _key(value: Any) -> str:
    # pandas turns a column of integers with gaps into floats: 3 and 3.0 are one mixture.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _weights(table: Any, name: str | None, kept: np.ndarray, rows: np.ndarray) -> np.ndarray:
    if name is None:
        return np.ones(len(rows))
    weights = numeric_column(table, name)[kept]
    _refuse_missing(name, weights, rows)
    if (weights <= 0).any():
        raise InstructMineError(f"the weight '{name}' of run {rows[weights <= 0][0]} is not above 0")
    return weights / weights.mean()


def _other_losses(table: Any, names: list[str], targets: Sequence[str], kept: np.ndarray) -> dict[str, np.ndarray]:
    others = [name for name in names if name.startswith("loss_") and (name not in targets or len(targets) > 1)]
    measured = {}
    for name in others:
        try:
            values = numeric_column(table, name)[kept]
        except InstructMineError:  # a curve or a text under such a name is no evaluation set
            continue
        if np.isfinite(values).all() and (values > 0).all():
            measured[name] = values
    return measured


def _provenance(table: Any, names: list[str], indicators: list[str], kept: np.ndarray) -> dict[str, dict[str, Any]]:
    from ..data.provenance import get_provenance

    found = get_provenance(table) if hasattr(table, "features") else {}
    if "provenance" in names:  # a table of runs that was gathered row by row
        cells = zip(np.flatnonzero(kept).tolist(), _values(table, "provenance", kept))
        records = [_mapping(cell, run, "provenance") for run, cell in cells]
        for row, record in zip(np.flatnonzero(kept), records):
            for name in indicators:
                if record.get(name) != records[0].get(name):
                    raise InstructMineError(
                        f"the indicator '{name}' of run {row} was made by {record.get(name)}, that of run "
                        f"{np.flatnonzero(kept)[0]} by {records[0].get(name)}: score all runs alike"
                    )
        found = {**{k: v for k, v in records[0].items() if isinstance(v, dict)}, **found}
    return {name: found[name] for name in indicators if name in found}


def _notes(runs: RunTable, names: list[str]) -> list[str]:
    notes = []
    if runs.left_out:
        notes.append(f"{runs.left_out} runs that contain a source to be left out were not used.")
    unknown = [name for name in runs.indicators if name not in runs.provenance]
    if unknown:
        notes.append(f"Nothing records which model made {', '.join(unknown)}, so a pool cannot be checked for it.")
    notes += [
        f"{name} was measured inside each subset, where a scored pool has it inside the pool: to rank examples by it, "
        f"fit on pool_{name}."
        for name in runs.indicators
        if f"pool_{name}" in names
    ]
    return notes


def _one_setting(
    table: Any, names: list[str], kept: np.ndarray, groups: list[Any], group: str | None
) -> dict[str, Any]:
    """Refuses runs of several base models or recipes, unless each group has one. Returns what they are."""
    facts: dict[str, Any] = {}
    for name in ("base_model", "recipe_hash"):
        if name not in names:
            continue
        values = _values(table, name, kept)
        facts[name] = sorted({str(v) for v in values})
        pairs = set(zip(groups or [None] * len(values), map(str, values)))
        if len(pairs) > len(set(groups)) and len(pairs) > 1:
            mend = f"even within a value of '{group}'" if group else f"give each its level with group='{name}'"
            mixed = ", ".join(facts[name])
            raise InstructMineError(f"the runs mix {len(facts[name])} values of '{name}' ({mixed}): {mend}")
    return facts


def _budgets(table: Any, names: list[str], kept: np.ndarray) -> dict[str, list[int]]:
    """Least and most of what is known of every run."""
    found = {}
    for name in BUDGETS:
        values = [] if name not in names else _values(table, name, kept)
        if values and all(isinstance(value, (int, float, np.number)) and np.isfinite(value) for value in values):
            found[name] = [round(min(values)), round(max(values))]
    return found
