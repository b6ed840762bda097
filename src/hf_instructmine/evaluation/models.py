"""Several models by the same measures: losses, benchmarks and a judge, each measured once and for all."""

import gc
import inspect
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..errors import InstructMineError, nearest
from ..models.availability import check_model
from ..models.loading import LoadedModel, ModelSource
from ..outputs.digests import digest, digest_of_text
from ..outputs.markdown import printable
from ..outputs.records import Records
from .benchmarks import load_tasks, run_benchmark, told
from .losses import LossSet, measure, open_sets
from .table import Evaluation
from .tasks import Benchmark, resolve


if TYPE_CHECKING:
    from .judgement import Judgement

REQUEST = "evaluation.json"
JUDGE = "judge"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
# Of a model that is loaded: what it is asked.
Stage = Callable[[LoadedModel], dict[str, Any]]


def evaluate_models(
    models: Mapping[str, Any],
    benchmarks: Sequence[str] = (),
    eval_sets: Any = None,
    judge: "Mapping[str, Any] | None" = None,
    *,
    output_dir: str | Path,
    baseline: str | None = None,
    references: Mapping[str, Any] | None = None,
    include_path: str | Path | None = None,
    chat_template: bool = False,
    limit: int | None = None,
    samples: Mapping[str, Sequence[int]] | None = None,
    batch_size: int | str = 1,
    max_length: int = 2048,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    seed: int = 0,
) -> Evaluation:
    """Measures models by losses, benchmarks and a judge, and compares them with one of them.

    Each measure of each model is recorded when it is done: killed at any instant, the same call measures what is
    missing and only that. Names, tasks, questions and files are looked at before the first model is loaded.

    Args:
        models (`Mapping[str, Any]`): By name, each a folder or Hub id of a model or of a PEFT adapter, or a loaded
            model with its tokenizer as a pair.
        benchmarks (`Sequence[str]`): See [`resolve`].
        eval_sets (`Mapping[str, Any]` or `Sequence[str]`, *optional*): See [`open_sets`].
        judge (`Mapping[str, Any]`, *optional*): Arguments of [`judge`] but the models, the baseline and the folder.
        output_dir (`str` or `Path`): Keeps the records. A folder of the same evaluation is gone on with, one of
            another is refused.
        baseline (`str`, *optional*): The model that the others are compared with; by default the first.
        references (`Mapping[str, Any]`, *optional*): Other reference answers by evaluation set; see [`open_sets`].
        include_path (`str` or `Path`, *optional*): A folder with more tasks of lm-eval.
        chat_template (`bool`, defaults to `False`): Whether benchmarks are asked in the chat template. Losses and
            the judge's answers always are, where the tokenizer has one.
        limit (`int`, *optional*): Asks the first so many questions of each task alone.
        samples (`Mapping[str, Sequence[int]]`, *optional*): Asks questions of these numbers alone, by task.
        batch_size (`int` or `str`, defaults to 1): Of lm-eval's forward passes.
        max_length (`int`, defaults to 2048): Tokens of prompt and response that losses are measured on.
        dtype (`str`, defaults to `"float32"`): Precision of the models.
        trust_remote_code (`bool`, defaults to `False`): Whether code from the Hub may run.
        seed (`int`, defaults to 0): Of solved examples and bootstraps.

    Returns:
        [`Evaluation`]

    Raises:
        [`InstructMineError`]: Before any model is loaded, where a model, task, question, set or reference is not
            there, or the folder holds another evaluation; later, where a record cannot be written.

    Example:

    ```python
    models = {"base": "HuggingFaceTB/SmolLM2-135M-Instruct", "rule": "comparison/models/rule"}
    print(him.evaluate_models(models, eval_sets={"mt_bench": "mt_bench.jsonl"}, output_dir="evaluated"))
    ```
    """
    _check(models, baseline, limit, samples, bool(len(benchmarks) or eval_sets or judge))
    named = resolve(benchmarks, include_path)
    sets = open_sets(eval_sets, references)
    sources = {name: _source(name, model, dtype, trust_remote_code) for name, model in models.items()}
    records = Records(output_dir)
    request = _request(sources, named, sets) | {
        "asked": told(chat_template, limit, samples), "samples": None if samples is None else digest(samples),
        "max_length": max_length, "seed": seed,
    }  # fmt: skip
    first = baseline or next(iter(models))
    ask = partial(_judge, models, judge or {}, first, records.folder / JUDGE, dtype)
    records.check_unclaimed(REQUEST)
    if judge:
        tqdm.write(f"Judge: {ask(dry_run=True).plan}", file=sys.stderr)
    stages: dict[str, Stage] = {}
    for name, held in sets.items():
        stages[f"loss-{name}"] = partial(measure, held=held, max_length=max_length)
    for benchmark in named:
        stages[f"benchmark-{benchmark.name}"] = partial(
            run_benchmark, benchmark=benchmark, tasks=_tasks(records, benchmark, models),
            chat_template=chat_template, limit=limit, samples=samples, batch_size=batch_size, seed=seed,
        )  # fmt: skip
    records.claim(REQUEST, request, "evaluation")
    _measure(records, {name: source for name, (source, _) in sources.items()}, stages)
    judgement = ask(dry_run=False) if judge else None
    return _read(records, list(models), first, named, sets, told(chat_template, limit, samples), seed, judgement)


