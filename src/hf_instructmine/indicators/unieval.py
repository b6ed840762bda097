"""Naturalness, coherence and understandability of the response (InstructMining, section 3: Nat, Coh, Und).

UniEval (Zhong et al., 2022, https://arxiv.org/abs/2210.07197) asks a T5 a yes-no question; the paper used
MingZhong/unieval-dialog.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.conversation import Conversation
from ..errors import InstructMineError
from ..models.engine import pad_with_mask, run_sorted
from ..models.loading import LoadedModel
from ..models.tokenization import encode_data, encode_template
from .base import ModelIndicator


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# `</s>` is T5's end-of-sequence token. The first `{}` is the response, the second the history.
TEMPLATES = {
    "naturalness": "question: Is this a natural response in the dialogue? </s> response: {}",
    "coherence": (
        "question: Is this a coherent response given the dialogue history? </s> response: {} </s> dialogue history: {}"
    ),
    "understandability": "question: Is this an understandable response in the dialogue? </s> response: {}",
}


class UniEval(ModelIndicator):
    """UniEval's dialogue scores; one column for each dimension, from 0 to 1, higher is better.

    A score is P(Yes) / (P(Yes) + P(No)) = sigmoid(logit of Yes − logit of No) at the decoder's first step. The
    response is all that the assistant writes: reasoning, text and tool calls (as JSON). The history is the contents of
    the prompt's messages (the system's too), each on its own line. The text of special tokens in the data is scored as
    text.

    Args:
        model (`str` or `PreTrainedModel`): Sequence-to-sequence model: Hub id, local folder, PEFT adapter, or loaded.
        tokenizer (`str` or `PreTrainedTokenizerBase`, *optional*): Defaults to the model's own.
        dimensions (`Sequence[str]`, *optional*): Some of `"naturalness"`, `"coherence"` and `"understandability"`;
            defaults to all three.
        revision (`str`, *optional*): Branch, tag or commit of the model on the Hub.
        dtype (`str`, defaults to `"float32"`): `"bfloat16"` is several times faster and moves a score by up to 2e-2.
        device (`str`, *optional*): Defaults to the GPU where there is one.
        max_length (`int`, defaults to 1024): In tokens. What is longer is counted, and loses the end of its response,
            and the end of its history. Neither is cut below half of the room while the other has more, so that a long
            response cannot drive out the history; the reference cuts whatever stands last. The template stays whole.
        token_budget (`int`, *optional*): Encoder tokens in a forward pass, padding included; defaults to 4096, on a
            CPU to 512 (larger batches leave its cache, and take longer).
        trust_remote_code (`bool`, defaults to `False`): Whether the model's repository may run code.
        columns, turns, overwrite: See [`Indicator`].

    Raises:
        [`InstructMineError`]: Where a dimension is unknown; on the first batch, where the model cannot be loaded, its
            tokenizer cannot tell Yes from No, or `max_length` is too small for the question.

    Example:

    ```python
    scored = him.score(pool, him.UniEval("MingZhong/unieval-dialog", dimensions=["naturalness"]), output_dir="scored")
    ```
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        dimensions: Sequence[str] = tuple(TEMPLATES),
        revision: str | None = None,
        dtype: Any = "float32",
        device: str | None = None,
        max_length: int = 1024,
        token_budget: int | None = None,
        trust_remote_code: bool = False,
        columns: Mapping[str, str] | None = None,
        turns: str = "last",
        overwrite: bool = False,
    ):
        self.names = (dimensions,) if isinstance(dimensions, str) else tuple(dimensions)
        unknown = [name for name in self.names if name not in TEMPLATES]
        if unknown or not self.names or len(set(self.names)) < len(self.names):
            raise InstructMineError(
                f"dimensions are {', '.join(map(repr, self.names)) or 'none'}; choose some of "
                f"{', '.join(map(repr, TEMPLATES))}, each once"
            )
        source = {"revision": revision, "dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
        super().__init__(
            model, tokenizer, "AutoModelForSeq2SeqLM", max_length, token_budget, source,
            columns=columns, turns=turns, overwrite=overwrite,
        )  # fmt: skip

    def prepare(self, conversations: list[Conversation]) -> tuple[list[list[int]], list[int], list[str | None]]:
        """The questions in ids, the tokens of each response, and notes; see [`Indicator.prepare`]."""
        tokenizer = self.load().tokenizer
        _answers(tokenizer)  # so that nobody else asks the tokenizer while it works in another thread
        sequences, tokens = [], []
        notes: list[str | None] = []
        for conversation in conversations:
            response = encode_data(tokenizer, conversation.written)
            asked = [encode_question(tokenizer, n, conversation, response, self.max_length) for n in self.names]
            sequences += [ids for ids, _ in asked]
            tokens.append(max(len(response), 1))
            cut = {note for _, note in asked}
            notes.append(next((n for n in ("truncated response", "truncated prompt") if n in cut), None))
        return sequences, tokens, notes

    def score(
        self, conversations: list[Conversation], prepared: Any = None
    ) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
        """Scores `(n, dimensions)`, response tokens `(n,)`, and notes; see [`Indicator.score`]."""
        sequences, tokens, notes = self.prepare(conversations) if prepared is None else prepared
        probabilities = yes_probabilities(self.load(), sequences)
        scores = np.reshape(probabilities, (len(conversations), len(self.names)))
        overflown = np.isnan(scores).any(axis=1)
        notes = ["the model's answer is not a number" if nan else note for nan, note in zip(overflown, notes)]
        return scores, np.array(tokens, float), notes


def encode_question(
    tokenizer: "PreTrainedTokenizerBase",
    dimension: str,
    conversation: Conversation,
    response: list[int],
    max_length: int,
) -> tuple[list[int], str | None]:
    """Ids of the question about a conversation, whose `response` is given as ids too, and a note where it was cut."""
    template = TEMPLATES[dimension]
    data = [conversation.written]
    if dimension == "coherence":
        data.append("\n".join(message["content"] for message in conversation.prompt) + "\n\n")
    end = [tokenizer.eos_token_id]
    ids = encode_template(tokenizer, template, *data) + end
    if len(ids) <= max_length:
        return ids, None
    texts = [encode_template(tokenizer, text) for text in template.split("{}")]
    parts = [response, *(encode_data(tokenizer, text) for text in data[1:])]
    room = max_length - sum(map(len, texts)) - len(end)
    if room < len(parts):
        raise InstructMineError(f"max_length={max_length} is too small: the question takes {max_length - room} tokens")
    kept = [response[: max(room - sum(map(len, parts[1:])), room // len(parts))]]
    kept += [part[: room - len(kept[0])] for part in parts[1:]]
    ids = [i for text, part in zip(texts, [*kept, []]) for i in (*text, *part)] + end
    return ids, "truncated response" if len(kept[0]) < len(response) else "truncated prompt"


def yes_probabilities(loaded: LoadedModel, sequences: list[list[int]]) -> list[float]:
    """P(Yes) / (P(Yes) + P(No)) at the decoder's first step, for each sequence of encoder ids."""
    import torch

    model = loaded.model
    yes, no = _answers(loaded.tokenizer)

    def forward(batch: list[int]) -> list[float]:
        ids, mask = pad_with_mask([sequences[i] for i in batch], loaded.device, model.config.pad_token_id)
        start = ids.new_full((len(batch), 1), model.config.decoder_start_token_id)
        with torch.inference_mode():
            logits = _two_logits(model, [yes, no], input_ids=ids, attention_mask=mask, decoder_input_ids=start)
        return (logits[:, 0] - logits[:, 1]).float().sigmoid().tolist()

    return run_sorted(loaded, [len(s) for s in sequences], forward)


@lru_cache(maxsize=16)
def _answers(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, int]:
    """The first tokens of Yes and No."""
    yes, no = (encode_data(tokenizer, word)[0] for word in ("Yes", "No"))
    if yes == no or tokenizer.unk_token_id in (yes, no):
        raise InstructMineError(
            f"the tokenizer '{tokenizer.name_or_path}' does not tell Yes from No by their first token"
        )
    return yes, no


def _two_logits(model: "PreTrainedModel", rows: list[int], **inputs: "torch.Tensor") -> "torch.Tensor":
    """Logits `(n, 2)` of two tokens at the decoder's only step: two rows of the head instead of the vocabulary's."""
    import torch

    head, states = model.get_output_embeddings(), []
    if type(head) is not torch.nn.Linear:  # adapted or quantised: not its weight alone
        return model(**inputs, use_cache=False).logits[:, 0, rows]

    def keep(_module: "torch.nn.Module", head_inputs: tuple) -> tuple:
        states.append(head_inputs[0])  # where embeddings are tied, T5 has scaled them here
        return (head_inputs[0][:, :0],)  # nothing is left to multiply with the whole vocabulary

    handle = head.register_forward_pre_hook(keep)
    try:
        model(**inputs, use_cache=False)
    finally:
        handle.remove()
    bias = None if head.bias is None else head.bias[rows]
    return torch.nn.functional.linear(states[0][:, 0], head.weight[rows], bias)
