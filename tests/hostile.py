"""Text that somebody may have put where a name is expected, and what a card must not hold of it."""

import re


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
]
_ACTIVE = ("<", "{{", "{%", "{#", "54444439", "http://evil", "https://evil", "www.evil", "\x1b", "\u202e")


def acted_on(text: str) -> list[str]:
    """What of a text outside of code blocks a reader's browser, terminal or template engine would act on."""
    return [pattern for pattern in _ACTIVE if pattern in text]


def cells(text: str) -> list[int]:
    """How many cells each line of each table has."""
    return [len(re.split(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]
