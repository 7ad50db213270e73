"""Training of a model on folders of images: what is learned from, what is told, what is left behind.

Beside MODEL lies a folder MODEL.train: the checkpoint from which the same command continues, a line of JSON
for every report, the curves, and at the end the log of how the model was made. Everything that needs torch is
in `codecs.models`.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from functools import partial
from html import escape
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.formats import SourceFile, SourceImage, formats
from tilevault.archive.grid import TileGrid, tile_shape
from tilevault.archive.image import ImageInfo, ImageReader, Window, values
from tilevault.codecs.errors import Conflict, InvalidRequest, TilevaultError
from tilevault.codecs.frame import FrameCodec
from tilevault.codecs.frame_header import LOSSY, decodes
from tilevault.codecs.models.blob import Model
from tilevault.workflows.discover import FileResult, find_files, scan_files
from tilevault.workflows.placing import os_failure, placed

if TYPE_CHECKING:
    from tilevault.codecs.models.crops import Crops
    from tilevault.codecs.models.training import Progress, Settings, Training

__all__ = ["Material", "Plan", "Planes", "PlanesOf", "Trained", "TrainingLog", "collect", "curves", "train"]

Planes = dict[str, list[list[NDArray[Any]]]]
PlanesOf = Callable[[NDArray[Any], bool], Sequence[NDArray[Any]]]
"""From a tile (..., y, x), and whether its first of three axes is colours, to the planes to learn from."""

TILE = 512
TILES_PER_IMAGE = 16
"""Spread evenly: a scene of a thousand tiles teaches little more than a few of them."""


@dataclass
class Material:
    """What is learned from, and what is kept to measure on."""

    training: Planes = field(default_factory=dict)
    """By kind of images, of each image."""
    held_out: Planes = field(default_factory=dict)
    names: dict[str, list[str]] = field(
        default_factory=lambda: {"training": [], "held_out": [], "left_out": []}
    )
    """Of the images that went into each, and of those without a plane worth learning."""


@dataclass(frozen=True)
class Plan:
    """What is to be trained, and for how long."""

    iterations: int = 6000
    """Of each stage, in the proportions of `STAGE_SHARES`."""
    batch: int = 6
    seed: int = 0
    threads: int = 1
    hold_out: tuple[str, ...] = ()
    """Names of sources that nothing is learned from; ``*`` stands for any characters."""
    base: str = ""
    """Path of a model to begin with."""
    stages: tuple[str, ...] = ()
    """Those that are trained; none: all. What the others would have trained is the base's."""


@dataclass(frozen=True)
class Trained:
    """What came out."""

    model: str
    digest: str
    size: int
    seconds: float
    images: int
    measured: Mapping[str, Mapping[str, float]]
    """By set of images: ``training`` and, if there are any, ``held_out``."""


STAGE_SHARES = {"entropy": 0.2, "choice": 0.8, "restoration": 8.0}
"""Iterations of the last are far shorter."""


def collect(
    sources: Sequence[str],
    hold_out: Sequence[str] = (),
    besides: Path | None = None,
    planes_of: PlanesOf | None = None,
) -> Material:
    """The planes of all images below ``sources`` that are stored losslessly and mean intensities.

    Left out: frames in a transfer syntax that loses, and what is said to have been in one (its traces would
    be learned), labels, masks of one bit, and files that are not sound. ``besides``: a folder that is not
    looked into. ``planes_of``: by default `codecs.models.crops.planes_of`. Raises `InvalidRequest` for a
    source that is not there.
    """
    material = Material()
    for image in _images(sources, besides or Path(sources[0], ".")):
        info, name = image.info, image.sources[0].name
        kept_out = any(fnmatch(name, pattern) for pattern in hold_out)
        planes = _planes(image, info, planes_of) if info is not None and _is_learnable(image, info) else []
        if info is None or not planes:
            material.names["left_out"].append(name)
            continue
        chosen = material.held_out if kept_out else material.training
        chosen.setdefault(_kind(image, info), []).append(planes)
        material.names["held_out" if kept_out else "training"].append(name)
    return material


def _images(sources: Sequence[str], besides: Path) -> Iterator[SourceImage]:
    scanned = scan_files(list(find_files(sources, besides)))
    by_format: dict[str, list[SourceFile]] = {}
    for files in scanned:
        if not isinstance(files, FileResult):
            by_format.setdefault(files[0].format, []).extend(files)
    for name, files in by_format.items():
        yield from formats()[name].assemble(files)[0]


def _is_learnable(image: SourceImage, info: ImageInfo) -> bool:
    return (
        (image.codec is None or (decodes(image.codec) and image.codec not in LOSSY))
        and not info.attributes.get("lossy")
        and not info.categorical
        and info.bits_stored != 1
        and info.dtype.kind in "iuf"
        and info.dtype.itemsize <= (4 if info.dtype.kind == "f" else 2)
    )


