"""Runs every `bash` and `python` block of README and docs as it is written, from the wheel: `make docs-check`.

Each page is run in a folder of its own, its Python blocks in one process and its shell blocks one by one, in
order. The folder holds the files that docs name (`docs_world.py`). It also holds what `docs/quick-start.md`
left of the folders that the page reads: those that a comment `<!-- given: scored rule -->` names, else those
that it names and does not write. A `yaml` block that begins with `# NAME.yaml` becomes that file. A comment
`<!-- not run: WHY -->` before a block leaves it out; the reasons are listed at the end. A `text` block after a
comment `<!-- output -->` is compared with what the block before it printed: each of its lines has to be there,
whatever its numbers are.

Numbers are made small by QUICK alone. The Hub is a stub on localhost; nothing else is reached.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from docs_world import fill_hub, put_model, write_inputs
from hub_stub import TOKEN, HubStub


ROOT = Path(__file__).parents[1]
FIRST = "docs/quick-start.md"
KEPT = ("scored", "sweep", "rule", "search", "curated", "comparison")
# The sizes of the docs, and those that they are tried with.
QUICK = (
    (r"--size \d+", "--size 12"),
    (r"\bsize=(2000|1000|75)", "size=12"),
    (r"num_runs=\d+|num_runs: \d+", lambda found: re.sub(r"\d+", "8", found[0])),
    (r"--num-runs \d+", "--num-runs 8"),
    (r"(--subset-size |subset_size=|subset_size: )\d+", r"\g<1>6"),
    (r"subset_tokens=[\d_]+", "subset_tokens=200"),
    (r"(instructmine compare .*--tokens )\d+", r"\g<1>30 --parts 5 --random-at"),
    (r"(?<=[( ])tokens=\[[\d_]+\]", "tokens=[60]"),
    (r"(?<=[( ])tokens=[\d_]+", "tokens=300"),
    (r"min_size=\d+,(\s+)max_size=[\d_]+(, num_trials=\d+)?", r"min_size=4,\1max_size=20, num_trials=2, grid_seeds=2"),
    (r"--min-size \d+ --max-size \d+( --num-trials \d+)?", "--min-size 4 --max-size 20 --num-trials 2 --grid-seeds 2"),
    (r"(?m)^    parts=8,(\n    random_at=\(\),)?", "    parts=5, random_at=[],"),
    (r"\*\*him\.usual_strategies\(scored\)", '"longest": "highest:output_length"'),
    (r"(?m)^(instructmine mine .*--eval-set .*)$", r"\1 --num-runs 8 --parts 4"),
    (r"(?m)^(instructmine mine .*)$", r"\1 --yes"),
    (r"(?m)^(him\.mine\(.*\}, )\d+(.*)\)$", r"\g<1>12\2, num_runs=8, parts=4)"),
    (r"instructmine demo ", "instructmine demo --quick "),
)
FENCE = re.compile(r"^```(bash|python|yaml|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!-- (not run|given|output)(?:: ([^>]*?))? -->")
WRITES = r"(?:--output-dir |save_to_disk\(\"|save_pretrained\(\"|output_dir=\")"
# In the wheel's Python: the blocks of a page, one after another with the same names, as a reader would paste them.
PYTHON = """
import json, sys, traceback
names = {"__name__": "__main__"}
for place, text in json.load(open(sys.argv[1])):
    print(f"\\x1e{place}", flush=True)
    page, line = place.rsplit(":", 1)
    exec(compile("\\n" * int(line) + text, page, "exec"), names)
"""


@dataclass
class Block:
    """A block of a page: its language, its text, the line of its fence, and what the comment before it says."""

    page: str
    line: int
    language: str
    text: str
    left_out: str | None = None
    expected: str | None = None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def quick(self) -> str:
        """The text with small numbers."""
        text = self.text
        for pattern, small in QUICK:
            text = re.sub(pattern, small, text)
        return text


class Wrong(Exception):
    """A block that does not do what its page says."""


def read_page(page: str) -> tuple[list[Block], list[str] | None]:
    """The blocks of a page, and the folders that it says it is given."""
    text = (ROOT / page).read_text("utf-8")
    blocks: list[Block] = []
    end = 0
    for fence in FENCE.finditer(text):
        said = dict(COMMENT.findall(text[end : fence.start()].rstrip().rpartition("\n\n")[2]))
        end = fence.end()
        language, body = fence.groups()
        if language == "text":
            if "output" in said and blocks:
                blocks[-1].expected = body
            continue
        line = text.count("\n", 0, fence.start()) + 1
        blocks.append(Block(page, line, language, body, said.get("not run")))
    given = re.search(r"<!-- given: ([^>]*?) -->", text)
    return blocks, None if given is None else given[1].split()


def named_folders(blocks: list[Block]) -> list[str]:
    """The folders of the quick start that blocks read: those they name, and do not write when they first do."""
    text = re.sub(r"instructmine \S+", "", "\n".join(block.text for block in blocks if block.left_out is None))
    found = []
    for folder in KEPT:
        first = re.search(rf"({WRITES})?(?<![\w/.-]){folder}(?![\w.-])", text)
        if first and first[1] is None and re.search(rf"[\"' =]{folder}(?=[\"' /\n]|$)", text):
            found.append(folder)
    return found


def lay_out(folder: Path, inputs: Path, given: list[str], blocks: list[Block], first: Path) -> None:
    """Makes the folder that a page's blocks are run in."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(inputs, folder)
    for name in given:
        if (first / name).is_dir():
            shutil.copytree(first / name, folder / name)
    for block in blocks:
        if block.language == "yaml" and (name := re.match(r"# (\S+\.yaml)\n", block.text)):
            (folder / name[1]).write_text(block.quick, encoding="utf-8")


