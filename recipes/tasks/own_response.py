"""The questions of `own_response.yaml`, made of the bundled evaluation rows."""

import random
import re

from datasets import Dataset, DatasetDict

import hf_instructmine as him


CHOICES = 4


def questions(**_) -> DatasetDict:
    """Two questions a row: whose response is it (of others about as long), and which order of its sentences."""
    rows = him.load_sample_evaluation().to_list()
    asked = [question for number in range(len(rows)) for question in (whose(rows, number), in_order(rows, number))]
    return DatasetDict({"test": Dataset.from_list([question for question in asked if question is not None])})


def whose(rows: list[dict], number: int) -> dict:
    """Its own response among those of the rows whose responses are nearest in length."""
    own = rows[number]["output"]
    others = sorted(
        (row["output"] for row in rows if row["output"] != own), key=lambda text: abs(len(text) - len(own))
    )
    return ask(rows, number, "whose", others[: CHOICES - 1])


def in_order(rows: list[dict], number: int) -> dict | None:
    """Its own response among copies with the sentences in another order; None where it has too few."""
    rng, own = random.Random(number), rows[number]["output"]
    sentences = re.split(r"(?<=[.!?])\s+", own)
    if len(sentences) < CHOICES:
        return None
    copies: dict[str, None] = {}
    while len(copies) < CHOICES - 1:
        copy = " ".join(rng.sample(sentences, len(sentences)))
        if copy != " ".join(sentences):
            copies[copy] = None
    return ask(rows, number, "order", list(copies), " ".join(sentences))


def ask(rows: list[dict], number: int, kind: str, others: list[str], own: str | None = None) -> dict:
    """One question: the prompt, four responses in random order, and which is the row's own."""
    row, rng = rows[number], random.Random(f"{kind}-{number}")
    choices = [row["output"] if own is None else own, *others]
    order = rng.sample(range(CHOICES), CHOICES)
    return {
        "prompt": "\n\n".join(text for text in (row["instruction"], row["input"]) if text),
        "choices": [choices[i] for i in order],
        "answer": order.index(0),
        "kind": kind,
        "cluster": f"row-{number}",
    }
