"""What a plan is made for: GPUs of workers, told apart, and GPUs that are not here."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from distributed import Client, LocalCluster, get_worker
from small import make_plan
from tifs import write_tif
from torch import nn

from geoseg.cli import run
from geoseg.core.classes import class_table
from geoseg.errors import GeosegError
from geoseg.execution import versions
from geoseg.execution.clusters import local_cluster
from geoseg.inference import sites, timing
from geoseg.inference.sites import NO_GPU, Crew, Facts, crew_of, site_here
from geoseg.inference.workflow import run_plan
from geoseg.maps.state import DONE
from geoseg.maps.store import open_masks
from geoseg.models.card import Band, Card
from geoseg.models.load import model_recipe
from geoseg.models.networks import device, torch_adapter

GB = 1e9
H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB"


def network():
    torch.manual_seed(1)
    made = nn.Conv2d(3, 2, 3, padding=1)
    made.card = Card(
        name="tiny",
        bands=tuple(Band(name=n) for n in ("red", "green", "blue")),
        classes=class_table("ab"),
        window=64,
        overlap=16,
        multiple=1,
    )
    return made


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("sites") / "scene.tif"
    pixels = torch.randint(1, 255, (3, 400, 400), dtype=torch.uint8).numpy()
    return write_tif(path, pixels)


@pytest.fixture(scope="module")
def client():
    """Two workers in this process; what they have, each test says."""
    how = {"processes": False, "dashboard_address": None, "memory_limit": "64GB"}
    how |= {"protocol": "tcp://", "host": "127.0.0.1"}
    with (
        LocalCluster(n_workers=2, threads_per_worker=6, **how) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def cards(monkeypatch, client):
    """Return a function that gives each worker a card and what is free there."""

    def give(*had):
        of = dict(zip(sorted(client.nthreads()), had, strict=True))

        def mine():
            try:
                return of[get_worker().address]
            except ValueError:  # asked beside its tasks
                return None

        def facts(asked, dask_worker):
            card, room = of[dask_worker.address]
            known = (card, room) if asked in {"auto", "cuda"} else (None, float("inf"))
            fixed = {"host": "node", "memory": 512 * GB, "cores": 16, "threads": 6}
            return Facts(card=known[0], room=known[1], **fixed)

        def card_of(_):
            return (mine() or (None,))[0]

        monkeypatch.setattr(sites, "_facts", facts)
        monkeypatch.setattr(sites, "_card_of", card_of)
        free = device.free_memory
        monkeypatch.setattr(
            device,
            "free_memory",
            lambda at, allowed: (mine() or (None, free(at, allowed)))[1],
        )
        chosen = torch_adapter.choose_engine
        monkeypatch.setattr(
            torch_adapter,
            "choose_engine",
            lambda at, asked: "torch" if mine() and mine()[0] else chosen(at, asked),
        )
        monkeypatch.setattr(torch_adapter, "quickest_batch", lambda *_: 16)

    return give


def test_workers_with_gpus_are_planned_for(scene, client, cards, tmp_path):
    """On a machine without one: batch, blocks and memory are theirs."""
    cards((H100, 70 * GB), (H100, 20 * GB))
    here = make_plan(scene, chunk=48, model=network(), workers=2)
    plan = make_plan(scene, chunk=48, model=network(), client=client)
    assert plan.site.card == H100
    assert plan.site.workers == {H100: 2}
    assert plan.site.room == 20 * GB  # that of the one that has less
    assert (plan.site.engine, plan.site.batch, plan.tasks) == ("torch", 16, 6)
    assert plan.memory.device > 0 == here.memory.device
    assert here.site.workers == {}
    assert any("6 threads" in note for note in plan.source.notes) is False  # enough
    masks, _ = run_plan(plan, out=tmp_path / "m", client=client, progress=False)
    settings = masks.record()["settings"]
    assert (settings["card"], settings["batch"]) == (H100, 16)
    told = masks.dataset().attrs["geoseg"]["planned_for"]
    assert told == {"card": H100, "batch": 16, "workers": {H100: 2}}


@pytest.mark.parametrize("other", [(None, float("inf")), (A100, 35 * GB)])
def test_workers_of_two_kinds_are_told_apart(scene, client, cards, tmp_path, other):
    cards((H100, 70 * GB), other)
    how = {"chunk": 48, "model": network(), "client": client}
    kinds = f"1 with {H100}, on node; 1 with {other[0] or NO_GPU}, on node"
    with pytest.raises(GeosegError, match="of different kinds") as error:
        make_plan(scene, **how)
    assert kinds in str(error.value)
    assert make_plan(scene, device="cpu", **how).site.workers == {NO_GPU: 2}
    plan = make_plan(scene, mixed=True, **how)
    assert set(plan.site.workers) == {H100, other[0] or NO_GPU}
    assert plan.site.card is not None
    assert plan.site.room == min(70 * GB, other[1])
    # Main memory holds the model where a worker has no GPU.
    assert (plan.memory.model > 0) == (other[0] is None)


def test_a_classical_method_asks_for_no_gpu(scene, client, cards):
    cards((H100, 70 * GB), (None, float("inf")))
    plan = make_plan(scene, chunk=48, model="threshold:red>100", client=client)
    assert plan.site.card is None
    assert plan.site.workers == {NO_GPU: 2}
    assert plan.tasks == 6


def test_a_gpu_is_told_to_lack_threads(monkeypatch):
    recipe = model_recipe(network(), device="cpu", engine="torch")
    there = replace(site_here(recipe), card=H100)
    monkeypatch.setattr(sites, "site_here", lambda _: there)
    one = Facts(host="a", card=None, room=8 * GB, memory=1e11, cores=16, threads=2)
    site = Crew(facts={"tcp://a:1": one}).site(recipe, recipe, None)
    assert "2 threads" in site.notes[-1]
    assert "20 keep it busy" in site.notes[-1]
    assert site.memory == 1e11 / 2


def test_a_worker_that_lacks_what_is_asked_for_is_named(client):
    recipe = model_recipe(network(), device="cpu")
    if torch.cuda.device_count():
        pytest.skip("there is a GPU here")
    with pytest.raises(GeosegError, match=r"worker tcp.*device cuda was asked for"):
        crew_of(recipe, "cuda", client, mixed=False)


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="there is a GPU here")
def test_plans_for_a_gpu_that_is_not_here(scene, tmp_path):
    how = {"chunk": 48, "model": network(), "device": "cuda"}
    large, little = (make_plan(scene, device_memory=m, **how) for m in ("80GB", 2e8))
    assert (large.site.device, large.site.precision) == ("cuda", "bf16")
    assert large.site.batch == 4096 > little.site.batch
    assert large.memory.device > 0 == large.memory.model
    assert "a run measures which suits it" in large.source.notes[-1]
    with pytest.raises(GeosegError, match="torch sees no CUDA GPU here"):
        run_plan(large, out=tmp_path / "m", progress=False)
    assert not (tmp_path / "m").exists()
    with pytest.raises(GeosegError, match="torch sees no CUDA GPU here"):
        make_plan(scene, **how)


def test_plan_asks_the_workers_of_a_scheduler(scene, client, capsys):
    line = ["plan", str(scene), "--model", "threshold:red>100"]
    assert run([*line, "--scheduler", client.scheduler.address]) == 0
    told = capsys.readouterr().out
    assert f"workers               2 with {NO_GPU}; 6 blocks at once each" in told


@pytest.fixture(scope="module")
def processes():
    """Two workers that are processes of their own."""
    with local_cluster(2, threads=2, dashboard=None) as client:
        yield client


def test_a_worker_says_how_long_a_run_takes(scene, processes, capsys, monkeypatch):
    monkeypatch.setattr(timing, "_measured", None)  # here nothing is
    line = ["plan", str(scene), "--model", "threshold:red>100", "--time"]
    assert run([*line, "--scheduler", processes.scheduler.address]) == 0
    told = capsys.readouterr().out
    assert "in 2 processes" in told
    assert "\nlimit                 the " in told
    gone = scene.with_name("gone.tif")
    how = {"chunk": 48, "model": "threshold:red>100", "client": processes}
    plan = make_plan(scene.rename(gone), **how)
    gone.rename(scene)
    with pytest.raises(GeosegError, match=r"gone\.tif"):
        timing.measure_time(plan, 2, processes)


def _plays(card):
    """Have a card from now on, in a worker's process."""
    from geoseg.inference import sites

    sites._card_of = lambda _: card


