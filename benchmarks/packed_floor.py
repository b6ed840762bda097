"""How near each model-based indicator is to the least that its model must compute: packed forward passes.

The floor of a line runs the same model over the same tokens, without padding: texts one after another in batches that
are full, no mask between them, the head on the tokens that are scored alone. What it gives is of no use; no way of
batching whole texts can be much faster. The fastest of several sizes of a batch, and of both attentions, counts.
Both sides turn the same rows to tokens, and that is counted.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hf_instructmine import Perplexity, Reward, UniEval, minilm_l6, smollm2_135m
from hf_instructmine.data.conversation import Conversation
from hf_instructmine.indicators.neighbor_distance import _text
from hf_instructmine.indicators.unieval import TEMPLATES, encode_question
from hf_instructmine.models.beginning import alike
from hf_instructmine.models.chat import Chat
from hf_instructmine.models.engine import token_nll
from hf_instructmine.models.neighbors import neighbor_distances
from hf_instructmine.models.sentence_encoder import SentenceEncoder
from hf_instructmine.models.tokenization import encode_data


BUDGETS = (256, 512)
HEAD = ["indicator", "on", "packed floor, s", "ours, s", "ours / floor"]


@dataclass
class Floor:
    """One line of the table; medians of CPU seconds."""

    what: str
    rows: str
    floor: float
    ours: float

    def line(self) -> str:
        seconds = " | ".join(f"{s:.2f}" if s >= 0.1 else f"{s:.3f}" for s in (self.floor, self.ours))
        return f"| {self.what} | {self.rows} | {seconds} | **{self.ours / self.floor:.3f}** |"


def cpu_seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def fastest(runs: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    """The one of several ways that takes the least time, after one of them to warm up on."""
    runs[0]()
    return min(runs, key=cpu_seconds)


def against_floor(what: str, rows: str, repeats: int, floors: Sequence[Callable], ours: Callable) -> Floor:
    floor = fastest(floors)
    ours()
    rounds = [(cpu_seconds(floor), cpu_seconds(ours)) for _ in range(repeats)]
    return Floor(what, rows, *(float(seconds) for seconds in np.median(rounds, axis=0)))


def packed(sequences: Sequence[Sequence[int]], budget: int) -> Iterator[list[int]]:
    """All tokens, in batches of one row that hold `budget`."""
    ids = [token for sequence in sequences for token in sequence]
    return (ids[start : start + budget] for start in range(0, len(ids), budget))


@contextmanager
def attention(model: Any, kind: str) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(kind)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


# --- Language models ----------------------------------------------------------------------------------------------


def perplexity_floor(
    model: Any, tokenizer: Any, rows: Sequence[Conversation], whole: bool, budget: int, kind: str
) -> None:
    """The body over all tokens but each text's last, which predicts nothing, and the head on those that predict a
    response; with the tokens that all texts begin with (`whole`) or without."""
    turns = [Chat(tokenizer).encode(row) for row in rows]
    texts, starts = [turn.ids[: turn.close] for turn in turns], [turn.start for turn in turns]
    shared = 0 if whole else beginning(texts, starts)
    fed, predicts = [], []
    for text, start in zip(texts, starts):
        fed.append(text[shared:-1])
        predicts += [False] * (start - 1 - shared) + [True] * (len(text) - start)
    targets = torch.tensor([token for text, start in zip(texts, starts) for token in text[start:]])
    seen = done = 0
    with torch.inference_mode(), attention(model, kind):
        if shared:
            model.model(input_ids=torch.tensor([texts[0][:shared]]), use_cache=False)
        for ids in packed(fed, budget):
            hidden = model.model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
            kept = hidden[torch.tensor(predicts[seen : seen + len(ids)])]
            token_nll(model.lm_head(kept), targets[done : done + len(kept)])
            seen, done = seen + len(ids), done + len(kept)


def beginning(texts: Sequence[Sequence[int]], starts: Sequence[int]) -> int:
    """How many tokens nearly all texts begin with."""
    rows = alike(texts, starts, range(len(texts)), least=len(texts) // 4)
    same = next(k for k in range(min(map(len, texts))) if len({texts[i][k] for i in rows}) > 1) if rows else 0
    return min(same, *(starts[i] - 1 for i in rows))


def language_model(dtype: str, auto: str = "AutoModelForCausalLM", **options: Any) -> tuple[Any, Any]:
    import transformers

    folder = smollm2_135m()
    model = getattr(transformers, auto).from_pretrained(folder, dtype=getattr(torch, dtype), **options).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def perplexity_lines(rows: Sequence[Conversation], dtype: str, max_length: int, repeats: int) -> list[Floor]:
    model, tokenizer = language_model(dtype)
    indicator = Perplexity(model, tokenizer, max_length=max_length)
    turns = [Chat(tokenizer).encode(row) for row in rows]
    rows = [row for row, turn in zip(rows, turns) if turn.start < turn.close <= max_length]
    loaded, lines = indicator.load(), []
    for whole in (False, True):

        def ours(whole: bool = whole) -> None:
            loaded.reads_cache = not whole
            indicator.score(rows)

        floors = [
            lambda b=budget, k=kind, w=whole: perplexity_floor(model, tokenizer, rows, w, b, k)
            for budget in BUDGETS
            for kind in ("sdpa", "eager")
        ]
        told = "the shared beginning run with each row" if whole else "the shared beginning left out"
        lines.append(against_floor(f"`Perplexity`, {told}", f"{len(rows)} real rows, {dtype}", repeats, floors, ours))
    return lines


def reward_line(rows: Sequence[Conversation], max_length: int, repeats: int) -> Floor:
    model, tokenizer = language_model("float32", "AutoModelForSequenceClassification", num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    chat = Chat(tokenizer)
    rows = [row for row in rows if len(chat.encode_closed(row)[0]) <= max_length]
    indicator = Reward(model, tokenizer, max_length=max_length)

    def floor(budget: int, kind: str) -> None:
        texts = [(encode_data(tokenizer, row.written), chat.encode_closed(row)[0])[1] for row in rows]
        with torch.inference_mode(), attention(model, kind):
            for ids in packed(texts, budget):
                model.base_model(torch.tensor([ids]), use_cache=False)

    floors = [lambda b=budget, k=kind: floor(b, k) for budget in BUDGETS for kind in ("sdpa", "eager")]
    told = f"{len(rows)} real rows, SmolLM2's body, float32"
    return against_floor("`Reward`", told, repeats, floors, lambda: indicator.score(rows))


# --- The others ---------------------------------------------------------------------------------------------------


def of_one_length(sequences: Sequence[Sequence[int]], budget: int) -> Iterator[list[Sequence[int]]]:
    """Batches of up to `budget` tokens whose rows are equally long."""
    waiting = sorted(sequences, key=len, reverse=True)
    while waiting:
        size = max(1, budget // len(waiting[0]))
        batch = [ids for ids in waiting[:size] if len(ids) == len(waiting[0])]
        yield batch
        waiting = waiting[len(batch) :]


def embedding_line(rows: Sequence[Conversation], repeats: int) -> Floor:
    encoder = SentenceEncoder(minilm_l6(), None)
    model, texts = encoder.load().model, [_text(row) for row in rows]
    body = model[0].auto_model

    def floor(budget: int, alone: bool) -> None:
        ids = model.tokenizer(texts, truncation=True, max_length=model.max_seq_length)["input_ids"]
        batches = of_one_length(ids, budget) if alone else ([part] for part in packed(ids, budget))
        with torch.inference_mode():
            for batch in batches:
                body(input_ids=torch.tensor(batch))

    floors = [lambda a=alone: floor(512, a) for alone in (True, False)]  # the encoder has 512 positions
    told = f"{len(texts)} real texts, all-MiniLM-L6-v2, float32"
    return against_floor("`NeighborDistance`, embeddings", told, repeats, floors, lambda: encoder.encode(texts))


def neighbour_line(repeats: int, rows: int = 20_000, dimensions: int = 384, i: int = 6, block: int = 1024) -> Floor:
    """One full product of the pool with itself: blocks of the size that the search has."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, dimensions))
    vectors = centres[rng.integers(50, size=rows)] + 0.7 * rng.normal(size=(rows, dimensions))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def product(block: int) -> None:
        for start in range(0, rows, block):
            for first in range(0, rows, block):
                vectors[start : start + block] @ vectors[first : first + block].T

    floors = [lambda b=size: product(b) for size in (block, 4 * block)]
    told = f"{rows:,} × {dimensions}, 50 clusters; the floor is one full product"
    return against_floor(
        f"`NeighborDistance(i={i})`, search", told, repeats, floors, lambda: neighbor_distances(vectors, i)
    )


