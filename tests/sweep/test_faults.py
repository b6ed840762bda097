"""An error of a run is recorded; a fault of the machine is not, and the run is tried once more."""

import weakref

import pytest
import tiny_sweep
import torch
from tiny_sweep import LAST_LAYERS, RECIPE, comparable, evaluation_sets, mixtures, pool

from hf_instructmine import InstructMineError, load_runs, run_sweep, sweep_status
from hf_instructmine.sweep.executors import Inline
from hf_instructmine.sweep.faults import MachineError, as_failure, forget


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict:
    return {**RECIPE, **LAST_LAYERS, "model_name_or_path": tiny_sweep.save_model(tmp_path_factory.mktemp("model"))}


@pytest.mark.parametrize(
    ("error", "reason", "of_machine"),
    [
        (InstructMineError("lower the learning rate"), "lower the learning rate", False),
        (ValueError("two\nlines"), "ValueError: two lines", False),
        (torch.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory", False),
        (MachineError("killed"), "killed", True),
        (ConnectionResetError("reset by peer"), "ConnectionResetError: reset by peer", True),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), None, True),
    ],
)
def test_an_exception_is_told_in_one_line_and_by_who_is_to_blame(error, reason, of_machine):
    failure = as_failure(error)
    assert failure.of_machine == of_machine
    assert reason in (None, failure.reason) and "\n" not in failure.reason


class Model:
    pass


def test_a_forgotten_exception_holds_nothing_of_what_it_went_through():
    seen = []

    def inner():
        model = Model()
        seen.append(weakref.ref(model))
        raise KeyError("a")

    def outer():
        model = Model()
        seen.append(weakref.ref(model))
        try:
            inner()
        except KeyError as error:
            raise ValueError("b") from error

    try:
        outer()
    except ValueError as error:
        kept = error
    assert all(ref() is not None for ref in seen)
    forget(kept)
    assert [ref() for ref in seen] == [None, None]


def stopped_by_the_machine(monkeypatch, times: dict[int, int]) -> None:
    """Lets the connection be lost in the runs of these seeds, so many times."""
    train = Inline.run

    def fragile(self, indices, seed, folder):
        times[seed] = times.get(seed, 0) - 1
        if times[seed] >= 0:
            raise ConnectionError("lost the connection")
        return train(self, indices, seed, folder)

    monkeypatch.setattr(Inline, "run", fragile)


def test_a_run_that_the_machine_stopped_is_tried_once_more(recipe, tmp_path, monkeypatch, caplog):
    undisturbed = run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "undisturbed")
    stopped_by_the_machine(monkeypatch, {1: 1})
    runs = run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "sweep")
    assert comparable(runs) == comparable(undisturbed)
    assert "run mixture-001-seed1 was stopped by a fault of the machine (ConnectionError: lost the" in caplog.text


def test_a_run_that_the_machine_stopped_twice_is_left_for_the_next_call(recipe, tmp_path, monkeypatch, caplog):
    stopped_by_the_machine(monkeypatch, {1: 2})
    runs = run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "sweep")
    assert set(runs["mixture_id"]) == {"mixture-000", "mixture-002"} and set(runs["status"]) == {"done"}
    assert (
        "1 runs have no record: the machine stopped them twice, mixture-001-seed1 the last time with: "
        "ConnectionError: lost the connection; the same call tries them again"
    ) in caplog.text
    assert sweep_status(tmp_path / "sweep").startswith("3 of 4 runs done, 0 failed, 0 running, 1 to do")
    assert len(run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "sweep")) == 4


def test_where_the_machine_stops_every_run_the_sweep_says_so(recipe, tmp_path, monkeypatch):
    stopped_by_the_machine(monkeypatch, {0: 2})
    with pytest.raises(InstructMineError, match="the machine stopped them twice"):
        run_sweep(pool(), mixtures(1, 0), recipe, evaluation_sets(), tmp_path / "sweep")
    with pytest.raises(InstructMineError, match="holds no finished run"):
        load_runs(tmp_path / "sweep")
