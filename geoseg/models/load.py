"""From what a user says (`--model …`) to a model, once per process.

What travels between processes is a `ModelRecipe`: what the user said, the options, and
the few numbers a fitted model has learned. Weights are read where they are used.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import uuid
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoseg.core import views
from geoseg.core.discretion import discreet
from geoseg.errors import ModelError
from geoseg.models import custom
from geoseg.models.card import ALL_BANDS, Band, Card
from geoseg.models.context import Context, context_of
from geoseg.models.identity import OpenedModel, content_hash
from geoseg.models.networks.device import (
    SIDE_BY_SIDE,
    EngineName,
    ModelOptions,
    Precision,
)
from geoseg.models.opening import open_named, with_file
from geoseg.models.stac import card_file
from geoseg.rasters.source import by_step

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from geoseg.models.card import Task
    from geoseg.models.contract import Model
    from geoseg.rasters.open import Source

_KEPT = 4  # models that stay loaded in one process
_LOADED: OrderedDict[str, Model] = OrderedDict()
_OPENED: dict[str, OpenedModel] = {}  # the last one opened and not yet loaded
_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Object:
    """A model given as a Python object: it travels by value, under a name of its own.

    Copies that were pickled into other processes share the `key` of the original, so
    that each process keeps one of them.
    """

    target: Any = field(repr=False)  # a recipe's text is what it is known by
    key: str

    def __reduce__(self) -> tuple[Any, ...]:
        import cloudpickle

        return _unpickle_object, (cloudpickle.dumps(self.target), self.key)


def _unpickle_object(payload: bytes, key: str) -> _Object:
    import cloudpickle

    return _Object(cloudpickle.loads(payload), key)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecipe:
    """How to load a model; small, picklable, the same answer wherever it is loaded.

    Make one with `model_recipe`. Two recipes with the same `hash` give the same labels.
    """

    spec: str | _Object | tuple[ModelRecipe, ...]
    """What the user said, or the object that the user gave; several are averaged."""
    card: Card
    """What the model expects and answers."""
    content: str
    """SHA-256 of card and weights, or of card and code; checked again on loading."""
    options: ModelOptions = field(default_factory=ModelOptions)
    """Device, precision, batch."""
    tta: str | None = None
    """`d4` or `flips`: every window is looked at turned and mirrored, and averaged."""
    scales: tuple[float, ...] = ()
    """Every window is looked at resized by these factors, and averaged."""
    asked: str | None = None
    """The task, of a network that can do others than its card says; the card here is
    that of the task."""
    context: str | None = None
    """JSON of what a raster tells beside its pixels, where the card asks for it."""
    fitted: str | None = None
    """JSON of what a fittable model has learned from the raster; None: nothing yet."""

    def _repr_html_(self) -> str:
        return views.html("card", self.card)

    @property
    def name(self) -> str:
        """Short name for messages and provenance."""
        return self.card.name

    @property
    def hash(self) -> str:
        """Identity of everything that changes the answer: what masks are marked with.

        Card, weights or code, precision, and what was fitted. Not the device and not
        the batch, which change an answer by rounding at most.
        """
        facts: list[Any] = [
            self.content,
            self.options.precision,
            self.fitted,
            self.tta,
        ]
        facts += [list(self.scales)] if self.scales else []
        facts += [self.asked, *(self.card.things or ())] if self.asked else []
        facts += [self.context] if self.context else []
        if isinstance(self.spec, tuple):
            facts += [part.context for part in self.spec if part.context]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @property
    def identity(self) -> str:
        """What the model is, whatever it is run on."""
        facts: list[Any] = [self.content, self.tta, self.scales, self.fitted]
        facts += [self.asked, self.card.things]
        facts += [self.context] if self.context else []
        return json.dumps(facts)

    def with_options(self, options: ModelOptions) -> ModelRecipe:
        """Return the recipe with other options, of all its parts.

        A model that is loaded and is what they ask for is not loaded again.
        """
        spec = self.spec
        if isinstance(spec, tuple):
            spec = tuple(part.with_options(options) for part in spec)
        other, own = replace(self, options=options, spec=spec), self.options
        with _LOCK:
            model = _LOADED.get(self._key())
            if model is not None:
                chosen = replace(
                    options,
                    precision=own.precision
                    if options.precision == model.precision
                    else options.precision,
                    batch=own.batch if options.batch == model.batch else options.batch,
                    engine=own.engine
                    if _is_run_alike(options.engine, model.engine)
                    else options.engine,
                )
                if chosen == own:
                    _LOADED[other._key()] = model  # noqa: SLF001
        return other

    def bound(self, source: Source) -> ModelRecipe:
        """Return the recipe with the raster's bands, where the card takes all."""
        if self.card.step_bands != (ALL_BANDS,):
            return self
        theirs = source.bands
        if self.card.times is not None:  # those of a date stand for those of all
            theirs = tuple(theirs[i] for i in next(iter(by_step(theirs).values())))
        bands = tuple(Band(name=b.name, common_name=b.common_name) for b in theirs)
        return replace(self, card=replace(self.card, bands=bands))

    def given(self, source: Source) -> ModelRecipe:
        """Return the recipe with what the card asks of a raster beside its pixels.

        Args:
            source: The raster with the card's bands, as windows are cut from it.

        Raises:
            ModelError: It cannot tell.
        """
        spec = self.spec
        if isinstance(spec, tuple):
            return replace(self, spec=tuple(part.given(source) for part in spec))
        if not self.card.inputs:
            return self
        return replace(self, context=context_of(self.card, source).json)

    def fit(self, source: Source) -> ModelRecipe:
        """Return the recipe of the model fitted to a raster; itself where none is due.

        Args:
            source: The raster with the card's bands, in the card's order.
        """
        model = self.load()
        if self.fitted is not None or not model.fits:
            return self
        fitted = model.fit(source)
        return replace(self, card=fitted.card, fitted=json.dumps(fitted.parameters()))

    def load(self) -> Model:
        """Return the model; it is loaded at most once per process."""
        key = self._key()
        with _LOCK:
            if key not in _LOADED:
                _LOADED[key] = self._build()
                while len(_LOADED) > _KEPT:
                    _LOADED.popitem(last=False)
            _LOADED.move_to_end(key)
            return _LOADED[key]

    def unload(self) -> None:
        """Forget the model, where this process has it."""
        with _LOCK:
            model = _LOADED.get(self._key())
            for key in [k for k, other in _LOADED.items() if other is model]:
                del _LOADED[key]

    def _key(self) -> str:
        what = self.spec.key if isinstance(self.spec, _Object) else str(self.spec)
        how = (self.options, self.fitted, self.tta, self.scales, self.context)
        task = (self.asked, self.card.things) if self.asked else ()
        return repr((what, self.content, *how, *task))

    @property
    def card_file(self) -> Path | None:
        """The file of its card, or where that belongs; None where it has none."""
        return card_file(Path(self.spec)) if isinstance(self.spec, str) else None

    def telling_of(self, text: str) -> str:
        """Return a text about the model's card, with the file that it lies in."""
        return with_file(text, self.card_file, self.card.name)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Name the file of the card in errors about it."""
        try:
            yield
        except ModelError as error:
            raise ModelError(self.telling_of(str(error))) from error

    def _build(self) -> Model:
        with self.telling():
            return self._built()

    def _built(self) -> Model:
        model: Any  # the families' modules are imported by name
        if isinstance(self.spec, _Object):
            model = custom.wrap(self.spec.target, self.options, name=self.name)
        elif isinstance(self.spec, tuple):
            from geoseg.models.combine import Ensemble

            model = Ensemble([recipe._build() for recipe in self.spec])  # noqa: SLF001
        else:
            opened = self._reopened(self.spec)
            if self.asked is not None and opened.load_as is not None:
                model = opened.load_as(self.card, self.options)
            else:
                model = opened.load(self.options)
        if self.context is not None:
            model = model.with_context(Context.of_json(self.context))
        if self.fitted is not None:
            model = model.with_parameters(json.loads(self.fitted))
        if self.tta is None and not self.scales:
            return model  # type: ignore[no-any-return]
        from geoseg.models.combine import Augmented

        augmented: Any = Augmented(model, self.tta, self.scales)
        return augmented  # type: ignore[no-any-return]

    def _reopened(self, spec: str) -> OpenedModel:
        opened = _OPENED.pop(spec, None)
        if opened is None or opened.content != self.content:
            opened = open_named(spec)
        if opened.content != self.content:
            raise ModelError(
                f"the model {spec} is not the one the run was planned with: its card, "
                "weights or code have changed since"
            )
        return opened


def _is_run_alike(asked: str, loaded: str) -> bool:
    """Whether a loaded model serves another engine: batches may be compiled or not."""
    return (asked in SIDE_BY_SIDE) == (loaded in SIDE_BY_SIDE) and (
        asked not in SIDE_BY_SIDE or asked == loaded
    )


def model_recipe(
    spec: object,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    batch: int | None = None,
    engine: EngineName = "auto",
    device_memory: float | None = None,
    tta: str | None = None,
    scales: Sequence[float] | None = None,
    prompts: str | os.PathLike[str] | None = None,
    task: Task | None = None,
    things: Sequence[str] | None = None,
) -> ModelRecipe:
    """Return the recipe of the model that a user names or gives.

    Args:
        spec: A model folder or its card; a model file with a card beside it;
            `hf:owner/name`; `module:factory`; a classical method such as
            `threshold:ndwi`; or a Python object: a network or callable with `.card`,
            an object with `.card` and `.predict`, or a tuple (card, either of them).
            A list of any of them is an ensemble: their probabilities are averaged.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        batch: Windows per forward pass; None: what suits the device.
        engine: `auto`, `threads`, `torch`, `compile` or `openvino`.
        device_memory: Bytes of the GPU that may be used; None: most of what is free.
        tta: `d4` looks at every window in all eight turns and mirrors, `flips` in four.
        scales: Looks at every window resized by these factors, such as 0.5, 1, 2.
        prompts: Vector file of points, boxes or polygons that a model such as SAM is
            asked for.
        task: What a network is asked for that can do several tasks; of all other models
            it is the card that says so.
        things: Then the names of the classes whose objects are counted; None: all.

    Raises:
        ModelError: There is no such model, or it is not whole.
        MissingExtraError: It needs a package that is not installed.
    """
    where = None if prompts is None else os.fspath(prompts)
    if where is not None and "://" not in where:
        where = str(Path(where).absolute())
    options = ModelOptions(
        device=device,
        precision=precision,
        batch=batch,
        engine=engine,
        device_memory=device_memory,
        prompts=where,
    )
    recipe = _plain_recipe(spec, options)
    if where is not None and not recipe.load().takes_prompts:
        raise ModelError(
            f"{recipe.name} answers no prompts: --prompts is for SAM and its like; "
            "markers of region growing belong to its name, as in grow:seeds.gpkg"
        )
    if task not in (None, recipe.card.task) and _can_be_asked(recipe):
        card = replace(recipe.card, task=task, things=tuple(things or ()) or None)
        recipe = replace(recipe, card=card, asked=task)
    if tta is None and not scales:
        return recipe
    from geoseg.models.combine import augmented_card

    sizes = tuple(float(scale) for scale in scales or ())
    card = augmented_card(recipe.card, tta, sizes)
    return replace(recipe, card=card, tta=tta, scales=sizes)


def _can_be_asked(recipe: ModelRecipe) -> bool:
    """Whether it is the user who says what the network does."""
    opened = _OPENED.get(str(recipe.spec))
    return opened is not None and opened.load_as is not None


def _plain_recipe(spec: object, options: ModelOptions) -> ModelRecipe:
    """Return the recipe without augmentation."""
    if isinstance(spec, ModelRecipe):
        return spec
    if isinstance(spec, list):
        return _ensemble_recipe([_plain_recipe(s, options) for s in spec], options)
    if isinstance(spec, (str, os.PathLike)):
        text = os.fspath(spec)
        opened = open_named(text)
        with _LOCK:
            _OPENED.clear()
            _OPENED[opened.spec] = opened
        return ModelRecipe(
            spec=opened.spec, card=opened.card, content=opened.content, options=options
        )
    card, _ = custom.split_card(spec, name=type(spec).__name__)
    return ModelRecipe(
        spec=_Object(spec, uuid.uuid4().hex),
        card=card,
        content=custom.identity(spec, name=card.name),
        options=options,
    )


def _ensemble_recipe(recipes: list[ModelRecipe], options: ModelOptions) -> ModelRecipe:
    if len(recipes) == 1:
        return recipes[0]
    if not recipes:
        raise ModelError("no model was given")
    from geoseg.models.combine import ensemble_card

    card = ensemble_card([recipe.card for recipe in recipes])
    return ModelRecipe(
        spec=tuple(recipes),
        card=card,
        content=content_hash(card, *(recipe.content for recipe in recipes)),
        options=options,
    )


@discreet
def load_model(
    spec: object,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    batch: int | None = None,
    tta: str | None = None,
    scales: Sequence[float] | None = None,
    prompts: str | os.PathLike[str] | None = None,
) -> Model:
    """Load a model, to predict windows with or to look at its card.

    Args:
        spec: What `segment` takes as its model.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        batch: Windows at a time; default what the device takes best.
        tta: `d4` or `flips`: windows are looked at turned and mirrored, too.
        scales: Factors by which windows are looked at resized, too.
        prompts: Vector file of points, boxes or polygons, of models that take them.

    Returns:
        A model with `card` and `predict`: of pixels (n, band, y, x) as the raster
        stores them, scores (n, class, y, x) or labels (n, y, x), on its device.

    Raises:
        ModelError: There is no such model, or it cannot be used as is asked.
        MissingExtraError: A package that it needs is not installed.
    """
    recipe = model_recipe(
        spec,
        device=device,
        precision=precision,
        batch=batch,
        tta=tta,
        scales=scales,
        prompts=prompts,
    )
    model = recipe.load()
    views.show_models_as_cards(type(model))
    return model
