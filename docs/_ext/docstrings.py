"""Turns a docstring in Hugging Face's form into what napoleon and the Python domain read.

Code stands between single backticks there, a cross reference is ``[`Name`]``, and an example is fenced.
"""

import re
from typing import Any

from sphinx.application import Sphinx

import hf_instructmine


# Inner names that a guide tells of, better than their own docstrings do.
GUIDES = {
    name: f"/docs/{guide}"
    for guide, names in {
        "comparison": "choose_rows compare_parts",
        "demo": "DAMAGES",
        "evaluation": "open_sets resolve",
        "indicators": "indicator_names split_words",
        "inputs": "as_dataset load_pool",
        "rows": "read_turns unread_columns",
        "mixtures": "SubsetSize",
        "selection": "Preference choose_examples compete digest_of_pool follow_slope paragraph rule_digest",
        "size-search": "fit_size_curve",
    }.items()
    for name in names.split()
}
PACKAGE = hf_instructmine.__name__
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)\n\1```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"\[`(~?)([\w.]+)`\]|(?<!`)`([^`]+)`(?!`)")


def to_rst(text: str) -> str:
    """The docstring as reStructuredText; its sections stay as they are, for napoleon."""
    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_prose(text[end : fence.start()]), _code(*fence.groups())]
        end = fence.end()
    return "".join([*parts, _prose(text[end:])])


def _prose(text: str) -> str:
    text = re.sub(r"^( *)Example:$", r"\1.. rubric:: Example", text, flags=re.MULTILINE)
    return _INLINE.sub(lambda found: _apart(_inline(found), found), text)


def _inline(found: re.Match[str]) -> str:
    short, name, code = found.groups()
    if code is not None:
        return f"``{code}``"
    parts = name.split(".")
    # Modules stand before a name for readers of the source; the dot lets the domain look for the name anywhere.
    first = next((i for i, part in enumerate(parts) if not part[0].islower()), len(parts) - 1)
    name = ".".join(parts[first:])
    if name in GUIDES:
        return f":doc:`{name} <{GUIDES[name]}>`"
    if parts[first] not in hf_instructmine.__all__:
        return f":py:obj:`{short}.{name}`"
    short = short or "." not in name
    return f":py:obj:`~{PACKAGE}.{name}`" if short else f":py:obj:`{name} <{PACKAGE}.{name}>`"


def _apart(markup: str, found: re.Match[str]) -> str:
    """Markup that touches a word, as in "`nll`s", is none in reStructuredText."""
    before, after = found.string[: found.start()][-1:], found.string[found.end() :][:1]
    return ("\\ " if before.isalnum() else "") + markup + ("\\ " if after.isalnum() else "")


def _code(indent: str, language: str, code: str) -> str:
    lines = "\n".join(f"   {line}" if line else "" for line in code.split("\n"))
    return f"{indent}.. code-block:: {language or 'text'}\n\n{lines}\n"


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst("\n".join(lines)).split("\n")
    if what in ("attribute", "property"):
        lines[:0] = ["..", ""]  # a comment: else napoleon takes what stands before a colon for a type


def setup(app: Sphinx) -> dict[str, bool]:
    """Before napoleon, which has the priority 500."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    return {"parallel_read_safe": True}
