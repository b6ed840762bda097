"""A Ray cluster gives what one process gives, byte for byte, whatever dies; what it lacks is said before any shard."""

import os
import shutil
import socket
import sys
from pathlib import Path

import psutil
import pytest
from datasets import Dataset
from tiny_models import byte_tokenizer, causal_model, save

import hf_instructmine as him
from hf_instructmine import MTLD, InstructMineError, Perplexity
from hf_instructmine.cli import score as cli_score
from hf_instructmine.indicators import ray_scoring
from hf_instructmine.indicators.ray_scoring import RayCluster
from hf_instructmine.indicators.score_work import Task, local_shards


ray = pytest.importorskip("ray", reason="pip install 'hf-instructmine[ray]'")
ROWS = 16
# A node that died is missed after two seconds in place of thirty.
QUICKLY = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def pool():
    answers = [" ".join(["one", "two", "three", "four"][: 1 + i % 4] * (1 + i % 9)) for i in range(240)]
    return Dataset.from_dict({"prompt": [f"q{i}" for i in range(240)], "completion": [*answers[:-1], ""]})


@pytest.fixture(scope="module")
def perplexity(tmp_path_factory):
    tokenizer = byte_tokenizer()
    return Perplexity(save(tmp_path_factory.mktemp("model"), causal_model("llama", tokenizer), tokenizer))


