"""The same laws on a CUDA GPU; skipped, saying so, where there is none."""

import numpy as np
import pytest
import torch

from geoseg.core.classes import class_table
from geoseg.core.tiling import Tiling
from geoseg.inference.semantic import finish_block, segment_block
from geoseg.models.card import Band, Card
from geoseg.models.load import model_recipe
from geoseg.testing import MemorySource

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch sees no CUDA GPU here"
)


def network(classes=4):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, classes, 5, padding=2),
    )
    net.card = Card(
        name="net",
        bands=tuple(Band(name=b, offset=100, scale=50) for b in "abc"),
        classes=class_table(f"class {i}" for i in range(classes)),
        window=128,
        overlap=32,
        multiple=32,
    )
    return net.eval()


def source():
    rng = np.random.default_rng(0)
    mask = rng.random((700, 650)) > 0.1
    values = rng.integers(0, 255, (3, 700, 650), dtype=np.uint8)
    return MemorySource(values=values, mask=mask, names=("a", "b", "c"))


def run(model, *, block, batch, order=0):
    """Return the labels by the steps of a run, blocks in a random order."""
    tiling = Tiling(
        height=700,
        width=650,
        window=128,
        overlap=32,
        multiple=32,
        chunk=192,
        block=block,
    )
    blocks = list(tiling.each_block())
    np.random.default_rng(order).shuffle(blocks)
    found = {b.key: segment_block(source(), model, b, batch=batch) for b in blocks}
    out = np.zeros((700, 650), np.uint8)
    for b in blocks:
        halo = [found[n.key].halo[b.key] for n in b.neighbours]
        arrays = finish_block(found[b.key], halo, model.card, b)
        out[b.window.slices] = arrays["classes"]
    return out


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_blocks_never_change_the_answer(precision):
    model = model_recipe(network(), device="cuda", precision=precision, batch=1).load()
    small = run(model, block=192, batch=1)
    large = run(model, block=384, batch=1, order=1)
    assert small.tobytes() == large.tobytes()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_same_batches_give_the_same_answer(precision):
    model = model_recipe(network(), device="cuda", precision=precision, batch=5).load()
    one = run(model, block=384, batch=5)
    two = run(model, block=384, batch=5, order=1)
    assert one.tobytes() == two.tobytes()


def test_a_gpu_agrees_with_the_cpu():
    on_gpu = model_recipe(network(), device="cuda", precision="fp32", batch=8).load()
    on_cpu = model_recipe(network(), device="cpu", precision="fp32").load()
    one, two = run(on_gpu, block=768, batch=8), run(on_cpu, block=768, batch=2)
    assert (one == two).mean() > 0.9999


def test_out_of_memory_halves_the_batch_and_goes_on():
    class Greedy(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            if len(x) > 2:
                torch.empty(1 << 45, dtype=torch.uint8, device=x.device)
            return self.inner(x)

    net = network()
    greedy = Greedy(net)
    greedy.card = net.card
    model = model_recipe(greedy, device="cuda", precision="fp32", batch=8).load()
    labels = run(model, block=768, batch=8)
    assert model.batch <= 2
    assert (labels != 255).sum() == source().mask.sum()


def test_memory_of_the_device_does_not_grow_with_the_raster():
    model = model_recipe(network(), device="cuda", precision="bf16", batch=8).load()
    run(model, block=768, batch=8)
    torch.cuda.reset_peak_memory_stats()
    run(model, block=768, batch=8)
    first = torch.cuda.max_memory_allocated()
    run(model, block=768, batch=8)
    assert torch.cuda.max_memory_allocated() <= first * 1.01
