"""README as pictures, at desktop and at phone width: `python benchmarks/readme_pictures.py docs/pictures/readme`.

Needs markdown-it-py, playwright and a Chromium (CHROMIUM, by default /usr/bin/chromium). The page is drawn without any
network, in a style near GitHub's. `--whole` draws all of it.
"""

import sys
from pathlib import Path

from markdown_it import MarkdownIt
from screens import draw


ROOT = Path(__file__).parents[1]
STYLE = """
body { font: 16px/1.5 "Noto Sans", Helvetica, Arial, sans-serif; color: #1f2328; max-width: 880px; margin: 2rem auto;
  padding: 0 1rem; overflow-wrap: break-word; }
a { color: #0969da; text-decoration: none; } a:hover { text-decoration: underline; }
h1, h2 { border-bottom: 1px solid #d1d9e0; padding-bottom: .3em; line-height: 1.25; }
code { font: 85% ui-monospace, "DejaVu Sans Mono", monospace; background: #818b981f; padding: .2em .4em;
  border-radius: 6px; }
pre { background: #f6f8fa; padding: 1rem; overflow: auto; border-radius: 6px; line-height: 1.45; }
pre code { background: none; padding: 0; }
table { border-collapse: collapse; display: block; overflow: auto; width: max-content; max-width: 100%; }
td, th { border: 1px solid #d1d9e0; padding: 6px 13px; } tr:nth-child(2n) { background: #f6f8fa; }
img { max-width: 100%; } th { font-weight: 600; }
"""
SIZES = {"desktop": (1280, 1500), "phone": (390, 1700)}


def main(prefix: str, whole: bool) -> None:
    """Draws the first screens of README, or the whole of it."""
    text = (ROOT / "README.md").read_text("utf-8")
    body = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><style>{STYLE}</style>"
    page = ROOT / ".readme.html"  # beside README, for its pictures
    draw(page, f"<!doctype html>{head}{body}", prefix, SIZES, whole)


if __name__ == "__main__":
    main(sys.argv[1], "--whole" in sys.argv)
