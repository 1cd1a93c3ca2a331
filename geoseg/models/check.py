"""Whether a raster can be what a model was trained on.

Bands, dtype, value range and resolution are compared with the card; values come from a
small seeded sample, so the answer is the same every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoseg.core.grid import Window
from geoseg.errors import (
    GeosegError,
    MissingExtraError,
    ModelError,
    RasterError,
    first_line,
)
from geoseg.models.caution import cautions
from geoseg.models.classical.sample import sample_windows
from geoseg.models.fill import put_fill
from geoseg.rasters.open import for_model
from geoseg.rasters.time_steps import is_series

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoseg.models.card import Band, Card
    from geoseg.models.contract import Model
    from geoseg.models.load import ModelRecipe
    from geoseg.rasters.open import Source

_GDAL_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16",
    "uint32": "UInt32", "int32": "Int32", "float32": "Float32", "float64": "Float64",
}  # fmt: skip
_WINDOWS = 16
_PIXELS = 4096  # of each window
_FAR = 100.0  # scaled values of trained-on pixels are of the order of 1
_ROUNDED = 0.02  # beyond 0 ... 1, of probabilities in few digits
_FLAT = 1e-3  # scaled values that differ less than this are one value to a network


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of what was found."""

    subject: str
    """`bands`, `model`, `raster`, `dtype`, `values`, `scaling`, `resolution`, `crs`."""
    level: Literal["ok", "note", "wrong"]
    """`wrong`: the labels would be nonsense; the run is refused."""
    text: str
    """What, with the numbers."""


def check_fit(card: Card, source: Source) -> list[Finding]:
    """Return what was found, or raise where it cannot be right.

    Args:
        card: The model's card.
        source: The raster, all of its bands or those that the model wants.

    Raises:
        ModelError: The first finding that is `wrong`.
    """
    found = examine(card, source)
    for finding in found:
        if finding.level == "wrong":
            raise ModelError(f"{source.name} does not fit {card.name}: {finding.text}")
    return found


def examine(card: Card, source: Source) -> list[Finding]:
    """Return all findings, good and bad, as `geoseg model check` shows them."""
    try:
        selected = for_model(source, card)
    except RasterError as error:
        return [Finding(subject="bands", level="wrong", text=str(error))]
    found = [_bands(card, selected), _dtype(card, selected)]
    told = cautions(card, source.grid)
    found += [Finding(subject="model", level="note", text=n) for n in told]
    found += [Finding(subject="raster", level="note", text=n) for n in selected.notes]
    if found[1].level != "wrong" and _says_values(card):
        sample = _sample(selected)
        found += [_values(card, selected, sample), *_scaled(card, sample)]
    return [*found, _resolution(card, source), _crs(source)]


def try_out(recipe: ModelRecipe, source: Source) -> list[Finding]:
    """Load a model and give it one window, and return what there is to say.

    So a program that was exported for other windows, or an answer that is none, is
    found before a run.

    Args:
        recipe: The model.
        source: The raster; its dtype is what windows have.

    Raises:
        MissingExtraError: A package is not installed.
    """
    card = recipe.card
    try:
        read = for_model(source, card)
        recipe = recipe.given(read)
        with recipe.telling():
            model = recipe.load()
            if model.placed and card.inputs:
                window = Window(y=0, x=0, height=card.window, width=card.window)
                shape = window.height, window.width
                pixels = np.zeros((1, len(card.bands), *shape), read.dtype)
                model.predict_at(pixels, [window], np.ones((1, *shape), np.bool_))
            check_answer(recipe, read, thorough=True)
    except MissingExtraError:
        raise
    except (GeosegError, RuntimeError, ValueError) as error:
        own = isinstance(error, GeosegError)  # whose remedy stands at the end
        said = str(error) if own else first_line(error)
        return [Finding(subject="model", level="wrong", text=said)]
    notes = getattr(model, "notes", ())
    return [Finding(subject="model", level="note", text=note) for note in notes]


def check_answer(
    recipe: ModelRecipe, source: Source, *, thorough: bool = False
) -> None:
    """Give a network the middle of a raster, and compare its answer with its card.

    Of logits nothing can be told but those of a single channel, which a second sigmoid
    would put on one side of a half.

    Args:
        recipe: The model.
        source: The raster with the card's bands, as windows are cut from it.
        thorough: Whether any model is tried, also those of which nothing can be told.

    Raises:
        ModelError: What it answers cannot be what its card says.
    """
    card, model = recipe.card, recipe.load()
    if model.placed or model.fits or not (thorough or _can_be_told(model)):
        return
    pixels, valid = _middle(source, card)
    answer: Any = model.predict(pixels[None])
    if not valid.any() or not _can_be_told(model):
        return
    if not isinstance(answer, np.ndarray):
        answer = answer.float().cpu().numpy()
    with recipe.telling():
        if card.output == "labels":
            check_values(card, answer[0][valid])
        else:
            _check_range(card, answer[0, -1][valid])


def _can_be_told(model: Model) -> bool:
    """Whether a network's answers may show that its card is wrong."""
    card = model.card
    scores = card.output == "logits" and not getattr(model, "single", False)
    return card.task == "semantic" and model.precision != "own" and not scores


