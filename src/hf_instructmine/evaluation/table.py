"""What an evaluation of models found, in one table: losses, benchmarks, a judge, each with its interval."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InstructMineError
from ..outputs.markdown import CardSection, count, escape, printable, table
from ..outputs.shown import Cells, Shown
from .intervals import clustered, codes_of, objects, share
from .losses import ratio
from .paired import ScoreDifference, paired_scores


if TYPE_CHECKING:
    from .judgement import Judgement

TITLE = "Losses, benchmarks and a judge"
HEADER = ("measure", "model", "n", "value", "95 %", "bits/byte", "to {}", "95 %", "p")
NATS, BITS = "nats/token", "bits/byte"


@dataclass(frozen=True)
class Line:
    """One model by one measure.

    Attributes:
        measure (`str`): Evaluation set, or benchmark.
        unit (`str`): Of the value.
        model (`str`): Its name.
        examples (`int`): Examples or questions.
        value (`float`): A loss, or a mean score.
        low (`float`, *optional*): Lower end of its 95 % interval over examples; None where there is one example.
        high (`float`, *optional*): Upper end of it.
        difference ([`ScoreDifference`], *optional*): To the baseline, paired over examples.
        lower_is_better (`bool`): Whether it is a loss.
        bits (`float`, *optional*): The loss in bits per byte.
    """

    measure: str
    unit: str
    model: str
    examples: int
    value: float
    low: float | None
    high: float | None
    difference: ScoreDifference | None = None
    lower_is_better: bool = False
    bits: float | None = None


@dataclass(repr=False)
class Evaluation(Shown):
    """What [`evaluate_models`] finds; prints as a table and a verdict.

    Attributes:
        models (`list[str]`): Their names.
        baseline (`str`): The one that the others are compared with.
        losses (`dict[str, dict[str, dict]]`): By evaluation set and model, what was measured: `nll`, `tokens`, `bytes`
            and `categories` of each example.
        benchmarks (`dict[str, dict[str, dict]]`): By benchmark and model: `scores`, `questions`, `clusters`.
        shots (`dict[str, str]`): By benchmark, how many solved examples, and the metric.
        how (`str`): Which questions were asked, and whether with the chat template.
        seed (`int`): Of the bootstrap.
        judgement ([`Judgement`], *optional*): What a judge said of their answers.
    """

    models: list[str]
    baseline: str
    losses: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    benchmarks: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    shots: dict[str, str] = field(default_factory=dict)
    how: str = ""
    seed: int = 0
    judgement: "Judgement | None" = None

    def lines(self) -> list[Line]:
        """Every model by every measure, the measures in the order in which they were asked for."""
        losses = [self._loss(name, model) for name in self.losses for model in self.models]
        return losses + [self._score(name, model) for name in self.benchmarks for model in self.models]

    def _loss(self, name: str, model: str) -> Line:
        records = self.losses[name]
        # Of texts that are cut into other tokens, nats per token are of other things.
        unit = NATS if all(r["tokens"] == records[self.baseline]["tokens"] for r in records.values()) else BITS
        mine, theirs = (ratio(records[one], unit) for one in (model, self.baseline))
        examples = len(mine.scores)
        own = paired_scores(mine.scores, np.zeros(examples), seed=self.seed) if examples > 1 else None
        return Line(
            f"{name} loss", unit, model, examples, mine.value,
            own.low if own else None, own.high if own else None,
            paired_scores(mine.scores, theirs.scores, seed=self.seed) if own and model != self.baseline else None,
            True, ratio(records[model], BITS).value,
        )  # fmt: skip

    def _score(self, name: str, model: str) -> Line:
        mine, theirs = (self.benchmarks[name][one] for one in (model, self.baseline))
        if (mine["questions"], mine["digests"]) != (theirs["questions"], theirs["digests"]):
            raise InstructMineError(
                f"'{name}': '{model}' and '{self.baseline}' were asked other questions; measure both anew"
            )
        scores, clusters = np.array(mine["scores"], dtype=float), mine["clusters"]
        codes = np.arange(len(scores)) if clusters is None else codes_of(objects(_groups(mine)))
        known = len(scores) > 1
        own = share(clustered(scores, codes), 0.95) if known and scores.min() >= 0 and scores.max() <= 1 else None
        against = paired_scores(scores, theirs["scores"], None if clusters is None else _groups(mine), self.seed) \
            if known and model != self.baseline else None  # fmt: skip
        return Line(
            name, mine["unit"], model, len(scores), float(scores.mean()),
            own.low if own else None, own.high if own else None, against,
        )  # fmt: skip

    def table(self, show: Callable[[Any], str] = printable) -> str:
        """All measures as a Markdown table, in which names are as `show` makes them."""
        header = [name.format(show(self.baseline)) for name in HEADER]
        return table(header, [_cells(line, show) for line in self.lines()], text_columns=2)

    def by_category(self, name: str, show: Callable[[Any], str] = printable) -> str:
        """The losses on an evaluation set by category of its examples, in Markdown; empty where it has none."""
        records = self.losses[name]
        found = records[self.baseline]["categories"]
        known = sorted({category for category in found if category is not None})
        unit = self._loss(name, self.baseline).unit
        rows = []
        for category in known:
            chosen = [number for number, one in enumerate(found) if one == category]
            values = [f"{ratio(records[model], unit, chosen).value:.4f}" for model in self.models]
            rows.append([show(category), str(len(chosen)), *values])
        header = [f"{show(name)} loss ({unit}), by category", "n", *(show(model) for model in self.models)]
        return table(header, rows) if rows else ""

    def verdict(self) -> list[str]:
        """One sentence for each measure and each model but the baseline."""
        return [_sentence(line, self.baseline) for line in self.lines() if line.difference is not None]

    @property
    def unit(self) -> str:
        """What the intervals are about."""
        return (
            "One training of each model: intervals are over questions and examples, and say nothing of other seeds or "
            "of other choices of the same kind."
        )

    def notes(self) -> list[str]:
        """How it was measured, and what is missing in a number."""
        lines = []
        if self.benchmarks:
            asked = "; ".join(f"{name}: {told}" for name, told in self.shots.items())
            release = next(iter(next(iter(self.benchmarks.values())).values()))["lm_eval"]
            lines.append(f"Benchmarks by lm-eval {release}: {self.how}. {asked}.")
        for name, records in self.losses.items():
            record = records[self.baseline]
            if record["truncated"] or record["skipped"]:
                lines.append(
                    f"{name}: {count(record['skipped'], 'row')} without a reference left out, "
                    f"{count(record['truncated'], 'text')} cut."
                )
        if len(self.models) > 1 and (self.losses or self.benchmarks):
            lines.append(
                "Differences are paired over the same questions or examples. p is of each line alone: of twenty lines "
                "without any difference one is below 0.05."
            )
        return lines

    def summary(self) -> str:
        """The table, its parts by category, how it was measured, the verdict, and the judge's."""
        parts = [self.unit]
        if self.losses or self.benchmarks:
            parts += [self.table(), *filter(None, (self.by_category(name) for name in self.losses))]
        parts += [
            "\n".join(printable(line, None) for line in lines) for lines in (self.notes(), self.verdict()) if lines
        ]
        if self.judgement is not None:
            parts.append(self.judgement.summary())
        return "\n\n".join(parts)

    def _line(self) -> str:
        models = ", ".join(printable(name, 40) for name in self.models[:6])
        measures = ", ".join(printable(name, 40) for name in [*self.losses, *self.benchmarks])
        judged = [] if self.judgement is None else ["a judge"]
        return f"{models} by {', '.join(filter(None, [measures, *judged]))}, against {printable(self.baseline, 40)}"

    def _says(self) -> list[str]:
        return [self.unit, *self.verdict(), *self.notes()]

    def _tables(self) -> list[Cells]:
        header = [name.format(printable(self.baseline)) for name in HEADER]
        rows = [_cells(line, printable) for line in self.lines()]
        judged = [] if self.judgement is None else self.judgement._tables()
        return [*([Cells("Losses and benchmarks", header, rows, 2)] if rows else []), *judged]

    def __str__(self) -> str:
        return self.summary()

    def strategies_of(self, rule_digest: str) -> None:
        """None: what its models were trained on is not recorded here, so a card says that this cannot be checked."""

    def section(self, strategies: Sequence[str] = ()) -> CardSection:
        """The evaluation as a section of a dataset card."""
        parts = [self.unit]
        if self.losses or self.benchmarks:
            parts += [self.table(escape), *filter(None, (self.by_category(name, escape) for name in self.losses))]
        parts += [escape(line, None) for line in self.notes()]
        lines = [escape(line, None) for line in self.verdict()]
        if self.judgement is not None:
            said = self.judgement.summary().splitlines()
            parts += [escape(line, None) for line in said if line.strip()]
        parts.append("\n".join(f"- {line}" for line in lines))
        return CardSection(TITLE, "\n\n".join(parts), verdict=lines)


