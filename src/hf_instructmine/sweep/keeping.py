"""The final model of each run, kept in the sweep's folder on request, and what a run tells its trackers."""

import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InstructMineError
from ..finetuning.recipe import Recipe
from ..finetuning.saving import CARD, Provenance, build_model_card, model_bytes
from ..outputs.files import sync, writing
from ..outputs.markdown import count
from ..outputs.records import Records
from .manifest import MANIFEST, open_records


logger = logging.getLogger(__name__)

MODELS, LOGS = "models", "logs"
# In a run's own folder, where its model waits for its record.
STAGE = "model"


def asked_to_keep(recipe: Recipe, keep_models: bool) -> Recipe:
    """A recipe that tells every executor whether a run's model is to be left in its folder."""
    return Recipe({**recipe.settings, "model_dir": STAGE if keep_models else None})


def check_keeping(records: Records, recipe: Recipe, runs: Sequence[Mapping[str, Any]], due: int) -> None:
    """Tells what the models will take of the disk, and which runs were recorded without one.

    Args:
        records ([`Records`]): The sweep's folder.
        recipe ([`Recipe`]): From [`asked_to_keep`].
        runs (`Sequence[Mapping]`): All runs that are asked for, each with its `run_id`.
        due (`int`): How many of them will be trained.

    Raises:
        [`InstructMineError`]: Where the disk has no room for them.
    """
    if not recipe.settings.get("model_dir"):
        return
    recorded = {name for name, record in records.all().items() if record["status"] == "done"}
    without = [
        r["run_id"] for r in runs if r["run_id"] in recorded and not (records.folder / MODELS / r["run_id"]).is_dir()
    ]
    if without:
        logger.warning(
            "keep_models: %s recorded without a model and not trained again (%s): to train one, remove its file in "
            "runs/",
            count(len(without), "run is", "runs are"), ", ".join(without[:3]) + (", …" if len(without) > 3 else ""),
        )  # fmt: skip
    if not due:
        return
    each = model_bytes(recipe.arguments())
    free = shutil.disk_usage(next(p for p in (records.folder, *records.folder.absolute().parents) if p.exists())).free
    told = f"keep_models: {count(due, 'model')} of about {_size(each)} each, {_size(due * each)} in all, in {MODELS}/"
    if due * each > free:
        raise InstructMineError(f"{told}, and the disk has {_size(free)} free: make room, or do not keep them")
    logger.warning("%s", told)


def as_recorded(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a finetune gave as the record of its run holds it: the base model's losses are in `base.json`, and what was
    asked for is told where a budget of tokens did."""
    told_elsewhere = {"base_losses", *(["asked_tokens"] if result.get("asked_tokens") is None else [])}
    return {name: value for name, value in result.items() if name not in told_elsewhere}


def keep_run(records: Records, run: Mapping[str, Any], result: Mapping[str, Any], hashed: str, folder: Path) -> None:
    """Gives the model that a run left its card and moves it, by one rename, to where it is kept. Does nothing where
    the run left none.

    Args:
        records ([`Records`]): The sweep's folder.
        run (`Mapping`): Its mixture, with its `run_id`.
        result (`Mapping`): What it gave.
        hashed (`str`): Digest of the rows that it trained on.
        folder (`Path`): The run's own, with the model in it.

    Raises:
        [`InstructMineError`]: Where the folder cannot be written.
    """
    stage, kept = folder / STAGE, records.folder / MODELS / run["run_id"]
    if not stage.is_dir():
        return
    manifest = records.read(records.folder / MANIFEST)
    assert manifest is not None  # it is claimed before any run
    data = {
        "mixture": run["mixture_id"],
        "rows": len(run["indices"]),
        "pool": manifest["pool"],
        "hash of the rows' numbers in it": hashed,
    }
    made = Provenance(manifest["base_model"], data, Recipe(manifest["recipe"]).comparable, result)
    with writing(kept):
        build_model_card(made).save(stage / CARD)
        for file in stage.iterdir():
            sync(file)
        kept.parent.mkdir(exist_ok=True)
        shutil.rmtree(kept, ignore_errors=True)  # of a run whose record was lost, or that failed
        stage.rename(kept)
        sync(kept.parent)


def options_of_run(recipe: Recipe, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What a run is told besides its rows and its seed: its name for trackers, and the base model's losses.

    Args:
        recipe ([`Recipe`]): Of the sweep. A `run_name` of it is put before the run's own, and its `project` is kept.
        folder (`Path`): The run's own, two levels below the sweep's and named after it.

    Returns:
        Options, and environment variables. What is set in the environment already stays as it is.
    """
    records = open_records(folder.parents[1])
    base = records.read(records.folder / "base.json")
    given = recipe.settings.get("run_name")
    options = {
        "run_name": f"{given}-{folder.name}" if given else folder.name,
        "project": recipe.settings.get("project") or records.folder.name,
        "base_losses": [f"{name}={loss!r}" for name, loss in (base or {"losses": {}})["losses"].items()],
    }
    logs = records.folder / LOGS / folder.name
    for left in (logs, folder / STAGE):  # by a run that was stopped: its curves would be drawn over these
        shutil.rmtree(left, ignore_errors=True)
    environment = {"TENSORBOARD_LOGGING_DIR": str(logs), "WANDB_PROJECT": str(options["project"])}
    set_already = {**os.environ, **(recipe.settings.get("env") or {})}
    return options, {name: value for name, value in environment.items() if name not in set_already}


@contextmanager
def tracked(environment: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for a run in this process, and ends what W&B would go on with in the next."""
    opened = _wandb_run()
    os.environ.update(environment)
    try:
        yield
    finally:
        for name in environment:
            os.environ.pop(name, None)
        if opened is None and _wandb_run() is not None:
            sys.modules["wandb"].finish()


def _wandb_run() -> Any:
    return sys.modules["wandb"].run if "wandb" in sys.modules else None


def _size(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}" if unit != "bytes" else f"{number:.0f} bytes"
        number /= 1000
    return f"{number:.3g} TB"
