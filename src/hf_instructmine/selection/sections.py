"""Parts of a dataset card that tell of the rows: columns, examples, licences, use and limits."""

from typing import TYPE_CHECKING, Any

from ..data.columns import INDICATOR_OF_COLUMN, NEIGHBOR_COLUMN
from ..outputs.markdown import count, escape, table
from ..outputs.metadata import is_repository
from .decisions import SELECTED
from .examples import AT_BORDER, EACH, MOST, SEED
from .order import quantile
from .preference import RANDOM
from .record import LOG_LOSS, MAX_SOURCES


if TYPE_CHECKING:
    from .record import SelectionRecord


MAX_COLUMNS = 60
PARTS = 8  # of a pool that a comparison takes if not told otherwise
# What the columns mean that this package reads or writes.
MEANINGS = {
    LOG_LOSS: "what the rule predicts: ln of a loss in nats per token, lower is better; it ranks rows",
    "messages": "the conversation",
    "conversations": "the conversation",
    "prompt": "what is asked",
    "instruction": "what is asked",
    "question": "what is asked",
    "input": "what the instruction is about",
    "context": "what the instruction is about",
    "completion": "the response",
    "response": "the response",
    "output": "the response",
    "answer": "the response",
    "system": "the system message",
    "system_prompt": "the system message",
    "tools": "tools that may be called",
    "source": "where the row is from",
    "input_length": "indicator: length of the prompt, in tokens",
    "output_length": "indicator: length of the response, in tokens",
    "reward": "indicator: score of a reward model, higher is preferred",
    "perplexity": "indicator: exp of the response's mean negative log-likelihood, from 1",
    "nll": "indicator: the response's mean negative log-likelihood, nats per token",
    "ifd": "indicator: perplexity given the prompt over perplexity without it",
    "end_of_turn": "indicator: negative log-likelihood of the end of the turn, nats",
    "mtld": "indicator: lexical diversity of the response, in words",
    "naturalness": "indicator: by UniEval, 0 to 1",
    "coherence": "indicator: by UniEval, 0 to 1",
    "understandability": "indicator: by UniEval, 0 to 1",
}
assert set(INDICATOR_OF_COLUMN) <= set(MEANINGS)


def glance(selection: "SelectionRecord") -> str:
    """The pool and what was selected of it, side by side."""
    rows = [["rows", f"{selection.num_pool:,}", f"{selection.num_selected:,}"]]
    if selection.deciding:
        name, chosen, pool = selection.what_decided()
        medians = [f"{quantile(values, 0.5):.4f}" for values in (pool, chosen)]
        rows.append([f"median {escape(name[:1].lower() + name[1:])}", *medians])
    if selection.tokens:
        of_pool, selected = selection.tokens["pool"], selection.tokens["selected"]
        rows[1:1] = [
            ["response tokens", f"{of_pool['total']:,.0f}", f"{selected['total']:,.0f}"],
            ["response tokens of a row, median", f"{of_pool['median']:,.0f}", f"{selected['median']:,.0f}"],
        ]
    return table(["", "pool", "selected"], rows)


def ranking(selection: "SelectionRecord") -> str:
    """What a row has, and in which order rows are."""
    if selection.strategy is None:
        return (
            "Each row keeps every column of its source row, the indicators among them, and adds `predicted_log_loss`. "
            "Rows are in the order of their ranking, the lowest predicted log loss first."
        )
    return (
        "Each row keeps every column of its source row, the indicators among them. Rows are in the order in which "
        "they were taken."
    )


def not_measured(selection: "SelectionRecord", pool: str = "SCORED_POOL", folder: str = "THIS_FOLDER") -> list[str]:
    """What is said where no comparison with a random choice is attached, and the command that would find out.

    Args:
        selection ([`SelectionRecord`]): Of which it is said.
        pool (`str`): What the command is to call the scored pool.
        folder (`str`): What it is to call the folder of the selection.
    """
    strategy = selection.strategy
    if strategy is None:
        return ["No comparison of this choice with a random one is attached."]
    if strategy.what == RANDOM:
        return []
    if selection.tokens:
        amount = f"--tokens {max(int(selection.tokens['selected']['total'] / PARTS), 1)}"
    else:
        amount = f"--size {max(selection.num_selected // PARTS, 1)}"
    command = (
        f"instructmine compare {pool} --recipe RECIPE --eval-set NAME=SOURCE --strategy 'chosen={strategy.what}' "
        f"--no-usual {amount} --output-dir comparison --attach {folder}"
    )
    return [f"Whether this choice beats a random one is not known. This would find out: `{command}`"]


