# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A cluster job, watched from a notebook
#
# geoseg runs on any `distributed.Client`: processes of this machine, SLURM, Kubernetes.
# Here it is a cluster of two workers on this machine; on SLURM only the cluster changes:
#
# ```python
# from dask_jobqueue import SLURMCluster
# cluster = SLURMCluster(cores=4, memory="16GB", walltime="02:00:00")
# cluster.adapt(maximum_jobs=20)
# ```

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from distributed import Client, LocalCluster

import geoseg

SCENE = os.environ.get("GEOSEG_SCENE")
MODEL = os.environ.get("GEOSEG_MODEL", geoseg.example().model)

folder = Path(tempfile.mkdtemp(prefix="cluster-"))
block = None if SCENE else 896  # so small a scene would be one block
SCENE = SCENE or geoseg.example().scene

# %%
cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
client = Client(cluster)
print("the dashboard, with every block as a task:", client.dashboard_link)

# %% [markdown]
# `segment(..., client=client)` shows a bar by itself. To watch more closely, hand in a
# function: it is told after every block.

# %%
seen = []
plan = geoseg.make_plan(SCENE, model=MODEL, block=block, workers=2)
masks, facts = geoseg.run_plan(
    plan, out=folder / "masks.zarr", client=client, progress=seen.append
)
facts

# %% [markdown]
# Kill a worker, the scheduler or this notebook: the same call goes on with what is left,
# and the end is the same byte for byte. A run that is complete does nothing again:

# %%
_, nothing = geoseg.run_plan(
    plan, out=folder / "masks.zarr", client=client, progress=False
)
assert nothing.windows == 0
client.close()
cluster.close()

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 4.6), layout="constrained", width_ratios=[1, 1.5]
)
left.step(range(len(seen)), [p.blocks for p in seen], where="post")
left.axhline(seen[-1].total, color="0.6", linestyle="--")
left.set_xlabel("reports")
left.set_ylabel("blocks done")
masks.dataset().geoseg.plot(ax=right)
plt.close(figure)  # or Jupyter shows it twice
figure
