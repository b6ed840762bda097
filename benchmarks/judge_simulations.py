"""How often a judge's intervals hold the truth: `python benchmarks/judge_simulations.py`.

Prints the tables of "Simulated judges" in docs/judge.md, in about five minutes on one core; `--draws 50` takes half a
minute. No model is asked: judges are drawn whose bias to a position and to length, noise and true preference are
known, and so is what people would say. Everything is drawn from seeds, so the tables come out the same again.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from hf_instructmine import InstructMineError
from hf_instructmine.evaluation.calibration import Calibration
from hf_instructmine.evaluation.intervals import Estimate
from hf_instructmine.evaluation.paired import paired_scores
from hf_instructmine.evaluation.pairs import Judged, preference


QUESTIONS, TURNS = (50, 80, 300), (1, 2)
LABELLED = 100  # pairs that people have judged too, of other questions
MANY = 1_000_000  # pairs that the truth is taken from: its error is below 0.0005
RESAMPLES = 1000


@dataclass(frozen=True)
class Judge:
    """A judge, the models it judges, and people, in SDs of how much better an answer may be.

    Answer A is better than B by `better` on average, with SD `questions` between questions and SD `turns` between the
    turns of one. The judge sees that, plus `position` for what is shown first, `length` times tanh of the difference
    in length over its SD, and noise of SD `noise`; less than `tie` either way is a tie. People see it with a noise of
    0.3, and a tie below `people`. A's answers are longer by `longer` of a symmetric, heavy-tailed difference in length
    (sinh of a normal, half of whose variance is the question's), and quality goes with it by `quality`.
    """

    better: float = 0.0
    questions: float = 0.7
    turns: float = 0.5
    noise: float = 0.7
    position: float = 0.0
    length: float = 0.0
    tie: float = 0.2
    longer: float = 0.0
    quality: float = 0.0
    people: float = 0.12


JUDGES = {
    "noise alone": Judge(),
    "position": Judge(position=0.6),
    "length": Judge(length=0.8, longer=0.5),
    "position and length": Judge(better=0.5, position=0.5, length=0.6, longer=0.5),
    "A far longer": Judge(better=0.2, length=0.8, longer=1.5),
    "one mind a question": Judge(
        better=0.3, questions=1.5, turns=0.1, noise=0.3, position=0.3, length=0.5, longer=0.5
    ),
    "A nearly always": Judge(better=2.6, position=0.3, length=0.3, longer=0.5),
}


@dataclass(frozen=True)
class Drawn:
    """Verdicts of a judge and of people on the same pairs."""

    judged: Judged
    people: np.ndarray


def verdicts(seen: np.ndarray, tie: float) -> np.ndarray:
    """Scores of A by how much better it looks."""
    return np.where(seen > tie, 1.0, np.where(seen < -tie, 0.0, 0.5)).ravel()


def draw(judge: Judge, questions: int, turns: int, rng: np.random.Generator, equal: bool = False) -> Drawn:
    """Draws pairs; with `equal` lengths, all else the same."""
    shape = (questions, turns)
    longer = np.sqrt(0.5) * (rng.normal(size=(questions, 1)) + rng.normal(size=shape))
    difference = np.sinh(judge.longer + longer) * (not equal)
    better = judge.better + judge.questions * rng.normal(size=(questions, 1)) + judge.turns * rng.normal(size=shape)
    pull = np.tanh(difference / np.sqrt(0.5 * (np.exp(2) * np.cosh(2 * judge.longer) - 1) - mean_length(judge) ** 2))
    better = better + judge.quality * pull
    sides = [
        verdicts(
            better + judge.length * pull + side * judge.position + judge.noise * rng.normal(size=shape), judge.tie
        )
        for side in (1, -1)
    ]
    ids = np.repeat(np.arange(questions), turns)
    zero = np.zeros(questions * turns)
    people = verdicts(better + 0.3 * rng.normal(size=shape), judge.people)
    return Drawn(Judged(ids, *sides, difference.ravel(), zero), people)


def mean_length(judge: Judge) -> float:
    """Mean of sinh of a normal with variance 1; the SD above is of the same."""
    return float(np.exp(0.5) * np.sinh(judge.longer))


@dataclass(frozen=True)
class Truth:
    """What many pairs say."""

    win_rate: float
    better_or_equal: float
    length_controlled: float
    people: float
    changed: float
    net: float


@cache
def truth(judge: Judge) -> Truth:
    """Of a judge, from a million pairs of one turn."""
    drawn = draw(judge, MANY, 1, np.random.default_rng(1))
    alike = draw(judge, MANY, 1, np.random.default_rng(1), equal=True)
    scores, moved = drawn.judged.scores, drawn.judged.forward - drawn.judged.backward
    return Truth(
        win_rate=float(scores.mean()),
        better_or_equal=float((scores > 0).mean()),
        length_controlled=float(alike.judged.scores.mean()),
        people=float(drawn.people.mean()),
        changed=float((moved != 0).mean()),
        net=float(np.sign(moved).mean()),
    )


def holds(estimate: Estimate, value: float) -> float:
    """1 where the interval holds the value, 0 where not, NaN where the estimate is not known."""
    return float(estimate.low <= value <= estimate.high) if estimate.known else np.nan


COLUMNS = (
    "win rate",
    "better or equal",
    "its bootstrap",
    "its plain Wilson",
    "at equal length",
    "corrected",
    "raw for people",
)


def simulate(
    judge: Judge, questions: int, turns: int, draws: int, other: Judge | None = None
) -> dict[str, np.ndarray]:
    """Whether each interval holds its truth, by draw; `other` is what the judge is calibrated on, if not the same."""
    true, found = truth(judge), []
    for number in range(draws):
        rng = np.random.default_rng([questions, turns, number])
        drawn, labelled = draw(judge, questions, turns, rng), draw(other or judge, LABELLED // turns, turns, rng)
        try:
            calibration = Calibration.fit(labelled.judged.scores, labelled.people, labelled.judged.questions)
            said = preference(drawn.judged, calibration=calibration, seed=number, resamples=RESAMPLES)
        except InstructMineError:  # labels that are all alike, or a judge that does not follow people in them
            said = preference(drawn.judged, seed=number, resamples=RESAMPLES)
        bias = said.position_bias
        found.append(
            {
                "win rate": holds(said.win_rate, true.win_rate),
                "better or equal": holds(said.better_or_equal, true.better_or_equal),
                "its bootstrap": holds(said.better_or_equal_bootstrap, true.better_or_equal),
                "its plain Wilson": holds(said.better_or_equal_wilson, true.better_or_equal),
                "at equal length": holds(said.length_controlled, true.length_controlled),
                "corrected": holds(said.corrected, true.people) if said.corrected else np.nan,
                "raw for people": holds(said.win_rate, true.people),
                "changed": holds(bias.rate, true.changed),
                "net": holds(bias.net, true.net),
                "first": float(bias.favoured == "first"),
                "second": float(bias.favoured == "second"),
            }
        )
    return {name: np.array([one[name] for one in found]) for name in found[0]}


def shown(values: np.ndarray) -> str:
    """The share of draws that hold the truth; in brackets in how many draws nothing was known, if any."""
    known = values[~np.isnan(values)]
    if not len(known):
        return "not known"
    return f"{known.mean():.3f}" + (
        f" ({1 - len(known) / len(values):.0%} not known)" if len(known) < len(values) else ""
    )


def table(head: list[str], rows: Iterator[list[str]]) -> None:
    """Prints a Markdown table as its rows are ready."""
    print(f"| {' | '.join(head)} |\n|---{'|---:' * (len(head) - 1)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
    print()


def coverage(draws: int) -> None:
    """The first two tables: intervals, and position bias."""
    bias = []

    def rows() -> Iterator[list[str]]:
        for name, judge in JUDGES.items():
            for questions in QUESTIONS:
                found = [simulate(judge, questions, turns, draws) for turns in TURNS]
                bias.append([name, str(questions), *(both(found, c) for c in ("changed", "net", "first", "second"))])
                yield [name, str(questions), *(both(found, column) for column in COLUMNS)]

    print(f"Share of {draws} draws whose 95 % interval holds the truth; one turn a question / two turns.\n")
    table(["judge", "questions", *COLUMNS], rows())
    print("Position bias: the same, and in how many draws a direction is named.\n")
    table(["judge", "questions", "rate", "net", "says first", "says second"], iter(bias))


def both(found: list[dict[str, np.ndarray]], column: str) -> str:
    """One turn / two turns."""
    return " / ".join(shown(one[column]) for one in found)


def truths() -> None:
    """What each judge says of many pairs, and people."""
    print("The truth, of a million pairs.\n")
    head = ["judge", "win rate", "better or equal", "at equal length", "people's win rate", "changes with order"]
    rows = ((name, truth(judge)) for name, judge in JUDGES.items())
    numbers = ("win_rate", "better_or_equal", "length_controlled", "people", "changed")
    table(head, ([name, *(f"{getattr(true, n):.3f}" for n in numbers)] for name, true in rows))


def broken(draws: int) -> None:
    """What the methods do not repair."""
    both_biases = JUDGES["position and length"]
    fair = replace(both_biases, better=0.0, longer=0.0)
    cases = {
        "calibrated where no model is better or longer": (both_biases, fair),
        "a third of people's verdicts are ties": (replace(both_biases, people=0.4), None),
        "longer answers are better": (replace(both_biases, quality=0.6), None),
    }
    print("Where assumptions fail: the share of draws whose interval holds the truth, 300 questions of one turn.\n")
    head = ["case", "corrected", "raw for people", "at equal length"]

    def rows() -> Iterator[list[str]]:
        for name, (judge, other) in cases.items():
            found = simulate(judge, 300, 1, draws, other)
            yield [name, *(shown(found[column]) for column in head[1:])]

    table(head, rows())


def scores(draws: int) -> None:
    """Paired scores of 0 and 1: questions that only A gets right, and only B."""

    def rows() -> Iterator[list[str]]:
        for only_a, only_b in ((0.01, 0.0), (0.02, 0.02), (0.05, 0.02), (0.1, 0.05), (0.15, 0.15), (0.4, 0.1)):
            cells = [f"{only_a:.0%}", f"{only_b:.0%}"]
            for count in QUESTIONS:
                held, false = [], []
                for number in range(draws):
                    seen = np.random.default_rng([count, number]).random(count)
                    a, b = seen < only_a, (seen >= only_a) & (seen < only_a + only_b)
                    found = paired_scores(a.astype(float), b.astype(float), seed=number, resamples=RESAMPLES)
                    held.append(found.low <= only_a - only_b <= found.high)
                    false.append((found.p < 0.05, found.mcnemar is not None and found.mcnemar < 0.05))
                t, mcnemar = np.mean(false, axis=0)
                cells.append(f"{np.mean(held):.3f}; {t:.1%}, {mcnemar:.1%}")
            yield cells

    print("Scores of 0 and 1: share of draws whose interval holds the difference; p < 0.05 by t, by McNemar.\n")
    table(["only A right", "only B right", *(f"{count} questions" for count in QUESTIONS)], rows())


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=500, help="of each setting (default: 500)")
    draws = parser.parse_args().draws
    truths()
    coverage(draws)
    broken(draws)
    scores(draws)


if __name__ == "__main__":
    main()
