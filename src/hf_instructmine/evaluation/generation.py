"""Answers of a model to prompts: in batches, turn after turn, each recorded once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..errors import InstructMineError
from ..models.chat import Chat
from ..models.checks import embedding_rows
from ..models.loading import LoadedModel, ModelSource, describe_source
from ..models.weights import adapted_model
from ..outputs.digests import digest
from ..outputs.records import Records
from .journal import Journal, read_lines
from .questions import Question, read_questions


if TYPE_CHECKING:
    from transformers import GenerationConfig

# Other files that a folder of a judgement holds.
BESIDE = ("answers-", "judge.", "verdicts.", "responses.")
# Tokens of the text that shows whether a model reads padding, and how far its logits may move by it, as a share of
# their spread: in models of many kinds that do not read it, by 1e-6 in float32.
_TRIED = 12
_TOLERANCES = {"float32": 2e-4, "less": 0.05}


@dataclass(frozen=True)
class Answer:
    """What a model answered in one turn.

    Attributes:
        text (`str`, *optional*): None where the model could not be asked.
        tokens (`int`): How many it wrote, without the end of the turn.
        stopped (`bool`): Whether it ended its turn; False where it was cut at `max_new_tokens`.
        problem (`str`, *optional*): Why there is no text.
    """

    text: str | None
    tokens: int = 0
    stopped: bool = True
    problem: str | None = None


@dataclass(frozen=True)
class Decoding:
    """How answers are decoded.

    Attributes:
        max_new_tokens (`int`): Most tokens of an answer.
        temperature (`float`): 0 takes the likeliest token each time.
        seed (`int`): Of the draws, where the temperature is above 0.
        batch_size (`int`): Answers written at once.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    seed: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.batch_size < 1:
            raise InstructMineError("max_new_tokens and batch_size must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise InstructMineError(f"temperature must be 0 (greedy) or more, not {self.temperature}")

    @property
    def request(self) -> dict[str, Any]:
        """What answers depend on, as plain data. A greedy answer depends on neither the seed nor the batch."""
        fixed = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature}
        return {**fixed, "seed": self.seed, "batch_size": self.batch_size} if self.temperature else fixed


