"""`instructmine select`: reads the pool and the rule, selects, and writes the curated dataset."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from ..data.inputs import load_pool, parse_mapping
from ..errors import InstructMineError
from ..selection.selector import Selector
from .values import load_rule


_BUDGETS = ("size", "fraction", "tokens", "max_log_loss")


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    columns = parse_mapping(args.columns)
    if args.encoder is None and (args.set_level or args.max_similarity is not None):
        option = "--set-level" if args.set_level else "--max-similarity"
        raise InstructMineError(f"{option} compares embeddings: name a sentence encoder with --encoder")
    rule = load_rule(args.rule)
    quotas = parse_quotas(args.quota)
    scored = load_pool(args.input, args.split, args.sample, args.seed)
    selector = Selector(
        rule,
        max_similarity=args.max_similarity,
        quotas=quotas,
        max_response_tokens=args.max_response_tokens,
        length_bins=args.length_bins,
        set_level=args.set_level,
        **_read(args, scored, columns),
    )
    selection = selector.select(
        scored,
        **{name: getattr(args, name) for name in _BUDGETS},
        drop_duplicates=not args.keep_duplicates,
        columns=columns,
        max_leverage=args.max_leverage,
        allow_mismatch=args.allow_mismatch,
    )
    selection.save_to_disk(args.output_dir, overwrite=args.overwrite)
    print(selection)
    print(f"\nWrote {args.output_dir}: load_dataset({str(args.output_dir)!r}) opens it; README.md is its dataset card")


def parse_quotas(texts: Sequence[str] | None) -> dict[str, tuple[float | None, float | None]] | None:
    """Reads `SOURCE=LEAST:MOST`, shares from 0 to 1; either may be empty.

    Raises:
        [`InstructMineError`]: Where one is not of that form, or a source is named twice.
    """
    quotas: dict[str, tuple[float | None, float | None]] = {}
    for text in texts or ():
        source, _, bounds = text.rpartition("=")
        try:
            least, most = (float(bound) if bound.strip() else None for bound in bounds.split(":"))
        except ValueError:
            source = ""
        if not source:
            raise InstructMineError(f"the quota '{text}' is not of the form SOURCE=LEAST:MOST, such as web=0.1:0.5")
        if source in quotas:
            raise InstructMineError(f"the source '{source}' has two quotas")
        quotas[source] = (least, most)
    return quotas or None


def _read(args: argparse.Namespace, scored: Dataset, columns: Mapping[str, str] | None) -> dict[str, Any]:
    """What a selector needs besides numbers: the embeddings of the pool, and evaluation sets."""
    given: dict[str, Any] = {}
    if args.max_similarity is not None or args.set_level:
        from ..indicators.neighbor_distance import NeighborDistance

        given["embeddings"] = NeighborDistance(model=args.encoder, columns=columns).embed(scored)
    if args.eval_set:
        from ..data.evaluation_sets import load_eval_sets

        given["eval_sets"] = load_eval_sets(args.eval_set)
    return given
