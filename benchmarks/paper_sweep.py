"""The paper's own way on seven real sources, small: 129 Dirichlet mixtures, and the search for a size.

    python benchmarks/paper_sweep.py --data ../shared/data --output-dir sweep-output

Makes what `notebooks/paper.ipynb` reads: 250 rows of each source out of the pool of `compare_seven_sources.py`, 48
rows in a mixture, two epochs of eight steps that train the last four layers. Losses are of every third Self-Instruct
example and of the MT-Bench questions that have a reference. Killed and started again, it goes on where it stopped.
"""

import argparse
from pathlib import Path

import numpy as np
from compare_seven_sources import score_pool
from datasets import Dataset, load_dataset
from sweep_seven_sources import ROWS_PER_SOURCE, read_pool, write_results

import hf_instructmine as him
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.sweep.design import design_once


ROWS = 250  # of each source
EVERY = 3  # Self-Instruct example
RUNS, SUBSET_SIZE = 129, 48
SETTINGS = {
    "max_length": 384, "eval_max_length": 384, "train_last_layers": 4, "per_device_train_batch_size": 3,
    "gradient_accumulation_steps": 2,
}  # fmt: skip


def main() -> None:
    args = parse()
    output, data = Path(args.output_dir), Path(args.data)
    whole = score_pool(read_pool(data, 900, after=ROWS_PER_SOURCE), output / "scored-next")
    encoder = him.NeighborDistance(him.minilm_l6())
    scored = him.score(sample(whole), encoder, output / "scored-paper")
    questions = load_dataset("json", data_files=str(data / "eval" / "self_instruct_252.jsonl"), split="train")
    eval_sets = {
        "self_instruct": questions.select(range(0, len(questions), EVERY)),
        "mt_bench": str(data / "eval" / "mt_bench.jsonl"),
    }
    print(him.find_contaminated(scored, him.load_eval_sets(eval_sets)))
    recipe = Recipe({**Recipe.load("smollm2-135m-cpu-last-layers").settings, **SETTINGS})
    recipe.settings["model_name_or_path"] = him.smollm2_135m()
    mixtures, _ = design_once(
        scored, output / "paper-sweep", "MiniLM", lambda: encoder.embed(scored), num_runs=RUNS,
        subset_size=SUBSET_SIZE, method="dirichlet", replicates=0, seed=0,
    )  # fmt: skip
    runs = him.run_sweep(scored, mixtures, recipe, eval_sets, output / "paper-sweep")
    write_results(runs, scored, args.results / "paper-sweep")
    rule = him.LossEstimator.fit(runs, target="loss_self_instruct", seed=0)
    print(rule.summary())
    trials = him.search_size(
        scored, him.Selector(rule), recipe, eval_sets, output / "paper-search", min_size=12, max_size=96, num_trials=6,
        grid_seeds=2, full_pool=False,
    )  # fmt: skip
    trials.to_json(args.results / "paper-search.jsonl")
    print(him.size_report(trials))


def sample(whole: Dataset) -> Dataset:
    """As many rows of each source, in the order of the pool."""
    sources, rng = np.array(whole["source"]), np.random.default_rng(0)
    taken = [rng.choice(np.flatnonzero(sources == name), ROWS, replace=False) for name in np.unique(sources)]
    return whole.select(np.sort(np.concatenate(taken)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data", help="folder with pool/ and eval/")
    parser.add_argument("--output-dir", default="sweep-output", help="keeps what is costly; not for the repository")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="where the records go")
    return parser.parse_args()


if __name__ == "__main__":
    main()
