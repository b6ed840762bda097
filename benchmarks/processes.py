"""One process against two on one folder: the same command started twice, or once with `--num-proc 2`.

    python benchmarks/processes.py [--rows 512] [--cheap-rows 27000] [--rounds 2]

Prints a Markdown table of seconds by the clock, from the start of the command to its end: Python's start, the pool and
the model included. Let nothing else run. Ways take turns, and the best of each counts. Every process has one thread,
but where the table says two. Scores are compared byte for byte. Two commands that share nothing, each with all rows
and a folder of its own, tell what the machine gives: two cores of one processor share its memory and its clock.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from indicators import real_rows, sampled

from hf_instructmine import smollm2_135m


KEPT = ("HOME", "PATH", "PYTHONPATH", "HF_HUB_OFFLINE", "HF_INSTRUCTMINE_CACHE")
APART = "two commands, a folder each"
# How often the command is started, with how many processes, and how many threads.
WAYS = {
    "one process": (1, 1, 1),
    "one process, two threads": (1, 1, 2),
    "the same command twice": (2, 1, 1),
    "`--num-proc 2`": (1, 2, 1),
    APART: (2, 1, 1),
}


def scored(pool: Path, indicators: list[str], way: str, folder: Path) -> tuple[float, bytes]:
    """Seconds, and the bytes of all scores."""
    commands, processes, threads = WAYS[way]
    command = [
        sys.executable, "-m", "hf_instructmine.cli", "score", str(pool), "--indicator", *indicators,
        "--num-proc", str(processes), "--output-dir",
    ]  # fmt: skip
    folders = [folder.with_name(f"{folder.name}-{number if way == APART else 0}") for number in range(commands)]
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "TMPDIR": str(folder.parent)}
    start = time.perf_counter()
    running = [
        subprocess.Popen([*command, folder], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for folder in folders
    ]
    told = [process.communicate()[1].decode() for process in running]
    seconds = time.perf_counter() - start
    if any(process.returncode for process in running):
        raise SystemExit("\n".join(told))
    table = pq.read_table(folders[0] / "data")
    numbers = [name for name, kind in zip(table.column_names, table.schema.types) if kind == "double"]
    return seconds, b"".join(table[name].to_numpy().tobytes() for name in numbers)


def compare(what: str, pool: Path, indicators: list[str], rounds: int, folder: Path) -> None:
    """Prints the lines of one comparison."""
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    found = set()
    for number in range(rounds):
        for place, (way, (_, _, threads)) in enumerate(WAYS.items()):
            seconds, content = scored(pool, indicators, way, folder / f"{number}-{place}-{len(what)}")
            taken[way].append(seconds)
            if threads == 1:  # threads change the order of additions
                found.add(content)
    alone = min(taken["one process"])
    for way, seconds in taken.items():
        same = "" if WAYS[way][2] > 1 else "the same" if len(found) == 1 else "**other bytes**"
        work = 2 if way == APART else 1
        print(f"| {what} | {way} | {min(seconds):.1f} | {work * alone / min(seconds):.2f}× | {same} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=512, help="rows that the model scores")
    parser.add_argument("--cheap-rows", type=int, default=27_000, help="rows of the indicators without a model")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    pool, _ = real_rows()
    print("| indicators | way | s | rows a second, of one process | scores |\n|---|---|---:|---:|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few = sampled(pool, args.rows)
        chosen = [{"prompt": c.prompt_text, "completion": c.response} for c in few]
        (folder / "few.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in chosen))
        pool.select(range(min(args.cheap_rows, len(pool)))).to_parquet(folder / "many.parquet")
        model = f"Perplexity,model={smollm2_135m()},dtype=bfloat16,max_length=768"
        compare(f"perplexity of SmolLM2-135M, bfloat16, {len(few):,} rows", folder / "few.jsonl", [model],
                args.rounds, folder)  # fmt: skip
        tokenizer = f"tokenizer={smollm2_135m()}"
        cheap = ["MTLD", f"InputLength,{tokenizer}", f"OutputLength,{tokenizer}"]
        rows = min(args.cheap_rows, len(pool))
        compare(f"lengths and MTLD, {rows:,} rows", folder / "many.parquet", cheap, args.rounds, folder)


if __name__ == "__main__":
    main()