def _check(models: Any, baseline: str | None, limit: Any, samples: Any, anything: bool) -> None:
    if not isinstance(models, Mapping) or not models:
        raise InstructMineError("models is a mapping of names to models: write models={'mine': 'folder'}")
    wrong = next((name for name in models if not isinstance(name, str) or not _NAME.fullmatch(name)), None)
    if wrong is not None:
        raise InstructMineError(f"the model's name {wrong!r:.60} must be of letters, digits, '.', '_' and '-'")
    if baseline is not None and baseline not in models:
        raise InstructMineError(f"the baseline '{printable(baseline, 60)}' is none of the models {', '.join(models)}")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise InstructMineError(f"limit must be a whole number of at least 1, not {limit!r}")
    if limit is not None and samples is not None:
        raise InstructMineError("give limit or samples, not both")
    if not anything:
        raise InstructMineError("nothing to measure: give benchmarks, eval_sets or a judge")


def _source(name: str, model: Any, dtype: str, trust_remote_code: bool) -> tuple[ModelSource, LoadedModel | None]:
    """Where a model comes from; a loaded one is held."""
    loaded, tokenizer = model if isinstance(model, tuple) and len(model) == 2 else (model, None)
    try:
        source, held = ModelSource.of(
            loaded, tokenizer, "AutoModelForCausalLM", None, dtype=dtype, trust_remote_code=trust_remote_code
        )
        check_model(source)
    except InstructMineError as error:
        raise InstructMineError(f"the model '{name}': {error}") from error
    return source, held


def _request(
    sources: Mapping[str, tuple[ModelSource, Any]], named: Sequence[Benchmark], sets: Mapping[str, LossSet]
) -> dict[str, Any]:
    """What is asked for, a line each, so that a difference can be named."""
    request: dict[str, Any] = {}
    for name, (source, _) in sources.items():
        request[f"model {name}"] = ", ".join(str(value) for value in source.provenance().values())
    for benchmark in named:
        request[f"benchmark {benchmark.name}"] = (
            f"{shots(benchmark)} ({digest([benchmark.describe(), _own(benchmark)], 8)})"
        )
    for name, held in sets.items():
        request[f"evaluation set {name}"] = held.identity
    return request | ({"lm-eval": version("lm-eval")} if named else {})


def _own(benchmark: Benchmark) -> list[str]:
    """Digests of YAML files that are not lm-eval's, whose release is recorded."""
    files = {leaf.yaml for leaf in benchmark.leaves if leaf.yaml is not None and "lm_eval" not in leaf.yaml.parts}
    return sorted(digest_of_text(path.read_text("utf-8")) for path in files)


