"""Architecture of a net: a frozen description with conversion to JSON and to a graph."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any, Self

from lepton_automl.core import plugins, untrusted_files
from lepton_automl.errors import ArchError, ConfigError
from lepton_automl.models.builder import Builder
from lepton_automl.models.front_end import LogMel
from lepton_automl.models.graph import Graph
from lepton_automl.models.layers import Layer
from lepton_automl.models.layers.head import Head


@dataclass(frozen=True)
class Arch:
    """A chain of layers behind an input; the last layer is the head.

    Parameters
    ----------
    input : tuple of int
        Height, width and channels of a picture, or length and channels of a signal.
    layers : tuple of Layer
        In order; the last one computes one logit a class.
    front_end : LogMel, optional
        What a written file computes before the net, from PCM samples; `input` is then its
        `feature_shape`. None: the file reads the net's input.
    """

    input: tuple[int, ...]
    layers: tuple[Layer, ...]
    front_end: LogMel | None = None

    @property
    def file_input(self) -> tuple[int, ...]:
        """Shape of a sample that a written file reads: `input`, or (window,) of audio."""
        return self.input if self.front_end is None else (self.front_end.window,)

    @property
    def is_signal(self) -> bool:
        """Whether samples have one spatial axis, time, and the net reads measured values."""
        return len(self.input) == 2

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a sample; (1, length) for a signal."""
        return (1 if self.is_signal else self.input[0], self.input[-2])

    @property
    def channels(self) -> int:
        """Channels of a sample."""
        return self.input[-1]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.graph.output.channels

    @functools.cached_property
    def graph(self) -> Graph:
        """The operations of all layers.

        Raises
        ------
        ArchError
            If the layers do not fit together.
        """
        builder = self.builder()
        value = builder.input
        for index, layer in enumerate(self.layers):
            builder.begin_layer(index, layer)
            value = layer.lower(builder, value)
        return builder.finish(value)

    @property
    def weights(self) -> int:
        """Number of weights of all layers."""
        return sum(math.prod(op.weight_shape) for op in self.graph.weighted_ops)

    def builder(self) -> Builder:
        """A builder without operations for the input."""
        return Builder(*self.size, self.channels, len(self.input) - 1)

    @functools.cached_property
    def hash(self) -> str:
        """Sixteen hexadecimal digits of a hash of `to_json`."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def with_widths(self, sizes: dict[str, int]) -> Self:
        """Copy with the named widths (see `Graph.widths`) set to other sizes."""
        layers = list(self.layers)
        for item in self.graph.widths:
            for index, name in item.fields if item.name in sizes else ():
                layers[index] = dataclasses.replace(layers[index], **{name: sizes[item.name]})
        return dataclasses.replace(self, layers=tuple(layers))

    def to_json(self) -> str:
        """One line of JSON, the same for equal architectures."""
        layers = [{"type": layer_name(layer), **dataclasses.asdict(layer)} for layer in self.layers]
        body = {"input": list(self.input), "layers": layers}
        if self.front_end is not None:
            body["front_end"] = self.front_end.to_fields()
        return json.dumps(body, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises
        ------
        ArchError
            If the text is not the description of an architecture.
        """
        fix = "give an arch.json that lepton wrote"
        try:
            document = untrusted_files.parse_json(
                text, "an architecture", fix=fix, top=dict, error=ArchError
            )
            shape = tuple(int(n) for n in document["input"])
            layers = tuple(_layer(dict(item)) for item in document["layers"])
            fields = document.get("front_end")
            front_end = None if fields is None else LogMel.from_fields(fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArchError(f"not the description of an architecture: {error}", fix=fix) from error
        if len(shape) not in (2, 3) or min(shape) < 1 or not layers:
            raise ArchError(
                f"an architecture needs an input of 2 or 3 sizes and a layer, got {shape}",
                fix=fix,
            )
        if front_end is not None and front_end.feature_shape != shape:
            raise ArchError(
                f"an architecture for inputs {shape} has a front end that gives "
                f"{front_end.feature_shape}",
                fix=fix,
            )
        return cls(shape, layers, front_end)


def chain(input: tuple[int, ...], layers: list[Layer], classes: int) -> Arch:
    """Build an `Arch` from layers, setting each one's derived fields from its input channels.

    The last layer must be a `Head`; its `classes` is set.
    """
    if not isinstance(layers[-1], Head):
        raise ArchError("the last layer must be a head", fix="end the list with Head()")
    chained: list[Layer] = []
    channels = input[-1]
    for index, layer in enumerate([*layers[:-1], dataclasses.replace(layers[-1], classes=classes)]):
        chained.append(layer.with_input_channels(channels))
        builder = Arch((*[8192] * (len(input) - 1), channels), ()).builder()
        builder.begin_layer(index, chained[-1])
        channels = chained[-1].lower(builder, builder.input).channels
    return Arch(input, tuple(chained))


def layer_name(layer: Layer) -> str:
    """Plug-in name of a layer: the name of the file that defines it."""
    module = type(layer).__module__
    ours = module.removeprefix("lepton_automl.models.layers.")
    if ours != module:
        return ours
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(layer).__name__).lower()


def _layer(document: dict[str, Any]) -> Layer:
    name = document.pop("type")
    try:
        kind = plugins.load("layers", name, Layer)  # type: ignore[type-abstract]
    except ConfigError as error:
        raise ArchError(error.what, fix=error.fix) from error
    known = {item.name for item in dataclasses.fields(kind)}
    if set(document) != known:
        raise ArchError(
            f"layer {name!r} has fields {sorted(known)}, got {sorted(document)}",
            fix="give an arch.json written by this version of lepton",
        )
    return kind(**document)
