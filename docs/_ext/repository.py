"""Links of a page to what is no page: folders and files of the repository, which the site leads to at their home."""

import re
from pathlib import Path

from sphinx.application import Sphinx


HOME = "https://github.com/hf-instructmine/hf-instructmine"
# Data and pictures go along with the site; pages are its own.
ALONG = {".md", ".ipynb", ".png", ".jsonl", ".yaml"}
_LINK = re.compile(r"(?<!!)(\[[^\]]*\])\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def at_home(text: str, page: Path, root: Path) -> str:
    """The page's text with links to folders and to code leading to the repository."""

    def lead(found: re.Match[str]) -> str:
        words, path, anchor = found.groups()
        target = (page.parent / path).resolve()
        if not target.exists() or target.suffix in ALONG:
            return found[0]  # a link to nothing is for the build to refuse
        kind = "tree" if target.is_dir() else "blob"
        return f"{words}({HOME}/{kind}/main/{target.relative_to(root).as_posix()}{anchor or ''})"

    return _LINK.sub(lead, text)


def _read(app: Sphinx, docname: str, source: list[str]) -> None:
    page = Path(app.env.doc2path(docname))
    if page.suffix == ".md":
        source[0] = at_home(source[0], page, Path(app.srcdir).resolve())


def setup(app: Sphinx) -> dict[str, bool]:
    """Reads each page before it is parsed."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
