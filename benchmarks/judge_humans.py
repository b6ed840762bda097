"""A judge's statistics held against people: `python benchmarks/judge_humans.py`.

Prints the tables of "Validated on people" in docs/judge.md, in seconds. The pairs are PandaLM's human test set: five
models' answers to Self-Instruct's user tasks, with the verdicts of three people and of two judges, each in one order
only. `--pairs FILE` names it, else `preference/pandalm_human.jsonl` of the folder in INSTRUCTMINE_SHARED_DATA.

`--verdicts FILE --name NAME` adds a judge that was asked in both orders: JSON lines with `row` (from 0), `forward` and
`backward`, both the score of the first answer of the row: 1, 0.5, 0, or null for none.
"""

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from hf_instructmine import InstructMineError
from hf_instructmine.evaluation.calibration import Calibration, corrected
from hf_instructmine.evaluation.intervals import Clusters, Estimate, clustered, codes_of, share, unknown
from hf_instructmine.evaluation.pairs import Judged, agreement, preference


SCORES = {1: 1.0, 2: 0.0, 0: 0.5, None: np.nan}
MODEL_PAIRS = list(combinations("ABCDE", 2))
SPLITS = 200
FEWEST = 10  # rows of a model pair in a half


@dataclass(frozen=True)
class People:
    """The human test set.

    Attributes:
        questions (`np.ndarray` of shape `(rows,)`): Number of each row's question.
        pairs (`np.ndarray` of shape `(rows,)`): Its models, by number in `MODEL_PAIRS`; -1 where that is not known.
        verdicts (`np.ndarray` of shape `(rows, 3)`): Each person's score of the first answer.
        majority (`np.ndarray` of shape `(rows,)`): What two of three say; NaN where all differ.
        lengths (`np.ndarray` of shape `(rows, 2)`): Characters of both answers.
    """

    questions: np.ndarray
    pairs: np.ndarray
    verdicts: np.ndarray
    majority: np.ndarray
    lengths: np.ndarray


def people(rows: list[dict]) -> People:
    """Reads the rows."""
    verdicts = np.array([[SCORES[verdict] for verdict in row["humans"]] for row in rows])
    return People(
        questions=np.concatenate([np.full(len(block), number) for number, block in enumerate(blocks(rows))]),
        pairs=np.concatenate([placed(rows, block) for block in blocks(rows)]),
        verdicts=verdicts,
        majority=np.array([next((x for x in row if (row == x).sum() > 1), np.nan) for row in verdicts]),
        lengths=np.array([[len(row["response_1"]), len(row["response_2"])] for row in rows], dtype=float),
    )


def blocks(rows: list[dict]) -> list[list[int]]:
    """Numbers of the rows of each question, which stand one after another."""
    found: list[list[int]] = []
    for number, row in enumerate(rows):
        key = (row["instruction"], row["input"])
        if not number or key != (rows[number - 1]["instruction"], rows[number - 1]["input"]):
            found.append([])
        found[-1].append(number)
    return found


