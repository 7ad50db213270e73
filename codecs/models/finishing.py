"""From trained networks to a model: integers, the tables that fit them, and what they lose.

`finished` turns the networks into integers, fits the tables of the entropy coder to what these see and checks
that all implementations agree; `measured` says what was lost on the way.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tilevault.codecs import _native
from tilevault.codecs.errors import ModelMismatch
from tilevault.codecs.models.blob import ROWS, SUM_LIMIT, Input, Model, read_network
from tilevault.codecs.models.coder import (
    LOG_SCALES,
    Coded,
    FloatPasses,
    IntegerPasses,
    Passes,
    code,
    logarithms,
    logistic_bits,
    rate_distortion,
    restoration_features,
)
from tilevault.codecs.models.crops import Crops
from tilevault.codecs.models.integer import integer_network
from tilevault.codecs.models.quantise import (
    CORRECTION_UNIT,
    FEATURE_QUARTERS,
    MEAN_UNIT,
    Ranges,
    entropy_blobs,
    restoration_blob,
)
from tilevault.codecs.models.tables import fitted, low_pass_rows, raw_bits, starting, table_bits
from tilevault.codecs.models.training import LAGRANGE, STAGES, Batch, Training, gained
from tilevault.codecs.models.transform import inverse_gains, mantissas

__all__ = ["Counts", "Measured", "conformance", "finished", "measured", "restoration_gain"]

Tensor = Any


@dataclass(frozen=True)
class Counts:
    """Batches of the export."""

    calibration: int = 12
    fitting: int = 40


def finished(training: Training, counts: Counts | None = None) -> Model:
    """The integer model of trained networks; those of stages that were left out, and tables, are the base's.

    Raises `ModelMismatch` where the implementations of the integer networks do not agree.
    """
    counts, base = counts or Counts(), training.base
    with torch.no_grad():
        entropy, restoration = _as_integers(training, _drawn(training, 0, counts.calibration))
        if base and not training.trains("restoration"):
            restoration = base.networks[4]
        if base and not training.trains("entropy", "choice"):
            model = replace(base, networks=(*base.networks[:4], restoration))
        else:
            model = _with_tables(training, (*entropy[0], *entropy[1], restoration), counts.fitting)
    conformance(model)
    return model


def _with_tables(training: Training, networks: tuple[bytes, ...], batches: int) -> Model:
    """A model whose tables are fitted to what its networks see."""
    passes, raw = _integer_passes(networks[:4]), raw_bits()
    frequencies = starting(raw)
    coded: list[Coded] = []
    for use in (1, 2):  # the second time with the choices that the first tables lead to
        bits = table_bits(frequencies, raw)
        choose = rate_distortion(bits, LAGRANGE)
        coded = [
            code(batch.planes, batch.steps, passes, choose, bits, keep=True)
            for batch in _drawn(training, use, batches)
        ]
        frequencies = fitted([part for c in coded for part in c.seen], raw)
    return Model(
        logarithms=logarithms(),
        mantissas=mantissas(),
        inverse_gains=inverse_gains(),
        low_rows=low_pass_rows([c.low for c in coded], table_bits(frequencies, raw)),
        raw_bits=raw,
        frequencies=frequencies,
        networks=networks,
    )


def _drawn(training: Training, use: int, count: int, crops: Crops | None = None) -> Iterator[Batch]:
    """Batches of crops that no stage has seen."""
    for i in range(count):
        at = (training.settings.seed, len(STAGES) + 1 + use, i)
        yield Batch.of((crops or training.crops).batch(at, training.settings.batch))


def _integer_passes(networks: Sequence[bytes]) -> list[Passes]:
    first, second, others_first, others_second = map(integer_network, networks)
    return [IntegerPasses(first, second), IntegerPasses(others_first, others_second)]


def _as_integers(training: Training, batches: Iterator[Batch]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    ranges, restoring = [Ranges() for _ in training.entropy], Ranges()
    observed: list[Passes] = [
        FloatPasses(network, seen) for network, seen in zip(training.entropy, ranges, strict=True)
    ]
    choose = rate_distortion(logistic_bits, LAGRANGE)
    for batch in batches:
        coded = code(batch.planes, batch.steps, observed, choose, logistic_bits)
        features = restoration_features(coded.plane, batch.steps)
        training.restoration(features.float() / FEATURE_QUARTERS, restoring)
    blobs = [entropy_blobs(network, seen) for network, seen in zip(training.entropy, ranges, strict=True)]
    return blobs, restoration_blob(training.restoration, restoring)


@dataclass(frozen=True)
class Measured:
    """What a model does on crops, and what its integers lose."""

    bits_float: float
    """Per sample, of the integers that the float networks chose, by those networks."""
    bits_integer: float
    """Of the same integers by the integer networks, as logistic densities."""
    bits_tables: float
    """Of the same integers by the tables, as they are stored."""
    restoration_gain: float
    """dB, mean over crops."""


def measured(training: Training, model: Model, crops: Crops | None = None, batches: int = 8) -> Measured:
    """Measure a model on crops of its training (none that it has seen), or on others."""
    passes = _integer_passes(model.networks[:4])
    tables = table_bits(model.frequencies, model.raw_bits)
    choose = rate_distortion(logistic_bits, LAGRANGE)
    rates: list[list[float]] = []
    gains: list[Tensor] = []
    with torch.no_grad():
        for batch in _drawn(training, 3, batches, crops):
            exact = code(batch.planes, batch.steps, training.passes(), choose, logistic_bits)
            others = [
                code(batch.planes, batch.steps, passes, choose, bits, given=exact)
                for bits in (_row_bits, tables)
            ]
            rates.append([float(c.bits.sum()) / batch.planes.numel() for c in (exact, *others)])
            gains.append(restoration_gain(model.networks[4], batch, exact.plane))
    floats, integers, stored = (float(rate) for rate in np.mean(rates, axis=0))
    return Measured(floats, integers, stored, float(torch.cat(gains).mean()))


def _row_bits(q: Tensor, mean: Tensor, row: Tensor) -> Tensor:
    """Bits under the logistic density that a row of the tables stands for."""
    low, high = LOG_SCALES
    return logistic_bits(q, mean / MEAN_UNIT, row * ((high - low) / (ROWS - 1)) + low)


def restoration_gain(blob: bytes, batch: Batch, decoded: Tensor) -> Tensor:
    """(n,): dB that the integer restoration network adds to each decoded plane."""
    (correction,) = integer_network(blob)(restoration_features(decoded, batch.steps).double())
    return gained(batch.in_steps(batch.planes - decoded), correction / CORRECTION_UNIT)


def conformance(model: Model, rows: int = 13, columns: int = 21) -> None:
    """Run each network natively, on every instruction set of this machine, and in torch.

    Inputs are random, beyond their bounds too. Raises `ModelMismatch` where one value differs.
    """
    draw = np.random.default_rng(0)
    for number, blob in enumerate(model.networks):
        inputs = [
            draw.integers(-4500, 4500, shape).astype(np.int16) for shape in _input_shapes(blob, rows, columns)
        ]
        as_floats = (torch.from_numpy(x[None]).double() for x in inputs)
        expected = [out[0].numpy() for out in integer_network(blob)(*as_floats)]
        for path in _native.network_paths():
            outputs = [np.zeros(out.shape, np.int16) for out in expected]
            _native.Network(blob, SUM_LIMIT, path).run(inputs, outputs, rows, columns)
            if any((a != b).any() for a, b in zip(expected, outputs, strict=True)):
                raise ModelMismatch(f"network {number}: path {path} does not give what torch gives")


def _input_shapes(blob: bytes, rows: int, columns: int) -> list[tuple[int, int, int]]:
    """Of the planes that a network takes on a grid of rows x columns."""
    inputs = [record for record in read_network(blob) if isinstance(record, Input)]
    return [(r.channels // r.factor**2, rows * r.factor, columns * r.factor) for r in inputs]
