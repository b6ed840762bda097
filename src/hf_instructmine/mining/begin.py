"""What is looked at, and asked, before the costly part."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from ..data.columns import names_sources, read_sources
from ..errors import InstructMineError
from ..outputs.markdown import printable
from ..outputs.records import Records
from ..selection.origin import check_stated


if TYPE_CHECKING:
    from .plan import Plan, ShortPlan

REQUEST, PLAN = "mine.json", "plan.json"


def check_asked(
    model: str | None, eval_sets: Any, size: Any, output_dir: Any, search_size: Any, rule: Any, strategy: str | None
) -> None:
    """Refuses what does not go together.

    Raises:
        [`InstructMineError`]: Says what to give.
    """
    if output_dir is None:
        raise InstructMineError("output_dir is missing: name a folder for all that is made")
    if rule is not None and strategy is not None:
        raise InstructMineError("a rule and a strategy are two ways to choose: give one of them")
    if rule is not None or strategy is not None:
        if isinstance(size, bool) or not isinstance(size, int) or search_size is not None:
            raise InstructMineError("without finetunes no size can be searched for: give size, a number of rows")
    elif model is None or eval_sets is None:
        raise InstructMineError(
            "finetunes need a model and an evaluation set: give both, or a rule or a strategy to do without finetunes"
        )


def agreed(
    folder: Path,
    request: Mapping[str, Any],
    confirm: "Callable[[Any], bool] | None",
    dry_run: bool,
    measured: "Callable[[], Plan | ShortPlan]",
    disk: int,
) -> bool:
    """Whether to go on. It is asked once: what is begun goes on without. A no leaves nothing.

    Args:
        folder (`Path`): For all that is made; claimed where the answer is yes.
        request (`Mapping`): What is asked for, which may not change in that folder.
        confirm (`Callable`, *optional*): Is shown the plan, and says whether to go on.
        dry_run (`bool`): Whether the plan is shown alone.
        measured (`Callable`): Makes the plan with its costs.
        disk (`int`): Bytes that it takes.

    Raises:
        [`InstructMineError`]: Where the folder holds another path, or its disk has too little room.
    """
    records = Records(folder)
    begun = _begun(records)
    if not begun:
        records.check_unclaimed(REQUEST, (PLAN,))
        check_disk(folder, disk)
    if dry_run or not (begun or confirm is None):
        plan = measured()
        if not (confirm is not None and confirm(plan)) or dry_run:
            return False
        records.claim(REQUEST, request, "path", beside=(PLAN,))
        records.write(folder / PLAN, {"plan": vars(plan), "agreed": True})
    records.claim(REQUEST, request, "path", beside=(PLAN,))
    return True


def _begun(records: Records) -> bool:
    """Whether a path in the folder was agreed to. One of an earlier version that was not gives way to another."""
    request, plan = records.folder / REQUEST, records.folder / PLAN
    if not request.exists():
        return False
    known = records.read(plan)
    if known is None or known.get("agreed"):
        return True
    request.unlink()
    plan.unlink()
    return False


def check_disk(folder: Path, needed: int) -> None:
    """Refuses what the disk cannot hold.

    Raises:
        [`InstructMineError`]: Says how much is needed and how much is free.
    """
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise InstructMineError(
            f"this takes about {needed / 2**20:,.0f} MiB, and the disk of the output folder has {free / 2**20:,.0f} "
            "MiB free: make room, or name a folder on another disk"
        )


def check_described(rows: Dataset, described: Mapping[str, Any] | None) -> dict[str, Any]:
    """Reads what a user states of the data set, before any work on it; see [`Selection.describe`].

    Raises:
        [`InstructMineError`]: As `describe` would at the end.
    """
    described = dict(described or {})
    _, _, given = check_stated(
        described.get("license"), described.get("language"), described.get("source_license")
    )  # fmt: skip
    named = set(read_sources(rows)[1]) if names_sources(rows) else set()
    if absent := sorted(set(given) - named):
        raise InstructMineError(f"the pool has no source '{printable(absent[0])}' to have a licence")
    return described
