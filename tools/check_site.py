"""Asks of a built site that no page loads anything from another host: `python tools/check_site.py build/site`.

A link that a reader follows is no load. A data: address is none either: it holds what it names.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path


# What a browser fetches by itself, by tag; `link` in part alone.
LOADED = {
    "audio": ["src"],
    "base": ["href"],
    "embed": ["src"],
    "iframe": ["src"],
    "img": ["src", "srcset"],
    "input": ["src"],
    "object": ["data"],
    "script": ["src"],
    "source": ["src", "srcset"],
    "track": ["src"],
    "video": ["src", "poster"],
}
NOT_LOADED = {"canonical", "author", "index", "search", "next", "prev", "help", "license", "copyright"}
_REMOTE = re.compile(r"^\s*(?:\w+:)?//")
_IN_STYLE = re.compile(r"(?:url\(|@import)\s*['\"]?\s*((?:\w+:)?//[^'\")\s]*)", re.IGNORECASE)


class Loads(HTMLParser):
    """Collects the addresses on other hosts that a page loads."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in = tag
        given = {name: value or "" for name, value in attrs}
        names = list(LOADED.get(tag, []))
        if tag == "link" and not set(given.get("rel", "").lower().split()) <= NOT_LOADED:
            names.append("href")
        for name in names:
            # A srcset names several, with widths behind them.
            addresses = given.get(name, "").split(",") if name == "srcset" else [given.get(name, "")]
            self.found += [address.strip() for address in addresses if _REMOTE.match(address)]
        self.found += _IN_STYLE.findall(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._in == "style":
            self.found += _IN_STYLE.findall(data)

    def handle_endtag(self, tag: str) -> None:
        self._in = ""


def remote_loads(site: Path) -> list[str]:
    """Each page or style sheet that loads from another host, with the address."""
    found = []
    for page in sorted(site.rglob("*.html")):
        found += [f"{page.relative_to(site)}: {address}" for address in Loads(page.read_text("utf-8")).found]
    for sheet in sorted(site.rglob("*.css")):
        found += [f"{sheet.relative_to(site)}: {address}" for address in _IN_STYLE.findall(sheet.read_text("utf-8"))]
    return found


def main() -> None:
    """See the module."""
    site = Path(sys.argv[1])
    pages = len(list(site.rglob("*.html")))
    found = remote_loads(site)
    if found or not pages:
        sys.exit("\n".join(found) or f"there is no page in {site}")
    print(f"{pages} pages in {site}; none loads anything from another host")


if __name__ == "__main__":
    main()
