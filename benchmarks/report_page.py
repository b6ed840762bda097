"""How large a report of 100,000 rows is, how long it takes to write, and how long until a browser shows it.

    python benchmarks/report_page.py --data ../shared/data --output-dir report-output

The texts are real ones, of seven pools, as often as it takes. The indicators are random numbers: they are as hard to
compress as measured ones. Needs playwright and a Chromium (`--chromium`).
"""

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets, load_dataset

import hf_instructmine as him
from hf_instructmine.data.conversation import read_conversations


INDICATORS = ("mtld", "perplexity", "reward", "output_length", "end_of_turn")


def main() -> None:
    args = parse()
    folder = Path(args.output_dir)
    if not (folder / "curated").is_dir():
        make(Path(args.data), args.rows, folder)
    started = time.perf_counter()
    page = him.report(folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{args.rows:,} rows: {page.stat().st_size / 1e6:.1f} MB, written in {time.perf_counter() - started:.0f} s, "
          f"peak memory of the process {peak:,.0f} MiB")  # fmt: skip
    measure(page.resolve(), args.chromium)


def make(data: Path, rows: int, folder: Path) -> None:
    """A scored pool and a selection of it."""
    parts = []
    for path in sorted((data / "pool").glob("*.jsonl")):
        read = read_conversations(load_dataset("json", data_files=str(path), split="train")[:])
        known = [row for row in read if not row.problem]
        columns = {"prompt": [row.prompt_text for row in known], "completion": [row.response for row in known]}
        parts.append(Dataset.from_dict({**columns, "source": [path.stem] * len(known)}))
    texts, generator = concatenate_datasets(parts), np.random.default_rng(0)
    # Not one after another: neighbours that are alike would be compressed away.
    order = np.concatenate([generator.permutation(len(texts)) for _ in range(-(-rows // len(texts)))])[:rows]
    scored = texts.select(order)
    for name in INDICATORS:
        scored = scored.add_column(name, generator.lognormal(size=rows))
    (folder / "scored" / "data").mkdir(parents=True)
    scored.to_parquet(str(folder / "scored" / "data" / "train-00000-of-00001.parquet"))
    for name in ("indicators", "report"):
        (folder / "scored" / f"{name}.json").write_text(json.dumps({}))
    rule = him.LossEstimator.from_coefficients({"reward": -0.1, "mtld": -0.02, "log(perplexity)": 0.05})
    him.Selector(rule).select(scored, size=min(rows // 10, 10_000)).save_to_disk(folder / "curated")


def measure(page: Path, chromium: str) -> None:
    """Opens the page three times, and then does what a reader does."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(3):
            tab = browser.new_page()
            tab.goto(page.as_uri(), wait_until="commit")
            tab.wait_for_selector("#rows-body tr")
            text, table = tab.evaluate(
                "[performance.getEntriesByName('first-contentful-paint')[0].startTime, performance.now()]"
            )
            tab.close()
            print(f"first view after {text / 1000:.2f} s, the table of rows after {table / 1000:.2f} s")
        tab = browser.new_page()
        tab.goto(page.as_uri())
        tab.wait_for_selector("#rows-body tr")
        typed = "search.dispatchEvent(new Event('input'))"
        for what, act in {
            "next page": "document.getElementById('next').click()",
            "last page": "document.getElementById('last').click()",
            "sort by a number": "document.querySelector('#rows-head th.number:nth-child(4) button').click()",
            "filter by decision": "decision.selectedIndex = 1; decision.dispatchEvent(new Event('change'))",
            "first search": f"decision.selectedIndex = 0; search.value = 'zebra'; {typed}",
            "second search": f"search.value = 'giraffe'; {typed}",
            "sort by prompt": f"search.value = ''; {typed}; "
            "document.querySelector('#rows-head th.prompt button').click()",
        }.items():
            print(f"{what}: {_seconds(tab, act)}")
        browser.close()


def _seconds(tab: object, act: str) -> str:
    """How long until the rows change, and the longest time in between in which the page does not answer."""
    took, longest = tab.evaluate(
        """async (act) => {
          const {search, decision} = document.forms.filters.elements;
          const body = document.getElementById('rows-body');
          let changed = 0, longest = 0, last = performance.now();
          const observer = new MutationObserver(() => { changed = performance.now(); });
          observer.observe(body, {childList: true});
          const started = performance.now();
          (new Function('search', 'decision', act))(search, decision);
          while (performance.now() - started < 8000 && (!changed || performance.now() - changed < 700)) {
            await new Promise((resolve) => setTimeout(resolve, 5));
            longest = Math.max(longest, performance.now() - last);
            last = performance.now();
          }
          return [changed - started, longest];
        }""",
        act,
    )
    return f"{took / 1000:.2f} s, the page never busy for more than {longest / 1000:.2f} s"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--output-dir", default="report-output")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    return parser.parse_args()


if __name__ == "__main__":
    main()
