"""Does it look at the image? The same model without the image, or with another one in its place."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from vlmed.models.controls import mid_grey
from vlmed.models.protocols import Generator, LoadedModel, ModelInfo, Request

if TYPE_CHECKING:
    from vlmed.models.encoders import TowerEncoder


def blank(model: LoadedModel, ref: str) -> LoadedModel:
    """The model, shown a mid-grey image in place of every image."""
    if isinstance(model.predictor, Generator):
        return LoadedModel(_as_control(model.info, ref, "on blank images"), _blindfolded(model.predictor))
    encoder = cast("TowerEncoder", model.predictor)
    seeing = encoder.transform
    blind = dataclasses.replace(
        encoder,
        transform=lambda image: seeing(mid_grey(image)),
        preprocessing=f"blank:{encoder.preprocessing}",
    )
    return LoadedModel(_as_control(model.info, ref, "on blank images"), blind)


def swapped(model: LoadedModel, ref: str) -> LoadedModel:
    """The model, shown another sample's image in place of each test sample's own; which one, evaluation decides."""
    info = _as_control(model.info, ref, "on swapped images")
    return dataclasses.replace(model, info=info, swaps_images=True)


BLINDED: Mapping[str, Callable[[LoadedModel, str], LoadedModel]] = {"blank": blank, "swapped": swapped}


def _as_control(info: ModelInfo, ref: str, how: str) -> ModelInfo:
    return dataclasses.replace(info, ref=ref, name=f"{info.name} {how}", family="control")


def _blindfolded(generator: Generator) -> Generator:
    """A copy that answers, and chooses if it could, as if every image were blank; one without image stays so."""
    blind = copy.copy(generator)
    for name in ("answer", "choose"):
        if seeing := getattr(type(generator), name, None):
            setattr(blind, name, partial(_ask_blank, partial(seeing, blind)))
    return blind


def _ask_blank(ask: Callable[..., Any], requests: Sequence[Request], *choices: Sequence[str]) -> Any:
    unseen = [dataclasses.replace(each, image=each.image and mid_grey(each.image)) for each in requests]
    return ask(unseen, *choices)