def _check_range(card: Card, scores: NDArray[np.floating[Any]]) -> None:
    """Raise where scores of a card's last class are other than it says.

    Raises:
        ModelError: They are no probabilities, as it says, or as good as them.
    """
    if card.threshold is not None:  # by which they were moved
        if card.output == "probabilities":
            return
        scores = scores + np.log(card.threshold / (1 - card.threshold))
    low, high = float(scores.min()), float(scores.max())
    seen = f"model {card.name!r} answers {low:.3g} … {high:.3g} in the raster's middle"
    beyond = max(-low, high - 1)
    if card.output == "probabilities":
        if beyond > _ROUNDED:
            raise ModelError(
                f"{seen}, which are no probabilities, as its card says: write "
                '"output": "logits"'
            )
        return
    if beyond <= 0 and low != high and not card.facts.get("logits"):
        raise ModelError(
            f"{seen}, as probabilities are, and its card says logits, of which all "
            f"are {card.classes[-1].name!r}: where its last layer is a sigmoid, write "
            '"output": "probabilities" into the card; where it is none, "facts": '
            '{"logits": true}'
        )


def check_values(card: Card, labels: NDArray[np.generic]) -> None:
    """Raise where labels are none of the card's classes.

    Raises:
        ModelError: The line says which, and what to write.
    """
    values = [c.value for c in card.classes]
    odd = np.setdiff1d(labels, values)
    if len(odd):
        raise ModelError(
            f"model {card.name!r} answers the class {odd[0]:g}, which its card does "
            f'not have: give the classes their values, "classes": [{{"name": '
            f'"{card.classes[-1].name}", "value": {odd[0]:g}}}, …]'
        )