def _kind(image: SourceImage, info: ImageInfo) -> str:
    """Images of one kind count as much as those of another."""
    bands = "multi-band" if "c" in info.axes else "one band"
    modality = image.search.get("Modality") if image.format == "dicom" else None
    return f"{modality or image.format}, {bands}, {info.dtype.name}"


def _planes(image: SourceImage, info: ImageInfo, planes_of: PlanesOf | None) -> list[NDArray[Any]]:
    from tilevault.codecs.models import crops

    planes_of = planes_of or crops.planes_of
    found: list[NDArray[Any]] = []
    try:
        with formats()[image.format].open_reader(image) as reader:
            tiles = _tiles(reader) if image.codec is None else _frames(image, image.codec, reader)
            for tile in tiles:
                found += planes_of(tile, "c" in info.axes)
    except TilevaultError:
        return []  # a source that cannot be read teaches nothing; `add` says what is wrong with it
    return found


def _tiles(reader: ImageReader) -> Iterator[NDArray[Any]]:
    info = reader.info
    shape = tile_shape(info.shape, info.axes, TILE, info.dtype.itemsize)
    grid = TileGrid.plan(info.shape, shape, info.dtype.itemsize)
    for index in _spread(grid.tiles):
        yield _filled(reader, grid.tile_window(index))


