"""Makes the dataset card of the demo, or of any saved selection, as pictures: at desktop and at phone width.

    python benchmarks/card_pictures.py CURATED_FOLDER OUTPUT_PREFIX

Needs markdown-it-py, playwright and a Chromium (CHROMIUM, by default /usr/bin/chromium). The page is drawn without any
network, in a style near the Hub's.
"""

import sys
from pathlib import Path

from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt
from screens import draw


STYLE = """
body { font: 16px/1.5 "Source Sans 3", "Noto Sans", sans-serif; color: #1f2937; max-width: 860px; margin: 1.5rem auto;
  padding: 0 1rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 14px; margin: 1rem 0;
  overflow-wrap: normal; }
td, th { border: 1px solid #e5e7eb; padding: 4px 10px; } th { background: #f9fafb; text-align: left; }
blockquote { border-left: 4px solid #e5e7eb; margin: .6rem 0; padding: 0 1rem; color: #4b5563; }
pre { background: #f3f4f6; padding: .8rem; overflow-x: auto; font-size: 13px; border-radius: 6px; }
img { max-width: 100%; } h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; border-bottom: 1px solid #e5e7eb; }
"""
WIDTHS = {"desktop": (1280, 1400), "phone": (390, 1400)}


def main(folder: Path, prefix: str, whole: bool) -> None:
    """Draws the first screens of a card, or the whole of it."""
    card = (DatasetCard if (folder / "data").is_dir() else ModelCard).load(folder / "README.md")
    body = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).render(card.text)
    page = folder / ".card.html"
    draw(page, f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{body}", prefix, WIDTHS, whole)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], "--whole" in sys.argv)
