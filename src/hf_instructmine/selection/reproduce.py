"""How to make a selection again from its card alone: the indicators, the rule, the choice, and what must come out."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..data.provenance import get_provenance
from ..outputs.markdown import count


if TYPE_CHECKING:
    from .record import SelectionRecord


FOLDER = "path/to/this/folder"
# What an indicator is made with, of what is recorded beside its column.
ARGUMENTS = {
    "InputLength": ("tokenizer", "revision", "turns"),
    "OutputLength": ("tokenizer", "revision", "turns"),
    "MTLD": ("threshold", "turns"),
    "Perplexity": (
        "model", "tokenizer", "revision", "dtype", "max_length", "turns", "given", "include_eos",
        "chat_template_kwargs",
    ),
    "Reward": ("model", "tokenizer", "revision", "dtype", "max_length", "turns", "chat_template_kwargs"),
    "NeighborDistance": ("model", "revision", "dtype", "i"),
    "UniEval": ("model", "tokenizer", "revision", "dtype", "max_length", "turns"),
}  # fmt: skip
# What need not be written, because it is so without being said.
_USUAL: dict[str, Any] = {"turns": "last", "given": True, "include_eos": False}


def how_to_load(repo_id: str | None) -> str:
    """The lines that open the rows."""
    return f'from datasets import load_dataset\n\ndataset = load_dataset("{repo_id or FOLDER}", split="train")'


def how_to_reproduce(selection: "SelectionRecord", repo_id: str | None) -> str:
    """The lines that make the selection again."""
    source = f'"{repo_id}", repo_type="dataset"' if repo_id else f'"{FOLDER}"'
    chosen = "rule" if selection.strategy is None else repr(selection.strategy.name)
    made, selector = _selector(selection, chosen)
    arguments = ", ".join(f"{name}={value!r}" for name, value in selection.asked.items())
    lines = [
        "import hf_instructmine as him",
        "",
        f"pool = ...  # {count(selection.num_pool, 'row')}, as above",
        *_indicators(selection),
        "scored = him.score(pool, indicators)",
        *([f"rule = him.LossEstimator.from_pretrained({source})  # estimator.json"] if chosen == "rule" else []),
        f"{made}selection = {selector}.select(scored, {arguments})",
    ]
    if selection.decisions is not None:
        lines += [
            f'assert selection.decisions.pool_digest == "{selection.decisions.pool_digest}"  # the same pool',
            f'assert selection.digest == "{selection.digest}"  # the same rows of it, in the same order',
        ]
    return "\n".join(lines)


def _indicators(selection: "SelectionRecord") -> list[str]:
    """The lines that build the indicators; one line makes all columns that were made alike."""
    groups: dict[str, list[str]] = {}
    unknown = []
    made = get_provenance(selection.dataset)
    for column in dict.fromkeys([*made, *selection.deciding]):
        call = _call(made.get(column, {}))
        if call is None:
            unknown.append(column)
        else:
            groups.setdefault(call, []).append(column)
    calls = [_with_columns(call, columns) for call, columns in groups.items()]
    told = [f"# How {name!r} was made is not recorded." for name in unknown]
    return [*told, "indicators = [", *(f"    {call}," for call in calls), "]"]


def _call(made: Mapping[str, Any]) -> str | None:
    arguments = ARGUMENTS.get(str(made.get("indicator")))
    if arguments is None:
        return None
    written = [f"{name}={made[name]!r}" for name in arguments if made.get(name) not in (None, _USUAL.get(name, ...))]
    return f"him.{made['indicator']}({', '.join(written)})"


def _with_columns(call: str, columns: list[str]) -> str:
    """The call with what tells which of its columns are wanted."""
    if call.startswith("him.Perplexity("):
        also = [name for name in ("nll", "ifd", "end_of_turn") if name in columns]
        return f"{call[:-1]}, also={also!r})" if also else call
    if call.startswith("him.UniEval("):
        return f"{call[:-1]}, dimensions={columns!r})"
    return call


def _selector(selection: "SelectionRecord", chosen: str) -> tuple[str, str]:
    """The lines that make what a selector needs besides numbers, and the call that makes the selector."""
    options, made = {name: repr(value) for name, value in selection.options.items()}, ""
    if "embeddings" in options:
        made += f"embeddings = him.NeighborDistance(encoder).embed(scored)  # shape {options['embeddings']}\n"
        options["embeddings"] = "embeddings"
    if "eval_sets" in options:
        named = ", ".join(f"{name!r}: ..." for name in selection.options["eval_sets"])
        made += f"eval_sets = {{{named}}}  # each a Dataset\n"
        options["eval_sets"] = "eval_sets"
    if selection.strategy is not None and selection.strategy.is_random:
        options["seed"] = repr(selection.strategy.seed)
    return made, f"him.Selector({', '.join([chosen, *(f'{name}={value}' for name, value in options.items())])})"