def _frames(image: SourceImage, syntax: str, reader: Any) -> Iterator[NDArray[Any]]:
    """Of an image that came as streams; each is decoded whole."""
    info, chunk = reader.info, tuple(image.layout["chunk"])
    codec = FrameCodec(syntax, **image.layout["codec"])
    for index in _spread(tuple(-(-n // m) for n, m in zip(info.shape, chunk, strict=True))):
        words = codec.decode_tile(reader.read_stream(index), chunk, info.dtype)
        yield values(words, info)


def _spread(counts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """At most `TILES_PER_IMAGE` positions of a grid."""
    count = prod(counts)
    for i in range(min(count, TILES_PER_IMAGE)):
        flat = (2 * i + 1) * count // (2 * min(count, TILES_PER_IMAGE))
        yield tuple(int(j) for j in np.unravel_index(flat, counts))


def _filled(reader: ImageReader, window: Window) -> NDArray[Any]:
    """Sample values of a window; those that are no pixels have the mean of those that are."""
    info = reader.info
    words = values(np.asarray(reader.read(window)), info)
    valid = np.isfinite(words) if info.dtype.kind == "f" else np.ones(words.shape, bool)
    if info.nodata is not None:
        valid &= words != info.nodata
    if info.has_mask:
        valid &= reader.read_mask(Window(window.start[-2:], window.stop[-2:])) != 0
    if valid.all() or not valid.any():
        return words
    return np.where(valid, words, words[valid].mean(dtype=np.float64).astype(words.dtype))


def train(
    sources: Sequence[str],
    model: str,
    plan: Plan | None = None,
    report: Callable[["Progress"], None] = lambda _: None,
) -> Trained:
    """Train on ``sources`` and write ``model``; continues where an earlier run of the same plan ended.

    Raises `Conflict` where ``model`` exists, `InvalidRequest` where there is nothing to learn from, where the
    checkpoint belongs to another plan, where the plan's base has other networks, and without torch;
    `ModelMismatch` where the base is no model.
    """
    plan, began, target = plan or Plan(), time.monotonic(), Path(model)
    models, finishing = _training_modules()
    if target.exists():
        raise Conflict(f"there is a file already: {target}", path=str(target))
    folder = target.with_name(target.name + ".train")
    base = _base(plan)
    material = collect(sources, plan.hold_out, folder)
    models.use_threads(plan.threads)
    training = models.Training(_settings(plan), _crops(material.training), base)
    log = TrainingLog(folder)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        training.resume(checkpoint)
    log.begin(partial(_is_before, training))

    def tell(progress: "Progress") -> None:
        log.append(progress)
        report(progress)

    training.run(checkpoint, tell)
    made = finishing.finished(training)
    measured = {"training": asdict(finishing.measured(training, made))}
    if material.held_out:
        measured["held_out"] = asdict(finishing.measured(training, made, _crops(material.held_out)))
    blob = made.to_bytes()
    _write(target, blob)
    done = Trained(
        str(target),
        made.digest,
        len(blob),
        time.monotonic() - began,
        len(material.names["training"]),
        measured,
    )
    begun = base.digest if base else ""
    log.end({**asdict(done), "plan": asdict(plan), "base": begun, "images": material.names})
    return done


def _is_before(training: "Training", line: Mapping[str, Any]) -> bool:
    from tilevault.codecs.models.training import STAGES

    return (STAGES.index(line["stage"]), line["iteration"]) <= (training.stage, training.iteration)


def _training_modules() -> tuple[Any, Any]:
    try:
        from tilevault.codecs.models import finishing, training
    except ImportError as error:
        raise InvalidRequest(f"training needs torch, the extra `learned` of tilevault: {error}") from error
    return training, finishing


def _base(plan: Plan) -> Model | None:
    if not plan.base:
        if plan.stages:
            raise InvalidRequest("stages can be left out only where there is a model to begin with")
        return None
    try:
        data = Path(plan.base).read_bytes()
    except OSError as failure:
        raise os_failure(failure, f"cannot read {plan.base}") from failure
    return Model.from_bytes(data)


def _settings(plan: Plan) -> "Settings":
    from tilevault.codecs.models.training import Settings

    iterations = {
        stage: max(1, round(share * plan.iterations)) if not plan.stages or stage in plan.stages else 0
        for stage, share in STAGE_SHARES.items()
    }
    # A network that has learned is not thrown too far from where it is.
    return Settings(iterations, batch=plan.batch, seed=plan.seed, rate=1e-3 if plan.base else 2e-3)


def _crops(planes: Planes) -> "Crops":
    from tilevault.codecs.models.crops import Crops

    return Crops(planes)


def _write(path: Path, data: bytes) -> None:
    with placed(path.parent, [path.name]) as placing:
        placing.write_pieces(iter([data]))
        placing.settle()


class TrainingLog:
    """The files beside a model in training. Raises an error of the storage where there can be no folder."""

    def __init__(self, folder: Path) -> None:
        self.lines, self.curves, self.made = (
            folder / name for name in ("log.jsonl", "curves.svg", "training.json")
        )
        try:
            folder.mkdir(exist_ok=True)
        except OSError as failure:
            raise os_failure(failure, f"cannot make {folder}") from failure

    def begin(self, is_before: Callable[[Mapping[str, Any]], bool]) -> None:
        """Keep the lines that are before the checkpoint: what was reported after it is trained again."""
        kept = [line for line in self._read() if is_before(line)]
        self.lines.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def _read(self) -> list[dict[str, Any]]:
        if not self.lines.exists():
            return []
        return [json.loads(line) for line in self.lines.read_text().splitlines()]

    def append(self, progress: "Progress") -> None:
        """One more line, and the curves with it."""
        with self.lines.open("a") as file:
            file.write(json.dumps(asdict(progress)) + "\n")
        self.curves.write_text(curves(self._read()))

    def end(self, document: Mapping[str, Any]) -> None:
        """How the model was made."""
        self.made.write_text(json.dumps(document, indent=1) + "\n")


# -- curves

WIDTH, HEIGHT, MARGIN = 720, 220, 56


def curves(lines: Sequence[Mapping[str, Any]]) -> str:
    """An SVG of the losses by iteration, one diagram per stage."""
    stages = list(dict.fromkeys(line["stage"] for line in lines))
    drawn = [
        f'<g transform="translate(0,{i * (HEIGHT + MARGIN)})">'
        f"{_diagram(stage, [(x['iteration'], x['loss']) for x in lines if x['stage'] == stage])}</g>"
        for i, stage in enumerate(stages)
    ]
    height = max(1, len(stages)) * (HEIGHT + MARGIN)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12">{"".join(drawn)}</svg>\n'
    )


def _diagram(stage: str, points: Sequence[tuple[int, float]]) -> str:
    last = max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    span = high - low or 1.0

    def place(x: float, y: float) -> str:
        right = MARGIN + (WIDTH - 2 * MARGIN) * x / last
        return f"{right:.1f},{MARGIN / 2 + (HEIGHT - MARGIN) * (high - y) / span:.1f}"

    bottom = HEIGHT - MARGIN / 2
    return (
        f'<text x="{MARGIN}" y="16" font-weight="bold">{escape(stage)}</text>'
        f'<path d="M{MARGIN},{MARGIN / 2}V{bottom}H{WIDTH - MARGIN}" fill="none" stroke="#999"/>'
        f'<text x="{MARGIN - 6}" y="{MARGIN / 2 + 4}" text-anchor="end">{high:.3f}</text>'
        f'<text x="{MARGIN - 6}" y="{bottom}" text-anchor="end">{low:.3f}</text>'
        f'<text x="{WIDTH - MARGIN}" y="{bottom + 16}" text-anchor="end">{last}</text>'
        f'<polyline points="{" ".join(place(x, y) for x, y in points)}" fill="none" stroke="#3b528b"/>'
    )
