"""Likelihood of the response under a language model (InstructMining, section 3: PPL; the paper used Llama-2-7B)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.conversation import Conversation
from ..errors import InstructMineError
from ..models.chat import Chat, Turn
from ..models.engine import response_nll
from ..models.rendering import check_template_kwargs
from ..models.tokenization import added_bos, encode_data
from .base import ModelIndicator


_ALSO = ("nll", "ifd", "end_of_turn")
_NATS = {"nll", "end_of_turn"}


class Perplexity(ModelIndicator):
    """`exp` of the mean negative log-likelihood of the response's tokens; column `perplexity`, from 1 to infinity.

    Prompt, response and end of turn are what the model's chat template writes; a model without one gets the messages'
    contents, each followed by a blank line, after a BOS token if its tokenizer adds one. Every token that the template
    writes for the response counts, the first one too. The text of special tokens in the data is scored as text. A row
    that the template refuses has NaN and a note.

    Further columns come from the same forward passes, on request (`also`):

    - `nll`: the mean negative log-likelihood itself, log perplexity, in nats per token, from 0 to infinity. A mean of
      perplexities over a subset is the word of its few largest; the mean of `nll` is not.
    - `ifd`, the instruction-following difficulty (Li et al., 2024, arXiv 2308.12032): perplexity given the prompt over
      perplexity of the response alone, from 0 to infinity. Above 1 the prompt makes the response less likely, as when
      it answers another question.
    - `end_of_turn`: negative log-likelihood of what the template ends the turn in, up to its special token (without a
      template, of EOS), in nats, from 0 to infinity. High where the response stops in mid-sentence.

    Args:
        model (`str` or `PreTrainedModel`): Causal language model: Hub id, local folder, PEFT adapter, or loaded.
        tokenizer (`str` or `PreTrainedTokenizerBase`, *optional*): Defaults to the model's own.
        given (`bool`, defaults to `True`): Whether the response is conditioned on its prompt. With `False` it is
            scored alone, without a template; its first token then counts only where the tokenizer adds a BOS.
        include_eos (`bool`, defaults to `False`): Whether the end of the turn counts as a part of the response.
        also (`Sequence[str]`, *optional*): any of `"nll"`, `"ifd"` and `"end_of_turn"`.
        revision (`str`, *optional*): Branch, tag or commit of the model on the Hub.
        dtype (`str`, defaults to `"float32"`): `"bfloat16"` is several times faster and moves a score by about 1 %.
        device (`str`, *optional*): Defaults to the GPU where there is one.
        max_length (`int`, defaults to 2048): In tokens; at most the positions that the model has. What is longer
            loses the start of its prompt first (down to a quarter of `max_length`), then the end of its response, and
            is counted.
        token_budget (`int`, *optional*): Tokens in a forward pass, padding included; defaults to 4096, on a CPU to 512
            (larger batches leave its cache, and take longer).
        trust_remote_code (`bool`, defaults to `False`): Whether the model's repository may run code.
        chat_template_kwargs (`Mapping[str, Any]`, *optional*): Arguments of the chat template, such as
            `{"enable_thinking": False}`; a row's column `chat_template_kwargs` goes before them.
        columns, turns, overwrite: See [`Indicator`]. With `turns="all"`, exp(Σ NLL / Σ tokens) over all turns.

    Raises:
        [`InstructMineError`]: On the first batch, where the model or its tokenizer cannot be loaded.

    Example:

    ```python
    perplexity = him.Perplexity("HuggingFaceTB/SmolLM2-135M-Instruct", also=("nll", "ifd"))
    scored = him.score(pool, perplexity, output_dir="scored")
    ```
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        given: bool = True,
        include_eos: bool = False,
        also: Sequence[str] = (),
        revision: str | None = None,
        dtype: Any = "float32",
        device: str | None = None,
        max_length: int = 2048,
        token_budget: int | None = None,
        trust_remote_code: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        columns: Mapping[str, str] | None = None,
        turns: str = "last",
        overwrite: bool = False,
    ):
        source = {"revision": revision, "dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
        super().__init__(
            model, tokenizer, "AutoModelForCausalLM", max_length, token_budget, source,
            columns=columns, turns=turns, overwrite=overwrite,
        )  # fmt: skip
        unknown = [name for name in also if name not in _ALSO]
        if unknown:
            raise InstructMineError(f"also={unknown[0]!r} is not known: it takes {', '.join(map(repr, _ALSO))}")
        if also and not given:
            raise InstructMineError(
                "also needs given=True: it compares with, or follows, the response given its prompt"
            )
        self.given = given
        self.include_eos = include_eos
        self.chat_template_kwargs = check_template_kwargs(chat_template_kwargs)
        self.names = ("perplexity", *also)

    def prepare(self, conversations: list[Conversation]) -> tuple[list[Turn], list[tuple[list[int], int]]]:
        """The turns in token ids, and what is scored of each without its prompt; see [`Indicator.prepare`]."""
        limit = min(self.max_length, self.load().max_positions)
        turns = [self._encoded(conversation).within(limit) for conversation in conversations]
        return turns, [self._alone(turn) for turn in turns] if self._ifd else []

    def score(
        self, conversations: list[Conversation], prepared: Any = None
    ) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
        """Nats per token `(n, len(names))`, response tokens `(n,)`, and notes; see [`Indicator.score`]."""
        loaded = self.load()
        turns, alone = self.prepare(conversations) if prepared is None else prepared
        sequences = [*(turn.ids for turn in turns), *(ids for ids, _ in alone)]
        nll = response_nll(loaded, sequences, [*(turn.start for turn in turns), *(start for _, start in alone)])
        columns: dict[str, list[float]] = {name: [] for name in self.names}
        tokens, notes = [], []
        for i, turn in enumerate(turns):
            response, closing = np.split(nll[i], [turn.close - turn.start])
            counted = nll[i] if self.include_eos else response
            columns["perplexity"].append(_mean(counted))
            if "nll" in self.names:
                columns["nll"].append(columns["perplexity"][-1])
            unknown = [] if len(counted) else ["no token to score"]
            if self._ifd:
                # Without a BOS the first token of the response alone cannot be scored: both means leave it out.
                same = response[len(response) - len(nll[len(turns) + i]) :]
                columns["ifd"].append(_mean(same) - _mean(nll[len(turns) + i]))
                unknown += ["no token to compare for ifd"] if len(counted) and not len(same) else []
            if "end_of_turn" in self.names:
                columns["end_of_turn"].append(float(closing.sum(dtype=np.float64)) if len(closing) else np.nan)
                unknown += [] if len(closing) or turn.cut == "truncated response" else ["no end of turn"]
            tokens.append(len(counted))
            notes.append("; ".join(filter(None, [turn.note, *unknown])) or None)
        return np.array([columns[name] for name in self.names]).T, np.array(tokens), notes

    def _encoded(self, conversation: Conversation) -> Turn:
        """Prompt, response and, where it is scored, the end of the turn."""
        ends = self.include_eos or "end_of_turn" in self.names
        chat = self.chat()
        if chat is None:
            return self._without_prompt(conversation, ends)
        turn = chat.encode(conversation, ends)
        return turn.until(turn.stop if ends else turn.close)

    def _without_prompt(self, conversation: Conversation, ends: bool) -> Turn:
        tokenizer = self.load().tokenizer
        bos = added_bos(tokenizer)
        ids = bos + encode_data(tokenizer, conversation.written)
        closing = [tokenizer.eos_token_id] if ends else []
        if None in closing:
            raise InstructMineError(f"the tokenizer '{tokenizer.name_or_path}' has no EOS token to score")
        return Turn([*ids, *closing], len(bos), len(ids), len(ids) + len(closing))

    def _alone(self, turn: Turn) -> tuple[list[int], int]:
        """The same response without its prompt, and where what can be scored of it starts."""
        bos = added_bos(self.load().tokenizer)
        return [*bos, *turn.ids[turn.start : turn.close]], 1

    def chat(self) -> Chat | None:
        """See [`Indicator.chat`]."""
        return Chat(self.tokenizer(), self.chat_template_kwargs) if self.given else None

    @property
    def _ifd(self) -> bool:
        return "ifd" in self.names

    def _gather(self, *args: Any) -> tuple[dict[str, list[float]], list[str | None]]:
        values, notes = super()._gather(*args)
        # A mean of NLLs is a log perplexity, and a difference of them a log ratio.
        return {k: v if k in _NATS else np.exp(v).tolist() for k, v in values.items()}, notes

    def provenance(self) -> dict[str, Any]:
        """The model's, what the response is given, and whether its end counts."""
        record = {**super().provenance(), "given": self.given, "include_eos": self.include_eos}
        return {**record, **Chat(self.tokenizer(), self.chat_template_kwargs).provenance()} if self.given else record


def _mean(nll: np.ndarray) -> float:
    return float(nll.mean(dtype=np.float64)) if len(nll) else np.nan