def finish(command: list[str], folder: Path, env: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def run_python(blocks: list[Block], folder: Path, env: dict[str, str]) -> None:
    """Runs the Python blocks of a page in one process."""
    listed = folder / ".blocks.json"
    listed.write_text(json.dumps([(block.place, block.quick) for block in blocks]), encoding="utf-8")
    code, said = finish(["python", "-uc", PYTHON, listed.name], folder, env)
    *_, last = pieces = said.split("\x1e")
    if code:
        raise Wrong(f"{last.partition(chr(10))[0]}: {last[-3000:]}")
    for block, piece in zip(blocks, pieces[1:], strict=True):
        compare(block, piece)


def run_shell(blocks: list[Block], folder: Path, env: dict[str, str]) -> None:
    """Runs the shell blocks of a page one by one."""
    for block in blocks:
        code, said = finish(["bash", "-euo", "pipefail", "-c", block.quick], folder, env)
        if code:
            raise Wrong(f"{block.place}: {block.quick}\n{said[-3000:]}")
        compare(block, said)


def steady(text: str) -> list[str]:
    """The lines of a text without what differs from run to run: numbers, and how much space they take."""
    return [re.sub(r"\s+", " ", re.sub(r"[-+]?\d[\d.,]*", "#", line)).strip() for line in text.splitlines()]


def compare(block: Block, said: str) -> None:
    """Refuses a page that shows what is not printed."""
    for line in steady(block.expected or ""):
        if line and line != "…" and not any(line.removesuffix(" …") in other for other in steady(said)):
            raise Wrong(f"{block.place}: its output has no line like {line!r}:\n{said[-2000:]}")


def run_page(page: str, work: Path, env: dict[str, str]) -> float:
    """Runs what a page has to run, and gives the seconds it took."""
    started = monotonic()
    blocks, given = read_page(page)
    for language, runner in (("python", run_python), ("bash", run_shell)):
        chosen = [block for block in blocks if block.language == language and block.left_out is None]
        if chosen:
            folder = place_of(work, page, language)
            folders = named_folders(chosen) if given is None else given
            lay_out(folder, work / "inputs", folders, blocks, place_of(work, FIRST, "python"))
            real = page == "README.md" and language == "python"  # whose output README shows
            runner(chosen, folder, env | {"HF_HOME": str(work / "real")} if real else env)
    return monotonic() - started


def place_of(work: Path, page: str, language: str) -> Path:
    return work / page.removesuffix(".md").replace("/", "-") / language


def pages() -> list[str]:
    """All pages, the one that others go on from first."""
    found = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/verbs/*.md")])
    named = [path.relative_to(ROOT).as_posix() for path in found]
    return [FIRST, "README.md", *(page for page in named if page != FIRST), "recipes/README.md"]


def environment(work: Path, hub: HubStub, binaries: Path) -> dict[str, str]:
    """Of the commands: the wheel's programs, the stub for the Hub, and no key of anybody's."""
    env = {name: value for name, value in os.environ.items() if not re.search("TOKEN|KEY|PYTHON|^HF_", name)}
    if "HF_INSTRUCTMINE_CACHE" in os.environ:
        env["HF_INSTRUCTMINE_CACHE"] = os.environ["HF_INSTRUCTMINE_CACHE"]
    return env | {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "HF_HOME": str(work / "quick"),
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
    }


def check(chosen: list[str], work: Path, binaries: Path, jobs: int) -> list[str]:
    """Runs pages, some at a time, and gives what is wrong with them."""
    work.mkdir(parents=True, exist_ok=True)
    inputs, wrong = work / "inputs", []
    inputs.mkdir(exist_ok=True)
    write_inputs(inputs)

    def one(page: str) -> None:
        try:
            print(f"{page}: {run_page(page, work, env):.0f} s", flush=True)
        except Wrong as error:
            wrong.append(str(error))
            print(f"{page}: WRONG, see below", flush=True)

    with HubStub() as hub, ThreadPoolExecutor(jobs) as workers:
        fill_hub(hub, work / "real", work / "quick", inputs)
        env = environment(work, hub, binaries)
        rule = place_of(work, FIRST, "python") / "rule"
        if FIRST in chosen or not rule.is_dir():
            one(FIRST)
        if rule.is_dir():
            put_model(hub, "me/my-rule", rule)
        list(workers.map(one, [page for page in chosen if page != FIRST]))
    return wrong


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--page", nargs="+", default=pages(), help="these alone")
    parser.add_argument("--folder", type=Path, help="where to run them; what the first page left there is used again")
    parser.add_argument("--bin", type=Path, default=ROOT / ".venv-wheel" / "bin", help="programs of the wheel")
    parser.add_argument("--jobs", type=int, default=2, help="pages that are run at a time")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        wrong = check(args.page, (args.folder or Path(temporary)).absolute(), args.bin.absolute(), args.jobs)
    for page in args.page:
        for block in read_page(page)[0]:
            if block.left_out:
                print(f"not run: {block.place}: {block.left_out}")
    if wrong:
        sys.exit("\n\n".join(["", *wrong]))
    print("Every command of README and docs runs.")


if __name__ == "__main__":
    main()
