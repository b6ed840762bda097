"""Which machine for which pool: hours of scoring by arithmetic, from counted tokens and published peak rates.

    python benchmarks/machines.py [--share 0.4] [--cores 8] [--prices A100=1.8 H100=3.0 …]

Prints Markdown tables. Nothing is run on a GPU. Tokens a row are counted on real rows, and so is what one core turns
to tokens in a second; the rest is multiplication: 2 operations a parameter and token (arXiv 2001.08361), at a share of
the peak rate of dense bfloat16 products that the maker publishes (float16 for a T4).
"""

import os


os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")

import argparse
import time

import numpy as np
from datasets import disable_progress_bars
from scale import real_rows
from transformers import AutoTokenizer

from hf_instructmine import smollm2_135m
from hf_instructmine.data.conversation import read_conversations
from hf_instructmine.models.chat import Chat


PEAK = {"T4": 65e12, "L4": 121e12, "A100": 312e12, "H100": 989e12}
# Parameters of what scores, and how many passes of what length a row takes (of the rows' tokens).
WORK = {
    "embeddings, 33M (all-MiniLM-L12 size)": (33e6, 1.0),
    "perplexity, 135M (SmolLM2-135M)": (135e6, 1.0),
    "perplexity, 1.7B (SmolLM2-1.7B)": (1.7e9, 1.0),
    "perplexity and IFD, 1.7B": (1.7e9, 1.5),
    "reward or perplexity, 8B": (8e9, 1.0),
}
DISK_BYTES = {"text": 800, "one column": 8, "embedding, 384 × float16": 768, "embedding, 1,024 × float16": 2048}


def counted(rows: int = 2000) -> tuple[float, float]:
    """Tokens of a real row under the chat template, and rows that one core encodes in a second."""
    table = real_rows(characters=None)
    order = np.random.default_rng(0).permutation(table.num_rows)[:rows]
    conversations = read_conversations(table.take(order).to_pydict())
    chat = Chat(AutoTokenizer.from_pretrained(smollm2_135m()))
    chat.encode(conversations[0])
    start = time.process_time()
    lengths = [len(chat.encode(conversation).ids) for conversation in conversations]
    return float(np.mean(lengths)), len(lengths) / (time.process_time() - start)


def hours(parameters: float, passes: float, tokens: float, rate: float, cores: int, encoded: float) -> float:
    """Of a GPU for a million rows: the slower of its products and of the cores that feed it."""
    return 1e6 * max(2 * parameters * passes * tokens / rate, 1 / (cores * encoded)) / 3600


def told(value: float) -> str:
    return f"{value * 60:.0f} min" if value < 1 else f"{value:.1f} h" if value < 48 else f"{value / 24:.1f} days"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--share", type=float, default=0.4, help="of the peak rate that is reached; assumed")
    parser.add_argument("--cores", type=int, default=8, help="CPU cores that turn text to tokens for each GPU")
    parser.add_argument("--prices", nargs="*", default=[], metavar="GPU=PRICE", help="of an hour, in any currency")
    args = parser.parse_args()
    disable_progress_bars()
    prices = {name: float(price) for name, _, price in (given.partition("=") for given in args.prices)}
    tokens, encoded = counted()
    print(
        f"Counted on real rows: {tokens:.0f} tokens a row with SmolLM2's chat template; one core encodes "
        f"{encoded:,.0f} rows a second. Assumed: {args.share:.0%} of the peak rate, {args.cores} cores a GPU.\n"
    )
    head = " | ".join(f"{name} ({rate / 1e12:.0f} TFLOP/s)" for name, rate in PEAK.items())
    print(f"| one GPU, a million rows | {head} |\n|---|{'---:|' * len(PEAK)}")
    for what, (parameters, passes) in WORK.items():
        cells = []
        for name, rate in PEAK.items():
            needed = hours(parameters, passes, tokens, args.share * rate, args.cores, encoded)
            cells.append(told(needed) + (f" ({needed * prices[name]:,.2f})" if name in prices else ""))
        print(f"| {what} | {' | '.join(cells)} |")
    print("\n| disk, a million rows | GB |\n|---|---:|")
    for what, size in DISK_BYTES.items():
        print(f"| {what} | {size / 1e3:.2f} |")


if __name__ == "__main__":
    main()