@pytest.fixture
def mixed_pair():
    """Return a cluster of one worker with a card, and what starts one with another."""
    with local_cluster(1, threads=2, dashboard=None) as client:
        (first,) = client.nthreads()
        client.run(_plays, H100)

        def start():
            client.cluster.scale(2)
            client.wait_for_workers(2, timeout=60)
            (second,) = client.nthreads().keys() - {first}
            client.run(_plays, A100, workers=[second])

        yield client, start


def test_no_block_is_done_by_another_card_than_the_run_began_on(
    scene, mixed_pair, tmp_path
):
    """Also where it comes later, is idle, and steals what is another's."""
    client, start = mixed_pair
    slow = network()
    how = {"chunk": 48, "block": 48, "model": slow, "client": client}
    plan = make_plan(scene, **how)
    assert plan.site.workers == {H100: 1}
    start()
    out = tmp_path / "m"
    with pytest.raises(GeosegError, match=f"computes on {A100}, the run was begun on"):
        run_plan(plan, out=out, client=client, progress=False)
    masks = open_masks(out)
    assert not masks.record()["complete"]
    # Told that cards may differ, it goes on, and says of each block who inferred it.
    masks, _ = run_plan(plan, out=out, client=client, progress=False, mixed=True)
    done = [masks.done_info(key) for key in masks.marked(DONE)]
    told = [info["card"] for info in done if "card" in info]
    assert set(told) == {H100, A100}
    assert len(done) == plan.tiling.blocks


def test_a_worker_that_hangs_is_named(processes, monkeypatch):
    monkeypatch.setattr(versions, "ANSWERS_WITHIN", 4.0)
    recipe = model_recipe(network(), device="cpu")
    address, pid = min(processes.run(os.getpid).items())
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(GeosegError, match=f"^{address} did not answer for 4 s"):
            crew_of(recipe, "auto", processes, mixed=False)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_worker_whose_gpu_is_broken_is_named(client, monkeypatch):
    def broken(device, dask_worker):
        raise RuntimeError("CUDA driver is gone")

    monkeypatch.setattr(sites, "_facts", broken)
    recipe = model_recipe(network(), device="cpu")
    with pytest.raises(GeosegError, match=r"worker tcp.*: CUDA driver is gone"):
        crew_of(recipe, "auto", client, mixed=False)


def test_workers_of_another_geoseg_are_refused(client, monkeypatch):
    recipe = model_recipe(network(), device="cpu")
    monkeypatch.setattr(versions, "_different", lambda *_: "geoseg 0.0.1 there")
    with pytest.raises(GeosegError, match="is not like this client: geoseg 0"):
        crew_of(recipe, "auto", client, mixed=False)
