"""What commands that take scenes of many dates are asked."""

import pytest

from geoseg.core.options import checked
from geoseg.core.series_options import SeriesOptions
from geoseg.errors import GeosegError


@pytest.mark.parametrize(
    "given",
    [
        {"reduce": "percentile:25"},
        {"reduce": "best:ndvi"},
        {"every": "10 days"},
        {"every": "month"},
        {"mask": ["none"]},
        {"mask": ["clouds", "snow"]},
        {"dates": ("2025-05", None)},
    ],
)
def test_what_can_be_asked(given):
    assert {**checked(SeriesOptions, given).model_dump()} | given == {
        **SeriesOptions().model_dump(),
        **given,
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"reduce": "percentile"}, "reduce: write one of median"),
        ({"reduce": "percentile:101"}, "reduce: write one of median"),
        ({"reduce": "best:evi7"}, "an INDEX is one of ndvi"),
        ({"every": "0 days"}, "every: write date, day"),
        ({"every": "fortnight"}, "every: write date, day"),
        ({"mask": ["cloud"]}, "cannot be masked"),
        ({"cloud": 101}, "cloud"),
        ({"mask_buffer": -1}, "mask_buffer"),
    ],
)
def test_what_cannot(given, said):
    with pytest.raises(GeosegError, match=said):
        checked(SeriesOptions, given)
