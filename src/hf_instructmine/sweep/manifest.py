"""The records of a sweep: one file per run, written whole or not at all, checked when read."""

import logging
import platform
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from ..finetuning.recipe import Recipe
from ..outputs.records import Records
from ..versions import OF_TRAINING


logger = logging.getLogger(__name__)

# Where `instructmine sweep` keeps what it designed.
DESIGN, MIXTURES = "design.json", "mixtures.parquet"
# What says of which pool, recipe, base model and evaluation sets a folder's runs are.
MANIFEST = "sweep.json"
# What a row's tokens are, in training and in measuring. Folders written before it was the template's do not say so.
TOKENS = "as the chat template writes them"


class _Model(TypedDict):
    model: str
    weights: NotRequired[Any]


class _Manifest(TypedDict):
    recipe: dict[str, Any]
    base_model: _Model
    evaluation_sets: dict[str, Any]


class _Planned(TypedDict):
    runs: list[str]
    mixtures: dict[str, str]
    provenance: dict[str, dict[str, Any]]


class _Measured(TypedDict):
    nll: list[float]
    tokens: list[int]


class _Base(TypedDict):
    losses: dict[str, float]
    vocabulary: int
    examples: NotRequired[dict[str, _Measured]]


class _Mixture(TypedDict):
    mixture_id: str
    seed: int
    indices: list[int]


class _Result(TypedDict):
    losses: dict[str, float]
    examples: dict[str, _Measured]
    seconds: float


class _Run(TypedDict):
    mixture: _Mixture
    indices_hash: str
    status: str
    reason: str | None
    result: _Result
    recipe_hash: str
    base_model: str
    executor: str
    versions: dict[str, Any]


class _Design(TypedDict):
    request: dict[str, Any]


def open_records(folder: str | Path, more: Mapping[str, Any] | None = None) -> Records:
    """The records of a sweep's folder, one whose content is no sweep's being damaged; of `more` kinds by file name."""
    kinds = {"runs": _Run, MANIFEST: _Manifest, "planned.json": _Planned, "base.json": _Base, DESIGN: _Design}
    return Records(folder, {**kinds, **(more or {})})


def describe_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names what differs between two manifests: options of the recipe one by one, all else by its name. A model whose
    weights are the same is the same, whatever its folder is called."""
    same_model = "weights" in before["base_model"] and before["base_model"]["weights"] == now["base_model"].get(
        "weights"
    )
    if same_model:
        now = {**now, "base_model": before["base_model"]}
    older, newer = recipe_of(before), recipe_of(now)
    parts = [f"recipe ({line})" for line in older.difference(newer)]
    # Earlier versions did not note how many processes trained: their records tell.
    unknown = {"training"} - before.keys()
    for key in sorted({*before, *now} - {"recipe", "tokens"} - unknown):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            named = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
            changed, told = bool(named), "; ".join(f"{name}: {old.get(name)} → {new.get(name)}" for name in named)
        else:
            changed, told = old != new, f"{old} → {new}"
        if changed:
            parts.append(f"{key.replace('_', ' ')} ({told})")
    return parts


def recipe_of(manifest: Mapping[str, Any]) -> Recipe:
    """The recipe of a sweep. A folder may hold a path where its model once lay: which model that was, `base_model`
    says."""
    return Recipe({**manifest["recipe"], "model_name_or_path": manifest["base_model"]["model"]})


def environment() -> dict[str, Any]:
    """Versions of what a run depends on, the platform, and the commit of the package where it runs from a clone."""
    return {
        "python": platform.python_version(),
        "platform": platform.machine(),
        **{name: version(name) for name in OF_TRAINING},
        "commit": _commit(),
    }


@lru_cache(maxsize=1)
def _commit() -> str | None:
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        tracked = subprocess.run([*git, "ls-files", __file__], capture_output=True, text=True, check=False).stdout
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:  # no git on this machine
        return None
    return found.strip() if tracked.strip() else None
