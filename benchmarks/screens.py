"""Pictures of a page of HTML at several sizes of a screen, by Chromium (CHROMIUM, by default /usr/bin/chromium)."""

import os
from collections.abc import Mapping
from pathlib import Path

from PIL import Image


def draw(page: Path, html: str, prefix: str, sizes: Mapping[str, tuple[int, int]], whole: bool) -> None:
    """Writes `PREFIX-NAME.png` for each size, in 128 colours, and says what is wider than its screen.

    Args:
        page (`Path`): Where the page stands while it is drawn, beside the pictures that it names.
        html (`str`): The page.
        prefix (`str`): Of the pictures.
        sizes (`Mapping[str, tuple[int, int]]`): Width and height in pixels by name.
        whole (`bool`): Whether all of the page is drawn, and not its first screen alone.
    """
    from playwright.sync_api import sync_playwright

    page.write_text(html, "utf-8")
    try:
        with sync_playwright() as play:
            chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for name, (width, height) in sizes.items():
                tab = browser.new_page(viewport={"width": width, "height": height})
                tab.goto(page.as_uri())
                path = Path(f"{prefix}-{name}.png")
                tab.screenshot(path=path, full_page=whole)
                wide = tab.evaluate("document.body.scrollWidth > innerWidth")
                tab.close()
                with Image.open(path) as picture:
                    picture.quantize(128).save(path, optimize=True)
                print(f"{path}: {path.stat().st_size:,} bytes{', wider than the screen' if wide else ''}")
            browser.close()
    finally:
        page.unlink()
