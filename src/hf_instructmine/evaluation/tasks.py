"""Which questions a benchmark asks: lm-eval's tasks by name, ours in `recipes/tasks`, or a YAML file of the user's.

Names, numbers of shots and metrics are known without any data, and before any model is loaded.
"""

import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InstructMineError, one_line
from ..outputs.files import shipped
from ..outputs.markdown import printable


# The Open LLM Leaderboard (v1): shots and metric of each benchmark. InstructMining reports the first four. lm-eval's
# own group of that name also runs TruthfulQA's two other forms, which the leaderboard did not show.
PAPER: dict[str, tuple[int, str]] = {
    "arc_challenge": (25, "acc_norm"),
    "hellaswag": (10, "acc_norm"),
    "mmlu": (5, "acc"),
    "truthfulqa_mc2": (0, "acc"),
}
OPENLLM = {**PAPER, "winogrande": (5, "acc"), "gsm8k": (5, "exact_match")}
COLLECTIONS = {"openllm": OPENLLM, "openllm-paper": PAPER}
# So many subtasks can stand for what else might have been asked; fewer say too little of their own spread.
LEAST_GROUPS = 10
_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Leaf:
    """One task of lm-eval.

    Attributes:
        name (`str`): As lm-eval has it.
        fewshot (`int`): Solved examples before each question.
        metric (`str`): The one that is shown.
        filter (`str`): How the answer is read out of what the model wrote; `"none"` where options are scored.
        dataset (`str`): What it asks from: a Hub id with its configuration, or a file.
        config (`Mapping[str, Any]`): Its YAML, functions by name.
        yaml (`Path`, *optional*): Where that lies.
        overrides (`Mapping[str, Any]`): What goes before its YAML.
    """

    name: str
    fewshot: int
    metric: str
    filter: str
    dataset: str
    config: Mapping[str, Any] = field(repr=False)
    yaml: Path | None = field(default=None, repr=False)
    overrides: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Benchmark:
    """One line of the table: a task, or a group of tasks that have one metric.

    Attributes:
        name (`str`): Its name.
        leaves (`tuple[Leaf, ...]`): Its tasks.
    """

    name: str
    leaves: tuple[Leaf, ...]

    @property
    def grouped(self) -> bool:
        """Whether its interval is over tasks, such as MMLU's 57 subjects, and not over single questions."""
        return len(self.leaves) >= LEAST_GROUPS

    def describe(self) -> dict[str, Any]:
        """What is recorded of it: shots, metric and dataset of each task."""
        return {leaf.name: [leaf.fewshot, leaf.metric, leaf.filter, leaf.dataset] for leaf in self.leaves}


def resolve(names: Sequence[str], include_path: str | Path | None = None) -> list[Benchmark]:
    """Finds benchmarks by name. Nothing is downloaded, and no model is loaded.

    Args:
        names (`Sequence[str]`): Each `"openllm"` (the leaderboard's six), `"openllm-paper"` (the four of them that
            InstructMining reports), a task, group or tag of lm-eval (`"leaderboard"`, `"ifeval"`), one of
            `recipes/tasks`, or a YAML file. A YAML file may name Python functions beside it, which run.
        include_path (`str` or `Path`, *optional*): A folder with more YAML files of tasks.

    Returns:
        `list[Benchmark]`: A group whose tasks differ in metric is given as its parts.

    Raises:
        [`InstructMineError`]: Where lm-eval is not installed, or there is no task of that name: with the nearest ones.
    """
    if isinstance(names, str):
        raise InstructMineError(f"benchmarks is a list of names: write benchmarks=['{names}']")
    if include_path is not None and not Path(include_path).is_dir():
        raise InstructMineError(f"include_path: there is no folder '{include_path}'")
    if names:
        _need_lm_eval()
    found: dict[str, Benchmark] = {}
    for name in names:
        wanted = COLLECTIONS.get(name)
        parts = [(name, None)] if wanted is None else list(wanted.items())
        for part, known in parts:
            for benchmark in _resolve_one(str(part), include_path, known):
                found[benchmark.name] = benchmark
    return list(found.values())


def _need_lm_eval() -> None:
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise InstructMineError("benchmarks need lm-eval: run `pip install 'hf-instructmine[benchmarks]'`") from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def _resolve_one(name: str, include_path: str | Path | None, known: tuple[int, str] | None) -> list[Benchmark]:
    own = shipped("recipes") / "tasks" / f"{name}.yaml"
    path = Path(name) if name.endswith(_YAML) else own if own.is_file() else None
    if path is not None:
        config = _read_yaml(path)
        task = config.get("task") if isinstance(config.get("task"), str) else None
        if task is not None:
            return [Benchmark(task, (_leaf(task, config, path.resolve()),))]
        if "group" not in config:
            raise InstructMineError(f"'{path}' is no task of lm-eval: it has neither `task:` nor `group:`")
        name, include_path = config["group"], include_path or path.resolve().parent
    index = _index_of(name, include_path)
    leaves = tuple(_leaves(index, name, {}, known))
    if len({(leaf.metric, leaf.filter) for leaf in leaves}) > 1 or index[name].kind.name == "TAG":
        parts = sorted(index[name].tags) if index[name].kind.name == "TAG" else _members(index[name])
        return [Benchmark(part, tuple(_leaves(index, part, {}, known))) for part in parts]
    return [Benchmark(name, leaves)]


