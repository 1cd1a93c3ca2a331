"""Runs on small rasters that have many blocks all the same: their chunks are small."""

import shutil

import pytest

from geoseg.core.options import checked
from geoseg.inference.options import PlanOptions
from geoseg.inference.planning import plan_of
from geoseg.inference.workflow import run_plan

RUN = ("client", "overwrite", "zarr_format", "shards", "progress")
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("cl") is None,
    reason="PyTorch compiles for CPUs through a C++ compiler, and here is none",
)


def make_plan(source, *, chunk, workers=1, client=None, **options):
    """Plan a run as `geoseg.make_plan`, with chunks of about that many pixels."""
    asked = checked(PlanOptions, options)
    return plan_of(source, asked, workers, client=client, chunk=chunk)


def segment(source, *, out, chunk, **options):
    """Segment as `geoseg.segment`, quietly, with chunks of about that many pixels."""
    how = {name: options.pop(name) for name in RUN if name in options}
    plan = make_plan(source, chunk=chunk, client=how.get("client"), **options)
    masks, _ = run_plan(plan, out=out, **{"progress": False, **how})
    return masks.dataset()


if __name__ == "__main__":  # small.py CHUNK ARGUMENTS: the program, with small chunks
    import sys

    import geoseg.core.tiling
    from geoseg.cli import main

    geoseg.core.tiling.CHUNK = int(sys.argv.pop(1))
    main()
