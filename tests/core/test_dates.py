"""Spans of time: whole days, months and years, both ends in, in UTC."""

from datetime import UTC, date, datetime

import pytest

from geoseg.core.dates import item_moment, moment_of, span
from geoseg.errors import GeosegError


@pytest.mark.parametrize(
    ("dates", "text"),
    [
        ("2024", "2024-01-01T00:00:00Z/2025-01-01T00:00:00Z"),
        ("2024-02", "2024-02-01T00:00:00Z/2024-03-01T00:00:00Z"),
        ("2024-12", "2024-12-01T00:00:00Z/2025-01-01T00:00:00Z"),
        ("2024-02-29", "2024-02-29T00:00:00Z/2024-03-01T00:00:00Z"),
        ("2025-05/2025-09", "2025-05-01T00:00:00Z/2025-10-01T00:00:00Z"),
        ("2025-9/2025-9-3", "2025-09-01T00:00:00Z/2025-09-04T00:00:00Z"),
        ("../2025-05", "../2025-06-01T00:00:00Z"),
        ("2025-05-17/..", "2025-05-17T00:00:00Z/.."),
        ("20250517", "2025-05-17T00:00:00Z/2025-05-18T00:00:00Z"),
        ("2025-05-17/", "2025-05-17T00:00:00Z/.."),
        (
            "2025-05-17T10:00+02:00/2025-05-18",
            "2025-05-17T08:00:00Z/2025-05-19T00:00:00Z",
        ),
        (["2025-05", None], "2025-05-01T00:00:00Z/.."),
        ((date(2025, 5, 1), "2025-06"), "2025-05-01T00:00:00Z/2025-07-01T00:00:00Z"),
    ],
)
def test_dates_mean_all_of_the_units_that_they_name(dates, text):
    assert span(dates).text == text


def test_moments_lie_in_a_span_up_to_its_last_one():
    season = span("2025-05/2025-09")
    inside = ["2025-05-01T00:00:00Z", "2025-09-30T23:59:59.999999Z"]
    outside = [
        "2025-05-01T01:30:00+02:00", "2025-10-01T00:00:00Z", "2025-09-30T22:30:00-03:00"
    ]  # fmt: skip
    assert all(moment_of(text) in season for text in inside)
    assert not any(moment_of(text) in season for text in outside)
    assert moment_of("2025-05-17T10:00:00Z") in span("2025-05-17T10:00:00Z")


@pytest.mark.parametrize(
    "dates",
    [
        "summer",
        "2025-13",
        "2025-02-30",
        "2025/2024",
        "",
        "..",
        "1/2/3",
        "20250501x",
        "2025-W20",
    ],
)
def test_what_is_no_span_is_said_on_one_line(dates):
    with pytest.raises(GeosegError, match=r"^dates ") as error:
        span(dates)
    assert "\n" not in str(error.value)


def test_an_item_stands_at_its_time_or_in_the_middle():
    at = {"properties": {"datetime": "2025-05-01T01:30:00+02:00"}}
    assert item_moment(at) == datetime(2025, 4, 30, 23, 30, tzinfo=UTC)
    ends = {"start_datetime": "2025-05-01T00:00:00Z", "end_datetime": "2025-05-03"}
    item = {"properties": {"datetime": None, **ends}}
    assert item_moment(item) == datetime(2025, 5, 2, tzinfo=UTC)
    assert item_moment({"properties": {"datetime": None}}) is None
    assert item_moment({"properties": {"datetime": "yesterday"}}) is None
    assert item_moment({}) is None
