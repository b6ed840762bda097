"""The bundled sample pool: good instruction rows written for this project, and damaged copies with a known truth."""

import json
import random
import re
import string
from importlib.resources import files
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset


ROWS_PER_DAMAGE = 40

_STATEMENTS = (
    "Our spring sale starts now: save up to 40 percent on selected garden furniture.",
    "The office is open from Monday to Friday between nine and five.",
    "Sign up for our newsletter and never miss an offer again.",
    "Parking is available behind the building, next to the loading bay.",
    "This product is also available in blue, green and silver.",
    "The committee meets on the second Tuesday of each month.",
    "Please remember to switch off the lights when leaving the room.",
    "Members enjoy free delivery on all orders above thirty dollars.",
    "The next ferry departs from pier four at half past six.",
    "All visitors must sign in at the reception desk.",
    "Order today and receive a second pair of socks at no extra charge.",
    "Batteries are not included.",
    "The lift will be out of service until further notice.",
    "Follow us on social media for a chance to win a weekend for two.",
    "My favourite colour has always been green.",
    "The local team won its third match in a row on Sunday.",
    "Download our free app and collect points with every purchase.",
    "Many people enjoy spending time with their friends and family.",
    "The annual report will be published at the end of the quarter.",
    "Trust the experts: nine out of ten customers recommend our mattresses.",
)

_SENTENCE_END = re.compile(r"[.!?:][\"'`)*]*$")
_LIST_NUMBER = re.compile(r"^\d+\.$", re.MULTILINE)
_CLAUSE_BREAK = re.compile(r"(?<=[.!?:])\s+|\n+|$")


# A damage takes the answer, the answers to all other questions and a random generator, and returns the new answer.


def _truncated(answer: str, others: list[str], rng: random.Random) -> str:
    """The first 15 to 50 % of the words, cut off in mid-sentence."""
    ends = [word.end() for word in re.finditer(r"\S+", answer)]
    count = len(ends)
    candidates = [answer[:end] for i, end in enumerate(ends, start=1) if 0.15 * count <= i <= 0.5 * count]
    unfinished = [text for text in candidates if answer[len(text)] != "\n" and not _is_finished(text)]
    return rng.choice(unfinished)


def _mismatched(answer: str, others: list[str], rng: random.Random) -> str:
    """The answer to another question."""
    return rng.choice(others)


def _repeated(answer: str, others: list[str], rng: random.Random) -> str:
    """The opening sentence (of four words or more), again and again."""
    openings = (answer[: match.start()] for match in _CLAUSE_BREAK.finditer(answer))
    opening = next((text for text in openings if len(text.split()) >= 4), answer)
    return " ".join([opening] * rng.randint(5, 10))


def _off_topic(answer: str, others: list[str], rng: random.Random) -> str:
    """One or two statements that have nothing to do with any question."""
    return " ".join(rng.sample(_STATEMENTS, rng.randint(1, 2)))


def _gibberish(answer: str, others: list[str], rng: random.Random) -> str:
    """The words shuffled, or the letters of each word shuffled, or every letter and digit replaced at random."""
    form = rng.choice(("words", "letters", "random"))
    if form == "words":
        words = answer.split()
        return " ".join(rng.sample(words, len(words)))
    if form == "letters":
        return re.sub(r"\w+", lambda word: "".join(rng.sample(word[0], len(word[0]))), answer)
    return re.sub(r"\w", lambda _: rng.choice(string.ascii_lowercase), answer)


_DAMAGE_FUNCTIONS = (_truncated, _mismatched, _repeated, _off_topic, _gibberish)

DAMAGES: tuple[str, ...] = tuple(damage.__name__.lstrip("_") for damage in _DAMAGE_FUNCTIONS)
"""Sources of the damaged rows; every other source of the sample pool is a kind of good row."""


def load_sample_pool(seed: int = 0) -> "Dataset":
    """
    Returns the bundled sample pool: 200 good rows, plus 40 damaged copies of good rows for each of [`DAMAGES`].

    The good rows are of five kinds (`"explain"`, `"howto"`, `"rewrite"`, `"reason"`, `"create"`), 40 of each. A
    damaged copy keeps the prompt of its original and differs from it in the answer, so that the truth about each row
    is known: a selection can be judged by the share of damaged rows that it keeps out.

    Args:
        seed (`int`, defaults to `0`):
            Decides which rows are damaged, how, and the order of the rows. The good rows are the same for every seed,
            and the damaged rows of one source do not depend on which other damages exist.

    Returns:
        `datasets.Dataset`: 400 rows with the text columns `instruction`, `input` (often empty), `output` and `source`
        (the kind of a good row, the damage of a damaged one).

    Example:

    ```python
    >>> him.load_sample_pool().num_rows
    400
    ```
    """
    from datasets import Dataset

    good = _read("examples.jsonl")
    rows = list(good)
    for name, damage in zip(DAMAGES, _DAMAGE_FUNCTIONS):
        rng = random.Random(f"{name}-{seed}")
        for row in rng.sample(good, ROWS_PER_DAMAGE):
            others = [other["output"] for other in good if other is not row]
            # Shuffling may by chance return the answer itself.
            while (output := damage(row["output"], others, rng)) == row["output"]:
                pass
            rows.append(row | {"output": output, "source": name})
    random.Random(seed).shuffle(rows)
    return Dataset.from_list(rows)


def load_sample_evaluation() -> "Dataset":
    """
    Returns the 48 bundled evaluation rows: good rows on topics that the sample pool does not touch, for measuring a
    finetuned model.

    Returns:
        `datasets.Dataset`: the columns of [`load_sample_pool`]; `source` is `"evaluation"` throughout.

    Example:

    ```python
    >>> him.load_sample_evaluation().num_rows
    48
    ```
    """
    from datasets import Dataset

    return Dataset.from_list(_read("evaluation.jsonl"))


def load_sample_runs() -> "Dataset":
    """
    Returns the recorded runs of a sweep on the sample pool, for fitting a rule without finetuning.

    28 designed subsets of 3,200 response tokens, four of them twice; SmolLM2-135M-Instruct, of which the last 4 layers
    were trained for 24 steps. `instructmine demo --sweep` makes them again.

    Returns:
        `datasets.Dataset`: 32 rows as [`load_runs`] gives them: `mixture_id`, `indices` (rows of the sample pool), the
        mean indicators `nll`, `ifd`, `end_of_turn` and `mtld` with what made them, and `loss_evaluation` (nats a
        token, on the sample evaluation).

    Example:

    ```python
    >>> len(him.load_sample_runs())
    32
    ```
    """
    from datasets import Dataset

    from .provenance import set_provenance

    made = json.loads(files(__package__).joinpath("demo_sweep.json").read_text(encoding="utf-8"))
    return set_provenance(Dataset.from_list(_read("demo_sweep.jsonl")), made)


def _is_finished(text: str) -> bool:
    last_line = text.rpartition("\n")[2]
    return bool(_SENTENCE_END.search(text)) and not _LIST_NUMBER.search(last_line)


def _read(name: str) -> list[dict[str, Any]]:
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    # Not splitlines(): JSON strings may hold line separators such as U+2028.
    return [json.loads(line) for line in text.split("\n") if line]
