"""How results show themselves: in a line in a console, as their summary when printed, as text in a notebook."""

import html

from .markdown import printable, printable_lines


class Shown:
    """What has a line and a summary; a class gives `_line()` and `__str__`."""

    def _line(self) -> str:
        """What it is, in a few words."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {printable(self._line(), 300)}>"

    def _repr_html_(self) -> str:
        """For notebooks: the summary, of which nothing is markup."""
        return f"<pre>{html.escape(printable_lines(str(self)))}</pre>"
