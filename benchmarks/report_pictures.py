"""The pictures of `docs/report.md`: the report of a real selection, as a browser shows it.

    python benchmarks/report_pictures.py --output-dir sweep-output

Needs what `compare_seven_sources.py` leaves in that folder, its scored pool and its comparison; playwright; and a
Chromium. The rule is that of `docs/results/sweep.jsonl`, and selects 80,000 of the pool's 350,615 response tokens.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import report_sweep
from PIL import Image
from playwright.sync_api import Page, sync_playwright

import hf_instructmine as him


def main() -> None:
    args = parse()
    output = Path(args.output_dir).absolute()
    with TemporaryDirectory() as work:
        folder = Path(work)
        for name, made in {"scored": "scored-next", "comparison": "comparison-in-parts"}.items():
            (folder / name).symlink_to(output / made)
        rule = report_sweep.fit(report_sweep.read(Path(args.runs)), "self_instruct")
        selection = him.Selector(rule).select(str(folder / "scored"), tokens=80_000)
        selection.save_to_disk(folder / "curated")
        page = him.report(folder)
        print(f"{page.stat().st_size / 1e6:.1f} MB")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
            desktop = browser.new_page(viewport={"width": 1180, "height": 1000})
            picture(desktop, page, Path(args.pictures, "report.png"), "body")
            picture(desktop, page, Path(args.pictures, "report-rows.png"), "#rows-title")
            phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
            picture(phone, page, Path(args.pictures, "report-phone.png"), "#rows-title", opened=True)
            browser.close()


def picture(tab: Page, page: Path, path: Path, place: str, opened: bool = False) -> None:
    """One window of the page, with a row opened where that is asked, in 256 colours."""
    tab.goto(page.as_uri())
    tab.wait_for_selector("#rows-body tr")
    tab.select_option("#sort", label="predicted log loss")
    tab.wait_for_selector("#rows-body tr.kept:first-child")
    tab.locator(place).evaluate("(one) => scrollTo(0, one.getBoundingClientRect().top + scrollY - 20)")
    if opened:
        tab.click("#rows-body tr.kept td.prompt")
        tab.wait_for_selector("#detail[open]")
    tab.screenshot(path=path)
    with Image.open(path) as image:
        image.convert("RGB").quantize(256).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", default="sweep-output")
    parser.add_argument("--runs", default="docs/results/sweep.jsonl")
    parser.add_argument("--pictures", default="docs/results")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    return parser.parse_args()


if __name__ == "__main__":
    main()