def placed(rows: list[dict], block: list[int]) -> np.ndarray:
    """Which models the rows of a question are about.

    The file does not say. Its rows stand in the order AB, AC, … DE, with some left out, and a model gives one answer
    to a question. A row is placed where all ways to place its question agree on it.
    """
    ways = []
    for way in combinations(range(len(MODEL_PAIRS)), len(block)):
        answers: dict[str, str] = {}
        sides = (
            (m, rows[n][f"response_{i}"]) for n, pair in zip(block, way) for i, m in enumerate(MODEL_PAIRS[pair], 1)
        )
        if all(answers.setdefault(model, answer) == answer for model, answer in sides):
            ways.append(way)
    one = [len({way[k] for way in ways}) == 1 for k in range(len(block))]
    return np.array([ways[0][k] if known else -1 for k, known in enumerate(one)])


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Prints a Markdown table."""
    head = list(head)
    print(f"| {' | '.join(head)} |\n|---{'|---:' * (len(head) - 1)}|")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
    print()


def agreements(truth: People, judges: dict[str, np.ndarray]) -> None:
    """The first table: how judges, length and people agree."""

    def rows() -> Iterator[list[str]]:
        for name, scores in judges.items():
            found = agreement(scores, truth.majority)
            decided = np.isfinite(scores) & np.isin(truth.majority, (0, 1))
            follows = Calibration.fit(scores, truth.majority, truth.questions)
            yield [
                name,
                str(found.pairs),
                f"{found.raw:.1%}",
                f"{found.kappa:.2f}",
                f"{(scores == truth.majority)[decided].mean():.1%}",
                *(f"{x:.2f}" for x in (follows.sensitivity, follows.specificity, follows.tied)),
            ]
        for one, other in combinations(range(3), 2):
            found = agreement(truth.verdicts[:, one], truth.verdicts[:, other])
            yield [
                f"person {one + 1}, of person {other + 1}",
                str(found.pairs),
                f"{found.raw:.1%}",
                f"{found.kappa:.2f}",
                *[""] * 4,
            ]

    print("Agreement with the majority of three people.\n")
    columns = (
        "pairs",
        "agree",
        "kappa",
        "where people see no tie",
        "sensitivity",
        "specificity",
        "score of people's ties",
    )
    table(["judge", *columns], rows())


def of_pair(truth: People, scores: np.ndarray, chosen: np.ndarray) -> tuple[Clusters, Clusters]:
    """Scores of a judge, and of people, by question, of the chosen rows that both have judged."""
    both = chosen & np.isfinite(scores) & np.isfinite(truth.majority)
    codes = codes_of(truth.questions[both])
    return clustered(scores[both], codes), clustered(truth.majority[both], codes)


def by_people(said: Clusters, truth: People, scores: np.ndarray, chosen: np.ndarray) -> Estimate:
    """The rate corrected by how the judge follows people in the chosen rows; not known where it does not."""
    try:
        follows = Calibration.fit(scores[chosen], truth.majority[chosen], truth.questions[chosen])
        return corrected(said, follows)
    except InstructMineError as error:
        return unknown(str(error))


def shown(estimate: Estimate) -> str:
    """A share with its interval."""
    return "not known" if not estimate.known else f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def model_pairs(truth: People, judges: dict[str, np.ndarray]) -> None:
    """The second table: win rates of the ten model pairs, corrected by the nine others."""

    def rows() -> Iterator[list[str]]:
        for number, (one, other) in enumerate(MODEL_PAIRS):
            chosen = truth.pairs == number
            cells = [f"{one} against {other}", str(int((chosen & np.isfinite(truth.majority)).sum()))]
            cells.append(shown(share(of_pair(truth, truth.majority, chosen)[1], 0.95)))
            for scores in judges.values():
                said, _ = of_pair(truth, scores, chosen)
                cells.append(shown(share(said, 0.95)))
                cells.append(shown(by_people(said, truth, scores, (truth.pairs != number) & (truth.pairs >= 0))))
            yield cells

    print("Win rates, ties half; the correction is learnt on the nine other model pairs.\n")
    heads = (f"{name}{kind}" for name in judges for kind in ("", ", corrected"))
    table(["models", "rows", "people", *heads], rows())


def apart(one: Estimate, other: Estimate) -> bool:
    """Whether two independent estimates differ by more than their intervals allow (Zou & Donner 2008)."""
    low, high = (one, other) if one.value < other.value else (other, one)
    return bool(high.value - low.value > np.hypot(high.value - high.low, low.high - low.value))


def tried(
    truth: People, scores: np.ndarray, test: np.ndarray, learn: np.ndarray, pair: int
) -> list[list[float]] | None:
    """Of the raw rate and of the corrected one: error, whether the interval holds people's rate on the same rows,
    whether it is compatible with people's on other rows, and the interval's width. None where rows are few."""
    here, there = test & (truth.pairs == pair), learn & (truth.pairs == pair)
    said, people_here = of_pair(truth, scores, here)
    if people_here.counts.sum() < FEWEST:
        return None
    _, people_there = of_pair(truth, scores, there)
    found = []
    for estimate in (share(said, 0.95), by_people(said, truth, scores, learn & (truth.pairs != pair) | there)):
        error = abs(estimate.value - people_here.mean)
        held = estimate.low <= people_here.mean <= estimate.high if estimate.known else np.nan
        agree = (
            not apart(estimate, share(people_there, 0.95))
            if people_there.counts.sum() >= FEWEST and estimate.known
            else np.nan
        )
        found.append([error, held, agree, estimate.high - estimate.low])
    return found


def splits(truth: People, judges: dict[str, np.ndarray]) -> None:
    """The third table: coverage where the correction is learnt on half of the questions."""

    count = truth.questions.max() + 1

    def rows() -> Iterator[list[str]]:
        for name, scores in judges.items():
            found = []
            for split in range(SPLITS):
                half = np.random.default_rng(split).permutation(count) < count / 2
                learn = half[truth.questions]
                found += [tried(truth, scores, ~learn, learn, pair) for pair in range(len(MODEL_PAIRS))]
            kept = np.array([one for one in found if one is not None], dtype=float)
            for kind, number in (("raw", 0), ("corrected", 1)):
                error, held, agree, width = np.nanmean(kept[:, number], axis=0)
                yield [
                    f"{name}, {kind}",
                    str(len(kept)),
                    f"{error:.3f}",
                    f"{held:.3f}",
                    f"{agree:.3f}",
                    f"{width:.2f}",
                ]

    print(f"{SPLITS} random halves of the questions: learnt on one, tested on the other, by model pair.\n")
    heads = ("tests", "mean error", "holds people's rate, same rows", "fits people's rate, other half", "width")
    table(["win rate", *heads], rows())


def left_out(truth: People, judges: dict[str, np.ndarray]) -> None:
    """The fourth table: error and coverage where the model pair was not learnt on."""

    def rows() -> Iterator[list[str]]:
        for name, scores in judges.items():
            errors, held = [], []
            for number in range(len(MODEL_PAIRS)):
                chosen = truth.pairs == number
                said, of_people = of_pair(truth, scores, chosen)
                both = share(said, 0.95), by_people(said, truth, scores, (truth.pairs >= 0) & ~chosen)
                errors.append([abs(estimate.value - of_people.mean) for estimate in both])
                held.append([estimate.low <= of_people.mean <= estimate.high for estimate in both])
            for kind, error, hits in zip(("raw", "corrected"), np.nanmean(errors, axis=0), np.sum(held, axis=0)):
                yield [f"{name}, {kind}", f"{error:.3f}", f"{hits} of {len(MODEL_PAIRS)}"]

    print("Learnt on the nine other model pairs.\n")
    table(["win rate", "mean error", "holds people's rate"], rows())


def in_both_orders(rows: list[dict], truth: People, path: Path) -> np.ndarray:
    """Scores of a judge that was asked in both orders; prints its position bias."""
    forward, backward = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for line in path.read_text("utf-8").splitlines():
        found = json.loads(line)
        for scores, name in ((forward, "forward"), (backward, "backward")):
            scores[found["row"]] = np.nan if found[name] is None else found[name]
    judged = Judged(truth.questions, forward, backward, *truth.lengths.T, unit="characters")
    print(f"All rows, first answer against second:\n\n{preference(judged)}\n")
    return judged.scores


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = os.environ.get("INSTRUCTMINE_SHARED_DATA", "../shared/data")
    parser.add_argument("--pairs", type=Path, default=Path(folder) / "preference" / "pandalm_human.jsonl")
    parser.add_argument("--verdicts", type=Path, help="JSON lines of another judge, in both orders")
    parser.add_argument("--name", default="judge", help="of that judge")
    args = parser.parse_args()
    if not args.pairs.is_file():
        parser.error("there are no pairs: name the file with --pairs, or its folder in INSTRUCTMINE_SHARED_DATA")
    rows = [json.loads(line) for line in args.pairs.read_text("utf-8").splitlines()]
    truth = people(rows)
    known = ("gpt_3_5_turbo", "pandalm_7b")
    judges = {name.replace("_", "-"): np.array([SCORES[row[name]] for row in rows]) for name in known}
    if args.verdicts:
        judges[args.name] = in_both_orders(rows, truth, args.verdicts)
    longer = (np.sign(truth.lengths[:, 0] - truth.lengths[:, 1]) + 1) / 2
    print(
        f"{len(rows)} rows of {truth.questions.max() + 1} questions; {int((truth.pairs >= 0).sum())} rows have a "
        f"known pair of models; {int(np.isnan(truth.majority).sum())} have no majority.\n"
    )
    agreements(truth, {**judges, "the longer answer": longer})
    model_pairs(truth, judges)
    splits(truth, judges)
    left_out(truth, judges)


if __name__ == "__main__":
    main()
