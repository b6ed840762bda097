"""One judgement in one folder: what it asks, what of it is done, and what it comes to."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..errors import InstructMineError
from ..models.loading import ModelSource, files_digest
from ..outputs.digests import digest
from ..outputs.records import Records, differences
from .calibration import Calibration
from .endpoint import Endpoint
from .generation import (
    BESIDE,
    Answers,
    Decoding,
    model_identity,
    prompts_digest,
    read_answers,
    write_answers,
)
from .journal import Journal
from .judgement import Judgement, Plan, Score, differences_of
from .local_judge import LocalJudge
from .pairs import Judged, Preference, agreement, preference
from .people import Labels, placed
from .prompts import Inquiry, ask_pair, ask_single
from .prompts import prompts_digest as words_digest
from .questions import Question


REQUEST, VERDICTS, REPLIES = "judge.json", "verdicts.jsonl", "responses.jsonl"
_ORDERS = ("forward", "backward")
_TOKENS_OUT = 100
_LETTERS_A_TOKEN = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """One verdict that is wanted."""

    model: str
    question: Question
    turn: int
    order: str

    @property
    def key(self) -> tuple[str, int, int, str]:
        """By which its verdict is found."""
        return self.model, self.question.row, self.turn, self.order


class Judging:
    """One judgement in one folder."""

    def __init__(
        self,
        records: Records,
        questions: list[Question],
        sources: Mapping[str, ModelSource | Path],
        asked: Endpoint | LocalJudge,
        decoding: Decoding,
        mode: str,
        ties: bool,
        seed: int,
    ):
        self.records, self.questions, self.sources, self.asked = records, questions, sources, asked
        self.decoding, self.mode, self.ties, self.seed = decoding, mode, ties, seed
        self.baseline = next(iter(sources))
        self.journal = Journal(records.folder / VERDICTS)
        # Before the folder is claimed, so that a mistake in a file can be mended.
        files = {name: source for name, source in sources.items() if isinstance(source, Path)}
        self.answers = {name: read_answers(path, name, questions) for name, path in files.items()}
        self.lines: dict[tuple[str, int, int, str], dict[str, Any]] = {}

    def claim(self, prices: Sequence[float] | None) -> None:
        """Makes the folder this judgement's, once a server that it needs has been reached.

        Raises:
            [`InstructMineError`]: Where it holds another one; names what differs.
        """
        request = {
            "prompts": prompts_digest(self.questions),
            "references": digest([q.references for q in self.questions]),
            "questions": len(self.questions),
            "models": {name: _identity(source) for name, source in self.sources.items()},
            "baseline": self.baseline,
            "mode": self.mode,
            "ties": self.ties,
            **self.decoding.request,
            **self.asked.identity,
            "judge_prompts": words_digest(),
            "seed": self.seed,
            "versions": _versions(),
        }
        self.records.check_unclaimed(REQUEST, BESIDE)
        is_new = not (self.records.folder / REQUEST).exists()
        if is_new:  # a mistake in the judge's name or address leaves no folder that is taken
            self.check(prices)
        self.records.claim(REQUEST, request, "judgement", _changed, beside=BESIDE)
        if not is_new:
            self.check(prices)

    def check(self, prices: Sequence[float] | None) -> None:
        """Says what a server will be asked, and whether it can be: hours of answers may lie before the first verdict.

        Raises:
            [`JudgeUnavailableError`]: Where it cannot be asked.
        """
        self._read_verdicts()
        if isinstance(self.asked, Endpoint) and len(self.lines) < len(self._items()):
            logger.warning("%s", self.plan(prices))
            self.asked.check()

    def run(self) -> None:
        """Answers, then verdicts; what is there already is not made again."""
        self._read_verdicts()
        for name, source in self.sources.items():
            if not isinstance(source, Path):
                folder = self.records.folder
                self.answers[name] = write_answers(folder, name, source, self.questions, self.decoding)
        missing = [item for item in self._items() if item.key not in self.lines]
        unasked = [item for item in missing if self._inquiry(item) is None]
        self._keep([{"problem": "no answer", "asked": 0, "score": None, **_place(item)} for item in unasked])
        wanted = [item for item in missing if item not in unasked]
        inquiries = [inquiry for item in wanted if (inquiry := self._inquiry(item)) is not None]
        done = len(self.lines)
        with tqdm(total=done + len(wanted), initial=done, desc="Verdicts", unit="verdict") as bar:
            try:
                for number, verdict in self.asked.verdicts(inquiries):
                    item, value = wanted[number], verdict.value
                    if value is not None and item.order == "backward":
                        value = 1 - value
                    line = {**_place(item), "score": value, "asked": verdict.asked}
                    told = {"problem": verdict.problem, "share": verdict.share}
                    self._keep([{**line, **{k: v for k, v in told.items() if v is not None}}])
                    bar.update()
            except InstructMineError as error:
                kept = f"{len(self.lines)} of {done + len(wanted)} verdicts are kept: the same call goes on from them"
                raise InstructMineError(f"{error}; {kept}") from None

    def _read_verdicts(self) -> None:
        for line in self.journal.read():
            key = (line["model"], line["row"], line["turn"], line.get("order", "forward"))
            self.lines.setdefault(key, line)

    def _keep(self, lines: list[dict[str, Any]]) -> None:
        if lines:
            self.journal.append(lines)
            self.lines |= {(li["model"], li["row"], li["turn"], li.get("order", "forward")): li for li in lines}

    def _items(self) -> list[Item]:
        """All verdicts that there are to be, the two orders of a pair one after the other."""
        judged = [name for name in self.sources if self.mode == "single" or name != self.baseline]
        orders = _ORDERS if self.mode == "pair" else _ORDERS[:1]
        return [
            Item(name, question, turn, order)
            for name, question in product(judged, self.questions)
            for turn, order in product(range(len(question.turns)), orders)
        ]

    def _inquiry(self, item: Item) -> Inquiry | None:
        """What the judge is asked; None where a model has no answer."""
        names = [item.model] if self.mode == "single" else [item.model, self.baseline]
        shown = [self._texts(name, item) for name in names]
        if any(text is None for texts in shown for text in texts):
            return None
        texts = [[str(text) for text in found] for found in shown]
        if self.mode == "single":
            return ask_single(item.question, texts[0], form=self.asked.form, seed=self.seed)
        first, second = texts if item.order == "forward" else texts[::-1]
        return ask_pair(item.question, first, second, form=self.asked.form, seed=self.seed, ties=self.ties)

    def _texts(self, name: str, item: Item) -> list[str | None]:
        """A model's answers up to the turn that is judged. One that is not yet written is as long as it may be."""
        if name not in self.answers:
            return ["x" * (_LETTERS_A_TOKEN * self.decoding.max_new_tokens)] * (item.turn + 1)
        return [answer.text for answer in self.answers[name][item.question.row][: item.turn + 1]]

    def plan(self, prices: Sequence[float] | None) -> Plan:
        """What there is still to do; nothing is written for it."""
        if prices is not None and (len(prices) != 2 or min(prices) < 0):
            raise InstructMineError("prices are two numbers: of a million tokens in, and of a million out")
        if not self.lines and self.journal.path.exists():
            self._read_verdicts()
        waiting, letters = 0, 0
        for item in self._items():
            if item.key not in self.lines and (inquiry := self._inquiry(item)) is not None:
                waiting, letters = waiting + 1, letters + len(inquiry.system) + len(inquiry.user)
        tokens, written = letters // _LETTERS_A_TOKEN, waiting * _TOKENS_OUT
        cost = None if prices is None else (tokens * prices[0] + written * prices[1]) / 1e6
        return Plan(sum(self._unwritten(name) for name in self.sources), waiting, tokens, written, cost)

    def _unwritten(self, name: str) -> int:
        if isinstance(self.sources[name], Path):
            return 0
        answers = Answers(self.records.folder, name, self.questions)
        return answers.missing() - (len(answers.journal.read()) if answers.journal.path.exists() else 0)

    def judgement(self, named: str, calibration: Calibration | None, labels: Labels | None = None) -> Judgement:
        """What the verdicts come to; `labels` are people's, of [`read_people`].

        Raises:
            [`InstructMineError`]: Where there is no usable verdict at all.
        """
        lines = list(self.lines.values())
        found = Judgement(
            named,
            self.mode,
            self.baseline,
            problems=dict(Counter(line["problem"] for line in lines if line.get("problem"))),
            asked_again=sum(line["asked"] > 1 for line in lines),
            cut_answers={n: sum(not a.stopped for turns in rows for a in turns) for n, rows in self.answers.items()},
            usage=self._usage(),
            places=[(question.row, turn) for question, turn in self._places()],
        )
        if self.mode == "single":
            self._rate(found)
        else:
            self._compare(found, calibration, labels or {})
        if not found.preferences and not found.scores:
            told = ", ".join(f"{number} {reason}" for reason, number in found.problems.items())
            raise InstructMineError(f"the judge gave no usable verdict ({told}): name another judge, or see {REPLIES}")
        return found

    def _usage(self) -> tuple[int, int] | None:
        if not isinstance(self.asked, Endpoint):
            return None
        counts = [line["usage"] for line in self.asked.replies.values() if "usage" in line]
        return (sum(n for n, _ in counts), sum(n for _, n in counts)) if counts else None

    def _places(self) -> Iterator[tuple[Question, int]]:
        return ((question, turn) for question in self.questions for turn in range(len(question.turns)))

    def _scores(self, name: str, order: str) -> list[float]:
        found = [self.lines[name, question.row, turn, order]["score"] for question, turn in self._places()]
        return [float("nan") if score is None else score for score in found]

    def _compare(self, found: Judgement, calibration: Calibration | None, labels: Labels) -> None:
        questions = [question.name for question, _ in self._places()]
        categories = [question.category or "none" for question, _ in self._places()]
        for name in self.sources:
            if name == self.baseline:
                continue
            forward, backward = (self._scores(name, order) for order in _ORDERS)
            judged = Judged(
                questions,
                forward,
                backward,
                self._lengths(name),
                self._lengths(self.baseline),
                unit="characters",
                categories=categories if set(categories) != {"none"} else None,
            )
            found.verdicts[name] = judged.scores.tolist()
            if judged.usable.any():
                people = placed(labels[name], found.places) if name in labels else None
                found.preferences[name] = self._preference(found, name, judged, calibration, people)
            else:
                logger.warning("'%s' is left out: no pair has a verdict in both orders", name)

    def _preference(
        self, found: Judgement, name: str, judged: Judged, calibration: Calibration | None, people: np.ndarray | None
    ) -> Preference:
        """Corrected by what the judge is worth, where that is known; a judge that guesses corrects nothing."""
        try:
            if people is not None:
                found.people[name] = agreement(judged.scores, people)
                calibration = Calibration.fit(judged.scores, people, judged.questions)
            return preference(judged, calibration=calibration, seed=self.seed)
        except InstructMineError as error:  # hours of verdicts are not lost for it
            found.notes.append(f"'{name}' has no corrected win rate: {error}.")
            return preference(judged, seed=self.seed)

    def _lengths(self, name: str) -> list[float]:
        texts = [self.answers[name][question.row][turn].text for question, turn in self._places()]
        return [float("nan") if text is None else float(len(text)) for text in texts]

    def _rate(self, found: Judgement) -> None:
        questions, turns = [q.name for q, _ in self._places()], [turn for _, turn in self._places()]
        ratings = {name: self._scores(name, "forward") for name in self.sources}
        found.verdicts = ratings
        for name, values in ratings.items():
            if all(value != value for value in values):
                logger.warning("'%s' is left out: none of its answers has a rating", name)
            else:
                found.scores[name] = Score.of(questions, turns, values, self.seed)
        found.differences = differences_of(ratings, questions, self.baseline, self.seed)


def _place(item: Item) -> dict[str, Any]:
    return {"model": item.model, "row": item.question.row, "turn": item.turn, "order": item.order}


def _identity(source: ModelSource | Path) -> dict[str, Any]:
    if isinstance(source, Path):
        return {"answers": files_digest(source.parent, [source])}
    return model_identity(source)


def _versions() -> dict[str, str]:
    """Not compared: a newer release may go on with a judgement."""
    found = {}
    for name in ("hf-instructmine", "transformers", "torch", "openai"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two requests, in words: digests tell nobody anything."""
    was, asked = before.get("models", {}), now["models"]
    told = [f"model '{name}' is new" for name in asked if name not in was]
    told += [f"model '{name}' is missing" for name in was if name not in asked]
    told += [f"'{name}' is another model" for name in asked if name in was and was[name] != asked[name]]
    for name in ("prompts", "references", "judge_prompts"):
        if before.get(name) != now[name]:
            told.append("other words of the judge's prompts" if name == "judge_prompts" else f"other {name}")
    left = ("models", "prompts", "references", "judge_prompts", "versions", "questions")
    rest = [{k: v for k, v in request.items() if k not in left} for request in (before, now)]
    return told + differences(*rest)
