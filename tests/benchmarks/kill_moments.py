"""kill -9 of client, worker and scheduler at random moments; the map must be the same.

    python tests/benchmarks/kill_moments.py [--moments 20] [--dates]
        [client worker scheduler]

A moment is a random share of what an undisturbed run takes. After a killed client the
same command is given again; a killed worker or scheduler is survived by the same run.
Windows are counted: nothing that was complete is inferred again. With --dates the
source is scenes of many dates, and how often they saw each pixel is kept too.
"""

import argparse
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import rasterio
from affine import Affine

from geoseg.core.series_options import QUALITY

SIDE, BLOCK, WINDOW, OVERLAP = 440, 72, 48, 12
WINDOWS = (-(-SIDE // (WINDOW - OVERLAP))) ** 2
PER_BLOCK = (BLOCK // (WINDOW - OVERLAP)) ** 2
MODEL = """
    import time
    import geoseg.core.tiling
    geoseg.core.tiling.CHUNK = 64
    from geoseg.testing import LocalModel, identity_card

    class Slow(LocalModel):
        def predict(self, pixels):
            with open({log!r}, "ab") as file:
                file.write(b"w" * len(pixels))
            time.sleep(0.01)
            return super().predict(pixels)

    def make():
        return Slow(card=identity_card(3, window=48, overlap=12))
"""
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


class Place:
    """A folder with a raster, a model that counts, and commands."""

    def __init__(self, *, dates: bool = False) -> None:
        self.more: list[str] = []
        self.folder = Path(tempfile.mkdtemp())
        self.log = self.folder / "windows.log"
        self.out = self.folder / "m.zarr"
        (self.folder / "slow.py").write_text(
            textwrap.dedent(MODEL.format(log=str(self.log)))
        )
        self.scene = str(self.folder / "scene.tif")
        if dates:
            self.scene = self.scenes()
            self.more = ["--dates", "2022", "--quality", "--bands", "red,nir,blue"]
            return
        with rasterio.open(
            self.scene,
            "w",
            driver="GTiff",
            count=3,
            height=SIDE,
            width=SIDE,
            dtype="float32",
            crs="EPSG:32633",
            transform=Affine(10, 0, 500_000, 0, -10, 5_000_000),
        ) as file:
            file.write(np.random.default_rng(0).random((3, SIDE, SIDE), np.float32))

    def scenes(self) -> str:
        """Write scenes of four dates in a folder of their own; return their list."""
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from dated_scenes import Scenes, whole

        folder, rng = self.folder / "scenes", np.random.default_rng(0)
        folder.mkdir()
        made = Scenes(folder)
        for n in range(4):
            bands = {key: whole(rng, (SIDE, SIDE)) for key in ("B02", "B04", "B08")}
            scl = rng.choice(np.array([4, 9], np.uint8), (SIDE // 2,) * 2)
            made.add(f"s{n}", f"2022-0{n + 4}-10T10:00:00Z", bands,
                     quality=("SCL", scl, 20), collection="sentinel-2-l2a",
                     properties={"s2:processing_baseline": "03.00"})  # fmt: skip
        return made.save()

    def start(self, *more: str) -> subprocess.Popen:
        line = [sys.executable, "-m", "geoseg", "segment", self.scene, *self.more]
        line += ["--model", f"{self.folder / 'slow.py'}:make", "--out", str(self.out)]
        return subprocess.Popen(
            [*line, "--block", str(BLOCK), "--quiet", *more],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen) -> None:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said

    def chunks(self) -> dict[str, bytes]:
        arrays = ["classes", *QUALITY] if self.more else ["classes"]
        return {
            f"{name}/{chunk.name}": chunk.read_bytes()
            for name in arrays
            for chunk in (self.out / name).iterdir()
            if chunk.name[0] != "."
        }

    def seen(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def clear(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        self.log.unlink(missing_ok=True)


def kill_client(place: Place, moment: float) -> int:
    """Kill the client, then give the same command; return windows inferred twice."""
    process = place.start()
    time.sleep(moment)
    process.kill()
    process.communicate()
    place.finish(place.start())
    return place.seen() - WINDOWS


def kill_worker(place: Place, moment: float) -> int:
    process = place.start("--workers", "2")
    time.sleep(moment)
    try:
        children = psutil.Process(process.pid).children()
    except psutil.NoSuchProcess:
        children = []
    workers = [p for p in children if "spawn_main" in " ".join(p.cmdline())]
    if workers:
        random.choice(workers).send_signal(signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    if process.returncode == 3:  # killed before it had begun; the same command goes on
        place.finish(place.start("--workers", "2"))
    else:
        assert process.returncode == 0, said
    return place.seen() - WINDOWS


def kill_scheduler(place: Place, moment: float) -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"

    def cluster() -> list[subprocess.Popen]:
        dask = [sys.executable, "-m"]
        scheduler = [*dask, "distributed.cli.dask_scheduler", "--host", address]
        worker = [*dask, "distributed.cli.dask_worker", address, "--nthreads", "2"]
        worker += ["--no-nanny"]  # which would outlive a kill for a while
        return [
            subprocess.Popen([*scheduler, "--no-dashboard", "--no-show"], **QUIET),
            subprocess.Popen([*worker, "--no-dashboard"], **QUIET),
        ]

    running = cluster()
    try:
        process = place.start("--scheduler", address)
        time.sleep(moment)
        for one in running:
            one.kill()
            one.wait()
        running = cluster()
        place.finish(process)
    finally:
        for one in running:
            one.kill()  # a worker that is asked to end waits for its scheduler first
            one.wait()
    return place.seen() - WINDOWS


KILLS = {"client": kill_client, "worker": kill_worker, "scheduler": kill_scheduler}
IN_HAND = {"client": 3, "worker": 6, "scheduler": 6}
"""Blocks that may be in work, or waiting on a worker, at once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dates", action="store_true")
    parser.add_argument("what", nargs="*", default=list(KILLS))
    options = parser.parse_args()
    random.seed(options.seed)
    place = Place(dates=options.dates)
    begun = time.monotonic()
    place.finish(place.start())
    lasts, whole = time.monotonic() - begun, place.chunks()
    for what in options.what:
        twice = []
        for _ in range(options.moments):
            place.clear()
            # A cluster takes longer to start than the work takes here.
            moment = random.uniform(0, lasts * (1 if what == "client" else 2))
            again = KILLS[what](place, moment)
            assert place.chunks() == whole, f"{what} killed after {moment} s: differs"
            assert again <= PER_BLOCK * IN_HAND[what], f"{again} windows twice"
            twice.append(again)
        print(
            f"{what}: {options.moments} moments, all byte-identical; windows inferred "
            f"twice: mean {np.mean(twice):.1f}, most {max(twice)} of {WINDOWS}",
            flush=True,
        )
    shutil.rmtree(place.folder)


if __name__ == "__main__":
    main()
