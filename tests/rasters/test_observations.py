"""Which items are one overpass or one scene, where archives tell it in other ways."""

import itertools

import pytest

from geoseg.rasters.observations import observations


def item(name, when, lon=10.0, collection="c", **properties):
    west, east = (((lon + d + 180) % 360) - 180 for d in (-0.5, 0.5))
    return {
        "id": name,
        "collection": collection,
        "bbox": [west, 46, east, 47],
        "properties": {"datetime": when, **properties},
    }


def groups(items):
    return sorted(sorted(i["id"] for i in o.items) for o in observations(items)[0])


@pytest.mark.parametrize("lon", [-179.4, 179.4, 0.0, 150.0])
def test_an_overpass_has_one_day_on_both_sides_of_the_antimeridian(lon):
    """By the sun it is a day later in the east: the overlap counted twice."""
    items = [
        item(name, f"2021-06-01T22:30:{10 * n:02d}Z", lon + 0.6 * n, platform="hls")
        for n, name in enumerate("abc")
    ]
    items.append(item("d", "2021-06-02T22:30:00Z", lon, platform="hls"))
    for order in itertools.permutations(items):
        assert groups(order) == [["a", "b", "c"], ["d"]]


def take(start, orbit, baseline="05.00"):
    return {"s2:datatake_id": f"GS2A_{start}_{orbit}_N{baseline}"}


def test_datatakes_of_one_orbit_are_one_overpass():
    """A number of an orbit that stands for another one days later is none of it."""
    items = [
        item("a", "2021-06-01T10:10:00Z", **take("20210601T095031", "031000")),
        item("b", "2021-06-01T10:10:03Z", **take("20210601T101001", "031000")),
        item("c", "2021-06-01T11:50:00Z", **take("20210601T113031", "031001")),
        item("d", "2021-06-11T10:10:00Z", **take("20210611T095031", "031000")),
    ]
    for order in itertools.permutations(items):
        assert groups(order) == [["a", "b"], ["c"], ["d"]]


def test_a_scene_in_several_archives_is_there_once():
    """As three archives of Sentinel-2 tell one, and two of HLS another."""
    started = "20190629T101559"
    strip = "S2B_OPER_MSI_L2A_DS_{}_S20190629T102000_N{}"
    of = {"s2:processing_baseline": "02.12", "s2:mgrs_tile": "32TPS"}
    items = [
        item(
            f"S2B_MSIL2A_{started}_R065_T32TPS_20201006T080531", "2019-06-29T10:15:59Z",
            **of, **{
                "s2:datatake_id": f"GS2B_{started}_012083_N02.12",
                "s2:datastrip_id": strip.format("ESRI_20201006T080532", "02.12"),
            },
        ),
        item(
            "S2B_32TPS_20190629_0_L2A", "2019-06-29T10:20:32Z", **of, **{
                "s2:datatake_id": f"GS2B_{started}_012083_N02.12",
                "s2:datastrip_id": strip.format("SGS__20190629T130000", "02.12"),
            },
        ),
        item(
            f"S2B_MSIL2A_{started}_N0500_R065_T32TPS_20230606T080531",
            "2019-06-29T10:15:59Z",
            **{
                "eopf:datatake_id": f"GS2B_{started}_012083_N05.00",
                "eopf:datastrip_id": strip.format("S2RP_20230606T080531", "05.00"),
                "grid:code": "MGRS-32TPS", "processing:version": "05.00",
                "constellation": "sentinel-2",
            },
        ),
    ]  # fmt: skip
    for order in itertools.permutations(items):
        assert groups(order) == [[items[2]["id"]]]
    name = "HLS.S30.T32TPS.2021158T101559.v2.0"
    when = "2021-06-07T10:15:59Z"
    hls = [item(name, when, collection="HLSS30_2.0", created="2021-06-09T00:00:00Z")]
    hls.append(item(name, when, collection="hls2-s30", platform="sentinel-2a"))
    assert groups(hls) == groups(hls[::-1]) == [[name]]


def test_a_datatake_that_began_at_no_time_is_one_by_its_name():
    items = [
        item(name, "2021-06-01T10:10:00Z", **take("20210600T095031", "031000"))
        for name in "ab"
    ]
    assert groups(items) == [["a", "b"]]