def _middle(
    source: Source, card: Card
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Return a full window of a raster's middle, and which of its pixels are valid."""
    grid, side = source.grid, card.window
    y, x = (max(0, (length - side) // 2) for length in (grid.height, grid.width))
    window = Window(
        y=y, x=x, height=min(side, grid.height), width=min(side, grid.width)
    )
    read, seen = source.read(window)
    pixels = np.zeros((len(card.bands), side, side), read.dtype)
    valid = np.zeros((side, side), np.bool_)
    pixels[:, : window.height, : window.width] = read
    valid[: window.height, : window.width] = seen
    put_fill(pixels, valid, card)
    return pixels, valid


def _bands(card: Card, source: Source) -> Finding:
    """Say which band of the file is which of the model's, as the run will have it."""
    pairs = "; ".join(_pairs(card, source))
    unnamed = all(b.name.isdigit() for b in source.bands)
    how = "by position, the raster does not name its bands: " if unnamed else ""
    if not unnamed and all(b.name.isdigit() for b in card.bands):
        unnamed, how = True, "by position, the model does not name its bands: "
    return Finding(subject="bands", level="note" if unnamed else "ok", text=how + pairs)


def _pairs(card: Card, source: Source) -> Iterator[str]:
    """Yield which band is which, a text for each step in time."""
    pairs = zip(card.bands, source.bands, strict=True)
    numbered = enumerate(pairs, 1)
    for time, group in groupby(numbered, lambda pair: pair[1][0].time):
        rows = list(group)
        told = ", ".join(
            f"{wanted.name} <- {band.number or index} ({band.name})"
            for index, (wanted, band) in rows
        )
        static = "" if card.times is None else "static: "
        step = rows[0][1][1].step or "no date"
        yield (static if time is None else f"step {time + 1} <- {step}: ") + told


def _dtype(card: Card, source: Source) -> Finding:
    name = source.dtype.name
    if source.dtype.kind == "c":
        text = f"its pixels are complex ({name}), no model takes those"
        return Finding(subject="dtype", level="wrong", text=text)
    # Floats of a series may be whole numbers: NaN is what a step does not show.
    whole = is_series(source.bands) and source.dtype.kind == "f"
    if card.dtypes is not None and name not in card.dtypes and not whole:
        trained = f"the model was trained on {', '.join(card.dtypes)}"
        remedy = _converted(source.dtype, card.dtypes[0])
        text = f"its pixels are {name}, {trained}; {remedy}"
        return Finding(subject="dtype", level="wrong", text=text)
    text = name if card.dtypes else f"{name}; the card does not say which it takes"
    return Finding(subject="dtype", level="ok" if card.dtypes else "note", text=text)


def _converted(have: np.dtype[Any], wanted: str) -> str:
    """Return how GDAL makes pixels of one dtype from those of another."""
    name = _GDAL_TYPES.get(wanted, wanted)
    plain = f"gdal_translate -ot {name} IN OUT.tif"
    target = np.dtype(wanted)
    if target.kind not in "iu":
        return f"convert it: {plain}"
    top = np.iinfo(wanted).max
    if have.kind in "iu" and have.itemsize > target.itemsize:
        scale = f"-scale 0 {np.iinfo(have.name).max} 0 {top}"
        return f"rescale it: gdal_translate -ot {name} {scale} IN OUT.tif"
    if have.kind == "f":
        return f"where its values are whole numbers of 0 ... {top}, convert it: {plain}"
    return f"convert it: {plain}"


def _says_values(card: Card) -> bool:
    return card.value_range is not None or any(map(_is_scaled, card.bands))


def _is_scaled(band: Band) -> bool:
    return band.scale != 1 or band.offset != 0 or band.clip is not None


def _sample(source: Source) -> NDArray[np.float64]:
    """Return some valid pixels as (n, band)."""
    parts = []
    for window in sample_windows(source.grid, count=_WINDOWS):
        pixels, valid = source.read(window)
        rows = pixels[:, valid].T.astype(np.float64)
        parts.append(rows[:: max(1, len(rows) // _PIXELS)])
    rows = np.concatenate(parts)
    if is_series(source.bands):  # of which a pixel may miss some steps
        return rows[np.isfinite(rows).any(axis=1)]
    return rows[np.isfinite(rows).all(axis=1)]


def _values(card: Card, source: Source, sample: NDArray[np.float64]) -> Finding:
    if not len(sample):
        return Finding(
            subject="values", level="note", text="no valid pixel in the sample"
        )
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, (1, 99))
    seen = f"most values are {low:g} ... {high:g}"
    if card.value_range is None:
        return Finding(subject="values", level="note", text=seen)
    first, last = card.value_range
    text = f"{seen}, the model was trained on {first:g} ... {last:g}"
    outside = float(((sample < first) | (sample > last)).mean())
    if outside > 0.5:
        text += f" ({100 * outside:.0f} % lie outside): rescale the raster"
        return Finding(subject="values", level="wrong", text=text)
    if _much_smaller(card.value_range, source, sample):
        text += ": it has been rescaled; give it in the model's units"
        return Finding(subject="values", level="wrong", text=text)
    level: Literal["ok", "note"] = "note" if outside > 0.01 else "ok"
    return Finding(subject="values", level=level, text=text)


def _much_smaller(
    value_range: tuple[float, float], source: Source, sample: NDArray[np.float64]
) -> bool:
    """Say whether the raster's numbers are of another unit: 0 ... 1 for 0 ... 10000."""
    size = max(abs(v) for v in value_range)
    if source.dtype.kind in "iu" and np.iinfo(source.dtype.name).max * 10 < size:
        return True
    return float(np.percentile(np.abs(sample), 99)) * 200 < size and bool(sample.any())


def _scaled(card: Card, sample: NDArray[np.float64]) -> list[Finding]:
    """Look at the values as the network will see them."""
    if not any(map(_is_scaled, card.bands)):
        text = "the card states none: pixels go to the model as they are"
        return [Finding(subject="scaling", level="note", text=text)]
    if not len(sample) or not np.ptp(sample, axis=0).any():
        return []
    shown = np.asarray(np.isfinite(sample).any(axis=0))  # a step may be empty
    bands = [band for band, there in zip(card.bands, shown, strict=True) if there]
    sample = sample[:, shown]
    clips = [b.clip or (-np.inf, np.inf) for b in bands]
    low, high = np.array(clips).T
    offset = np.array([b.offset for b in bands])
    scale = np.array([b.scale for b in bands])
    scaled = (sample.clip(low, high) - offset) / scale
    middle = float(np.nanmedian(np.abs(scaled)))
    spread = float(np.nanmax(np.subtract(*np.nanpercentile(scaled, (99, 1), axis=0))))
    seen = (
        f"scaled by the card, values are {middle:.3g} in the middle, {spread:.3g} apart"
    )
    far = middle > _FAR and any(b.scale != 1 or b.offset != 0 for b in card.bands)
    if far or spread < _FLAT or _is_reflectance(card, sample):
        values = "{:g} ... {:g}".format(*np.nanpercentile(sample, (1, 99)))
        text = f"most values are {values}; {seen}: the raster is in other units"
        return [Finding(subject="scaling", level="wrong", text=text)]
    return [Finding(subject="scaling", level="ok", text=seen)]


def _is_reflectance(card: Card, sample: NDArray[np.float64]) -> bool:
    """Say whether pixels are within ±2 although the card divides by 20 and more."""
    return bool(
        np.nanmax(np.abs(sample)) <= 2 and all(abs(b.scale) >= 20 for b in card.bands)
    )


def _resolution(card: Card, source: Source) -> Finding:
    size = source.grid.pixel_size_m
    if size is None or card.resolution is None:
        text = "the card does not say" if size else "the raster's pixel size is unknown"
        return Finding(subject="resolution", level="note", text=text)
    metres = (size[0] * size[1]) ** 0.5
    ratio = metres / card.resolution
    text = (
        f"{metres:.3g} m per pixel, the model was trained on {card.resolution:g} m: "
        f"ratio {ratio:.3g}"
    )
    level: Literal["ok", "note"] = "ok" if 0.8 <= ratio <= 1.25 else "note"
    return Finding(subject="resolution", level=level, text=text)


def _crs(source: Source) -> Finding:
    if source.grid.crs is None:
        return Finding(subject="crs", level="note", text="the raster has no CRS")
    return Finding(subject="crs", level="ok", text="known")
