"""What each stage costs as a pool grows: time, memory, and the exponent by which they grow.

    python benchmarks/scale.py [--rows 1000 10000 100000 1000000] [--only score select …] [--folder FOLDER]

Prints a Markdown table. Each figure is of a process of its own, so that its memory is the stage's. Figures are kept in
`FOLDER/scale.jsonl` (or `--records FILE`) as they come: the same command goes on after a kill, and another stage or
size costs only itself. Rows are real ones drawn again and again, each with a number of its own, but 5 % of them, which
are exact copies of another row. A scored pool has indicator columns drawn at random.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


CHUNK = 50_000  # rows that are made at a time
COPIES = 0.05
CHARACTERS = 300
BUDGET = 50_000  # rows that are selected of a large pool; of a small one, a tenth
SIZES = (1_000, 10_000, 100_000, 1_000_000)
GIB = 2**30


# --- Pools --------------------------------------------------------------------------------------------------------


def real_rows(characters: int | None = CHARACTERS) -> pa.Table:
    """Prompt, response and source of all rows that there are, texts cut at so many characters."""
    from hf_instructmine import load_sample_pool
    from hf_instructmine.data.conversation import read_conversations
    from hf_instructmine.data.inputs import load_pool

    folder = Path(os.environ.get("INSTRUCTMINE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")) / "pool"
    files = sorted(map(str, folder.glob("*.jsonl")))
    pool = load_pool(files) if files else load_sample_pool()
    read = [c for c in read_conversations(pool[:]) if c.problem is None]
    texts = [(c.prompt_text[:characters], c.response[:characters]) for c in read]
    sources = np.arange(len(texts)) * 7 // len(texts)
    return pa.table(
        {
            "instruction": [prompt for prompt, _ in texts],
            "output": [response for _, response in texts],
            "source": [f"source-{number}" for number in sources],
        }
    )


def chunk(rows: pa.Table, first: int, size: int, scored: bool) -> pa.Table:
    """`size` rows of a pool from its row `first` on."""
    rng = np.random.default_rng([first, size])
    base, number = rng.integers(rows.num_rows, size=size), np.arange(first, first + size)
    copies = np.flatnonzero(rng.random(size) < COPIES)
    copied = (rng.random(len(copies)) * copies).astype(int)
    for of in (base, number):
        of[copies] = of[copied]
    table = rows.take(pa.array(base))
    told = pc.binary_join_element_wise(table["instruction"].combine_chunks(), pa.array(number).cast(pa.string()), " ")
    table = table.set_column(0, "instruction", told)
    if not scored:
        return table
    words = pc.utf8_length(table["output"]).to_numpy() / 4 + 1
    columns = {
        "output_length": words.round(),
        "reward": rng.normal(size=size),
        "perplexity": np.exp(rng.normal(2, 0.7, size)),
        "mtld": rng.gamma(4, 20, size),
        "knn_6": rng.beta(3, 4, size),
    }
    for name, values in columns.items():
        values[copies] = values[copied]
        table = table.append_column(name, pa.array(values))
    return table


def pool_folder(folder: Path, rows: int) -> Path:
    """A folder of Parquet files, made where it is not there."""
    path = folder / f"pool-{rows}"
    if not (path / "complete").exists():
        path.mkdir(parents=True, exist_ok=True)
        texts = real_rows()
        for first in range(0, rows, CHUNK):
            pq.write_table(chunk(texts, first, min(CHUNK, rows - first), False), path / f"{first:09d}.parquet")
        (path / "complete").touch()
    return path


def scored_file(folder: Path, rows: int) -> Path:
    """An Arrow file of a scored pool, made where it is not there."""
    path = folder / f"scored-{rows}.arrow"
    if not path.exists():
        texts, partial = real_rows(), path.with_suffix(".partial")
        folder.mkdir(parents=True, exist_ok=True)
        schema = chunk(texts, 0, 10, True).schema
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for first in range(0, rows, CHUNK):
                writer.write_table(chunk(texts, first, min(CHUNK, rows - first), True))
        partial.rename(path)
    return path


# --- Stages -------------------------------------------------------------------------------------------------------
# Each takes a folder and a number of rows, prepares what is not its own cost, and returns what is timed.


def cheap_indicators() -> list[Any]:
    from hf_instructmine import MTLD, InputLength, OutputLength, smollm2_135m

    return [InputLength(smollm2_135m()), OutputLength(smollm2_135m()), MTLD()]


def score_opened(folder: Path, rows: int, again: bool = False) -> Callable[[], Any]:
    """Lengths and MTLD of a pool in a folder; the first time, or when all is there."""
    from hf_instructmine import score
    from hf_instructmine.data.inputs import load_pool

    pool, indicators = load_pool(str(pool_folder(folder, rows))), cheap_indicators()
    output = scratch(folder, f"again-{rows}") if again else Path(tempfile.mkdtemp()) / "scored"
    if again:
        score(pool, indicators, output_dir=output)
    return lambda: score(pool, indicators, output_dir=output)


def score_stream(folder: Path, rows: int) -> Callable[[], Any]:
    """The same of a stream, which is read as it comes."""
    from datasets import load_dataset

    from hf_instructmine import score

    files = sorted(map(str, pool_folder(folder, rows).glob("*.parquet")))
    output, indicators = Path(tempfile.mkdtemp()) / "scored", cheap_indicators()
    return lambda: score(
        load_dataset("parquet", data_files=files, split="train", streaming=True), indicators, output_dir=output
    )


def score_model(folder: Path, rows: int) -> Callable[[], Any]:
    """Perplexity by a random model of two tiny layers: what is around a model, and nothing of a model's own cost."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from hf_instructmine import Perplexity, score, smollm2_135m
    from hf_instructmine.data.inputs import load_pool

    tokenizer = AutoTokenizer.from_pretrained(smollm2_135m())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=2048,
    )  # fmt: skip
    pool, output = load_pool(str(pool_folder(folder, rows))), Path(tempfile.mkdtemp()) / "scored"
    indicator = Perplexity(LlamaForCausalLM(config).eval(), tokenizer)
    return lambda: score(pool, indicator, output_dir=output)


