"""The directive `names`: the docstrings of the names that stand in it, one a line.

A name with dots is one that has no public name but that functions take or give, below `hf_instructmine`.
"""

import inspect
from importlib import import_module
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


PACKAGE = "hf_instructmine"


def described(name: str, members: bool) -> str:
    """The autodoc directive for a name."""
    module, _, last = f"{PACKAGE}.{name}".rpartition(".")
    value: Any = getattr(import_module(module), last)
    if not inspect.isclass(value):
        return f".. autofunction:: {module}.{last}\n"
    kind = "autoexception" if issubclass(value, Exception) else "autoclass"
    return f".. {kind}:: {module}.{last}\n" + ("   :members:\n" if members else "")


class Names(SphinxDirective):
    """See the module; with the option `alone` the methods of a class are left out."""

    has_content = True
    option_spec: ClassVar = {"alone": directives.flag}

    def run(self) -> list[nodes.Node]:
        """The nodes, as docutils asks for them."""
        names = [line.strip() for line in self.content if line.strip()]
        text = "\n".join(described(name, "alone" not in self.options) for name in names)
        return self.parse_text_to_nodes(f"```{{eval-rst}}\n{text}\n```")


def setup(app: Sphinx) -> dict[str, bool]:
    """Adds the directive."""
    app.add_directive("names", Names)
    return {"parallel_read_safe": True}