def columns(selection: "SelectionRecord") -> str:
    """What each column of the data set means."""
    features = selection.dataset.features
    rows = []
    for name in list(features)[:MAX_COLUMNS]:
        match = NEIGHBOR_COLUMN.fullmatch(name)
        distance = (
            f"indicator: cosine distance to the row's neighbour number {match[1]} in the pool" if match else None
        )
        kind = getattr(features[name], "dtype", None) or type(features[name]).__name__.lower()
        rows.append([escape(name) or "(empty)", escape(kind, 40), distance or MEANINGS.get(name, "as in the pool")])
    text = table(["column", "type", "meaning"], rows, text_columns=3)
    if len(features) > MAX_COLUMNS:
        text += f"\n\nThe first {MAX_COLUMNS} of {len(features):,} columns are listed."
    return text


def examples(selection: "SelectionRecord") -> str | None:
    """Rows on both sides, each with what decided; None where the selection was saved without."""
    if not selection.examples:
        return None
    kept = [example for example in selection.examples if example["fate"] == SELECTED]
    others = [example for example in selection.examples if example["fate"] != SELECTED]
    ruled = selection.strategy is None
    told = [
        f"Up to {EACH} of either kind: those {AT_BORDER} whose {'predictions' if ruled else 'values'} come nearest to "
        "the other kind's, the rest "
        f"drawn at random (`numpy.random.default_rng({SEED})`), whatever their texts say. Texts are cut "
        f"at {MOST} characters. "
        + (
            "Beside each indicator stands what it adds to the row's prediction against the mean "
            "of the pool, in nats of log loss (below 0 speaks for the row), and the indicator's value."
            if ruled
            else "Beside each stands the value that decided."
        )
    ]
    for title, shown in (("Kept", kept), ("Not kept", others)):
        if shown:
            told += [f"**{title}**", *(_example(example, ruled) for example in shown)]
    return "\n\n".join(told)


def _example(example: dict[str, Any], ruled: bool) -> str:
    predicted = "no prediction" if example["log_loss"] is None else f"predicted {_number(example['log_loss'], '.4f')}"
    decided = f"{predicted}{_decided(example)}" if ruled else _valued(example)
    fate = "" if example["fate"] == SELECTED else f"{example['fate']}, "
    source = "" if example["source"] is None else f", from {escape(example['source']) or '(empty)'}"
    lines = [f"- **Row {example['row']:,}** ({fate}{example['how']}{source}): {decided}."]
    if example["prompt"] is not None:
        lines += ["", f"  > **Prompt:** {_text(example['prompt'])}", "  >"]
        lines += [f"  > **Response:** {_text(example['response'])}"]
    return "\n".join(lines)


def _valued(example: dict[str, Any]) -> str:
    """The value that decided where a strategy chose; the place in the draw where it drew."""
    if not example["values"]:
        place = example["log_loss"]
        return "not drawn" if place is None else f"place {place + 1:,.0f} in the draw"
    return ", ".join(f"{escape(name)} {_number(value)}" for name, value in example["values"].items())


def _text(text: str) -> str:
    return escape(text, MOST) or "(empty)"


def _decided(example: dict[str, Any]) -> str:
    """The indicators by how much each moved the prediction."""
    values, added = example["values"], example["contributions"]
    if not added:
        return "".join(f", {escape(name)} {_number(value)}" for name, value in values.items())
    names = sorted(added, key=lambda name: -abs(added[name] or 0))
    told = [
        f"{escape(name)} {_number(added[name], '+.4f')} (at {_number(values[name])})"
        if added[name] is not None
        else f"{escape(name)} not known"
        for name in names
    ]
    return f"; {', '.join(told)}"