def _read_yaml(path: Path) -> dict[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml  # its public door reads all of a folder

    if not path.is_file():
        raise InstructMineError(f"there is no file '{path}' with a task of lm-eval")
    try:
        return dict(load_yaml(path, resolve_func=False))
    except Exception as error:  # whatever YAML and lm-eval raise over a damaged file
        raise InstructMineError(
            f"'{path}' cannot be read as a task of lm-eval: {one_line(error, first=True)}"
        ) from error


@lru_cache
def _index(folder: Path | None) -> dict[str, Any]:
    """lm-eval's tasks by name: of one folder, or all of its own, which takes some 20 seconds to read."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder, include_defaults=folder is None).task_index


def _index_of(name: str, include_path: str | Path | None) -> dict[str, Any]:
    """The tasks among which a name is found: the user's, lm-eval's folder of that name, or all."""
    import lm_eval.tasks

    theirs = Path(lm_eval.tasks.__file__).parent
    own = {} if include_path is None else _index(Path(include_path).resolve())
    words = name.split("_")
    for length in range(len(words), 0, -1):
        folder = theirs / "_".join(words[:length])
        # A name such as ".." is no folder of lm-eval's.
        near = {**_index(folder), **own} if folder.parent == theirs and folder.is_dir() else own
        if name in near and not _absent(near, name):
            return near
    every = {**_index(None), **own}
    if name not in every:
        ours = (path.stem for path in (shipped("recipes") / "tasks").glob("*.yaml"))
        candidates = dict.fromkeys([*COLLECTIONS, *every, *ours])
        close = difflib.get_close_matches(name, candidates, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ": `lm-eval ls tasks` lists them"
        raise InstructMineError(f"lm-eval has no task '{printable(name, 60)}'{hint}")
    if absent := _absent(every, name):
        raise InstructMineError(f"the group '{name}' names the task '{absent}', which lm-eval does not have")
    return every


def _members(entry: Any) -> list[str]:
    return [item if isinstance(item, str) else item.get("task") or item.get("group") for item in entry.cfg["task"]]


def _absent(index: Mapping[str, Any], name: str) -> str | None:
    """The first member of a group that is not in the index."""
    entry = index.get(name)
    if entry is None:
        return name
    members = sorted(entry.tags) if entry.kind.name == "TAG" else []
    members = _members(entry) if entry.kind.name == "GROUP" else members
    return next((absent for member in members if (absent := _absent(index, member))), None)


def _leaves(
    index: Mapping[str, Any], name: str, overrides: Mapping[str, Any], known: tuple[int, str] | None = None
) -> Iterator[Leaf]:
    """The tasks of a group, a tag or a task, with what the groups above set for them."""
    entry = index[name]
    if entry.kind.name == "TAG":
        for member in sorted(entry.tags):
            yield from _leaves(index, member, overrides, known)
    elif entry.kind.name == "GROUP":
        for item in entry.cfg["task"]:
            own = {k: v for k, v in item.items() if k not in ("task", "group")} if isinstance(item, Mapping) else {}
            member = item if isinstance(item, str) else item.get("task") or item.get("group")
            yield from _leaves(index, member, {**overrides, **own}, known)
    else:
        yield _leaf(name, entry.cfg, entry.yaml_path, overrides, known)


def _leaf(
    name: str,
    config: Mapping[str, Any],
    yaml: Path | None,
    overrides: Mapping[str, Any] | None = None,
    known: tuple[int, str] | None = None,
) -> Leaf:
    overrides = dict(overrides or {})
    if known is not None:
        overrides["num_fewshot"] = known[0]
    merged = {**config, **overrides}
    if merged.get("output_type") == "loglikelihood_rolling":
        raise InstructMineError(
            f"the task '{name}' measures perplexity, which is no score of a question: make its rows an evaluation set"
        )
    files = _absolute_files(merged, yaml)
    if files is not None:
        overrides["dataset_kwargs"] = {**merged["dataset_kwargs"], "data_files": files}
    listed = [one["metric"] for one in merged.get("metric_list") or () if isinstance(one.get("metric"), str)]
    filters = [one["name"] for one in merged.get("filter_list") or ()]
    metric = known[1] if known else "acc_norm" if "acc_norm" in listed else (listed or ["acc"])[0]
    place = [str(merged[key]) for key in ("dataset_path", "dataset_name") if merged.get(key)]
    source = " ".join(place) if place else "its own rows" if "custom_dataset" in merged else "not known"
    return Leaf(
        name, int(merged.get("num_fewshot") or 0), metric, (filters or ["none"])[0], source, config, yaml, overrides
    )


def _absolute_files(config: Mapping[str, Any], yaml: Path | None) -> Any:
    """Data files that lie beside the YAML, and which lm-eval would look for in the working folder."""
    files = (config.get("dataset_kwargs") or {}).get("data_files")

    def absolute(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: absolute(one) for key, one in value.items()}
        if isinstance(value, list):
            return [absolute(one) for one in value]
        beside = None if yaml is None else yaml.parent / str(value)
        return str(beside) if beside is not None and beside.is_file() else value

    return None if files is None else absolute(files)
