"""What there is to report: the folders of this project below a folder, opened."""

import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from ..comparison.compare import load_comparison
from ..errors import InstructMineError, one_line
from ..estimator import file as estimator_file
from ..estimator.estimator import LossEstimator
from ..evaluation.table import Evaluation
from ..outputs.privacy import without_paths
from ..outputs.records import Records
from ..search.report import SizeReport, size_report
from ..selection.curated import Selection
from ..selection.saved import PREDICTIONS_FILE, RECORD_FILE
from ..sweep.runs import load_runs


if TYPE_CHECKING:
    from ..comparison.results import StrategyComparison

# What is said where a part is absent, in the order of the page.
ABSENT = {
    "scored": "no scored pool: run instructmine score …, or name its folder with --pool",
    "sweep": "no sweep: run instructmine sweep …",
    "rule": "no rule: run instructmine fit …",
    "curated": "no selection: run instructmine select …",
    "search": "no size search: run instructmine search-size …",
    "comparison": "no comparison: run instructmine compare …",
    "evaluation": "no evaluation: run instructmine evaluate …",
    "judge": "no judge: run instructmine judge …",
}
_PAGE = "judge.md"
_NO_ROOM = (ENOSPC, EDQUOT)  # of a disk, or of a user's share of it


@dataclass
class Contents:
    """All that a report shows; what there is not is None, and `notes` says so.

    Attributes:
        scored (`Dataset`, *optional*): The scored pool.
        scores (`dict`): What scoring counted, by column.
        runs (`Dataset`, *optional*): Of a sweep.
        rule ([`LossEstimator`], *optional*): The selection's, else that of a folder of its own.
        selection ([`Selection`], *optional*): With what became of every row.
        curated (`Dataset`, *optional*): The selected rows, of earlier versions too.
        curated_folder (`Path`, *optional*): Where these are.
        size ([`SizeReport`], *optional*): Of a size search.
        comparison ([`StrategyComparison`], *optional*): With a random choice.
        evaluation ([`Evaluation`], *optional*): Of finished models.
        judged (`str`, *optional*): What a judge said, as text.
        notes (`list[str]`): What is absent, or cannot be shown, a line each.
    """

    scored: Dataset | None = None
    scores: dict[str, Any] = field(default_factory=dict)
    runs: Dataset | None = None
    rule: LossEstimator | None = None
    selection: Selection | None = None
    curated: Dataset | None = None
    curated_folder: Path | None = None
    size: SizeReport | None = None
    comparison: "StrategyComparison | None" = None
    evaluation: Evaluation | None = None
    judged: str | None = None
    notes: list[str] = field(default_factory=list)


def kind_of(folder: Path) -> str | None:
    """Which verb wrote a folder, one of [`ABSENT`]; None where none of ours did."""
    marks = {"comparison.json": "comparison", "search.json": "search", "evaluation.json": "evaluation"}
    for name, kind in {**marks, "judge.json": "judge", "sweep.json": "sweep"}.items():
        if (folder / name).is_file():
            return kind
    if (folder / RECORD_FILE).is_file() and shards(folder):  # by a strategy there is no rule beside it
        return "curated"
    if (folder / estimator_file.FILE_NAME).is_file():
        return "curated" if shards(folder) else "rule"
    return "scored" if shards(folder) and (folder / "indicators.json").is_file() else None


def shards(folder: Path) -> list[str]:
    """The Parquet files of a scored pool or of a selection, in order."""
    return [str(path) for path in sorted((folder / "data").glob("train-*.parquet"))]


