"""Text that somebody may have put where a name is expected, and what a card must not hold of it."""

import re
from typing import Any


HOSTILE = [
    "<script>alert(1)</script>",
    "<!-- swallowed",
    "{{ 7777777*7 }}",
    "{% raw %}",
    "{# gone #}",
    "---",
    "a|b",
    "two\nlines\n---\nlicense: mit\n---",
    "![img](http://evil.example/x.png)",
    "[link](javascript:alert(1))",
    "www.evil.example and https://evil.example",
    "`code` **bold** _it_ ~~gone~~ $$x$$ @someone",
    "```\nout of the code\n```",
    "\\",
    "&lt;b&gt;",
    "<|endoftext|>",
    "\u202egnp.exe\x1b[2J",
    "",
    "x" * 5000,
    "\\(x\\) and \\[y\\], me@evil.example",
]
_ACTIVE = ("<", "{{", "{%", "{#", "54444439", "http://evil", "https://evil", "www.evil", "\x1b", "\u202e")
_ACTIVE += ("\\(", "me@", "me\\@")  # a formula of the Hub, an address

# Names that may stand wherever a name can, and that may be a row's text: one kind of trouble each.
NAMES = [
    *HOSTILE,
    # HTML, whole and broken
    "<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "<svg/onload=alert(1)>", "</td></tr>",
    "<iframe src=javascript:alert(1)>", "<a href='http://evil.example'>x</a>", "<style>*{display:none}</style>",
    "&#60;script&#62;", "<b", "-->", "]]>", '" onmouseover="alert(1)', "' or 1=1 --",
    # Markdown: blocks, links, tables
    "# heading", "> quote", "- item", "1. item", "    indented", "***", "setext\n===", "|---|", "||", "[a]: http://evil.example",
    "<http://evil.example>", "![][a]", "\\|", "~~~", "$$\\frac{1$$", "$x_1", "@everyone", "me@evil.example",
    # Templates, YAML, shells, formats
    "{{ config }}", "{%- raw -%}", "${HOME}", "%s%n", "{0}", "!!python/object/apply:os.system ['true']",
    "&anchor *alias",
    "license: mit", "$(reboot)", "../../etc/passwd", "nul\x00byte",
    # Terminals and Unicode
    "\x1b[31mred\x07", "\x9b2J", "a\rb", "\u2028line\u2029", "\ufeffbom", "\u200bzero", "e\u0301" * 5,
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\u0645\u06cc\u200c\u0634\u0648\u062f", "\u05e9\u05dc\u05d5\u05dd \u2067x\u2069", "数据", "None", "nan",
]  # fmt: skip


def acted_on(text: str) -> list[str]:
    """What of a text outside of code blocks a reader's browser, terminal or template engine would act on."""
    return [pattern for pattern in _ACTIVE if pattern in text]


def cells(text: str) -> list[int]:
    """How many cells each line of each table has."""
    return [len(re.split(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]


def stated(card: Any) -> dict[str, Any]:
    """A card's metadata, without the size and the digest of the rows."""
    data = card.data.to_dict()
    info = data.get("dataset_info", {})
    for part in (info, *info.get("splits", ()), *data.get("configs", ())):
        for name in ("num_bytes", "dataset_size", "description"):
            part.pop(name, None)
    return data


def rendered(markdown: str) -> list[Any]:
    """What a Markdown library makes of a text, as tokens: tables, bare addresses and raw HTML are on."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("gfm-like", {"html": True})
    return [part for token in parser.parse(markdown) for part in [token, *(token.children or [])]]


def foreign(markdown: str, calm: str) -> list[str]:
    """The raw HTML, links, images and headings of a text that a text of harmless names has not.

    Args:
        markdown (`str`): The text to look at.
        calm (`str`): What is written where every name is harmless.
    """
    kinds = ("html_block", "html_inline", "link_open", "image", "heading_open", "hr", "math_inline")
    found, allowed = ([_told(part) for part in rendered(text) if part.type in kinds] for text in (markdown, calm))
    for told in allowed:
        if told in found:
            found.remove(told)
    return found


def _told(part: Any) -> str:
    return f"{part.type} {part.tag} {part.attrs or part.content}"
