"""The directive `options`: the options of a verb, as its parser has them at build time."""

import argparse

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from hf_instructmine.cli.main import parsers


class Options(SphinxDirective):
    """A rubric and a list of definitions for each of the parser's groups."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes, as docutils asks for them."""
        verb = parsers()[1][self.arguments[0]]
        shown: list[nodes.Node] = []
        for group in verb._action_groups:
            actions = [a for a in group._group_actions if a.help != argparse.SUPPRESS]
            if actions:
                shown += [nodes.rubric("", (group.title or "").capitalize()), self._list(verb, actions)]
        return shown

    def _list(self, verb: argparse.ArgumentParser, actions: list[argparse.Action]) -> nodes.definition_list:
        formatter = verb._get_formatter()
        listed = nodes.definition_list(classes=["options"])
        for action in actions:
            term = nodes.term("", "", nodes.literal("", formatter._format_action_invocation(action)))
            told = nodes.paragraph("", "", *_inline(formatter._expand_help(action) if action.help else ""))
            listed += nodes.definition_list_item("", term, nodes.definition("", told))
        return listed


def _inline(text: str) -> list[nodes.Node]:
    """Code stands between backticks in a help line too."""
    return [nodes.literal("", part) if i % 2 else nodes.Text(part) for i, part in enumerate(text.split("`"))]


def setup(app: Sphinx) -> dict[str, bool]:
    """Adds the directive."""
    app.add_directive("options", Options)
    return {"parallel_read_safe": False}
