"""What a judge's verdicts on several models come to."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..errors import InstructMineError
from ..outputs.markdown import count, fenced, printable
from ..outputs.shown import Cells, Shown
from .intervals import bootstrap, clustered, codes_of, objects
from .paired import ScoreDifference, paired_scores
from .pairs import Agreement, Preference, agreement


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """What a judgement takes, before the first of it.

    Attributes:
        answers (`int`): That the models still have to write.
        calls (`int`): Of the judge, that are still to be made; each refused or unreadable verdict adds one.
        input_tokens (`int`): That the judge reads, at 4 characters a token. An answer that is not yet written counts
            with all tokens that it may have.
        output_tokens (`int`): That it writes, at 100 a verdict.
        cost (`float`, *optional*): Of the two, where prices are given; in their currency.
    """

    answers: int
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float | None = None

    def __str__(self) -> str:
        money = "" if self.cost is None else f", which costs about {self.cost:,.2f}"
        return (
            f"{count(self.answers, 'answer')} to write; {count(self.calls, 'call')} of the judge, about "
            f"{self.input_tokens:,} tokens in and {self.output_tokens:,} out{money}"
        )


@dataclass(frozen=True)
class Score:
    """A model's ratings from 1 to 10.

    Attributes:
        mean (`float`): Over all answers, as MT-Bench has it.
        low (`float`): Lower end of the bootstrap interval over questions.
        high (`float`): Upper end of it.
        turns (`list[float]`): Mean of each turn; NaN where none has a rating.
        answers (`int`): Rated answers.
        unusable (`int`): Answers without a rating; they are in no number.
        confidence (`float`): Of the interval.
    """

    mean: float
    low: float
    high: float
    turns: list[float]
    answers: int
    unusable: int
    confidence: float = 0.95

    @classmethod
    def of(cls, questions: Sequence[Any], turns: Sequence[int], ratings: Sequence[float], seed: int = 0) -> "Score":
        """Sums up ratings, NaN where there is none.

        Args:
            questions (`Sequence` of length `answers`): What intervals are clustered by.
            turns (`Sequence[int]` of length `answers`): From 0.
            ratings (`Sequence[float]` of length `answers`): From 1 to 10.
            seed (`int`, defaults to 0): Of the bootstrap.

        Raises:
            [`InstructMineError`]: Where no answer has a rating.
        """
        values, turn_of = np.asarray(ratings, dtype=float), np.asarray(turns)
        known = np.isfinite(values)
        if not known.any():
            raise InstructMineError("the judge gave no rating; see its answers")
        sums = clustered(values[known], codes_of(objects(questions)[known]))
        low, high = 1.0, 10.0
        if sums.df >= 1:
            ends = bootstrap(sums, seed, 0.95, 5000)
            low, high = max(low, ends[0]), min(high, ends[1])
        means = [values[known & (turn_of == turn)] for turn in range(int(turn_of.max()) + 1)]
        by_turn = [float(found.mean()) if len(found) else float("nan") for found in means]
        return cls(sums.mean, low, high, by_turn, int(known.sum()), int((~known).sum()))

    def __str__(self) -> str:
        turns = (
            ", ".join(f"turn {i}: {mean:.2f}" for i, mean in enumerate(self.turns, 1)) if len(self.turns) > 1 else ""
        )
        missing = f"; {count(self.unusable, 'answer')} without a rating" if self.unusable else ""
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]{f' ({turns})' if turns else ''}{missing}"


@dataclass(repr=False)
class Judgement(Shown):
    """What a judge thinks of models.

    Attributes:
        judge (`str`): Its name.
        mode (`str`): `"pair"` or `"single"`.
        baseline (`str`): The model that others are compared with.
        preferences (`dict[str, Preference]`): Of mode `"pair"`: each other model against the baseline; a win is the
            other model's.
        scores (`dict[str, Score]`): Of mode `"single"`: the ratings of each model.
        differences (`dict[str, ScoreDifference]`): Of mode `"single"`: each other model less the baseline.
        problems (`dict[str, int]`): Verdicts that there are not, by reason: `refused`, `malformed`, `cut`, `too long`,
            `no answer`.
        asked_again (`int`): Verdicts that were asked for twice.
        cut_answers (`dict[str, int]`): Of each model, answers that were cut at `max_new_tokens`.
        usage (`tuple[int, int]`, *optional*): Tokens that the server says it has read and written, of all replies in
            the folder; None where it does not say, or the judge is local.
        plan ([`Plan`], *optional*): What it takes, of a dry run, which has nothing else.
        places (`list[tuple[int, int]]`): Row of the prompts and turn of each verdict.
        verdicts (`dict[str, list[float]]`): By model, its score in both orders together, or its rating, at each place;
            NaN where there is none.
        people (`dict[str, Agreement]`): By model, how the judge agrees with people, where their verdicts were given.
        notes (`list[str]`): What else is to be known.

    Example:

    ```python
    found = him.judge(models, prompts="mt_bench.jsonl", judge="openai:gpt-4.1", output_dir="judged")
    print(found.preferences["rule"])
    ```
    """

    judge: str
    mode: str
    baseline: str
    preferences: dict[str, Preference] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    differences: dict[str, ScoreDifference] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)
    asked_again: int = 0
    cut_answers: dict[str, int] = field(default_factory=dict)
    usage: tuple[int, int] | None = None
    plan: Plan | None = None
    places: list[tuple[int, int]] = field(default_factory=list)
    verdicts: dict[str, list[float]] = field(default_factory=dict)
    people: dict[str, Agreement] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def agreement(self, other: "Judgement") -> dict[str, Agreement]:
        """How two judgements of the same models agree: the same judge asked again with another seed, or another judge.

        Args:
            other ([`Judgement`]): Of the same prompts, mode and baseline.

        Returns:
            `dict[str, Agreement]`: By model: the share of equal verdicts, and Cohen's kappa.

        Raises:
            [`InstructMineError`]: Where the two are of other prompts, modes, baselines or models.
        """
        mine, its = ((j.mode, j.baseline, j.places, sorted(j.verdicts)) for j in (self, other))
        for name, one, another in zip(("mode", "baseline", "prompts", "models"), mine, its):
            if one != another:
                raise InstructMineError(f"the two judgements are of other {name}: judge the same with both")
        return {name: agreement(scores, other.verdicts[name]) for name, scores in self.verdicts.items()}

    def _line(self) -> str:
        models = ", ".join(
            printable(name, 40) for name in {**self.preferences, **self.scores} if name != self.baseline
        )
        what = "a dry run of " if self.plan is not None else ""
        against = f"{models or 'models'} against {printable(self.baseline, 40)}"
        return f"{what}{printable(self.judge, 40)} on {against}, by {'pairs' if self.mode == 'pair' else 'ratings'}"

    def _says(self) -> list[str]:
        return [] if self.plan is None else [str(self.plan)]

    def _tables(self) -> list[Cells]:
        pairs = [
            [name, str(p.win), str(p.tie), str(p.lose), str(p.win_rate), str(p.better_or_equal),
             str(p.length_controlled), str(p.disagreements), str(p.unusable)]
            for name, p in self.preferences.items()
        ]  # fmt: skip
        header = ["model", "win", "tie", "lose", "win rate", "better or equal", "at equal length", "orders disagree",
                  "no verdict"]  # fmt: skip
        scores = [[name, str(score), str(score.answers), str(score.unusable)] for name, score in self.scores.items()]
        differences = [[name, str(found)] for name, found in self.differences.items()]
        baseline = printable(self.baseline)
        tables = [
            Cells(f"Against {baseline}, intervals over questions", header, pairs),
            Cells("Ratings from 1 to 10", ["model", "mean", "answers", "no rating"], scores),
            Cells(f"Less {baseline}", ["model", "difference"], differences),
        ]
        return [table for table in tables if table.rows]

    def summary(self) -> str:
        """The numbers as lines of plain text."""
        if self.plan is not None:
            return f"Dry run: {self.plan}."
        parts = [f"{name} against {self.baseline}\n{_indented(p.summary())}" for name, p in self.preferences.items()]
        parts += [f"{name}  {score}" for name, score in self.scores.items()]
        parts += [f"{name} less {self.baseline}  {found}" for name, found in self.differences.items()]
        how = "each pair in both orders" if self.mode == "pair" else "each answer from 1 to 10"
        return "\n\n".join([f"Judge: {self.judge}, {how}", *parts, *self._doubts()])

    def _doubts(self) -> list[str]:
        """What else has to be known to read the numbers."""
        found = [f"People on {name}: {told}." for name, told in self.people.items()] + self.notes
        if self.problems:
            told = ", ".join(f"{number} {reason}" for reason, number in sorted(self.problems.items()))
            found.append(f"Verdicts that there are not: {told}.")
        if self.asked_again:
            found.append(f"Asked twice: {count(self.asked_again, 'verdict')}.")
        if any(self.cut_answers.values()):
            told = ", ".join(f"{name} {number}" for name, number in self.cut_answers.items())
            found.append(f"Answers cut at max_new_tokens: {told}.")
        if self.usage is not None:
            found.append(f"Tokens of the judge: {self.usage[0]:,} in, {self.usage[1]:,} out.")
        return ["\n".join(found)] if found else []

    __str__ = summary

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        plain: dict[str, Any] = {
            "judge": self.judge, "mode": self.mode, "baseline": self.baseline, "problems": self.problems,
            "asked_again": self.asked_again, "cut_answers": self.cut_answers, "usage": self.usage,
        }  # fmt: skip
        plain["people"] = {name: _without_nan(asdict(found)) for name, found in self.people.items()}
        plain["preferences"] = {name: found.to_dict() for name, found in self.preferences.items()}
        plain["scores"] = {name: _without_nan(asdict(found)) for name, found in self.scores.items()}
        plain["differences"] = {name: found.to_dict() for name, found in self.differences.items()}
        return plain

    def markdown(self) -> str:
        """The summary as a page of Markdown."""
        return f"# Judgement\n\n{fenced(self.summary())}\n"


def differences_of(
    ratings: Mapping[str, Sequence[float]], questions: Sequence[Any], baseline: str, seed: int
) -> dict[str, ScoreDifference]:
    """Each model's ratings less the baseline's, where both have two at the least."""
    found = {}
    for name, values in ratings.items():
        both = np.isfinite(values) & np.isfinite(ratings[baseline])
        if name != baseline and both.sum() >= 2:
            found[name] = paired_scores(values, ratings[baseline], questions, seed)
    return found


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value