def find_parts(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The folders to report, by kind, and lines on those of a kind that has another.

    Args:
        folder (`Path`): One of ours, or one whose direct sub-folders are.

    Raises:
        [`InstructMineError`]: Where it is no folder, or holds nothing of ours.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise InstructMineError(f"'{folder}' {what}: name a folder that instructmine wrote")
    parts: dict[str, Path] = {}
    if kind := kind_of(folder):
        parts[kind] = folder
    left_out = []
    inside = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    # A folder that is named after what it holds goes before others.
    for entry in sorted(inside, key=lambda entry: entry.name != kind_of(entry)):
        found = kind_of(entry)
        # The sweeps inside of a size search are its own.
        if found is None or (kind in ("search", "comparison") and found == "sweep"):
            continue
        if found in parts:
            left_out.append(f"{entry.name}: left out, as {parts[found].name} holds a {found} too")
        else:
            parts[found] = entry
    if "evaluation" in parts and kind_of(parts["evaluation"] / "judge") == "judge":
        parts.setdefault("judge", parts["evaluation"] / "judge")
    if not parts:
        raise InstructMineError(
            f"'{folder}' holds nothing that instructmine wrote: name a folder of scores, runs, a rule, a selection, a "
            "search, a comparison or an evaluation, or one that holds such folders"
        )
    return parts, left_out


def open_contents(folder: Path, pool: Path | None, cache: Path) -> Contents:
    """Opens what a folder holds.

    A part that cannot be opened is left out, and a warning and a note say why; where it is the only one, that is an
    error.

    Args:
        folder (`Path`): See [`find_parts`].
        pool (`Path`, *optional*): The folder of the scored pool, where it is elsewhere.
        cache (`Path`): Where the pool is unpacked, to be read without being held in memory.

    Raises:
        [`InstructMineError`]: As [`find_parts`] does; where `pool` is no scored pool; where nothing can be opened.
    """
    parts, left_out = find_parts(folder)
    if pool is not None:
        if kind_of(pool) != "scored":
            raise InstructMineError(f"'{pool}' is no scored pool: name a folder that instructmine score wrote")
        parts["scored"] = pool
    contents = Contents(notes=left_out)
    opening: dict[str, Callable[[Path, Contents], None]] = {
        "scored": lambda path, found: _open_scored(path, found, cache),
        "sweep": _open_sweep,
        "rule": _open_rule,
        "curated": _open_curated,
        "search": _open_search,
        "comparison": _open_comparison,
        "evaluation": _open_evaluation,
        "judge": _open_judge,
    }
    failed: list[InstructMineError] = []
    for kind, absent in ABSENT.items():
        if kind not in parts:
            if kind != "rule" or "curated" not in parts:  # which has its rule
                contents.notes.append(absent)
            continue
        try:
            opening[kind](parts[kind], contents)
        except InstructMineError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_ROOM:
                raise
            failed.append(error)
            contents.notes.append(f"{parts[kind].name}: left out: {without_paths(str(error))}")
    if len(failed) == len(parts):
        raise failed[0]
    for reason in failed:
        warnings.warn(f"the report lacks a part: {reason}", stacklevel=3)
    return contents


def read_parquet(paths: list[str], cache: Path) -> Dataset:
    """A table of Parquet files that stays on the disk.

    Raises:
        [`InstructMineError`]: Where a file is damaged.
    """
    paths = [path for path in paths if _count_rows(path)]  # `datasets` takes no file without rows for a whole one
    if not paths:
        return Dataset.from_dict({})
    told = not are_progress_bars_disabled()
    disable_progress_bars()  # which would tell of shards and splits
    try:
        # Into a cache of its own: the usual one knows a folder by its name, and might give its earlier rows.
        return Dataset.from_parquet(paths, cache_dir=str(cache))
    except Exception as error:  # `datasets` raises a dozen kinds here
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            raise InstructMineError(
                f"the pool cannot be unpacked into '{cache}': {cause.strerror}; free some, or set TMPDIR"
            ) from cause
        raise InstructMineError(f"'{paths[0]}' cannot be read ({one_line(cause)}): make it again") from error
    finally:
        if told:
            enable_progress_bars()


def _count_rows(path: str) -> int:
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path).metadata.num_rows
    except (OSError, ValueError) as error:  # pyarrow's errors are among them
        raise InstructMineError(f"'{path}' cannot be read ({one_line(error, first=True)}): make it again") from error


def _open_scored(folder: Path, contents: Contents, cache: Path) -> None:
    scored = read_parquet(shards(folder), cache)
    if not len(scored):
        raise InstructMineError(f"the scored pool in '{folder}' has no rows: there is nothing to show")
    contents.scored = scored
    contents.scores = {name: counts for name, counts in _json(folder / "report.json").items() if _counts(counts)}


def _counts(counts: Any) -> bool:
    """Whether a value of `report.json` is what scoring counted of a column."""
    return isinstance(counts, dict) and isinstance(counts.get("rows"), int) and isinstance(counts.get("nan"), int)


def _open_sweep(folder: Path, contents: Contents) -> None:
    contents.runs = load_runs(folder)


