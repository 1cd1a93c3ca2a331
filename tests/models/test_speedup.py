"""Rewriting a network changes the time, not the answer; others' networks stay."""

import copy
import itertools

import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from geoseg.models.networks.speedup.full_layers import (
    InFull,
    first_in_full,
    last_in_full,
)
from geoseg.models.networks.speedup.fuse import fused
from geoseg.models.networks.speedup.mixing import Mixed
from geoseg.models.networks.speedup.upconv import UpConv2d, with_upconvs


def trained(network):
    """Give batch norms statistics, as training does."""
    torch.manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.normal_(0, 0.2)
    return network.eval()


def made(arch, **options):
    torch.manual_seed(0)
    options = {"in_channels": 3, "classes": 4, **options}
    return trained(smp.create_model(arch, "resnet18", encoder_weights=None, **options))


def folds(network):
    """Return how many convolutions of doubled maps are folded."""
    parts = [m for m in network.modules() if isinstance(m, UpConv2d)]
    return sum(m.doubled is not None for m in parts)


def same(one, two, *, share=1e-4):
    return one.shape == two.shape and torch.allclose(
        one, two, rtol=0, atol=share * float(one.abs().max())
    )


@pytest.mark.parametrize(
    ("arch", "doubled"),
    [("Unet", 5), ("FPN", 0), ("UnetPlusPlus", 11), ("DeepLabV3Plus", 0)],
)
def test_the_answer_stays(arch, doubled):
    network = made(arch)
    quick = fused(network, 3, 96, on_cpu=True)
    left = sum(isinstance(m, nn.BatchNorm2d) for m in quick.modules())
    assert left <= 1  # one without a convolution before it
    assert folds(quick) == doubled
    for x in (torch.randn(1, 3, 96, 96), torch.randn(2, 3, 64, 160)):
        with torch.inference_mode():
            assert same(network(x), quick(x))


def test_only_cpus_compute_doubled_maps_folded():
    network = made("Unet")
    elsewhere = fused(network, 3, 64, on_cpu=False)
    assert folds(elsewhere) == 0
    assert not any(isinstance(m, nn.BatchNorm2d) for m in elsewhere.modules())


def test_a_size_that_is_not_the_double_is_interpolated():
    """A side of 84 is 42, 21, 11 inside: 21 is not the double of 11."""
    network = made("Unet")
    quick = fused(network, 3, 64, on_cpu=True)
    x = torch.randn(1, 3, 84, 116)
    with torch.inference_mode():
        assert same(network(x), quick(x))


@pytest.mark.parametrize(
    "options",
    [{"decoder_attention_type": "scse"}, {"decoder_interpolation": "bilinear"}],
)
def test_what_is_no_plain_convolution_of_a_doubled_map_stays(options):
    network = made("Unet", **options)
    quick = fused(network, 3, 64, on_cpu=True)
    # With attention, only the last block's convolution reads the doubled map itself.
    assert folds(quick) == (1 if "decoder_attention_type" in options else 0)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert same(network(x), quick(x))


class Doubles(nn.Module):
    """One convolution of a doubled map with others beside it."""

    def __init__(self, channels, out, *, by_size, bias, **conv):
        super().__init__()
        self.channels, self.by_size = channels, by_size
        conv = {"kernel_size": 3, "padding": 1, **conv}
        self.conv = nn.Conv2d(sum(channels), out, bias=bias, **conv)

    def forward(self, x):
        height, width = x.shape[2:]
        how = {"size": (2 * height, 2 * width)} if self.by_size else {"scale_factor": 2}
        ends = [sum(self.channels[:i]) for i in range(len(self.channels) + 1)]
        first, *others = (x[:, a:b] for a, b in itertools.pairwise(ends))
        up = functional.interpolate(first, mode="nearest", **how)
        others = [functional.pad(o, (0, width, 0, height)) for o in others]
        return self.conv(torch.cat([up, *others], dim=1) if others else up)


@settings(max_examples=60, deadline=None)
@given(
    channels=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    out=st.integers(1, 6),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    by_size=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 1 << 30),
)
def test_folding_is_exact(channels, out, height, width, by_size, bias, seed):
    """In double precision the two ways differ by rounding only."""
    torch.manual_seed(seed)
    plain = Doubles(channels, out, by_size=by_size, bias=bias).double()
    x = torch.randn(2, sum(channels), height, width, dtype=torch.float64)
    quick = with_upconvs(copy.deepcopy(plain), x)
    assert folds(quick) == 1
    with torch.inference_mode():
        assert same(plain(x), quick(x), share=1e-12)


@pytest.mark.parametrize(
    "conv",
    [
        {"stride": 2},
        {"dilation": 2, "padding": 2},
        {"padding": 0},
        {"kernel_size": 5, "padding": 2},
        {"padding_mode": "reflect"},
        {"groups": 2},
    ],
)
def test_other_convolutions_stay(conv):
    network = Doubles([2, 2], 4, by_size=False, bias=True, **conv)
    assert with_upconvs(network, torch.empty(1, 4, 8, 8)) is network