def generate(
    model: Any,
    prompts: Any,
    output_dir: str | Path,
    *,
    name: str = "model",
    tokenizer: Any = None,
    columns: Mapping[str, Any] | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 8,
    dtype: str = "float32",
    device: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[list[Answer]]:
    """Lets a model answer prompts, and keeps each batch of answers as soon as it is written.

    Prompts are what the model's chat template writes. An answer ends at the tokenizer's EOS, at the special token in
    which the template ends a turn, or at one that the model's generation configuration names. Nothing else is taken
    from that configuration. Special tokens, and blanks around an answer, are
    left out of its text. A later turn follows the model's own answers.

    Prompts of like length share a batch, padded on the left. In float32 a greedy answer does not depend on its batch,
    up to rounding of 1e-6 in the logits; in bfloat16 rounding is larger, and a near tie may fall otherwise. The same
    prompts make the same batches after a kill, so that sampled answers are the same, too.

    Args:
        model (`str`, `Path` or `PreTrainedModel`): Folder, folder of a PEFT adapter, Hub id, or a loaded model.
        prompts: Whatever [`as_dataset`] takes, in any layout of `docs/rows.md`; or a list of [`Question`]s.
        output_dir (`str` or `Path`): Answers go to `answers-<name>.jsonl` in it.
        name (`str`): Names the model's files.
        tokenizer (`PreTrainedTokenizerBase` or `str`, *optional*): Needed where a loaded model is passed.
        columns (`Mapping[str, Any]`, *optional*): Which column is which.
        max_new_tokens (`int`, defaults to 512): Most tokens of an answer; fewer where the model has no positions left.
        temperature (`float`, defaults to 0): 0 takes the likeliest token each time; above it, tokens are drawn.
        seed (`int`, defaults to 0): Of the draws.
        batch_size (`int`, defaults to 8): Answers written at once.
        dtype (`str`, defaults to `"float32"`): Precision of the weights.
        device (`str`, *optional*): Defaults to the accelerator where there is one.
        chat_template_kwargs (`Mapping[str, Any]`, *optional*): Of the chat template, as `{"enable_thinking": False}`.

    Returns:
        `list[list[Answer]]`: By prompt, then by turn.

    Raises:
        [`InstructMineError`]: Where the model cannot be had, its template refuses a prompt, or the folder holds
            answers of another model, of other prompts, or decoded otherwise.
    """
    decoding = Decoding(max_new_tokens, temperature, seed, batch_size)
    source, held = ModelSource.of(model, tokenizer, "AutoModelForCausalLM", None, dtype=dtype, device=device)
    is_read = isinstance(prompts, list) and prompts and isinstance(prompts[0], Question)
    questions = prompts if is_read else read_questions(prompts, columns)
    answers = write_answers(output_dir, name, source, questions, decoding, chat_template_kwargs)
    del held  # a loaded model is found as long as someone holds it
    return answers


def write_answers(
    folder: str | Path,
    name: str,
    source: ModelSource,
    questions: Sequence[Question],
    decoding: Decoding,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[list[Answer]]:
    """[`generate`] for what is read already."""
    answers = Answers(folder, name, questions)
    told = {"chat_template_kwargs": dict(chat_template_kwargs)} if chat_template_kwargs else {}
    answers.claim({"model": model_identity(source), **decoding.request, **told})
    answers.write(source, decoding, chat_template_kwargs)
    return answers.texts()


def model_identity(source: ModelSource) -> dict[str, Any]:
    """What tells a model from all others, without a path: digests of a folder's files, or the Hub's id and commit.

    For an adapter, the model that it adapts as well.
    """
    told: dict[str, Any] = source.provenance()
    folder = Path(source.model)
    if not source.is_loaded and (folder / "adapter_config.json").is_file() and not (folder / "config.json").exists():
        told["base"] = _known(describe_source(adapted_model(folder), None))
    return _known(told)


def _known(told: dict[str, Any]) -> dict[str, Any]:
    """Without the name of a folder, which may be moved, where its weights have a digest."""
    return {key: value for key, value in told.items() if key != "model" or "weights" not in told}


class Answers:
    """The answers of one model in a folder.

    Args:
        folder (`str` or `Path`): Of the judgement.
        name (`str`): The model's.
        questions (`list[Question]`): All that it is asked.
    """

    def __init__(self, folder: str | Path, name: str, questions: Sequence[Question]):
        self.records, self.name, self.questions = Records(folder), name, questions
        self.journal = Journal(self.records.folder / f"answers-{name}.jsonl")
        self.found: dict[tuple[int, int], Answer] = {}

    def claim(self, request: Mapping[str, Any]) -> None:
        """Makes the file this request's, and reads what is there.

        Raises:
            [`InstructMineError`]: Where it holds answers to another request.
        """
        asked = {"prompts": prompts_digest(self.questions), **request}
        what = f"set of answers of '{self.name}'"
        self.records.claim(f"answers-{self.name}.json", asked, what, beside=BESIDE)
        for line in self.journal.read():
            key = (line["row"], line["turn"])
            self.found.setdefault(key, Answer(line["answer"], line["tokens"], line["stopped"], line.get("problem")))

    def missing(self) -> int:
        """Answers that are still to be written."""
        return sum(len(question.turns) for question in self.questions) - len(self.found)

    def texts(self) -> list[list[Answer]]:
        """All answers, by prompt and turn."""
        return [[self.found[question.row, t] for t in range(len(question.turns))] for question in self.questions]

    def write(self, source: ModelSource, decoding: Decoding, kwargs: Mapping[str, Any] | None = None) -> None:
        """Writes those that are missing; the model is loaded only where some are.

        Raises:
            [`InstructMineError`]: Where the model cannot be had, or its template refuses a prompt.
        """
        with self.records.lock(f"answers-{self.name}", patience=0) as is_free:
            if not is_free:
                raise InstructMineError(f"another process writes the answers of '{self.name}' in this folder: let it")
            if not self.missing():
                return
            writer = Generator(source.load(None), decoding, kwargs)
            for question in self.questions:  # a refused prompt is better found before the first answer
                writer.chat.encode_prompt(question.conversation([]))
            total = len(self.found) + self.missing()
            with tqdm(total=total, initial=len(self.found), desc=f"Answers of {self.name}", unit="answer") as bar:
                for turn in range(max(len(question.turns) for question in self.questions)):
                    self._write_turn(turn, writer, bar)

    def _write_turn(self, turn: int, writer: "Generator", bar: tqdm) -> None:
        asked = [question for question in self.questions if len(question.turns) > turn]
        broken = [q for q in asked if any(self.found[q.row, t].text is None for t in range(turn))]
        self._keep({(q.row, turn): Answer(None, problem="no answer in an earlier turn") for q in broken}, bar)
        asked = [question for question in asked if question not in broken]
        texts = [[str(self.found[q.row, t].text) for t in range(turn)] for q in asked]
        prompts = [writer.chat.encode_prompt(q.conversation(before)) for q, before in zip(asked, texts)]
        # All prompts, not the missing ones alone: batches, and what is drawn in them, are the same after a kill.
        for batch in writer.batches(prompts):
            keys = [(asked[i].row, turn) for i in batch]
            if any(key not in self.found for key in keys):
                self._keep(dict(zip(keys, writer.answer([prompts[i] for i in batch], keys))), bar)

    def _keep(self, answers: Mapping[tuple[int, int], Answer], bar: tqdm) -> None:
        new = {key: answer for key, answer in answers.items() if key not in self.found}
        if not new:
            return
        self.journal.append(
            {
                "row": row,
                "turn": turn,
                "answer": answer.text,
                "tokens": answer.tokens,
                "stopped": answer.stopped,
                **({"problem": answer.problem} if answer.problem else {}),
            }
            for (row, turn), answer in new.items()
        )
        self.found |= new
        bar.update(len(new))


class Generator:
    """A loaded model that answers prompts in token ids."""

    def __init__(self, loaded: LoadedModel, decoding: Decoding, kwargs: Mapping[str, Any] | None):
        self.loaded, self.decoding = loaded, decoding
        self.chat = Chat(loaded.tokenizer, kwargs)
        own = loaded.model.generation_config
        configured = getattr(own, "eos_token_id", None)  # a model without generation has no configuration of it
        self.stops = self.chat.stop_ids() | {*(configured if isinstance(configured, list) else [configured])} - {None}

    def batches(self, prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Numbers of prompts that are answered together: of like length, longest first, alone where they must be."""
        waiting = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
        while waiting:
            longest = len(prompts[waiting[0]]) + self.decoding.max_new_tokens
            alone = longest > min(self.loaded.max_positions, self.loaded.alone_from)
            batch = waiting[: 1 if alone else self.decoding.batch_size]
            if len(batch) > 1 and not self.pads:
                batch = [i for i in batch if len(prompts[i]) == len(prompts[batch[0]])]
            yield batch
            waiting = waiting[len(batch) :]

    @cached_property
    def pads(self) -> bool:
        """Whether the model answers a prompt as before with padding on its left: RWKV and kin read it like a text.

        One token of a short text is asked for with and without it; prompts of other lengths share no batch then.
        """
        import torch

        size = embedding_rows(self.loaded.model) or self.loaded.model.config.get_text_config().vocab_size
        text = [(size // 3 + i) % size for i in range(_TRIED)]
        logits = [self._first_logits([0] * before + text, before) for before in (0, _TRIED)]
        moved = float((logits[0] - logits[1]).abs().mean() / logits[0].std())
        return moved <= (_TOLERANCES["float32" if self.loaded.model.dtype == torch.float32 else "less"])

    def _first_logits(self, ids: list[int], padding: int) -> Any:
        """Logits of the token after a text whose first so many tokens are padding."""
        mask = [0] * padding + [1] * (len(ids) - padding)
        config = self._config(1, 0)
        config.output_logits, config.return_dict_in_generate = True, True
        return self._generate([ids], [mask], config).logits[0][0].float()

    def answer(self, prompts: Sequence[Sequence[int]], keys: Sequence[Any]) -> list[Answer]:
        """The answers of one batch; the keys and the seed decide what is drawn."""
        import torch

        longest = max(map(len, prompts))
        room = min(self.decoding.max_new_tokens, self.loaded.max_positions - longest)
        if room < 1:  # alone in its batch
            return [Answer(None, problem=f"the prompt of {longest} tokens leaves the model no position to answer in")]
        fill = min(self.stops, default=0)
        ids = [[fill] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        device = self.loaded.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(digest([self.decoding.seed, *keys], 15), 16))
            try:
                written = self._generate(ids, mask, self._config(int(room), fill))
            except (MemoryError, torch.OutOfMemoryError) as error:
                raise InstructMineError(
                    f"{len(prompts)} answers at once do not fit into memory: lower batch_size or max_new_tokens"
                ) from error
        return [self._read(row) for row in written[:, longest:].tolist()]

    def _generate(self, ids: list[list[int]], mask: list[list[int]], config: "GenerationConfig") -> Any:
        import torch

        fed = {name: torch.tensor(rows, device=self.loaded.device) for name, rows in
               (("input_ids", ids), ("attention_mask", mask))}  # fmt: skip
        with torch.inference_mode(), _only(config, self.loaded.model):
            return self.loaded.model.generate(**fed, generation_config=config)  # type: ignore[operator]

    def _config(self, room: int, fill: int) -> "GenerationConfig":
        from transformers import GenerationConfig

        drawn = (
            {"temperature": self.decoding.temperature, "top_k": 0, "top_p": 1.0} if self.decoding.temperature else {}
        )
        return GenerationConfig(
            max_new_tokens=room,
            do_sample=bool(drawn),
            eos_token_id=sorted(self.stops) or None,
            pad_token_id=fill,
            **drawn,
        )

    def _read(self, ids: list[int]) -> Answer:
        end = next((i for i, token in enumerate(ids) if token in self.stops), None)
        text = self.loaded.tokenizer.decode(ids[:end], skip_special_tokens=True)
        return Answer(str(text).strip(), len(ids[:end]), end is not None)


@contextmanager
def _only(config: "GenerationConfig", model: Any) -> Iterator[None]:
    """Within the context the model's own generation configuration says nothing: a penalty in it, say, would change
    what is called greedy."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


def read_answers(path: Path, name: str, questions: Sequence[Question]) -> list[list[Answer]]:
    """Answers that were made before: a JSON lines file of `row`, `turn` (0 where it is absent) and `answer`.

    Raises:
        [`InstructMineError`]: Where it does not hold one text for each turn of each prompt, or they are answers to
            other prompts.
    """
    before = Records(path.parent).read(path.with_suffix(".json"))
    if before is not None and before.get("prompts") != prompts_digest(questions):
        raise InstructMineError(f"the answers of '{name}' are to other prompts: name those, or another file")
    found: dict[tuple[Any, Any], Answer] = {}
    for number, line in enumerate(read_lines(path)):
        text = line.get("answer")
        if not isinstance(text, str) and not line.get("problem"):
            raise InstructMineError(f"line {number + 1} of the answers of '{name}' has no text 'answer'")
        known = {key: line[key] for key in ("tokens", "stopped", "problem") if key in line}
        found[line.get("row"), line.get("turn", 0)] = Answer(text, **known)
    wanted = {(question.row, turn) for question in questions for turn in range(len(question.turns))}
    if found.keys() != wanted:
        row, turn = min(wanted ^ found.keys(), key=str)
        lacks = "lacks one" if (row, turn) in wanted else "has one too many"
        raise InstructMineError(
            f"the answers of '{name}' are to other prompts: '{path.name}' {lacks} (row {row}, turn {turn})"
        )
    return [[found[question.row, turn] for turn in range(len(question.turns))] for question in questions]


def prompts_digest(questions: Sequence[Question]) -> str:
    """A digest of all that is asked."""
    return digest([question.identity for question in questions])
