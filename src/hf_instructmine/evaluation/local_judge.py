"""A judge that is a local transformers model: by the probabilities of its verdicts, or by what it writes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..data.conversation import Conversation
from ..errors import InstructMineError
from ..models.chat import Chat
from ..models.engine import response_nll
from ..models.loading import LoadedModel, ModelSource
from .generation import Decoding, Generator, model_identity
from .prompts import Inquiry, Verdict, read_verdict


# Tokens of a written verdict with its explanation.
_REPLY_TOKENS = 256
BY = ("logits", "text")


class LocalJudge:
    """A causal language model with a chat template, as a judge.

    Args:
        model (`str`): Folder or Hub id.
        by (`str`, defaults to `"logits"`): `"logits"` compares the probabilities of the verdicts that there may be,
            so that every reply is one; `"text"` reads what the model writes, and counts what is no verdict.
        batch_size (`int`, defaults to 8): Texts written at once.
        dtype (`str`, defaults to `"float32"`): Precision of the weights.
        device (`str`, *optional*): Defaults to the accelerator where there is one.

    Raises:
        [`InstructMineError`]: Where `by` is neither.
    """

    def __init__(
        self, model: str, by: str = "logits", batch_size: int = 8, dtype: str = "float32", device: str | None = None
    ):
        if by not in BY:
            raise InstructMineError(f"judge_by must be 'logits' or 'text', not {by!r:.40}")
        self.by = by
        self.source, _ = ModelSource.of(model, None, "AutoModelForCausalLM", None, dtype=dtype, device=device)
        self.decoding = Decoding(_REPLY_TOKENS, batch_size=batch_size)
        self._loaded: LoadedModel | None = None

    @property
    def form(self) -> str:
        """How it replies."""
        return "letter" if self.by == "logits" else "json"

    @property
    def identity(self) -> dict[str, Any]:
        """What verdicts depend on, as plain data."""
        return {"judge": model_identity(self.source), "judge_by": self.by}

    def check(self) -> None:
        """Looks whether the model is there.

        Raises:
            [`InstructMineError`]: Where it is not, or its tokenizer has no chat template.
        """
        from ..models.availability import check_model

        check_model(self.source)
        if self.source.load_tokenizer().chat_template is None:
            raise InstructMineError(
                f"the judge '{self.source.model}' has no chat template: a judge is a model that follows instructions"
            )

    def verdicts(self, inquiries: Sequence[Inquiry]) -> Iterator[tuple[int, Verdict]]:
        """Asks all and yields the number of each with its verdict.

        Raises:
            [`InstructMineError`]: Where the model cannot be had or does not fit into memory.
        """
        if inquiries and self._loaded is None:
            self._loaded = self.source.load(None)
        if self.by == "logits":
            for number, inquiry in enumerate(inquiries):
                yield number, self._by_logits(inquiry)
        else:
            yield from self._by_text(inquiries)

    def _by_logits(self, inquiry: Inquiry) -> Verdict:
        """The verdict of the highest probability, all others that there may be beside it.

        Where one verdict begins another ("1" and "10"), the end of the turn counts, too.
        """
        loaded = self._model()
        chat, choices = Chat(loaded.tokenizer), inquiry.choices
        turns = [chat.encode(_conversation(inquiry, reply)) for reply in choices]
        if max(turn.stop for turn in turns) > loaded.max_positions:
            return Verdict(None, "too long")
        closed = any(a != b and b.startswith(a) for a in choices for b in choices)
        ends = [turn.stop if closed else turn.close for turn in turns]
        nll = response_nll(loaded, [t.ids[:end] for t, end in zip(turns, ends)], [turn.start for turn in turns])
        scores = -np.array([values.sum(dtype=np.float64) for values in nll])
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        best = int(shares.argmax())
        return Verdict(list(choices.values())[best], share=round(float(shares[best]), 6))

    def _by_text(self, inquiries: Sequence[Inquiry]) -> Iterator[tuple[int, Verdict]]:
        again: list[int] = []
        for number, verdict in self._written(list(inquiries)):
            if verdict.problem in ("malformed", "cut"):
                again.append(number)
            else:
                yield number, verdict
        for k, verdict in self._written([inquiries[number].again for number in again]):
            yield again[k], replace(verdict, asked=2)

    def _written(self, inquiries: Sequence[Inquiry]) -> Iterator[tuple[int, Verdict]]:
        writer = Generator(self._model(), self.decoding, None)
        prompts = [writer.chat.encode_prompt(_conversation(inquiry)) for inquiry in inquiries]
        for batch in writer.batches(prompts):
            for number, answer in zip(batch, writer.answer([prompts[i] for i in batch], batch)):
                if answer.text is None:
                    yield number, Verdict(None, "too long")
                elif not answer.stopped:
                    yield number, Verdict(None, "cut")
                else:
                    yield number, read_verdict(answer.text, inquiries[number])

    def _model(self) -> LoadedModel:
        assert self._loaded is not None  # `verdicts` loads it
        return self._loaded


def _conversation(inquiry: Inquiry, reply: str = "") -> Conversation:
    """One message of the user's: not every template knows a system message. What answers spell out of special tokens
    is made inert where it is encoded."""
    text = f"{inquiry.system}\n\n{inquiry.user}"
    return Conversation([{"role": "user", "content": text}], reply)