def decontaminate(folder: Path, rows: int) -> Callable[[], Any]:
    """Rows that hold a prompt of an evaluation set."""
    from hf_instructmine import load_sample_evaluation
    from hf_instructmine.data.decontamination import find_contaminated

    pool, evaluation = scored_pool(folder, rows), load_sample_evaluation()
    return lambda: find_contaminated(pool, {"sample": evaluation})


def select(folder: Path, rows: int, rule: Any = None, tokens: bool = False, **options: Any) -> Callable[[], Any]:
    """The best rows, written with their card."""
    from hf_instructmine import LossEstimator, Selector

    by_rule = LossEstimator.from_coefficients({"log(perplexity)": 0.1, "mtld": -0.002, "reward": -0.02, "knn_6": -0.1})
    pool, output = scored_pool(folder, rows), Path(tempfile.mkdtemp()) / "curated"
    wanted = min(BUDGET, rows // 10)
    amount = {"tokens": 60 * wanted} if tokens else {"size": wanted}
    selector = Selector(rule or by_rule, **options)
    return lambda: selector.select(pool, **amount).save_to_disk(output)


def design(folder: Path, rows: int, **size: int) -> Callable[[], Any]:
    """24 subsets of a sweep."""
    from hf_instructmine import design_mixtures

    pool = scored_pool(folder, rows)
    return lambda: design_mixtures(pool, 24, **size)


def neighbours(folder: Path, rows: int, approximate: bool = False) -> Callable[[], Any]:
    """Distances to the sixth neighbour among vectors of 384 dimensions, in 50 clusters."""
    from hf_instructmine.models.neighbors import neighbor_distances

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 384)).astype(np.float32)
    vectors = centres[rng.integers(50, size=rows)] + np.float32(0.7) * rng.standard_normal((rows, 384), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return lambda: neighbor_distances(vectors, 6, approximate=approximate)


def similar(folder: Path, rows: int) -> Callable[[], Any]:
    """A selection where rows stand in heaps of variants, hardly more heaps than rows wanted: most are turned away."""
    rng, wanted = np.random.default_rng(0), min(BUDGET, rows // 10)
    centres = rng.standard_normal((wanted * 51 // 50, 384), np.float32)
    vectors = centres[rng.integers(len(centres), size=rows)]
    for start in range(0, rows, CHUNK):
        part = vectors[start : start + CHUNK]
        part += np.float32(0.1) * rng.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return select(folder, rows, embeddings=vectors, max_similarity=0.9)


def quotas() -> dict[str, tuple[float, float]]:
    return {f"source-{number}": (0.05, 0.2) for number in range(7)}


# Name, largest size, and what is timed.
STAGES: dict[str, tuple[str, int, Callable[[Path, int], Callable[[], Any]]]] = {
    "score": ("`score`: lengths and MTLD", 10**6, score_opened),
    "stream": ("`score`: lengths and MTLD, of a stream", 10**6, score_stream),
    "again": ("`score` again: all is there", 10**6, lambda f, n: score_opened(f, n, again=True)),
    "model": ("`score`: around a model (`Perplexity`, tiny)", 10**4, score_model),
    "decontaminate": ("`find_contaminated`", 10**6, decontaminate),
    "select": ("`Selector.select` by a rule, written", 10**7, select),
    "longest": ("… by a strategy (longest), written", 10**7, lambda f, n: select(f, n, "longest")),
    "tokens": ("… with a budget of tokens, written", 10**7, lambda f, n: select(f, n, tokens=True)),
    "quotas": ("… with quotas, written", 10**7, lambda f, n: select(f, n, quotas=quotas())),
    "near": ("… without near-duplicates (MinHash), written", 10**7, lambda f, n: select(f, n, near_duplicates=0.8)),
    "similar": ("… without rows alike by embeddings, written", 10**6, similar),
    "design": ("`design_mixtures` by rows", 10**7, lambda f, n: design(f, n, subset_size=min(1000, n // 10))),
    "design-tokens": (
        "`design_mixtures` by tokens", 10**7, lambda f, n: design(f, n, subset_tokens=50 * min(1000, n // 10)),
    ),
    "exact": ("`knn_6`, exact", 10**5, neighbours),
    "hnsw": ("`knn_6`, approximate", 10**6, lambda f, n: neighbours(f, n, approximate=True)),
}  # fmt: skip


def scored_pool(folder: Path, rows: int) -> Any:
    from datasets import Dataset

    return Dataset.from_file(str(scored_file(folder, rows)))


def scratch(folder: Path, name: str) -> Path:
    path = folder / "scratch" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


# --- Measuring ----------------------------------------------------------------------------------------------------


class Memory(threading.Thread):
    """The most anonymous memory of this process, sampled: what is mapped from files is the page cache's."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.ended = 0, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            self.most = max(self.most, self.now())

    @staticmethod
    def now() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) * 1024

    def stop(self) -> int:
        self.ended.set()
        return max(self.most, self.now())


def measure(stage: str, rows: int, folder: Path) -> dict[str, Any]:
    """Runs a stage once, in this process."""
    from datasets import disable_progress_bars

    disable_progress_bars()
    timed = STAGES[stage][2](folder, rows)
    memory = Memory()
    before = memory.now()
    memory.start()
    cpu, wall = time.process_time(), time.perf_counter()
    timed()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "stage": stage, "rows": rows, "wall_s": round(wall, 3), "cpu_s": round(cpu, 3),
        "memory_gib": round(memory.stop() / GIB, 3), "memory_before_gib": round(before / GIB, 3),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
    }  # fmt: skip


def measured(stage: str, rows: int, folder: Path) -> dict[str, Any]:
    """Runs a stage once, in a process of its own; what it wrote is removed."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="tmp-") as scratch:
        environment = {**os.environ, "TMPDIR": scratch, "HF_DATASETS_CACHE": str(folder / "cache")}
        command = [sys.executable, __file__, "--measure", stage, "--rows", str(rows), "--folder", str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{stage} at {rows:,} rows failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


# --- Table --------------------------------------------------------------------------------------------------------


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: a line for each stage and size."""
    lines = [
        "| stage | rows | wall, s | CPU, s | peak memory, GiB | exponent of CPU time |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for stage, (what, _, _) in STAGES.items():
        of_stage = sorted((r for r in records if r["stage"] == stage), key=lambda r: r["rows"])
        for before, record in zip([None, *of_stage], of_stage):
            cells = [what if before is None else "", f"{record['rows']:,}", seconds(record["wall_s"])]
            cells += [seconds(record["cpu_s"]), f"{record['memory_gib']:.2f}", exponent(before, record)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def exponent(before: dict[str, Any] | None, record: dict[str, Any]) -> str:
    """By which power of the rows CPU time grew from the size before."""
    if before is None:
        return ""
    return f"{np.log(record['cpu_s'] / before['cpu_s']) / np.log(record['rows'] / before['rows']):.2f}"


def machine() -> str:
    import datasets

    import hf_instructmine

    return (
        f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, "
        f"datasets {datasets.__version__}, pyarrow {pa.__version__}, hf-instructmine {hf_instructmine.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="sizes of the pool")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES), help="which stages")
    parser.add_argument("--folder", type=Path, help="of pools, which are kept (a million rows: 1 GB)")
    parser.add_argument("--records", type=Path, help="file of the figures; those that are there are not made again")
    parser.add_argument("--measure", choices=STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.gettempdir()) / "instructmine-scale"
    folder.mkdir(parents=True, exist_ok=True)
    if args.measure:
        print(json.dumps(measure(args.measure, args.rows[0], folder)))
        return
    records = args.records or folder / "scale.jsonl"
    there = [json.loads(line) for line in records.read_text().splitlines()] if records.exists() else []
    known = {(record["stage"], record["rows"]) for record in there}
    for stage in args.only:
        for rows in args.rows:
            if (stage, rows) in known or rows > STAGES[stage][1]:
                continue
            print(f"{stage}: {rows:,} rows", file=sys.stderr, flush=True)
            there.append(measured(stage, rows, folder))
            with records.open("a") as file:
                file.write(json.dumps(there[-1]) + "\n")
    print(f"Machine: {machine()}.\n\n{table(there)}")


if __name__ == "__main__":
    main()
