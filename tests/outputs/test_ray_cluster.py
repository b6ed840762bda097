"""Which cluster a call connects to, by a stand-in for Ray that notes what it is asked for."""

import sys
from types import SimpleNamespace

import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.outputs.ray_cluster import ray_session


@pytest.fixture
def asked(monkeypatch):
    """The addresses that Ray is told; `"ended"` where it is shut down."""
    told = []
    ray = SimpleNamespace(
        is_initialized=lambda: told[:1] == ["connected"],
        init=lambda address, **others: told.append(address),
        shutdown=lambda: told.append("ended"),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return told


def test_without_an_address_ray_finds_the_cluster_that_runs_here_or_starts_one(asked):
    with ray_session():
        assert asked == [None]
    assert asked == [None, "ended"]


def test_the_address_of_the_call_goes_before_that_of_the_environment(asked, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with ray_session("local"), pytest.raises(ZeroDivisionError), ray_session():
        raise ZeroDivisionError
    assert asked == ["local", "auto", "ended", "ended"]


def test_a_process_that_is_connected_stays_so(asked):
    asked.append("connected")
    with ray_session("local"):
        pass
    assert asked == ["connected"]


def test_an_address_where_nothing_answers_is_told_before_ray_tries(asked, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "localhost:1")
    message = r"no Ray cluster answers at 'localhost:1'.*`ray start --head`"
    with pytest.raises(InstructMineError, match=message), ray_session():
        pass
    assert asked == []
