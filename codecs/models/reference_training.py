"""Training of the reference model (`dncnn`), which can be killed and continued with the same result.

As the paper has it: the squared error of the residual, Adam, patches at random, all qualities in one network.
Of its 50 epochs of 128 x 8000 patches this does what there is time for, and so one thing is different: after
the first thousand iterations the error of each crop counts as a share of the error that it came with. In a
plain mean the lowest qualities are nearly all that counts, and a short training harms the high ones.

The rate of learning is constant and falls to nothing in the last part, so that a training can be made longer
or shorter while it runs: until that part begins nothing depends on its length.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tilevault.codecs.errors import InvalidRequest
from tilevault.codecs.models.dncnn import CHANNELS, DEPTH, DnCNN, FoldedDnCNN, folded, residual, use_threads
from tilevault.codecs.models.jpeg_crops import JpegCrops, Pair, compressed, decompressed
from tilevault.codecs.models.reference_blob import ReferenceModel
from tilevault.codecs.models.training import Progress

__all__ = [
    "STAGE",
    "ReferenceSettings",
    "ReferenceTraining",
    "finished",
    "gain",
    "has_fast_bfloat16",
    "use_threads",
]

Tensor = Any

STAGE = "dncnn"
WARM_UP = 100
STEADY = 0.85
"""Share of the training before the rate of learning begins to fall."""
PLAIN = 1000
"""Iterations before errors count as shares."""
LEAST_ERROR = (2 / 255) ** 2
"""Added to the mean squared error of a crop before shares are taken: of two grey levels."""
CALIBRATION = 100
"""Batches that the final statistics of the normalisation are taken of."""


@dataclass(frozen=True)
class ReferenceSettings:
    """What a training depends on; the same settings and planes give the same model on the same machine."""

    iterations: int
    batch: int = 8
    seed: int = 0
    depth: int = DEPTH
    channels: int = CHANNELS
    rate: float = 1e-3
    """Of learning, while it is steady."""
    bfloat16: bool = False
    """Convolutions in 16-bit floats where the processor has instructions for them: 3 times as fast there."""
    save_every: float = 120.0
    """Seconds between checkpoints."""
    report_every: int = 50
    """Iterations between reports."""


class ReferenceTraining:
    """The network in training, and where the training stands."""

    def __init__(self, settings: ReferenceSettings, crops: JpegCrops) -> None:
        self.settings, self.crops = settings, crops
        torch.manual_seed(settings.seed)
        network = DnCNN(settings.depth, settings.channels)
        self.network = network.to(memory_format=torch.channels_last)
        self.iteration = 0
        self.optimiser = torch.optim.Adam(self.network.parameters(), settings.rate)

    def run(
        self, checkpoint: Path | None = None, report: Callable[[Progress], None] = lambda _: None
    ) -> None:
        """Train what is left, with a checkpoint every few minutes and at the end."""
        began = saved = time.monotonic()
        total, sums = self.settings.iterations, np.zeros(2)
        while self.iteration < total:
            sums += self._step()
            self.iteration += 1
            if self.iteration % self.settings.report_every == 0 or self.iteration == total:
                change = 10 * math.log10((sums[1] + 1e-12) / (sums[0] + 1e-12))
                report(Progress(STAGE, self.iteration, total, change, time.monotonic() - began))
                sums[:] = 0
            if checkpoint and time.monotonic() - saved >= self.settings.save_every:
                self.save(checkpoint)
                saved = time.monotonic()
        if checkpoint:
            self.save(checkpoint)

    def _step(self) -> tuple[float, float]:
        """Learns from one batch; its squared error before and after restoration."""
        done = self.iteration / self.settings.iterations
        falling = min(1.0, (1 - done) / (1 - STEADY))
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate * min(falling, (self.iteration + 1) / WARM_UP)
        pairs = self.crops.batch((self.settings.seed, self.iteration), self.settings.batch)
        degraded, error = _tensors(pairs)
        self.network.train()
        before = error.square().sum((1, 2, 3))
        after = (self._residual(degraded) - error).square().sum((1, 2, 3))
        # Summed over the samples of a crop, as published: a mean is so small that Adam's epsilon counts.
        share = (
            before.new_ones(()) if self.iteration < PLAIN else 1 / (before + error[0].numel() * LEAST_ERROR)
        )
        loss = (after * share).mean() / 2
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float((before * share).mean()), 2 * float(loss.detach())

    def _residual(self, degraded: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bfloat16):
            return self.network(degraded).float()

    def calibrate(self) -> None:
        """Take the statistics of the normalisation anew, of batches that were not trained on."""
        for layer in self.network.normalise:
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean of all batches
        self.network.train()
        with torch.no_grad():
            for i in range(CALIBRATION):
                seed = self.settings.seed, 1, i
                self._residual(_tensors(self.crops.batch(seed, self.settings.batch))[0])

    def save(self, path: Path) -> None:
        """Write all that `resume` needs; what was there is replaced at once or not at all."""
        state = {
            "settings": _comparable(self.settings),
            "iterations": self.settings.iterations,
            "iteration": self.iteration,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        beside = path.with_name(path.name + ".new")
        torch.save(state, beside)
        beside.replace(path)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint. Raises `InvalidRequest` where its training has other settings.

        Another number of iterations is no other training while the rate of learning is steady in both.
        """
        state = torch.load(path, weights_only=True)
        total = self.settings.iterations
        shared = STEADY * min(state.get("iterations", 0), total)
        same = state.get("iterations") == total or state.get("iteration", math.inf) <= shared
        if state["settings"] != _comparable(self.settings) or not same:
            raise InvalidRequest(f"{path}: is the checkpoint of a training with other settings")
        self.iteration = state["iteration"]
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])


def _comparable(settings: ReferenceSettings) -> dict[str, Any]:
    fields = asdict(settings)
    for name in ("iterations", "save_every", "report_every"):
        del fields[name]
    return {STAGE: True, **fields}


def _tensors(pairs: list[Pair]) -> tuple[Tensor, Tensor]:
    """Degraded planes and what is wrong with them, (n, 1, h, w) in units of the range 0..1."""
    original, degraded = (
        torch.from_numpy(np.stack(side))[:, None].float() / 255 for side in zip(*pairs, strict=True)
    )
    return degraded.to(memory_format=torch.channels_last), degraded - original


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies 16-bit floats faster than 32-bit ones (AMX or AVX-512 BF16)."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def finished(training: ReferenceTraining) -> ReferenceModel:
    """The trained network as it is stored: normalised by final statistics, folded, in integers."""
    training.calibrate()
    return ReferenceModel.from_layers(folded(training.network))


def gain(network: FoldedDnCNN, plane: Any, quality: int) -> float:
    """dB that restoration adds to ``plane``, (h, w) uint8, after JPEG of ``quality``; floats, not rounded."""
    original, degraded = plane / 255.0, decompressed(compressed(plane, quality)) / np.float32(255)
    restored = (degraded - residual(network, degraded.astype(np.float32))).clip(0, 1)
    before, after = (float(np.square(x - original).mean()) for x in (degraded, restored))
    return 10 * math.log10((before + 1e-9) / (after + 1e-9))
