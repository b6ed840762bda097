"""The indicators side by side with what one would use otherwise, on the same rows and one thread.

    python benchmarks/indicators.py [--output docs/benchmarks.md] [--only perplexity mtld neighbours unieval]
                                    [--floors perplexity reward embeddings neighbours unieval]

Prints two Markdown tables: against others, and against packed forward passes (`packed_floor.py`). Both sides run in
turns and the medians are compared. Times are CPU seconds of this process: other work on the machine disturbs them less
than the clock. Rows come from the real pools in INSTRUCTMINE_SHARED_DATA (or ../shared/data beside the repository),
else from the bundled sample pool.
"""

import os


os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from packed_floor import HEAD
from packed_floor import PARTS as FLOORS

from hf_instructmine import Perplexity, load_sample_pool, smollm2_135m
from hf_instructmine.data.conversation import Conversation, read_conversations
from hf_instructmine.data.inputs import load_pool
from hf_instructmine.indicators.mtld import mtld, split_words
from hf_instructmine.models.chat import Chat
from hf_instructmine.models.neighbors import neighbor_distances


MAX_LENGTH = 768  # of all perplexities: padding to a longer text would cost evaluate's module more time, and memory


@dataclass
class Comparison:
    """One line of the table; `ours` and `theirs` are medians in CPU seconds."""

    what: str
    against: str
    rows: str
    ours: float
    theirs: float
    agreement: str

    def line(self) -> str:
        ratio = self.theirs / self.ours
        seconds = " | ".join(f"{s:.2f}" if s >= 0.1 else f"{s:.3f}" for s in (self.theirs, self.ours))
        return f"| {self.what} | {self.against} | {self.rows} | {seconds} | **{ratio:.3g}×** | {self.agreement} |"


def in_turns(repeats: int, *runs: Callable[[], Any]) -> tuple[list[float], list[Any]]:
    """Median CPU seconds and first result of each run, after one round to warm up on."""
    results = [run() for run in runs]
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, times in zip(runs, seconds):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
    return [float(np.median(times)) for times in seconds], results


# --- Perplexity ---------------------------------------------------------------------------------------------------


def compare_perplexity(conversations: list[Conversation], dtype: str, repeats: int) -> list[Comparison]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smollm2_135m()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    indicator = Perplexity(model, tokenizer, max_length=MAX_LENGTH)
    turns = [Chat(tokenizer).encode(c) for c in conversations]
    conversations = [c for c, t in zip(conversations, turns) if t.start < t.close <= MAX_LENGTH]
    texts = [
        tokenizer.apply_chat_template(c.prompt, tokenize=False, add_generation_prompt=True) + c.response
        for c in conversations
    ]
    (ours, loop, module), (scores, plain, _) = in_turns(
        repeats,
        lambda: np.exp(indicator.score(conversations)[0][:, 0]),
        lambda: plain_loop(model, tokenizer, conversations),
        lambda: evaluates_perplexity(model, tokenizer, texts),
    )
    rows = f"{len(conversations)} real rows, {dtype}"
    difference = np.abs(np.array(plain) / scores - 1)
    agreement = f"relative difference {np.median(difference):.0e} (median), {difference.max():.0e} (largest)"
    return [
        Comparison("`Perplexity`", "`evaluate`'s perplexity", rows, ours, module, "another quantity (the prompt too)"),
        Comparison("`Perplexity`", "a loop over the rows, full logits", rows, ours, loop, agreement),
    ]


def plain_loop(model: Any, tokenizer: Any, conversations: list[Conversation]) -> list[float]:
    """One row at a time; the loss that transformers computes where the prompt's labels are masked."""
    values = []
    for conversation in conversations:
        turn = Chat(tokenizer).encode(conversation)
        ids = torch.tensor([turn.ids[: turn.close]])
        labels = ids.clone()
        labels[:, : turn.start] = -100
        with torch.inference_mode():
            values.append(model(input_ids=ids, labels=labels).loss.exp().item())
    return values