def _number(value: float | None, form: str = ".4g") -> str:
    return "not known" if value is None else format(value, form).replace("-", "−")


def licence(selection: "SelectionRecord") -> str:
    """Under which licence the rows are, and which sources have which."""
    told = [
        f"Licence: {escape(selection.license)}."
        if selection.license
        else "**The licence of these rows is not known.** Look it up in their sources before you use them.",
        *(f"**{escape(note, None)}**" for note in selection.notes),
    ]
    if selection.source_datasets:
        told.append(f"From {linked(selection.source_datasets)}.")
    if selection.source_licenses:
        named = sorted(selection.sources, key=lambda source: (-source.selected, source.name))[:MAX_SOURCES]
        rows = [
            [
                escape(s.name) or "(empty)",
                escape(selection.source_licenses.get(s.name, "not known")),
                f"{s.selected:,}",
            ]
            for s in named
        ]
        told.append(table(["source", "licence", "rows here"], rows, text_columns=2))
    return "\n\n".join(told)


def linked(ids: list[str]) -> str:
    """Hub ids of data sets, those that are one as links."""
    return ", ".join(
        f"[{escape(name)}](https://huggingface.co/datasets/{name})" if is_repository(name) else escape(name)
        for name in ids
    )


def use(selection: "SelectionRecord") -> str:
    """What the rows are for, and what the choice prefers."""
    told = [
        "For supervised finetuning of a language model on instructions and responses. Not for evaluation, and no "
        "statement that a single row is right, safe or good.",
    ]
    if selection.estimator is not None:
        told.append(
            f"The rule that chose was made for the target {escape(selection.estimator.target)}; for other base "
            "models, recipes and evaluation sets it says as much as a comparison with random rows there shows."
        )
    told += [_shift(selection)] if len(selection.sources) > 1 else []
    if selection.tokens:
        of_pool, selected = (selection.tokens[name]["median"] for name in ("pool", "selected"))
        which = "shorter" if selected < of_pool else "longer" if selected > of_pool else "as long"
        told.append(
            f"Responses here are {which} than in the pool: a median of {selected:,.0f} tokens against {of_pool:,.0f}."
            if which != "as long"
            else f"Responses here are as long as in the pool: a median of {selected:,.0f} tokens."
        )
    return "\n".join(f"- {line}" for line in told)


def _shift(selection: "SelectionRecord") -> str:
    """Which sources the choice prefers, and which it avoids."""

    def change(source: Any) -> float:
        return source.selected / selection.num_selected - source.pool / selection.num_pool

    most, least = max(selection.sources, key=change), min(selection.sources, key=change)
    told = [
        f"{escape(s.name) or '(empty)'} ({s.pool / selection.num_pool:.0%} of the pool, "
        f"{s.selected / selection.num_selected:.0%} here)"
        for s in (most, least)
    ]
    return f"Of the sources the choice takes most beyond its share {told[0]}, and least {told[1]}."


def steps(selection: "SelectionRecord") -> str:
    """What is needed before the code, as numbered steps."""
    from importlib.metadata import version

    from .. import __version__

    pool = linked(selection.source_datasets) or "not named here; it is known by its digest"
    digest = f", digest {selection.decisions.pool_digest}" if selection.decisions is not None else ""
    released = ".dev" not in __version__
    package = f"hf-instructmine=={__version__}" if released else "hf-instructmine"
    others = " ".join(
        f"{name}=={version(name).partition('+')[0]}" for name in ("datasets", "transformers", "torch", "numpy")
    )
    return "\n".join(
        [
            f"1. Install `{package}` ({__version__}) beside `{others}`.",
            f"2. Take the pool: {pool} ({count(selection.num_pool, 'row')}{digest}), in its order.",
            "3. Have the models of the table above, by their Hub ids, or as folders of these weights.",
            "4. Run this. Other hardware may round a score otherwise, which can swap rows of nearly equal prediction.",
        ]
    )
