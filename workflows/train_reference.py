"""Training of the reference model, DnCNN, on folders of images; leaves the same files behind as `train`.

What needs torch is in `codecs.models`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilevault.codecs.errors import Conflict, InvalidRequest
from tilevault.workflows.placing import placed
from tilevault.workflows.train import Material, Plan, Planes, TrainingLog, collect

if TYPE_CHECKING:
    from tilevault.codecs.models.reference_blob import ReferenceModel
    from tilevault.codecs.models.training import Progress

__all__ = ["MEASURED_QUALITIES", "TrainedReference", "train_reference"]

MEASURED_QUALITIES = 10, 20, 40, 80
MEASURED_PLANES, MEASURED_SIDE = 6, 128


@dataclass(frozen=True)
class TrainedReference:
    """What came out."""

    model: str
    digest: str
    size: int
    seconds: float
    images: int
    measured: Mapping[str, Mapping[str, float]]
    """By set of images, ``training`` and if there are any ``held_out``: dB of gain by JPEG quality."""


def train_reference(
    sources: Sequence[str],
    model: str,
    plan: Plan | None = None,
    report: Callable[["Progress"], None] = lambda _: None,
) -> TrainedReference:
    """Train on ``sources`` and write ``model``; continues where an earlier run of the same plan ended.

    Raises `Conflict` where ``model`` exists, `InvalidRequest` where there is nothing to learn from, where the
    checkpoint belongs to another plan, and without torch.
    """
    plan, began, target = plan or Plan(), time.monotonic(), Path(model)
    models = _training_module()
    from tilevault.codecs.models.jpeg_crops import JpegCrops, grey_planes

    if target.exists():
        raise Conflict(f"there is a file already: {target}", path=str(target))
    folder = target.with_name(target.name + ".train")
    log = TrainingLog(folder)
    material = collect(sources, plan.hold_out, folder, grey_planes)
    models.use_threads(plan.threads)
    settings = models.ReferenceSettings(
        plan.iterations, plan.batch, plan.seed, bfloat16=models.has_fast_bfloat16()
    )
    training = models.ReferenceTraining(settings, JpegCrops(material.training))
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        training.resume(checkpoint)
    log.begin(lambda line: line["iteration"] <= training.iteration)

    def tell(progress: "Progress") -> None:
        log.append(progress)
        report(progress)

    training.run(checkpoint, tell)
    made = models.finished(training)
    done = _written(made, target, began, material)
    log.end({**asdict(done), "plan": asdict(plan), "settings": asdict(settings), "images": material.names})
    return done


def _training_module() -> Any:
    try:
        from tilevault.codecs.models import reference_training
    except ImportError as error:
        raise InvalidRequest(
            f"training needs torch and Pillow, the extra `learned` of tilevault: {error}"
        ) from error
    return reference_training


def _written(made: "ReferenceModel", target: Path, began: float, material: Material) -> TrainedReference:
    measured = {"training": _gains(made, material.training)}
    if material.held_out:
        measured["held_out"] = _gains(made, material.held_out)
    blob = made.to_bytes()
    with placed(target.parent, [target.name]) as placing:
        placing.write_pieces(iter([blob]))
        placing.settle()
    seconds = time.monotonic() - began
    return TrainedReference(
        str(target), made.digest, len(blob), seconds, len(material.names["training"]), measured
    )


def _gains(made: "ReferenceModel", planes: Planes) -> dict[str, float]:
    """Mean dB that restoration adds at each quality, on the middle of the first planes of each kind."""
    from tilevault.codecs.models.dncnn import FoldedDnCNN
    from tilevault.codecs.models.reference_training import gain

    network = FoldedDnCNN.of(made)
    images = [kind[i][0] for i in range(MEASURED_PLANES) for kind in planes.values() if i < len(kind)]
    crops = [_middle(plane) for plane in images[:MEASURED_PLANES]]
    return {
        f"gain_q{quality}": sum(gain(network, crop, quality) for crop in crops) / len(crops)
        for quality in MEASURED_QUALITIES
    }


def _middle(plane: Any) -> Any:
    y, x = (max(0, n - MEASURED_SIDE) // 2 for n in plane.shape)
    return plane[y : y + MEASURED_SIDE, x : x + MEASURED_SIDE]
