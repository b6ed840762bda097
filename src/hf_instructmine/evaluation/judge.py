"""Models by a judge: each answers the prompts, and a judge says whose answers are better, in both orders."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InstructMineError
from ..models.availability import check_model
from ..models.loading import ModelSource
from ..outputs.files import written_whole
from ..outputs.records import Records
from .calibration import Calibration
from .endpoint import RETRY_DELAYS, Endpoint
from .generation import Decoding
from .journal import Journal
from .judgement import Judgement
from .judging import REPLIES, Judging
from .local_judge import LocalJudge
from .people import read_people
from .questions import Question, read_questions


# MT-Bench shows a reference where an answer is right or wrong.
_WITH_REFERENCE = ("math", "maths", "mathematics", "reasoning", "coding")
_PAGE = "judge.md"


def judge(
    models: Mapping[str, Any],
    prompts: Any,
    judge: str,
    output_dir: str | Path,
    *,
    baseline: str | None = None,
    references: Any = None,
    columns: Mapping[str, Any] | None = None,
    mode: str = "pair",
    ties: bool = True,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    batch_size: int = 8,
    dtype: str = "float32",
    device: str | None = None,
    judge_by: str = "logits",
    base_url: str | None = None,
    concurrency: int = 4,
    timeout: float = 120.0,
    retry_delays: Sequence[float] = RETRY_DELAYS,
    prices: Sequence[float] | None = None,
    people: Any = None,
    calibration: Calibration | None = None,
    seed: int = 0,
    dry_run: bool = False,
) -> Judgement:
    """Lets models answer prompts, and a judge say whose answers are better (MT-Bench, 2306.05685).

    Every pair is shown in both orders. A win counts only where both agree; a disagreement is a tie, and counted.
    Answers, replies and verdicts are kept as they come: the same call goes on after a kill and pays nothing twice.

    Args:
        models (`Mapping[str, str]`): By name, each a folder, the folder of a PEFT adapter, a Hub id, or a JSON lines
            file of answers (`row`, `turn`, `answer`).
        prompts: Whatever [`as_dataset`] takes, in any layout of `docs/rows.md`. Of several turns, a later one follows
            the model's own answers.
        judge (`str`): `"openai:MODEL"`, a model behind a server that speaks OpenAI's chat completions, with the key
            of `$OPENAI_API_KEY`; or the folder or Hub id of a local model with a chat template.
        output_dir (`str` or `Path`): Answers go to `answers-<name>.jsonl`, verdicts to `verdicts.jsonl`, the request
            to `judge.json`, the summary to `judge.md`, and replies of a server to `responses.jsonl`.
        baseline (`str`, *optional*): The model that all others are compared with; the first where it is not given.
        references (*optional*): Reference answers, all shown to the judge: see `docs/judging.md`. Those in the prompts
            themselves are shown in the categories math, reasoning and coding alone, as MT-Bench does.
        columns (`Mapping[str, Any]`, *optional*): Which column of the prompts is which.
        mode (`str`, defaults to `"pair"`): `"pair"`, or `"single"`: each answer is rated from 1 to 10.
        ties (`bool`, defaults to `True`): Whether the judge may call a pair a tie.
        max_new_tokens (`int`, defaults to 512): Most tokens of an answer.
        temperature (`float`, defaults to 0): Of the models; 0 takes the likeliest token each time.
        batch_size (`int`, defaults to 8): Answers written at once.
        dtype (`str`, defaults to `"float32"`): Precision of the models, and of a local judge.
        device (`str`, *optional*): Of both; the accelerator where there is one.
        judge_by (`str`, defaults to `"logits"`): Of a local judge: by the probabilities of its verdicts, or by the
            `"text"` that it writes.
        base_url (`str`, *optional*): Of the server; else `$OPENAI_BASE_URL`, else OpenAI's own.
        concurrency (`int`, defaults to 4): Most requests to the server at once.
        timeout (`float`, defaults to 120): Seconds to wait for an answer of the server.
        retry_delays (`Sequence[float]`): Seconds before each further attempt, where a server is busy.
        prices (`Sequence[float]`, *optional*): Of a million tokens in, and out: the estimate then tells the cost.
        people (*optional*): People's verdicts on some of the pairs, in whatever [`as_dataset`] takes: `row`, `score`
            (1 where the model is better, 0 where the baseline is, 0.5 for a tie), and `turn` and `model` where there
            are several. Tells how the judge agrees with them, and gives a corrected win rate.
        calibration ([`Calibration`], *optional*): How the judge follows people, known from elsewhere, in their place.
        seed (`int`, defaults to 0): Of all draws.
        dry_run (`bool`, defaults to `False`): Says what it takes, and writes and asks nothing.

    Returns:
        [`Judgement`]

    Raises:
        [`InstructMineError`]: Where something asked for is not there (before any cost where it can be known), the
            folder holds another judgement, the server cannot be reached or refuses, or no verdict is usable.
    """
    decoding = Decoding(max_new_tokens, temperature, seed, batch_size)
    names = _check_names(models, baseline, mode)
    if people is not None and (mode == "single" or calibration is not None):
        raise InstructMineError("people's verdicts are on pairs, and give a calibration: leave out the other")
    questions = _with_shown(read_questions(prompts, columns, references), references is not None)
    labels = None if people is None else read_people(people, questions, names[1:])
    records = Records(output_dir)
    if judge.startswith("openai:"):
        cache = Journal(records.folder / REPLIES)
        asked: Endpoint | LocalJudge = Endpoint(
            judge.removeprefix("openai:"), cache, base_url, seed, concurrency, timeout, retry_delays
        )
    else:
        asked = LocalJudge(judge, judge_by, batch_size, dtype, device)
        asked.check()
    named = judge if isinstance(asked, Endpoint) else Path(judge).name
    sources = {name: _source(models[name], name, dtype, device) for name in names}
    session = Judging(records, questions, sources, asked, decoding, mode, ties, seed)
    if dry_run:
        return Judgement(named, mode, names[0], plan=session.plan(prices))
    session.claim(prices)
    with records.lock("judge", patience=0) as is_free:
        if not is_free:
            raise InstructMineError(f"another process judges in '{output_dir}': let it, or name another folder")
        session.run()
    found = session.judgement(named, calibration, labels)
    with written_whole(records.folder / _PAGE) as partial:
        partial.write_text(found.markdown(), encoding="utf-8")
    return found


def _check_names(models: Mapping[str, Any], baseline: str | None, mode: str) -> list[str]:
    """The names of the models, the baseline first."""
    if mode not in ("pair", "single"):
        raise InstructMineError(f"mode must be 'pair' or 'single', not {mode!r:.40}")
    if not isinstance(models, Mapping) or not models:
        raise InstructMineError("models must be given by name, as in models={'base': …, 'rule': …}")
    wrong = next((n for n in models if not isinstance(n, str) or not re.fullmatch(r"\w[\w.-]{0,99}", n)), None)
    if wrong is not None:
        raise InstructMineError(f"the model's name {wrong!r:.60} must be letters, digits, '_', '-' and '.'")
    if mode == "pair" and len(models) < 2:
        raise InstructMineError("one model cannot be compared: give two, or mode='single'")
    first = next(iter(models)) if baseline is None else baseline
    if first not in models:
        raise InstructMineError(f"the baseline '{first}' is none of the models: {', '.join(models)}")
    return [first, *(name for name in models if name != first)]


def _with_shown(questions: list[Question], all_shown: bool) -> list[Question]:
    """The questions with those references that the judge is shown."""
    if all_shown:
        return questions
    return [
        q if (q.category or "").lower() in _WITH_REFERENCE else replace(q, references=[None] * len(q.turns))
        for q in questions
    ]


def _source(model: Any, name: str, dtype: str, device: str | None) -> ModelSource | Path:
    """Where the answers come from: a model, or a file of them."""
    if not isinstance(model, str | Path):
        raise InstructMineError(f"the model '{name}' is {type(model).__name__}: give a folder, a Hub id or a file")
    if Path(model).is_file():
        return Path(model)
    if Path(model).suffix == ".jsonl":
        raise InstructMineError(f"the model '{name}': there is no file '{model}' of answers")
    source, _ = ModelSource.of(str(model), None, "AutoModelForCausalLM", None, dtype=dtype, device=device)
    check_model(source)
    return source
