"""Progress: on a terminal and in a notebook; nothing elsewhere."""

import re
import threading
from functools import partial

import pytest

from geoseg.core.views import in_notebook
from geoseg.execution import notebook_progress
from geoseg.execution.notebook_progress import bar_html
from geoseg.execution.progress import Progress, bar, steps
from geoseg.execution.progress_count import COUNT, Heard


@pytest.fixture
def notebook(monkeypatch):
    """Return what a notebook shows under a cell, as it changes."""
    display = pytest.importorskip("IPython.display")
    seen = []

    class Handle:
        def update(self, html):
            seen.append(html.data)

    def show(html, **options):
        assert options == {"display_id": True}
        seen.append(html.data)
        return Handle()

    monkeypatch.setattr(display, "display", show)
    monkeypatch.setattr("geoseg.execution.progress.in_notebook", lambda: True)
    return seen


def now(blocks, total=40, failed=0):
    return Progress(
        blocks=blocks, total=total, pixels=blocks * 10**6, windows=blocks, failed=failed
    )


def test_a_notebook_shows_blocks_speed_and_time_left(notebook, monkeypatch):
    monkeypatch.setattr(
        "geoseg.execution.progress.line", partial(notebook_progress.line, every=-1)
    )
    times = iter([0.0, 0.0, 10.0, 20.0])
    monkeypatch.setattr("geoseg.execution.progress.perf_counter", lambda: next(times))
    with bar("a <model>") as show:
        show(now(4))  # of an earlier run
        show(now(12, failed=1))
        show(now(40))
    assert "a &lt;model&gt;" in notebook[0]
    assert 'max="40" value="12"' in notebook[2]
    said = re.sub(r"<[^>]*>", "", notebook[2])
    assert "0:00 · 12 of 40 blocks · 1.2 Mpx/s · 1 failed · about 0:35 left" in said, (
        "8 blocks in 10 s, 28 to go"
    )
    assert "left" not in notebook[-1]


def test_a_terminal_shows_time_left_before_the_first_block_is_done(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    times = iter([0.0, 0.0, 10.0])
    monkeypatch.setattr("geoseg.execution.progress.perf_counter", lambda: next(times))
    with bar("unet cuda:0 bf16") as show:
        for inferred in (2, 10):
            show(Progress(blocks=0, total=40, pixels=0, windows=0, inferred=inferred))
    said = re.sub("\x1b[^a-zA-Z]*[a-zA-Z]", "", capsys.readouterr().err)
    assert "unet cuda:0 bf16" in said
    assert "0 of 40 blocks" in said
    assert "about 0:38 left" in said, "8 blocks in 10 s, 30 to go"


def test_windows_tell_before_the_first_block_is_done(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "140")
    times = iter([0.0, 0.0, 10.0])
    monkeypatch.setattr("geoseg.execution.progress.perf_counter", lambda: next(times))
    with bar("unet") as show:
        for cells in (0, 300):
            known = {"blocks": 0, "total": 9, "pixels": 0, "windows": 0}
            show(Progress(**known, cells=cells, all_cells=1200))
    said = re.sub("\x1b[^a-zA-Z]*[a-zA-Z]", "", capsys.readouterr().err)
    assert "0 of 9 blocks · 300 of 1,200 windows · about 0:30 left" in said


def test_the_last_state_stays_though_pictures_are_rare(notebook):
    with steps("looking") as show:
        for done in range(1000):
            show(done + 1, 1000)
    assert len(notebook) < 100
    assert "1,000 of 1,000" in notebook[-1]


def test_nothing_elsewhere(notebook, capsys):
    with bar("model", quiet=True) as show, steps("more", quiet=True) as step:
        show(now(1))
        step(1, 2)
    assert notebook == []
    assert capsys.readouterr() == ("", "")
    assert not in_notebook()


def test_a_bar_without_a_total_moves():
    assert "value=" not in bar_html("t", 3, None, "w")


def count_steps(steps):
    from geoseg.execution.progress_count import COUNT

    COUNT.add(steps)


def test_steps_of_workers_are_heard(monkeypatch):
    """A block at work on another machine tells of its windows."""
    from distributed import Client, LocalCluster

    monkeypatch.setattr("geoseg.execution.progress_count._EVERY", 0)
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        monkeypatch.setattr(COUNT, "_told", COUNT.total)  # of tests before
        heard, told = Heard(client), threading.Event()
        client.submit(count_steps, 5, pure=False).result()
        client.submit(count_steps, 2, pure=False).result()
        for _ in range(200):
            if heard.total == 7:
                break
            told.wait(0.02)
        assert heard.total == 7
        heard.close()