@pytest.fixture(scope="module")
def cluster():
    """A node with one CPU; tests add others."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    # The path of the tests is for the pickles of theirs.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(him.__file__).parents[1]), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    nodes = Cluster(initialize_head=True, head_node_args={**small, "_system_config": QUICKLY})
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def task_of(pool, indicator):
    return Task(pool, [indicator], None, ROWS, {})


def scored(pool, indicator, address=None, starts=None, **options):
    starts = range(0, len(pool), ROWS) if starts is None else starts
    with RayCluster(address, **options) as workers:
        for start, tables in workers.made(task_of(pool, indicator), {start: [0] for start in starts}):
            yield start, tables[0]


def alone(pool, indicator):
    task = task_of(pool, indicator)
    return {start: plain(tables[0]) for start, tables in local_shards(task, {start: [0] for start in task.sizes})}


def plain(shard):
    """The bytes of the scores, so that NaN is NaN, and the notes."""
    values = [shard[name].to_numpy().tobytes() for name in shard.column_names[:-1]]
    return shard.schema, values, shard["note"].to_pylist()


def refused(match, *arguments, **options):
    with pytest.raises(InstructMineError, match=match) as caught:
        list(scored(*arguments, **options))
    assert "\n" not in str(caught.value)


def test_processes_and_nodes_that_are_killed_lose_nothing_and_double_nothing(cluster, pool, perplexity):
    second = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    came = []
    for start, shard in scored(pool, perplexity, cluster.address):
        came.append((start, plain(shard)))
        if len(came) == 2:
            actor, *_ = [p for p in psutil.Process().children(recursive=True) if "_Scorer" in " ".join(p.cmdline())]
            actor.kill()
        if len(came) == 5:
            cluster.remove_node(second, allow_graceful=False)
    assert len(came) == len(range(0, len(pool), ROWS))
    assert dict(came) == alone(pool, perplexity)


def test_a_shard_that_ends_its_process_each_time_is_not_tried_for_ever(cluster, pool, monkeypatch):
    monkeypatch.setattr(ray_scoring, "_TRIES", 1)

    class Lethal(MTLD):
        def score(self, conversations):
            os._exit(1)

    refused(
        "the shard of row 0 ended its process 1 times, for want of memory", pool, Lethal(), cluster.address, starts=[0]
    )


def test_what_an_indicator_refuses_is_said_as_it_says_it(cluster, pool):
    class Refusing(MTLD):
        def score(self, conversations):
            raise InstructMineError("the model is of another kind")

    refused("^the model is of another kind$", pool, Refusing(), cluster.address, starts=[0])


def test_a_node_with_the_resources_is_asked_for(cluster, pool, perplexity):
    gpu = (
        "no node of the Ray cluster has num_gpus=1, which Perplexity asks for .the most: num_gpus=0.: add such a node"
    )
    refused(gpu, pool, perplexity, cluster.address, resources={"num_gpus": 1})
    refused("has num_cpus=2", pool, perplexity, cluster.address, resources={"perplexity": {"num_cpus": 2}})


def test_a_node_of_other_versions_is_refused(cluster, pool, tmp_path):
    other = shutil.copytree(Path(him.__file__).parent, tmp_path / "hf_instructmine")
    text = (other / "__init__.py").read_text().replace(f'"{him.__version__}"', '"0.0.1"')
    (other / "__init__.py").write_text(text)
    node = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20, env_vars={"PYTHONPATH": str(tmp_path)})
    try:
        refused(
            f"a node .* has hf-instructmine 0.0.1, and this process {him.__version__}", pool, MTLD(), cluster.address
        )
    finally:
        cluster.remove_node(node)


def test_a_pool_whose_files_are_gone_is_told(cluster, pool, tmp_path):
    pool.save_to_disk(tmp_path / "pool")
    loaded = Dataset.load_from_disk(tmp_path / "pool")
    shutil.rmtree(tmp_path / "pool")
    refused("is gone, which the pool is read from", loaded, MTLD(), cluster.address)


def test_ray_is_asked_for_where_it_is_missing(pool, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    refused("executor='ray' needs Ray: pip install 'hf-instructmine\\[ray\\]'", pool, MTLD())


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://head:10001", "'ray://head:10001' is the address of a Ray client"),
        ("head", "'head' is no address of a Ray cluster: write HOST:PORT, or 'auto'"),
        ("127.0.0.1:many", "no Ray cluster answers at '127.0.0.1:many'"),
    ],
)
def test_an_address_without_a_cluster_is_told_at_once(address, said, pool, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    refused(said, pool, MTLD(), address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    refused(said, pool, MTLD())


def test_a_port_where_nothing_listens_is_told_at_once(pool, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        refused(
            "Connection refused.*start one with `ray start --head`",
            pool,
            MTLD(),
            f"127.0.0.1:{taken.getsockname()[1]}",
        )


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"gpus": 1}, "a resource is one of num_cpus, num_gpus, memory, not 'gpus'"),
        ({"num_gpus": 0}, "num_gpus=0 is no amount: pass a number above 0"),
        ({"num_gpus": "1"}, "num_gpus='1' is no amount"),
        ({"mtld": {"num_cpus": True}}, "num_cpus=True is no amount"),
        ({"mtld": {"num_cpus": 1}, "num_cpus": 1}, "pass amounts, or a mapping of them for each indicator, not both"),
    ],
)
def test_resources_that_are_none(resources, said, pool):
    refused(said, pool, MTLD(), resources=resources)


def test_a_model_takes_a_gpu_where_there_are_some(perplexity, monkeypatch):
    gpus = {"GPU": 8}

    class Connected:
        def cluster_resources(self):
            return gpus

    def needed(indicators, resources=None):
        workers = RayCluster(resources=resources)
        monkeypatch.setattr(workers, "_ray", Connected)
        return workers._needed(indicators)

    assert needed([perplexity]) == {"num_gpus": 1}
    assert needed([MTLD()]) == {"num_cpus": 1}
    half = {"Perplexity": {"num_gpus": 0.5}, "mtld": {"num_cpus": 2, "memory": 1e9}}
    assert needed([perplexity], half) == {"num_gpus": 0.5}
    assert needed([MTLD(), him.OutputLength("gpt2")], half) == {"num_cpus": 2, "memory": 1e9}
    gpus.clear()
    assert needed([perplexity]) == {"num_cpus": 1}


def test_the_builds_of_a_library_for_a_gpu_and_for_a_cpu_agree():
    here = {"torch": "2.14.1+cpu", "hf-instructmine": "0.1.0.dev0"}
    assert ray_scoring._disagreement(here, {**here, "torch": "2.14.0+cu126"}) is None
    other = ray_scoring._disagreement(here, {**here, "torch": "2.13.0"})
    assert other.startswith("a node of the Ray cluster has torch 2.13.0, and this process 2.14.1+cpu: ")
    assert "hf-instructmine 0.1.0" in ray_scoring._disagreement(here, {**here, "hf-instructmine": "0.1.0"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"executor": "slurm"}, "executor must be one of local, ray, not 'slurm'"),
        ({"address": "head:6379"}, "address and resources are of a Ray cluster: pass executor='ray' too"),
        ({"executor": "ray", "num_proc": 2}, "num_proc=2 is of executor='local'"),
        (
            {"executor": "ray", "resources": {"Mtld": {"num_cpus": 1}}},
            "one of mtld, not 'Mtld': did you mean 'mtld'",
        ),
    ],
)
def test_what_contradicts_itself_is_refused_before_the_pool_is_read(options, said):
    with pytest.raises(InstructMineError, match=said):
        him.score("no-such-file.jsonl", MTLD(), **options)


def test_resources_of_the_command_line():
    assert cli_score._resources(["num_gpus=0.5", "memory=2e9"]) == {"num_gpus": 0.5, "memory": 2e9}
    assert cli_score._resources(["Perplexity.num_gpus=1", "mtld.num_cpus=2"]) == {
        "Perplexity": {"num_gpus": 1},
        "mtld": {"num_cpus": 2},
    }
    assert cli_score._resources(None) is None
    with pytest.raises(InstructMineError, match="--resources 'num_gpus' is no amount: write num_gpus=0"):
        cli_score._resources(["num_gpus"])
