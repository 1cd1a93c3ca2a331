"""What will limit a run, from what a few windows took."""

from types import SimpleNamespace

import pytest

from geoseg.inference import timing
from geoseg.inference.timing import Cost, stage_rates


def limit(
    monkeypatch, *, device, processes, forward, reading, name="scene.tif", machines=1
):
    monkeypatch.setattr(timing, "cores", lambda: 16)
    recipe = SimpleNamespace(card=SimpleNamespace(output="scores"))
    site = SimpleNamespace(card="H100" if device == "cuda" else None, machines=machines)
    source = SimpleNamespace(name=name)
    plan = SimpleNamespace(tasks=20, model=recipe, source=source, site=site)
    rates = stage_rates(
        reading=reading,
        fresh=10**6,
        writing=0.002,
        forward=forward,
        pixels=10**6,
        processes=processes,
        plan=plan,
    )
    return min(rates, key=rates.__getitem__), rates


def test_cards_are_added_up_until_the_decoder_is_the_limit(monkeypatch):
    slow, quick = Cost(seconds=0.06, cpu=0.06), Cost(seconds=0.01, cpu=0.01)
    how = {"device": "cuda", "forward": 0.01}  # 100 Mpx/s a card
    name, rates = limit(monkeypatch, processes=1, reading=slow, **how)
    assert (name, rates["GPU"]) == ("GPU", pytest.approx(100))
    name, rates = limit(monkeypatch, processes=8, reading=slow, **how)
    assert (name, rates["decoder"]) == ("decoder", pytest.approx(16 / 0.06))
    assert limit(monkeypatch, processes=8, reading=quick, **how)[0] == "GPU"


def test_processes_share_a_processor(monkeypatch):
    quick = Cost(seconds=0.01, cpu=0.01)
    for processes in (1, 8):
        name, rates = limit(
            monkeypatch, device="cpu", processes=processes, forward=0.5, reading=quick
        )
        assert (name, rates["model"]) == ("model", 2)
    how = {"device": "cpu", "forward": 0.5, "reading": quick}
    _, rates = limit(monkeypatch, processes=8, machines=4, **how)
    assert (rates["model"], rates["decoder"]) == (8, pytest.approx(4 * 16 / 0.01))


@pytest.mark.parametrize(
    ("name", "expected"), [("https://a/b.tif", "link"), ("scene.tif", "disk")]
)
def test_what_is_waited_for(monkeypatch, name, expected):
    waiting = Cost(seconds=4.0, cpu=0.1)
    how = {"device": "cuda", "processes": 1, "forward": 0.01}
    found, rates = limit(monkeypatch, reading=waiting, name=name, **how)
    assert (found, rates[expected]) == (expected, pytest.approx(20 / 4))