def test_a_map_that_others_read_too_stays():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x):
            up = functional.interpolate(x, scale_factor=2)
            return self.conv(up) + up

    network = Twice()
    assert with_upconvs(network, torch.empty(1, 2, 8, 8)) is network


def test_segformer_of_smp_mixes_early():
    torch.manual_seed(0)
    network = trained(
        smp.Segformer("mit_b0", encoder_weights=None, in_channels=3, classes=4)
    )
    quick = fused(network, 3, 64, on_cpu=False)
    assert any(isinstance(m, Mixed) for m in quick.modules())
    x = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        assert same(network(x), quick(x))


@pytest.mark.parametrize("stages", [2, 4])
def test_segformer_of_transformers_mixes_early(stages):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_channels=3,
        num_labels=4,
        num_encoder_blocks=stages,
        depths=[1] * stages,
        decoder_hidden_size=24,
    )
    network = trained(transformers.SegformerForSemanticSegmentation(config))
    quick = fused(network, 3, 64, on_cpu=True)
    assert any(isinstance(m, Mixed) for m in quick.modules())
    x = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        assert same(network(x).logits, quick(x).logits)


def test_a_network_whose_parts_do_something_else_stays(monkeypatch):
    """The comparison on noise notices; batch norms are folded all the same."""
    monkeypatch.setattr(UpConv2d, "forward", lambda _, x, *__: x)
    network = made("Unet")
    quick = fused(network, 3, 64, on_cpu=True)
    assert folds(quick) == 0
    assert not any(isinstance(m, nn.BatchNorm2d) for m in quick.modules())


def test_what_somebody_wrote_is_left_alone():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
            self.seen = 0

        def forward(self, x):
            self.seen += len(x)
            return self.norm(x)

    network = Counting().eval()
    assert fused(network, 3, 32, on_cpu=True) is network
    assert network.seen == 0


def test_what_is_hooked_is_left_alone():
    network = made("Unet")
    network.register_forward_hook(lambda *_: None)
    assert fused(network, 3, 64, on_cpu=True) is network


class TestFullLayers:
    def test_the_input_is_not_rounded(self):
        """Pixels that differ by less than bf16 tells give different scores."""
        network = made("Unet").requires_grad_(requires_grad=False)
        rough = copy.deepcopy(network).to(torch.bfloat16)
        assert first_in_full(rough, network, (1, 3, 64, 64)) == torch.float32
        assert rough.encoder.conv1.conv.weight.dtype == torch.float32
        assert torch.equal(
            rough.encoder.conv1.conv.weight, network.encoder.conv1.weight
        )
        x = torch.randn(1, 3, 64, 64) + 100
        with torch.inference_mode():
            exact = network.encoder.conv1(x)
            full = rough.encoder.conv1(x)
            rounded = network.encoder.conv1(x.bfloat16().float())
            assert rough(x).dtype == full.dtype == torch.bfloat16
        near = 2**-8 * exact.abs() + 1e-3  # rounding of the answer itself
        assert ((full.float() - exact).abs() <= near).all()
        assert ((rounded - exact).abs() > near).any()

    @pytest.mark.parametrize("arch", ["Unet", "FPN", "DeepLabV3Plus"])
    def test_scores_are_not_rounded(self, arch):
        network = made(arch).requires_grad_(requires_grad=False)
        rough = copy.deepcopy(network).to(torch.bfloat16)
        x = torch.randn(1, 3, 64, 64).bfloat16()
        rounded = rough(x)
        assert last_in_full(rough, network, x.shape, torch.bfloat16)
        scores = rough(x)
        assert rounded.dtype == torch.bfloat16
        assert scores.dtype == torch.float32
        assert same(scores, network(x.float()), share=0.1)
        full = [n for n, m in rough.named_modules() if isinstance(m, InFull)]
        assert full == ["segmentation_head.0"]
        assert scores.unique().numel() > 2 * rounded.unique().numel()

    def test_where_something_follows_that_wants_bf16_it_stays(self):
        network = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.ConvTranspose2d(4, 2, 2, stride=2)
        )
        rough = copy.deepcopy(network).to(torch.bfloat16)
        assert not last_in_full(rough, network, (1, 2, 8, 8), torch.bfloat16)
        assert type(rough[0]) is nn.Conv2d
        assert rough(torch.ones(1, 2, 8, 8).bfloat16()).dtype == torch.bfloat16

    def test_where_others_read_the_input_too_it_stays(self):
        class Skips(nn.Module):
            def __init__(self):
                super().__init__()
                self.one = nn.Conv2d(2, 2, 3, padding=1)
                self.two = nn.Conv2d(4, 2, 3, padding=1)

            def forward(self, x):
                return self.two(torch.cat([x, self.one(x)], 1))

        network = Skips()
        rough = copy.deepcopy(network).to(torch.bfloat16)
        assert first_in_full(rough, network, (1, 2, 8, 8)) == torch.bfloat16
        assert type(rough.one) is nn.Conv2d
        assert rough(torch.ones(1, 2, 8, 8).bfloat16()).shape == (1, 2, 8, 8)
