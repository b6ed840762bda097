"""Benchmarks by EleutherAI's lm-eval, whose tasks, prompts and metrics these are; each question's score is kept."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InstructMineError, one_line
from ..outputs.digests import digest
from ..outputs.markdown import count, printable
from ..outputs.privacy import without_paths
from .tasks import Benchmark, Leaf


if TYPE_CHECKING:
    from ..models.loading import LoadedModel

# A question with this key beside it belongs to a group of questions, such as those about one text.
CLUSTER = "cluster"


def load_tasks(benchmark: Benchmark) -> dict[str, Any]:
    """Opens the questions of a benchmark, from the Hub, its cache or local files.

    Returns:
        `dict[str, Task]`: lm-eval's tasks by name.

    Raises:
        [`InstructMineError`]: Where the questions of a task are not there, a package that it needs is missing, or it
            runs code that a model writes.
    """
    return {leaf.name: _load_task(leaf) for leaf in benchmark.leaves}


def _load_task(leaf: Leaf) -> Any:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        with _quiet():
            if leaf.yaml is None or "class" in leaf.config:
                return TaskManager().load([leaf.name])["tasks"][leaf.name]
            config = {**load_yaml(leaf.yaml, resolve_func=True), **leaf.overrides, "task": leaf.name}
            task = ConfigurableTask(config={k: v for k, v in config.items() if k not in ("tag", "group", "task_list")})
    except ImportError as error:
        raise InstructMineError(
            f"the task '{leaf.name}' needs the package '{error.name or one_line(error)}': install it, or leave the "
            "task out"
        ) from error
    except Exception as error:  # datasets, lm-eval and a task's own functions raise anything
        raise InstructMineError(
            f"the questions of the task '{leaf.name}' ({leaf.dataset}) cannot be had: "
            f"{without_paths(one_line(error, first=True))}; load that dataset once where there is a network, or leave "
            "the task out"
        ) from error
    if task.config.unsafe_code:
        raise InstructMineError(f"the task '{leaf.name}' runs code that the model writes: run it by lm-eval itself")
    if task.config.num_fewshot is None:
        task.set_config(key="num_fewshot", value=0)
    return task


def run_benchmark(
    loaded: "LoadedModel",
    benchmark: Benchmark,
    tasks: Mapping[str, Any],
    *,
    chat_template: bool = False,
    limit: int | None = None,
    samples: Mapping[str, Sequence[int]] | None = None,
    batch_size: int | str = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Asks a model the questions of a benchmark.

    Args:
        loaded ([`LoadedModel`]): The model, on its device.
        benchmark ([`Benchmark`]): From [`resolve`].
        tasks (`Mapping[str, Task]`): From [`load_tasks`].
        chat_template (`bool`, defaults to `False`): Whether questions are put in the tokenizer's chat template, solved
            examples as turns before them.
        limit (`int`, *optional*): Asks the first so many questions of each task alone.
        samples (`Mapping[str, Sequence[int]]`, *optional*): Asks questions of these numbers alone, by task.
        batch_size (`int` or `str`, defaults to 1): Texts in a forward pass, or `"auto"`.
        seed (`int`, defaults to 0): Of the solved examples.

    Returns:
        `dict`: Plain data: how it was asked, and arrays with an entry for each question: `questions` (task and
        number), `digests`, `clusters` and `scores`. No text of the questions, and none of the model's.

    Raises:
        [`InstructMineError`]: Where lm-eval fails on it.
    """
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import set_seed

    try:
        with _quiet():
            # In 16 bits a sum of log-probabilities would be rounded to whole numbers, and options would tie.
            model = HFLM(
                pretrained=loaded.model,
                tokenizer=loaded.tokenizer,
                backend="causal",
                batch_size=batch_size,
                softmax_dtype="float32",
            )
            # What `simple_evaluate` does, without its inquiry into this machine, which takes longer than small tasks.
            for task in tasks.values():
                task.set_fewshot_seed(seed)
            set_seed(seed)
            found: Any = evaluate(
                model,
                {"tasks": dict(tasks), "groups": {}, "group_map": {}},
                limit=limit,
                samples=_asked(tasks, samples),
                apply_chat_template=chat_template,
                fewshot_as_multiturn=True,
                bootstrap_iters=0,
            )
    except Exception as error:  # of lm-eval, a task's own functions, or the model
        if isinstance(error, MemoryError):
            raise
        raise InstructMineError(
            f"lm-eval fails on '{benchmark.name}': {printable(without_paths(one_line(error, first=True)), 300)}"
        ) from error
    rows = [row for leaf in benchmark.leaves for row in _scores(leaf, found["samples"][leaf.name], benchmark.grouped)]
    questions, digests, clusters, scores = (list(column) for column in zip(*rows))
    return {
        "questions": questions,
        "digests": digests,
        "clusters": clusters if any(cluster is not None for cluster in clusters) else None,
        "scores": scores,
        "unit": benchmark.leaves[0].metric,
        "results": {name: _numbers(found["results"][name]) for name in tasks},
        "versions": {name: found["versions"].get(name) for name in tasks},
        "lm_eval": version("lm-eval"),
    }


def _asked(tasks: Mapping[str, Any], samples: Mapping[str, Sequence[int]] | None) -> dict[str, list[int]] | None:
    if samples is None:
        return None
    return {
        name: list(samples[name]) if name in samples else list(range(len(t.eval_docs))) for name, t in tasks.items()
    }


def _scores(leaf: Leaf, asked: Sequence[Mapping[str, Any]], grouped: bool) -> Iterator[tuple[str, str, Any, float]]:
    """Number, digest, group and score of each question of a task."""
    kept = [one for one in asked if one["filter"] == leaf.filter] or list(asked)
    for one in sorted(kept, key=lambda one: one["doc_id"]):
        if leaf.metric not in one:
            metrics = ", ".join(one["metrics"])
            raise InstructMineError(f"the task '{leaf.name}' gives no '{leaf.metric}' for a question, but {metrics}")
        if isinstance(one[leaf.metric], tuple):  # what a number over all questions is made of
            raise InstructMineError(
                f"the task '{leaf.name}' gives no '{leaf.metric}' of a single question: leave it out"
            )
        cluster = one["doc"].get(CLUSTER) if isinstance(one["doc"], Mapping) else None
        told = leaf.name if grouped else None if cluster is None else digest(str(cluster), 8)
        # Some tasks give several numbers a question, such as one for each instruction in it.
        yield f"{leaf.name}:{one['doc_id']}", one["doc_hash"][:8], told, float(np.mean(one[leaf.metric]))


def _numbers(results: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(v) for name, v in results.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def told(chat_template: bool, limit: int | None, samples: Mapping[str, Sequence[int]] | None) -> str:
    """How benchmarks were asked, in words."""
    asked = "all questions"
    if limit is not None:
        asked = f"the first {count(limit, 'question')} of each task"
    elif samples is not None:
        named = ", ".join(f"{count(len(ids), 'question')} of {printable(name)}" for name, ids in samples.items())
        asked = f"{named}, all of other tasks"
    return f"{asked}, {'with' if chat_template else 'without'} the chat template"


@contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what lm-eval logs and warns of; its bars are shown."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
