"""The parser of a verb: options and inputs in any order, lists that add up, and the nearest name for a wrong one."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from ..errors import nearest
from ..indicators import find_indicator


LISTS = ("+", "*")
# What several verbs have stands in this order in the help of each; what one verb has alone, where "…" is.
ORDER = (
    "help", "config", "split", "sample", "columns", "seed",
    "rule", "strategy", "max_leverage", "allow_mismatch", "model", "recipe", "set", "indicator", "indicators",
    "target", "judge", "prompts", "baseline", "encoder",
    "size", "fraction", "tokens", "num_runs", "parts", "replicates", "…",
    "eval_set", "references", "max_length", "batch_size", "dtype", "trust_remote_code", "concurrency", "num_proc",
    "executor", "workers", "accelerate_config", "retry_failed", "keep_models", "status", "yes", "dry_run",
    "license", "language", "source_license", "pretty_name", "name", "output_dir", "attach", "overwrite",
)  # fmt: skip


class VerbParser(argparse.ArgumentParser):
    """Takes inputs before, between and after options. An option may have `_` for `-`; it is never shortened.

    Attributes:
        passes_on (`bool`): Whether options that are not its own are another program's.
    """

    passes_on = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """As argparse has it; an option that takes a list and is given twice adds up."""
        if names and names[0].startswith("-") and options.get("nargs") in LISTS:
            options.setdefault("action", _AddsUp)
        return super().add_argument(*names, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse has it, whatever the order of the words."""
        words = list(args or ())
        return super().parse_known_args(words if self.passes_on else self._in_order(words), namespace)

    @property
    def options(self) -> dict[str, argparse.Action]:
        """Each option that has a value or a meaning, by its name in Python, in the order of the help."""
        return {action.dest: action for action in self._actions}

    def sort_options(self) -> None:
        """Brings the options into the one order that they have in the help of every verb."""
        for actions in (self._actions, self._optionals._group_actions):
            actions.sort(key=_rank)

    def _in_order(self, words: list[str]) -> list[str]:
        """The same words, with inputs after all options."""
        options: list[str] = []
        inputs: list[str] = []
        while words:
            word = words.pop(0)
            if word == "--":
                inputs += words
                break
            if not _is_option(word):
                inputs.append(word)
                continue
            name, equals, value = word.partition("=")
            action = self._find(name)
            options.append(action.option_strings[0] + equals + value if name not in action.option_strings else word)
            if not equals:
                taken, moved = self._split(action, words)
                options += taken
                inputs += moved
        return [*options, *(["--", *inputs] if inputs else [])]

    def _find(self, name: str) -> argparse.Action:
        action = self._option_string_actions.get(name) or self._option_string_actions.get(name.replace("_", "-"))
        if action is None:
            known = [option for one in self._actions for option in one.option_strings if option.startswith("--")]
            self.error(f"there is no option {name}: {nearest(name, known, quote='')}")
        return action

    def _split(self, action: argparse.Action, words: list[str]) -> tuple[list[str], list[str]]:
        """Takes the words after an option: those that are its own, and those that can only be inputs."""
        most = len(words) if action.nargs in LISTS else action.nargs if isinstance(action.nargs, int) else 1
        own: list[str] = []
        moved: list[str] = []
        while words and len(own) < most and not _is_option(words[0]):
            word = words.pop(0)
            may_end = action.nargs == "*" or (action.nargs == "+" and bool(own))
            is_input = may_end and not _fits(action, word) and self._is_input(word)
            (moved if is_input else own).append(word)
        return own, moved

    def _is_input(self, word: str) -> bool:
        """Whether a word has the look of what the verb takes without an option."""
        inputs = [action for action in self._actions if not action.option_strings]
        if any("=" in str(action.metavar) for action in inputs):
            return "=" in word
        return bool(inputs) and looks_like_rows(word)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(action, f"invalid choice: {value!r:.80}: {nearest(value, known)}")

    def missing(self, option: str, args: argparse.Namespace) -> NoReturn:
        """Ends with the usage and what is missing; where a list may have taken it, with how to keep it from that."""
        lists = [a for a in self._actions if isinstance(a, _AddsUp) and getattr(args, a.dest) is not a.default]
        names, taken = self.options[option].option_strings, ""
        if lists and not names:
            taken = f"; {lists[-1].option_strings[0]} takes all words after it: write the {option} first"
        name = names[0] if names else option.replace("_", "-")
        self.error(f"{name} is missing (here or in --config){taken}")


class _AddsUp(argparse.Action):
    """A list that may be given in several pieces. The first takes the place of the default, or of what a file said."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*(() if before is self.default else before), *values])


def looks_like_rows(word: str) -> bool:
    """Whether a word has the look of a file, a folder or a Hub dataset id."""
    return "/" in word or Path(word).exists() or _is_file_of_rows(word)


def _is_file_of_rows(word: str) -> bool:
    from ..data.files import FileKind

    return "." in word and FileKind.of(word) is not None


def _fits(action: argparse.Action, word: str) -> bool:
    """Whether a word can be one of an option's list, by its look."""
    shown = str(action.metavar)
    if action.dest == "indicator":
        return find_indicator(word.partition(",")[0]) is not None
    if "[=" in shown:
        return True
    if "=" in shown:
        return "=" in word
    if callable(action.type):
        try:
            action.type(word)
        except (TypeError, ValueError):
            return False
        return True
    return "=" not in word and not _is_file_of_rows(word)


def _is_option(word: str) -> bool:
    if not word.startswith("-") or word == "-":
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


def _rank(action: argparse.Action) -> int:
    return ORDER.index(action.dest if action.dest in ORDER else "…") if action.option_strings else ORDER.index("split")