def unieval_line(rows: Sequence[Conversation], repeats: int, max_length: int = 1024) -> Floor:
    from unieval_reference import random_t5_small

    tokenizer, model = random_t5_small([(row.prompt_text, row.response) for row in rows], "float32")
    indicator = UniEval(model, tokenizer, max_length=max_length)

    def floor(budget: int) -> None:
        responses = [encode_data(tokenizer, row.written) for row in rows]
        texts = [
            encode_question(tokenizer, name, row, response, max_length)[0]
            for row, response in zip(rows, responses)
            for name in TEMPLATES
        ]
        with torch.inference_mode():
            for batch in of_one_length(texts, budget):
                states = model.encoder(input_ids=torch.tensor(batch)).last_hidden_state
                model.decoder(input_ids=torch.zeros(len(batch), 1, dtype=torch.long), encoder_hidden_states=states)

    floors = [lambda b=budget: floor(b) for budget in BUDGETS]
    told = f"{len(rows)} real rows, random T5-small, float32; the floor is batches of one length"
    return against_floor("`UniEval`", told, repeats, floors, lambda: indicator.score(rows))


PARTS: dict[str, Callable[[Sequence[Conversation], Sequence[Conversation], int, int], list[Floor]]] = {
    "perplexity": lambda rows, many, length, repeats: [
        line for dtype in ("bfloat16", "float32") for line in perplexity_lines(rows, dtype, length, repeats)
    ],
    "reward": lambda rows, many, length, repeats: [reward_line(rows, length, repeats)],
    "embeddings": lambda rows, many, length, repeats: [embedding_line(many, repeats)],
    "neighbours": lambda rows, many, length, repeats: [neighbour_line(repeats)],
    "unieval": lambda rows, many, length, repeats: [unieval_line(rows, repeats)],
}