def _groups(record: Mapping[str, Any]) -> list[Any]:
    """The group of each question; one that has none is a group of its own."""
    return [
        q if cluster is None else ("group", cluster) for q, cluster in zip(record["questions"], record["clusters"])
    ]


def _cells(line: Line, show: Callable[[Any], str]) -> list[str]:
    difference = line.difference
    told = ["", "", ""]
    if difference is not None:
        p = difference.p if difference.mcnemar is None else difference.mcnemar
        told = [f"{difference.estimate:+.4f}", f"{difference.low:+.4f} … {difference.high:+.4f}", f"{p:.3g}"]
    own = "" if line.low is None else f"{line.low:.4f} … {line.high:.4f}"
    bits = "" if line.bits is None else f"{line.bits:.4f}"
    measure = f"{show(line.measure)} ({show(line.unit)})"
    return [measure, show(line.model), str(line.examples), f"{line.value:.4f}", own, bits, *told]


def _sentence(line: Line, baseline: str) -> str:
    difference = line.difference
    assert difference is not None
    over = count(difference.questions, "example" if line.lower_is_better else "question")
    if difference.clusters < difference.questions:
        over += f" in {count(difference.clusters, 'group')}"
    interval = f"interval {difference.low:+.4f} to {difference.high:+.4f}"
    told = f"{difference.estimate:+.4f} {line.unit}, {interval}, over {over}"
    if difference.low <= 0 <= difference.high:
        return f"{line.measure}: {line.model} is not shown to differ from {baseline}: {told}."
    better = (difference.estimate < 0) == line.lower_is_better
    return f"{line.measure}: {line.model} is {'better' if better else 'worse'} than {baseline}: {told}."