def _open_rule(folder: Path, contents: Contents) -> None:
    contents.rule = LossEstimator.from_pretrained(folder)


def _open_curated(folder: Path, contents: Contents) -> None:
    before = contents.rule
    if (folder / RECORD_FILE).is_file() and (folder / PREDICTIONS_FILE).is_file():
        selection = Selection.load(folder)
        contents.selection, contents.curated, rule = selection, selection.dataset, selection.estimator
    else:  # of an earlier version
        rule = LossEstimator.from_pretrained(folder)
        contents.curated = _read_whole(shards(folder))
    contents.curated_folder = folder
    if rule is None:
        if before is not None:
            contents.notes.append("the rule in this folder did not choose the rows: a strategy did")
        contents.rule = None
        return
    assert isinstance(rule, LossEstimator)  # as both are made by from_pretrained
    if before is not None and estimator_file.rule_digest(before) != estimator_file.rule_digest(rule):
        contents.notes.append("the rule shown is the one that chose the rows; the folder of the rule holds another")
    contents.rule = rule


def _read_whole(paths: Sequence[str]) -> Dataset:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets.table import InMemoryTable

    try:
        return Dataset(InMemoryTable(pa.concat_tables([pq.ParquetFile(path).read() for path in paths])))
    except (OSError, ValueError) as error:  # pyarrow's errors are among them
        raise InstructMineError(f"'{paths[0]}' is damaged ({one_line(error, first=True)}): make it again") from error


def _open_search(folder: Path, contents: Contents) -> None:
    path = folder / "trials.parquet"
    if not path.is_file():
        raise InstructMineError("no trial is finished: run the same instructmine search-size again")
    contents.size = size_report(_read_whole([str(path)]), rule=contents.rule)


def _open_comparison(folder: Path, contents: Contents) -> None:
    comparison = load_comparison(folder)
    comparison.verdict()  # which says whether too little of it is finished
    contents.comparison = comparison


def _open_evaluation(folder: Path, contents: Contents) -> None:
    contents.evaluation = _evaluation(Records(folder))


def _evaluation(records: Records) -> Evaluation:
    """An evaluation again from its records.

    Which model the others are compared with is not among these: it is read from the page that the verb wrote, and is
    the first one where there is none.

    Raises:
        [`InstructMineError`]: Where no measure is finished for all models.
    """
    request: Mapping[str, Any] = records.read(records.folder / "evaluation.json") or {}
    named = {
        kind: [key.removeprefix(f"{kind} ") for key in request if key.startswith(f"{kind} ")]
        for kind in ("model", "evaluation set", "benchmark")
    }
    models = named["model"]

    def of(stage: str) -> dict[str, dict[str, Any]]:
        found = {model: records.read(records.path_of(f"{model}.{stage}")) for model in models}
        return {model: record for model, record in found.items() if record is not None}

    losses = {name: of(f"loss-{name}") for name in named["evaluation set"]}
    benchmarks = {name: of(f"benchmark-{name}") for name in named["benchmark"]}
    losses, benchmarks = (
        {name: found for name, found in measured.items() if models and len(found) == len(models)}
        for measured in (losses, benchmarks)
    )
    if not losses and not benchmarks:
        raise InstructMineError(f"'{records.folder}' holds no measure that is finished for all models")
    shots = {name: re.sub(r" \([0-9a-f]{8}\)$", "", str(request[f"benchmark {name}"])) for name in benchmarks}
    seed = request.get("seed")
    page = records.folder / "evaluation.md"
    named_in = re.search(r"\| to ([\w.-]+) \|", page.read_text("utf-8", errors="replace")) if page.is_file() else None
    baseline = named_in[1] if named_in is not None and named_in[1] in models else models[0]
    return Evaluation(
        models, baseline, losses, benchmarks, shots, str(request.get("asked", "")), seed if type(seed) is int else 0
    )


def _open_judge(folder: Path, contents: Contents) -> None:
    path = folder / _PAGE
    if not path.is_file():
        raise InstructMineError("the judge is not finished: run the same instructmine judge again")
    lines = path.read_text("utf-8", errors="replace").splitlines()
    contents.judged = "\n".join(line for line in lines[1:] if not re.fullmatch(r"`{3,}(text)?", line)).strip()


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