def shots(benchmark: Benchmark) -> str:
    """Solved examples and metric of a benchmark, in words."""
    numbers = sorted({leaf.fewshot for leaf in benchmark.leaves})
    leaf = benchmark.leaves[0]
    how = leaf.metric if leaf.filter == "none" else f"{leaf.metric} ({leaf.filter})"
    tasks = f", {len(benchmark.leaves)} tasks" if len(benchmark.leaves) > 1 else ""
    return f"{' to '.join(str(n) for n in dict.fromkeys((numbers[0], numbers[-1])))}-shot {how}{tasks}"


def _tasks(records: Records, benchmark: Benchmark, models: Mapping[str, Any]) -> dict[str, Any]:
    """The questions, unless every model has answered them."""
    asked = (records.path_of(_run(name, f"benchmark-{benchmark.name}")) for name in models)
    return {} if all(records.read(path) is not None for path in asked) else load_tasks(benchmark)


def _run(model: str, stage: str) -> str:
    return f"{model}.{stage}"


def _measure(records: Records, sources: Mapping[str, ModelSource], stages: Mapping[str, Stage]) -> None:
    """Measures what has no record. Where another process measures it, waits for that one's record."""
    wanted = [(name, stage) for name in sources for stage in stages]
    missing = [(n, s) for n, s in wanted if records.read(records.path_of(_run(n, s))) is None]
    if len(missing) < len(wanted):
        tqdm.write(f"{len(wanted) - len(missing)} of {len(wanted)} measurements are recorded already", file=sys.stderr)
    with tqdm(total=len(missing), desc="Evaluating", unit="measurement", disable=not missing) as bar:
        for name, source in sources.items():
            loaded = None
            for stage in [s for n, s in missing if n == name]:
                bar.set_postfix_str(f"{name}: {stage}")
                with records.lock(_run(name, stage), patience=-1):
                    if records.read(records.path_of(_run(name, stage))) is None:
                        loaded = source.load(None) if loaded is None else loaded
                        started = time.perf_counter()
                        found = stages[stage](loaded)
                        seconds = round(time.perf_counter() - started, 2)
                        records.write(records.path_of(_run(name, stage)), {**found, "seconds": seconds})
                bar.update()
            del loaded
            gc.collect()  # before the next model takes its place


def _judge(
    models: Mapping[str, Any], given: Mapping[str, Any], baseline: str, folder: Path, dtype: str, dry_run: bool
) -> "Judgement":
    """Lets a judge compare the models' answers; of a dry run, looks whether it can."""
    from .judge import judge as ask

    known = inspect.signature(ask).parameters.keys() - {"models", "output_dir", "baseline", "dry_run"}
    if unknown := sorted(given.keys() - known):
        raise InstructMineError(f"judge has no option '{unknown[0]}': {nearest(unknown[0], sorted(known))}")
    if absent := [name for name in ("judge", "prompts") if name not in given]:
        raise InstructMineError(f"judge needs '{absent[0]}': the judge, and what the models answer for it")
    return ask(models, output_dir=folder, baseline=baseline, dry_run=dry_run, **{"dtype": dtype, **given})


def _read(
    records: Records, models: list[str], baseline: str, named: Sequence[Benchmark], sets: Mapping[str, LossSet],
    how: str, seed: int, judgement: "Judgement | None",
) -> Evaluation:  # fmt: skip
    def of(stage: str) -> dict[str, dict[str, Any]]:
        found = {name: records.read(records.path_of(_run(name, stage))) for name in models}
        absent = next((name for name, record in found.items() if record is None), None)
        if absent is not None:
            raise InstructMineError(f"the record of {stage} of '{absent}' is damaged: start again, to measure it anew")
        return {name: record for name, record in found.items() if record is not None}

    return Evaluation(
        models=models,
        baseline=baseline,
        losses={name: of(f"loss-{name}") for name in sets},
        benchmarks={benchmark.name: of(f"benchmark-{benchmark.name}") for benchmark in named},
        shots={benchmark.name: shots(benchmark) for benchmark in named},
        how=how,
        seed=seed,
        judgement=judgement,
    )