def evaluates_perplexity(model: Any, tokenizer: Any, texts: list[str], batch_size: int = 16) -> list[float]:
    """What `measurements/perplexity` of huggingface/evaluate computes with `add_start_token=False`, written anew: the
    `evaluate` package does not carry its modules. It pads all texts to the longest one, runs them in the order given,
    and takes the cross-entropy of every token but the padding. That it loads the model at each call is left out.
    """
    encoded = tokenizer(
        texts, add_special_tokens=False, padding=True, truncation=True, max_length=MAX_LENGTH,
        return_tensors="pt", return_attention_mask=True,
    )  # fmt: skip
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    values: list[float] = []
    for start in range(0, len(texts), batch_size):
        ids = encoded["input_ids"][start : start + batch_size]
        mask = encoded["attention_mask"][start : start + batch_size]
        with torch.no_grad():
            logits = model(ids, attention_mask=mask).logits
        shifted = logits[:, :-1].contiguous()
        seen = mask[:, 1:].contiguous()
        nll = loss(shifted.transpose(1, 2), ids[:, 1:].contiguous()) * seen
        values += (nll.sum(1) / seen.sum(1)).exp().tolist()
    return values


# --- The others ---------------------------------------------------------------------------------------------------


def compare_mtld(responses: list[str], repeats: int) -> Comparison:
    from lexicalrichness import LexicalRichness

    responses = [text for text in responses if text.isascii() and split_words(text)]
    (ours, theirs), (found, expected) = in_turns(
        repeats,
        lambda: [mtld(split_words(text)) for text in responses],
        lambda: [LexicalRichness(text).mtld(threshold=0.72) for text in responses],
    )
    words = sum(len(split_words(text)) for text in responses)
    agreement = f"largest difference {max(abs(a - b) for a, b in zip(found, expected)):.0e}"
    return Comparison(
        "`MTLD`", "`lexicalrichness`", f"{len(responses):,} real responses, {words:,} words", ours, theirs, agreement
    )


def compare_neighbours(repeats: int, rows: int = 5000, dimensions: int = 384, i: int = 6) -> Comparison:
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, dimensions))
    vectors = centres[rng.integers(50, size=rows)] + 0.7 * rng.normal(size=(rows, dimensions))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    index = NearestNeighbors(n_neighbors=i + 1, metric="cosine", algorithm="brute").fit(vectors)
    (ours, theirs), (found, expected) = in_turns(
        repeats,
        lambda: neighbor_distances(vectors, i),
        lambda: np.array([index.kneighbors(row[None])[0][0, i] for row in vectors]),
    )
    agreement = f"largest difference {np.abs(found - expected).max():.0e}"
    return Comparison(
        f"`NeighborDistance(i={i})`, search", "one scikit-learn query a row", f"{rows:,} × {dimensions}, 50 clusters",
        ours, theirs, agreement,
    )  # fmt: skip


def compare_unieval(conversations: Sequence[Conversation], repeats: int) -> Comparison:
    from unieval_reference import compare

    found = compare([(c.prompt_text, c.response) for c in conversations], repeats=repeats)
    return Comparison(
        "`UniEval`, 3 dimensions", "reference arithmetic, batches of 8, unsorted",
        f"{found['rows']} real rows, random T5-small, float32", found["seconds"], found["reference_seconds"],
        f"largest difference {found['max_difference']:.0e}",
    )  # fmt: skip


# --- The whole ----------------------------------------------------------------------------------------------------


def real_rows() -> tuple[Dataset, str]:
    """All rows there are, and where they come from."""
    folder = Path(os.environ.get("INSTRUCTMINE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")) / "pool"
    files = sorted(map(str, folder.glob("*.jsonl")))
    if not files:
        return load_sample_pool(), "the bundled sample pool"
    return load_pool(files), "the real pools " + ", ".join(Path(file).stem for file in files)


def sampled(pool: Dataset, rows: int) -> list[Conversation]:
    """Rows with a response, chosen at random."""
    order = np.random.default_rng(0).permutation(len(pool))[: 2 * rows]
    return [c for c in read_conversations(pool.select(order)[:]) if c.problem is None][:rows]


