"""A designed sweep on seven real sources: score, design, finetune, and write the records under docs/results.

    python benchmarks/sweep_seven_sources.py --data ../shared/data --output-dir sweep-output

Killed and started again, it goes on where it stopped. `--proxy 0 1 2` also finetunes all layers on mixtures 0, 1, 2,
to see whether the last layers rank mixtures as the whole model does.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets, load_dataset

import hf_instructmine as him
from hf_instructmine.data.conversation import read_conversations
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.models.loading import load_tokenizer


SOURCES = ("self_instruct", "alpaca", "dolly", "gsm8k", "roleplay", "p3", "lima")
EVAL_SETS = {"self_instruct": "self_instruct_252", "mt_bench": "mt_bench"}
MOST_RESPONSE_TOKENS = 256
ROWS_PER_SOURCE = 300


def main() -> None:
    args = parse()
    output = Path(args.output_dir)
    pool = read_pool(Path(args.data))
    started = time.perf_counter()
    scored, embeddings = score_pool(pool, output / "scored")
    print(f"Scored {len(scored)} rows in {time.perf_counter() - started:.0f} s")
    mixtures = him.design_mixtures(
        scored, args.num_runs, embeddings=embeddings, replicates=args.replicates, seed=0,
        subset_size=None if args.subset_tokens else args.subset_size, subset_tokens=args.subset_tokens,
    )  # fmt: skip
    print(him.design_report(mixtures, scored, embeddings=embeddings))
    eval_sets = {
        name: load_dataset("json", data_files=str(Path(args.data, "eval", f"{file}.jsonl")), split="train")
        for name, file in EVAL_SETS.items()
    }
    recipe = Recipe.load(args.recipe)
    recipe.settings["model_name_or_path"] = him.smollm2_135m()
    started = time.perf_counter()
    runs = him.run_sweep(scored, mixtures, recipe, eval_sets, output / args.name)
    print(f"Swept in {time.perf_counter() - started:.0f} s")
    print(him.sweep_status(output / args.name))
    write_results(runs, scored, Path(args.results))
    if args.proxy:
        full = Recipe({**recipe.settings, "train_last_layers": None, "cached_trunk": False})
        few = mixtures.select(args.proxy)
        write_results(
            him.run_sweep(scored, few, full, eval_sets, output / "proxy"), scored, Path(f"{args.results}-all-layers")
        )


def read_pool(data: Path, rows: int = ROWS_PER_SOURCE, after: int = 0) -> Dataset:
    """A fixed sample of each source's rows whose response has at most 256 tokens.

    Args:
        data (`Path`): Holds `pool/`.
        rows (`int`): Of each source, or as many as it has.
        after (`int`): So many of each source are passed over: what another sample of this order took. A source that
            has no more gives those.
    """
    last = after + rows
    tokenizer = load_tokenizer(him.smollm2_135m())
    parts = []
    for source in SOURCES:
        part = load_dataset("json", data_files=str(data / "pool" / f"{source}.jsonl"), split="train")
        part = part.shuffle(seed=0).select(range(min(len(part), 4 * last)))
        conversations = read_conversations(part[:])
        responses = tokenizer([row.response for row in conversations], add_special_tokens=False)["input_ids"]
        known = [
            not row.problem and 1 <= len(ids) <= MOST_RESPONSE_TOKENS for row, ids in zip(conversations, responses)
        ]
        fit = np.flatnonzero(known).tolist()
        taken = [conversations[i] for i in fit[after:last] or fit[:after]]
        messages = [[*row.prompt, *row.completion] for row in taken]
        parts.append(Dataset.from_dict({"messages": messages, "source": [source] * len(taken)}))
    return concatenate_datasets(parts)


def score_pool(pool: Dataset, folder: Path) -> tuple[Dataset, np.ndarray]:
    model = him.smollm2_135m()
    neighbors = him.NeighborDistance(model=him.minilm_l6(), i=6)
    indicators = [
        him.InputLength(tokenizer=model),
        him.OutputLength(tokenizer=model),
        him.MTLD(),
        neighbors,
        him.Perplexity(model=model, also=("ifd", "end_of_turn"), dtype="bfloat16", token_budget=2048),
    ]
    return him.score(pool, indicators, folder), neighbors.embed(pool)


def write_results(runs: Dataset, scored: Dataset, path: Path) -> None:
    """Keeps the runs without their row numbers, one JSON object a line: small enough for a repository.

    Mean `nll`, log perplexity, is added: the mean of perplexities is the word of a few one-token responses.
    """
    nll = np.log(np.array(scored["perplexity"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".jsonl").open("w") as file:
        for row in runs:
            row["nll"] = float(nll[row.pop("indices")].mean())
            file.write(json.dumps(row) + "\n")
    print(f"Wrote {path.with_suffix('.jsonl')}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder with pool/ and eval/")
    parser.add_argument("--output-dir", default="sweep-output", help="keeps what is costly; not for the repository")
    parser.add_argument("--results", default="docs/results/sweep", help="where the records go, without ending")
    parser.add_argument("--recipe", default="smollm2-135m-cpu-last-layers")
    parser.add_argument("--num-runs", type=int, default=24)
    parser.add_argument("--replicates", type=int, default=4)
    parser.add_argument("--subset-size", type=int, default=128)
    parser.add_argument("--subset-tokens", type=int, metavar="N", help="response tokens in each subset, not rows")
    parser.add_argument("--name", default="sweep", help="of the sweep's folder in --output-dir")
    parser.add_argument("--proxy", type=int, nargs="*", metavar="K", help="finetune all layers on these mixtures too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
