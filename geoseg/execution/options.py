"""Where the work is done: what every command that can use a cluster is asked."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import BeforeValidator, Field

from geoseg.core.options import Cli, Options, Section
from geoseg.core.text import seconds_of


class ClusterOptions(Options):
    """Workers: at most one of the three; none means this process."""

    workers: Annotated[
        int | None, Field(ge=1), Cli(section=Section.SPEED, metavar="N")
    ] = None
    """Start N worker processes on this machine; default: this process."""
    scheduler: Annotated[
        str | None, Cli(section=Section.SPEED, metavar="ADDRESS", location=True)
    ] = None
    """Use a running Dask scheduler, such as tcp://host:8786."""
    cluster: Annotated[
        str | os.PathLike[str] | None,
        Cli(section=Section.SPEED, metavar="FILE.toml", location=True),
    ] = None
    """Workers as a file says: GPUs, SLURM, PBS, LSF, SGE, Kubernetes, SSH."""
    wait: Annotated[
        float | str,
        BeforeValidator(seconds_of),
        Cli(section=Section.SPEED, metavar="TIME"),
    ] = "10min"
    """How long to wait for the workers of a cluster, such as 90s, 10min, 2h."""