def machine() -> str:
    import transformers

    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    sets = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name} " in flags]
    return (
        f"{os.cpu_count()} cores ({platform.machine()}{', ' if sets else ''}{', '.join(sets)}), one thread used; "
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", metavar="FILE", help="also write the table there")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, help="which comparisons")
    parser.add_argument("--floors", nargs="*", choices=FLOORS, default=tuple(FLOORS), help="which packed floors")
    parser.add_argument("--rows", type=int, default=48, help="rows that models score")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, of which the median counts")
    args = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bars()
    pool, origin = real_rows()
    conversations = sampled(pool, args.rows)
    lines = [
        "# Benchmarks",
        "",
        f"Made by `python benchmarks/indicators.py`, in one run. Text: {origin}. Machine: {machine()}. Both sides of "
        f"a line ran in turns, {args.repeats} times after a first one to warm up; seconds are medians of CPU time "
        "(UniEval: the best time by the clock). SmolLM2-135M-Instruct gives the perplexities, of rows of at most "
        f"{MAX_LENGTH} tokens.",
        "",
        "| indicator | against | on | theirs, s | ours, s | ratio | agreement |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    print("\n".join(lines))
    for part in args.only:
        for comparison in COMPARISONS[part](pool, conversations, args.repeats):
            lines.append(comparison.line())
            print(lines[-1], flush=True)
    lines += floor_table(pool, conversations, args.floors, args.repeats)
    if args.output is not None:
        path = Path(args.output)
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        by_hand = before[before.index(_BY_HAND) :] if _BY_HAND in before else ""
        path.write_text("\n".join([*lines, "", NOTES, by_hand]).rstrip() + "\n", encoding="utf-8")


def floor_table(pool: Dataset, rows: list[Conversation], parts: Sequence[str], repeats: int) -> list[str]:
    """How near our own passes are to packed ones."""
    if not parts:
        return []
    lines = [
        "",
        "## Against packed forward passes",
        "",
        "CPU seconds of one thread (threads = 1), medians of rounds in turns. The floor runs the same model over the "
        "same tokens without padding, in the fastest of several batches and attentions; tokenising counts on both "
        "sides. 1 is the least that batches of whole texts can take.",
        "",
        f"| {' | '.join(HEAD)} |",
        "|---|---|---:|---:|---:|",
    ]
    print("\n".join(lines))
    many = sampled(pool, 600)
    for part in parts:
        for line in FLOORS[part](rows, many, MAX_LENGTH, repeats):
            lines.append(line.line())
            print(lines[-1], flush=True)
    return lines


_BY_HAND = "## On a GPU"
COMPARISONS: dict[str, Callable[[Dataset, list[Conversation], int], list[Comparison]]] = {
    "perplexity": lambda pool, rows, repeats: [
        line for dtype in ("bfloat16", "float32") for line in compare_perplexity(rows, dtype, repeats)
    ],
    "mtld": lambda pool, rows, repeats: [compare_mtld([c.response for c in sampled(pool, 3000)], repeats)],
    "neighbours": lambda pool, rows, repeats: [compare_neighbours(repeats)],
    "unieval": lambda pool, rows, repeats: [compare_unieval(rows, repeats)],
}
PARTS = tuple(COMPARISONS)
NOTES = """Where the time goes:

- Perplexity is bound by the products of the model's body, which a loop needs as much as a batch: on a CPU batches gain
  nothing by themselves. What is gained: the tokens that every prompt begins with (the chat template's system prompt)
  run once; the head and the softmax run on response tokens only; batches and blocks of logits fit the CPU's cache; and
  in bfloat16 short texts are spared PyTorch's fused attention, which is slow for them. Short rows under a long system
  prompt gain most, long responses least. `evaluate` loses to padding (everything to the longest text) and to a softmax
  over the vocabulary at every position, padding included. It also loads the model again at each call, which is not
  counted.
- In bfloat16 a logit of 20 has a step of 1/8, so that the perplexity of a response of one or two tokens moves by some
  per cent with the order of additions, in the loop as well as here. In float32 both agree to 1e-5.
- MTLD: words are split on bytes, and a ratio is only checked where a word has come again.
- Neighbours: blocks of one matrix product against one query at a time.
- UniEval: sorted by length, and two rows of the head instead of the vocabulary's.
"""


if __name__ == "__main__":
    main()
