"""Folding batch norms changes the time, not the answer; others' networks stay."""

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from geoseg.models.fuse import fused


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


@pytest.mark.parametrize("arch", ["Unet", "FPN", "UnetPlusPlus", "DeepLabV3Plus"])
def test_the_answer_stays(arch):
    torch.manual_seed(0)
    network = smp.create_model(
        arch, "resnet18", encoder_weights=None, in_channels=3, classes=4
    )
    network = trained(network)
    folded = fused(network, 3, 96)
    left = sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert left <= 1  # one without a convolution before it
    x = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        one, two = network(x), folded(x)
    assert torch.allclose(one, two, atol=1e-4 * float(one.abs().max()))


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
    assert fused(network, 3, 32) is network
    assert network.seen == 0


def test_what_is_hooked_is_left_alone():
    network = trained(smp.Unet("resnet18", encoder_weights=None, classes=2))
    network.register_forward_hook(lambda *_: None)
    assert fused(network, 3, 64) is network
