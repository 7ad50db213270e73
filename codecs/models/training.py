"""Training of a model in stages, each of which can be killed and continued with the same result.

1. ``entropy``: both entropy networks, on coefficients of a dead-zone quantiser.
2. ``choice``: the same, on the integers that the encoder chooses by rate and distortion.
3. ``restoration``: the restoration network, on what these decode to.

A training begins with random networks, or with those of a model; then stages may be left out, and networks
that are not trained are taken over as they are, tables included.

Crops depend on the seed, the stage and the iteration only, so that a run that was continued has seen what an
uninterrupted one sees. What is made of the networks afterwards is `finishing`.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import nn

from tilevault.codecs import _native
from tilevault.codecs.errors import InvalidRequest
from tilevault.codecs.models.blob import Model
from tilevault.codecs.models.coder import (
    FloatPasses,
    Passes,
    code,
    logistic_bits,
    rate_distortion,
    restoration_features,
    rounding,
)
from tilevault.codecs.models.crops import Crop, Crops
from tilevault.codecs.models.networks import EntropyNetwork, RestorationNetwork
from tilevault.codecs.models.pool import Pool
from tilevault.codecs.models.quantise import FEATURE_QUARTERS
from tilevault.codecs.models.restart import load_entropy, load_restoration
from tilevault.codecs.models.transform import fixed_point, nearest_step

__all__ = [
    "LAGRANGE",
    "STAGES",
    "Batch",
    "Progress",
    "Settings",
    "Training",
    "gained",
    "use_threads",
]

Tensor = Any

STAGES = ("entropy", "choice", "restoration")
LAGRANGE = 9.0
"""Bits that a squared error of one step is worth: the slope of rate and distortion at high rate, 6 / ln 2."""
LAGRANGES = 6.0, 12.0
"""What networks are trained for, so that an encoder may choose."""
DEAD_ZONES = 0.12, 0.30
WARM_UP = 100
POOL, LOOKS_AT_EACH = 9000, 16
"""Crops that restoration learns from, at most (1.3 GB), and how often each is looked at, at least."""
COARSE = 1.7
"""Half of its crops have steps above 1/24 of the range: below about 40 dB restoration is worth most."""
STRENGTHS, BLOCK = (0.0, 0.5, 1.0, 1.5), 64
"""Of a correction; the encoder chooses for each block of 64 x 64 samples."""
HELD_DOWN = 0.1
"""Share of the loss that counts corrections as they are. Blocks that are made worse are left alone and would
teach nothing: a network that harms all of them, as it may after its first steps, would stay what it is."""
EXACT = 0.1
"""Share of the restoration stage, its end, that is trained in float32 even where bfloat16 is faster."""
LEAST_RATE, LEAST_ERROR = 0.02, 1e-3
"""Added before logarithms are taken: bits per sample, squared steps."""


HAS_MATRIX_TILES = "amx" in _native.network_paths()
"""bfloat16 takes half the time of float32 there, and longer elsewhere."""


@dataclass(frozen=True)
class Settings:
    """What a training depends on; the same settings and planes give the same model on the same machine."""

    iterations: Mapping[str, int]
    """Of each stage."""
    batch: int = 6
    seed: int = 0
    rate: float = 2e-3
    """Of learning, at its peak."""
    fine: tuple[int, int] = (24, 1)
    """Channels and blocks of the entropy network of the finest level."""
    coarse: tuple[int, int] = (32, 2)
    """Of all other levels."""
    restoration: tuple[int, int] = (48, 3)
    looks: int = 8
    """Windows of 128 x 128 in an iteration of the restoration stage."""
    base: str = ""
    """Digest of the model that the training begins with."""
    save_every: float = 300.0
    """Seconds between checkpoints."""
    report_every: int = 50
    """Iterations between reports."""


@dataclass(frozen=True)
class Progress:
    """What a training has to tell, every few iterations."""

    stage: str
    iteration: int
    iterations: int
    loss: float
    """Mean since the last report: log2 of bits per sample, or dB that restoration adds (negative: gains)."""
    seconds: float
    """Since this run began."""


@dataclass
class Batch:
    """Crops as the coder takes them."""

    planes: Tensor
    """(n, 1, 192, 192) int64 fixed-point."""
    steps: list[int]
    """In 1/64 of a fixed-point unit."""

    @classmethod
    def of(cls, crops: Sequence[Crop]) -> "Batch":
        """Brings crops to fixed point."""
        planes, steps = [], []
        for crop in crops:
            plane, shift = fixed_point(crop.samples)
            planes.append(plane)
            steps.append(nearest_step(crop.step * 2.0**shift))
        return cls(torch.from_numpy(np.stack(planes))[:, None], steps)

    def in_steps(self, difference: Tensor) -> Tensor:
        """A difference of planes in steps."""
        return difference / (torch.tensor(self.steps).view(-1, 1, 1, 1) / 64.0)


class Training:
    """The networks in training, and where the training stands."""

    def __init__(self, settings: Settings, crops: Crops, base: Model | None = None) -> None:
        """``base``: begin with its networks. Raises `InvalidRequest` where they have other shapes."""
        unknown = set(settings.iterations) ^ set(STAGES)
        if unknown:
            raise InvalidRequest(f"iterations are wanted for {STAGES}, found {sorted(settings.iterations)}")
        self.settings = replace(settings, base=base.digest if base else "")
        self.crops, self.base = crops, base
        torch.manual_seed(settings.seed)
        self.entropy = nn.ModuleList([EntropyNetwork(*settings.fine), EntropyNetwork(*settings.coarse)])
        self.restoration = RestorationNetwork(*settings.restoration)
        if base:
            for i, network in enumerate(self.entropy):
                load_entropy(network, *base.networks[2 * i : 2 * i + 2])
            load_restoration(self.restoration, base.networks[4])
        self.restoration.to(memory_format=torch.channels_last)
        self.stage, self.iteration = 0, 0
        self.optimiser = self._new_optimiser()
        self.pool = Pool(crops, self._decoded, (settings.seed, len(STAGES)), self._pool_size(), COARSE)

    def trains(self, *stages: str) -> bool:
        """Whether one of ``stages`` has iterations."""
        return any(self.settings.iterations[stage] for stage in stages)

    def _pool_size(self) -> int:
        looks = self.settings.looks * self.settings.iterations["restoration"]
        return max(1, min(POOL, looks // LOOKS_AT_EACH))

    def passes(self) -> list[Passes]:
        """Of the networks in training."""
        return [FloatPasses(network) for network in self.entropy]

    # -- the loop

    def run(
        self, checkpoint: Path | None = None, report: Callable[[Progress], None] = lambda _: None
    ) -> None:
        """Train what is left of all stages, with a checkpoint every few minutes and after each stage."""
        began = saved = time.monotonic()
        losses: list[float] = []
        while self.stage < len(STAGES):
            name = STAGES[self.stage]
            total = self.settings.iterations[name]
            while self.iteration < total:
                losses.append(self._step(name, self.iteration / total))
                self.iteration += 1
                if self.iteration % self.settings.report_every == 0 or self.iteration == total:
                    mean = float(np.mean(losses))
                    report(Progress(name, self.iteration, total, mean, time.monotonic() - began))
                    losses.clear()
                if checkpoint and time.monotonic() - saved >= self.settings.save_every:
                    self.save(checkpoint)
                    saved = time.monotonic()
            self.stage, self.iteration = self.stage + 1, 0
            self.optimiser = self._new_optimiser()
            if checkpoint:
                self.save(checkpoint)
                saved = time.monotonic()

    def _new_optimiser(self) -> Any:
        restores = self.stage >= STAGES.index("restoration")
        trained = self.restoration if restores else self.entropy
        return torch.optim.Adam(trained.parameters(), self.settings.rate)

    def _step(self, stage: str, done: float) -> float:
        rate = self.settings.rate * min(1.0, (self.iteration + 1) / WARM_UP)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-5
        at = (self.settings.seed, self.stage, self.iteration)
        if stage == "restoration":
            loss = self._restoration_loss(at, exact=done >= 1 - EXACT)
        else:
            loss = self._loss(stage, Batch.of(self.crops.batch(at, self.settings.batch)), at)
        self.optimiser.zero_grad()
        loss.backward()
        for group in self.optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 1.0)
        self.optimiser.step()
        return float(loss.detach())

    def _loss(self, stage: str, batch: Batch, at: tuple[int, ...]) -> Tensor:
        draw = float(np.random.default_rng([*at, 1]).random())
        low, high = LAGRANGES
        choose = rate_distortion(logistic_bits, low + (high - low) * draw)
        if stage == "entropy":
            choose = rounding(DEAD_ZONES[0] + (DEAD_ZONES[1] - DEAD_ZONES[0]) * draw)
        coded = code(batch.planes, batch.steps, self.passes(), choose, logistic_bits)
        return torch.log2(coded.bits / batch.planes[0].numel() + LEAST_RATE).mean()

    def _restoration_loss(self, at: tuple[int, ...], exact: bool) -> Tensor:
        features, error = self.pool.looks(at, self.settings.looks)
        fast = HAS_MATRIX_TILES and not exact
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            correction = self.restoration(features / FEATURE_QUARTERS).float().clamp(-1, 1)
        useful, whole = gained(error, correction), gained(error, correction, (1.0,))
        return (HELD_DOWN * whole + (1 - HELD_DOWN) * useful).neg().mean()

    def _decoded(self, crops: list[Crop]) -> tuple[Any, Any]:
        """See `pool.Decode`."""
        batch = Batch.of(crops)
        choose = rate_distortion(logistic_bits, LAGRANGE)
        with torch.no_grad():
            coded = code(batch.planes, batch.steps, self.passes(), choose, logistic_bits)
        features = restoration_features(coded.plane, batch.steps)
        return features[:, 0].numpy(), batch.in_steps(batch.planes - coded.plane)[:, 0].numpy()

    # -- checkpoints

    def save(self, path: Path) -> None:
        """Write all that `resume` needs; what was there is replaced at once or not at all."""
        state = {
            "settings": _comparable(self.settings),
            "stage": self.stage,
            "iteration": self.iteration,
            "entropy": self.entropy.state_dict(),
            "restoration": self.restoration.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        beside = path.with_name(path.name + ".new")
        torch.save(state, beside)
        beside.replace(path)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint. Raises `InvalidRequest` where its training has other settings."""
        state = torch.load(path, weights_only=True)
        if state["settings"] != _comparable(self.settings):
            raise InvalidRequest(f"{path}: is the checkpoint of a training with other settings")
        self.stage, self.iteration = state["stage"], state["iteration"]
        self.entropy.load_state_dict(state["entropy"])
        self.restoration.load_state_dict(state["restoration"])
        self.optimiser = self._new_optimiser()
        self.optimiser.load_state_dict(state["optimiser"])


def gained(error: Tensor, correction: Tensor, strengths: Sequence[float] = STRENGTHS) -> Tensor:
    """(n,): dB that corrections in steps take from errors (n, 1, h, w), at each block's best strength."""

    def blocks(x: Tensor) -> Tensor:
        whole = functional.pad(x.square(), (0, -x.shape[-1] % BLOCK, 0, -x.shape[-2] % BLOCK))
        return functional.avg_pool2d(whole, BLOCK, divisor_override=1)

    left = torch.stack([blocks(error - s * correction) for s in strengths]).amin(0).sum((1, 2, 3))
    before = error.square().sum((1, 2, 3))
    least = LEAST_ERROR * error[0].numel()
    return 10 * torch.log10((before + least) / (left + least))


def use_threads(count: int) -> None:
    """Cores that torch may take. Sums are taken in another order then: weights differ in their last bits."""
    torch.set_num_threads(count)


def _comparable(settings: Settings) -> dict[str, Any]:
    """What the result depends on."""
    fields = asdict(settings)
    for name in ("save_every", "report_every"):
        del fields[name]
    return {**fields, "iterations": dict(settings.iterations)}
