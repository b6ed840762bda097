"""SmolLM2-135M-Instruct as a judge of the 999 pairs that people have judged (PandaLM's test set).

    python benchmarks/judge_smollm2.py PANDALM.jsonl OUTPUT.jsonl FOLDER [--rows N] [--no-ties]

Each pair is shown in both orders, and the verdict is the likeliest of A, B and C (a tie). OUTPUT gets a line for each
pair: `row`, and `forward` and `backward`, the judge's score of the first response with it shown first and second
(1 better, 0 worse, 0.5 a tie, null none), with the probability of each verdict beside it. FOLDER keeps the work, in
parts of 50 pairs in a seeded order: the same command goes on after a kill, and N may be raised.
"""

import argparse
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np

import hf_instructmine as him


PART = 50  # pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, metavar="N", help="a seeded sample of the pairs, not all")
    parser.add_argument("--no-ties", dest="ties", action="store_false")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    pairs = [json.loads(line) for line in args.pairs.read_text().splitlines()]
    order = random.Random(0).sample(range(len(pairs)), len(pairs))
    parts = [order[start : start + PART] for start in range(0, args.rows or len(pairs), PART)]
    lines = []
    for number, rows in enumerate(parts):
        lines += judge_part([pairs[row] for row in rows], rows, args.folder / f"part-{number:02d}", args)
        lines.sort(key=lambda line: line["row"])
        args.output.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report([pairs[line["row"]] for line in lines], lines)


def judge_part(pairs: list[dict], rows: list[int], folder: Path, args: argparse.Namespace) -> list[dict]:
    """The verdicts on some pairs, as OUTPUT has them."""
    folder.mkdir(parents=True, exist_ok=True)
    models = {}
    for name in ("response_1", "response_2"):
        models[name] = folder / f"{name}.jsonl"
        answers = [json.dumps({"row": i, "answer": pair[name]}) for i, pair in enumerate(pairs)]
        models[name].write_text("\n".join(answers) + "\n")
    prompts = [{key: pair[key] for key in ("instruction", "input")} for pair in pairs]
    options = {"baseline": "response_2", "ties": args.ties, "dtype": args.dtype}
    him.judge(models, prompts, him.smollm2_135m(), folder / "judgement", **options)
    verdicts = [json.loads(line) for line in (folder / "judgement" / "verdicts.jsonl").read_text().splitlines()]
    kept = {(line["row"], line["order"]): line for line in verdicts}
    return [
        {
            "row": row,
            "forward": kept[i, "forward"]["score"],
            "backward": kept[i, "backward"]["score"],
            "forward_share": kept[i, "forward"].get("share"),
            "backward_share": kept[i, "backward"].get("share"),
        }
        for i, row in enumerate(rows)
    ]


def report(pairs: list[dict], verdicts: list[dict]) -> None:
    """How the judge agrees with the majority of people, beside what knows nothing of the answers."""
    people = np.array([_majority(pair["humans"]) for pair in pairs])
    print("verdicts of each order:", Counter((v["forward"], v["backward"]) for v in verdicts).most_common())
    both = np.array([v["forward"] if v["forward"] == v["backward"] else 0.5 for v in verdicts], dtype=float)
    longer = np.array([np.sign(len(p["response_1"]) - len(p["response_2"])) / 2 + 0.5 for p in pairs])
    decided = (people == 0) | (people == 1)
    rng = np.random.default_rng(0)
    chance = np.array([(rng.permutation(both)[decided] == people[decided]).mean() for _ in range(1000)])
    print(f"majority of people: {Counter(people.tolist())}; nan is three ways")
    known = np.isfinite(people)
    # Where both verdicts are "A": in which order that was the likelier.
    shares = np.array([[v["forward_share"], v["backward_share"]] for v in verdicts], dtype=float)
    always = np.array([v["forward"] == 1 and v["backward"] == 0 for v in verdicts])
    print(f"always the first: {always.sum()} pairs, with a probability of {shares[always].mean():.3f}")
    for name, scores in {
        "both orders": both,
        "always the first, by its probability": np.where(always, shares[:, 0] > shares[:, 1], np.nan),
        "forward": np.array([v["forward"] for v in verdicts], dtype=float),
        "backward": np.array([v["backward"] for v in verdicts], dtype=float),
        "the longer answer": longer,
        "gpt-3.5-turbo": np.array([_score(pair["gpt_3_5_turbo"]) for pair in pairs]),
    }.items():
        settled = decided & np.isin(scores, (0, 1))
        print(
            f"{name}: {(scores[known] == people[known]).mean():.3f} of {known.sum()} with a majority, "
            f"{(scores[decided] == people[decided]).mean():.3f} of the {decided.sum()} that people decided, "
            f"{(scores[settled] == people[settled]).mean():.3f} of the {settled.sum()} that both decided"
        )
    print(
        f"both orders, shuffled over the pairs: {chance.mean():.3f} ± {chance.std():.3f} of those that people decided"
    )


def _score(label: int | None) -> float:
    return {1: 1.0, 2: 0.0, 0: 0.5}.get(label, float("nan"))  # of some pairs there is no verdict


def _majority(labels: list[int]) -> float:
    (label, times), *_ = Counter(labels).most_common(1)
    return _score(label) if times > 1 else float("nan")


if __name__ == "__main__":
    main()
