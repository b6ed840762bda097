"""The finetunes of a size search: sweeps, one per recipe, each in a folder of its own."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..data.evaluation_sets import EvaluationSet
from ..errors import InstructMineError
from ..finetuning.recipe import Recipe
from ..sweep.executors import Execution
from ..sweep.manifest import MANIFEST, open_records, recipe_of
from ..sweep.session import SweepSession


# Of a run, what becomes a column of the trials.
RESULTS = ("train_tokens", "steps", "epochs", "seconds", "status", "reason", "recipe_hash")


@dataclass
class Job:
    """A finetune that a search asks for.

    Attributes:
        kind (`str`): `"grid"`, `"search"`, `"full"` or `"grid-steps"`.
        strategy (`str`): `"selected"`, `"random"` or `"full"`.
        config (`dict`): `size` and, by name, the options of the space.
        mixture_id (`str`): As for [`run_sweep`].
        seed (`int`): As for [`run_sweep`].
        indices (`list[int]`): As for [`run_sweep`].
        overrides (`dict`): Options of the recipe that differ from the search's own.
        problem (`str`, *optional*): Why it cannot be run.
    """

    kind: str
    strategy: str
    config: dict[str, Any]
    mixture_id: str
    seed: int
    indices: list[int]
    overrides: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


class JobRunner:
    """Runs jobs, with one session open at a time: that of the last recipe. A context manager.

    Args:
        pool, recipe, eval_sets: As for [`run_sweep`].
        folder (`Path`): Gets a sweep `sweep` of the recipe, and `sweep-<hash>` of each other.
        execution ([`Execution`]): How the runs are carried out.

    Raises:
        [`InstructMineError`]: Where recipe or evaluation sets are not valid.
    """

    def __init__(
        self,
        pool: Dataset,
        recipe: Recipe,
        eval_sets: "Mapping[str, Dataset | EvaluationSet]",
        folder: Path,
        execution: Execution,
    ):
        self.pool, self.recipe, self.folder, self.execution = pool, recipe, folder, execution
        self._stack = ExitStack()
        self._session = SweepSession(pool, recipe, eval_sets, folder / "sweep", execution)
        self.eval_sets = self._session.eval_sets  # read, so that no later session reads them again

    def __enter__(self) -> "JobRunner":
        self._stack.enter_context(self._session)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self, overrides: Mapping[str, Any]) -> None:
        """Looks whether jobs with these options can be run.

        Raises:
            [`InstructMineError`]: Where the recipe with them is not valid.
        """
        self._recipe(overrides).arguments()

    def run(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Runs what is not recorded yet, the jobs of one recipe together.

        Returns:
            `list[dict]`: A row of the trials per job, in order.
        """
        recipes = [self._recipe(job.overrides) for job in jobs]
        found: dict[tuple[str, str, int], dict[str, Any]] = {}
        for recipe in {recipe.hash: recipe for recipe in recipes}.values():
            mixtures = [
                {"mixture_id": job.mixture_id, "seed": job.seed, "indices": job.indices}
                for job, own in zip(jobs, recipes)
                if own.hash == recipe.hash and job.problem is None
            ]
            if mixtures:
                table = self._open(recipe).run(Dataset.from_list(mixtures))
                for row in table.remove_columns("indices"):
                    found[recipe.hash, row["mixture_id"], row["seed"]] = row
        return [
            self._row(job, found.get((recipe.hash, job.mixture_id, job.seed), {}))
            for job, recipe in zip(jobs, recipes)
        ]

    def _recipe(self, overrides: Mapping[str, Any]) -> Recipe:
        return Recipe.load({**self.recipe.settings, **overrides})

    def _open(self, recipe: Recipe) -> SweepSession:
        if recipe.hash != self._session.recipe.hash:
            self._stack.close()  # two models at a time may not fit
            folder = self.folder / "sweep" if recipe.hash == self.recipe.hash else self._folder_of(recipe)
            self._session = SweepSession(self.pool, recipe, self.eval_sets, folder, self.execution)
            self._stack.enter_context(self._session)
        return self._session

    def _folder_of(self, recipe: Recipe) -> Path:
        """That of a sweep of a comparable recipe, where there is one: earlier versions hashed more options."""
        for path in sorted(self.folder.glob(f"sweep-*/{MANIFEST}")):
            begun = open_records(path.parent).read(path)
            if begun is not None and recipe_of(begun).hash == recipe.hash:
                return path.parent
        return self.folder / f"sweep-{recipe.hash}"

    def _row(self, job: Job, run: Mapping[str, Any]) -> dict[str, Any]:
        losses = [f"{kind}_{name}" for kind in ("loss", "base_loss") for name in self.eval_sets]
        row = {name: run.get(name) for name in (*losses, *RESULTS)}
        if job.problem is not None:
            row |= {"status": "failed", "reason": job.problem}
        elif not run:
            raise InstructMineError(
                f"the run '{job.mixture_id}-seed{job.seed}' has no record: where another process has it, wait for it; "
                "where the machine stopped it, start again"
            )
        own = {"kind": job.kind, "strategy": job.strategy, **job.config}
        return {**own, "mixture_id": job.mixture_id, "seed": job.seed, **row}
