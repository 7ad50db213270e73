"""``tilevault restore``: decoded pictures without the traces of their codec, as far as a DnCNN can tell.

Beside the archive, not of it: nothing is read from an archive and nothing written to one, and what comes out
is an estimate, not the original. The archive's own lossy tiles are restored while they are read, by another
network, within bounds that were measured.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevault.codecs.errors import Conflict, InvalidRequest, TilevaultError
from tilevault.codecs.models.reference_blob import load_reference
from tilevault.workflows.placing import placed

__all__ = ["Comparison", "Restored", "check_restore_usage", "restore_pictures"]

SAID = "Restored by tilevault restore (DnCNN): an estimate, not the original pixels"


@dataclass(frozen=True)
class Comparison:
    """How far a picture is from its original, before and after."""

    psnr_before: float
    psnr_after: float
    ssim_before: float
    ssim_after: float


@dataclass(frozen=True)
class Restored:
    """What was done with one file."""

    source: str
    path: str
    kind: str
    """Of the source: JPEG, JPEG 2000, PNG or TIFF."""
    shape: tuple[int, ...]
    """(bands, rows, columns)"""
    dtype: str
    restored: str
    """``grey``, or ``luma`` of a picture in colours."""
    model: str
    """Digest."""
    mean_change: float
    """Mean absolute difference from the source, in its units."""
    seconds: float
    status: str
    """``written``, or ``present`` where the same file was there."""
    comparison: Comparison | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "shape": list(self.shape)}


def check_restore_usage(sources: Sequence[str], output: str, reference: str | None) -> None:
    """Raise `InvalidRequest` for what could not be answered whatever lies in the files."""
    if len(sources) > 1 and reference is not None:
        raise InvalidRequest("--reference goes with one picture")
    if len(sources) > 1 and Path(output).suffix:
        raise InvalidRequest("of several pictures the output is a folder: a name without a suffix")
    if Path(output).suffix.lower() not in ("", ".png", ".tif", ".tiff"):
        raise InvalidRequest(f"the output ends in .png or .tif, or is a folder, not {Path(output).name!r}")


def restore_pictures(
    sources: Sequence[str],
    output: str,
    model: str | None = None,
    reference: str | None = None,
    threads: int = 1,
    tell: Callable[[Restored | tuple[str, TilevaultError]], None] = lambda done: None,
    progress: Callable[..., None] = lambda **counts: None,
) -> list[int]:
    """Restore each picture into ``output``: a .png or .tif file, or a folder that gets ``NAME.png``.

    ``tell`` hears of each, or of its failure, and the rest goes on; returns exit codes of the failures.
    Raises `InvalidRequest` without torch and for wrong usage, `ModelMismatch` for a model that is not sound.
    """
    check_restore_usage(sources, output, reference)
    models = _torch_module()
    models.use_threads(threads)
    stored = load_reference(None if model is None else Path(model))
    network, digest = models.FoldedDnCNN.of(stored), stored.digest
    codes = []
    for number, source in enumerate(sources):

        def part(done: int, total: int, source: str = source, number: int = number) -> None:
            progress(files=number, files_total=len(sources), message=f"{source}: {done} of {total} parts")

        try:
            tell(_restore(Path(source), _target(source, output), models, network, digest, reference, part))
        except TilevaultError as failure:
            tell((source, failure))
            codes.append(failure.exit_code)
    return codes


def _torch_module() -> Any:
    try:
        from tilevault.codecs.models import dncnn
    except ImportError as error:
        raise InvalidRequest(f"restoring needs torch, the extra `learned` of tilevault: {error}") from error
    return dncnn


def _target(source: str, output: str) -> Path:
    path = Path(output)
    return path if path.suffix else path / f"{Path(source).stem}.png"


def _restore(
    source: Path,
    target: Path,
    models: Any,
    network: Any,
    digest: str,
    reference: str | None,
    part: Callable[[int, int], None],
) -> Restored:
    from tilevault.archive.formats.pictures import read_picture, write_picture

    began = time.monotonic()
    picture = read_picture(source)
    given = picture.samples[: picture.colours]
    original = None if reference is None else _original(Path(reference), given)
    if target.exists():
        raise Conflict(f"there is a file already: {target}", path=str(target))
    colours = models.restored(network, given, part)
    samples = np.concatenate([colours, picture.samples[picture.colours :]])
    with placed(target.parent, [target.name]) as placing:
        write_picture(placing.path, target.suffix.lower(), samples, SAID)
        status = placing.settle()
    return Restored(
        str(source),
        str(target),
        picture.kind,
        samples.shape,
        samples.dtype.name,
        "luma" if picture.colours == 3 else "grey",
        digest,
        float(np.abs(colours.astype(np.int64) - given).mean()),
        time.monotonic() - began,
        status,
        None if original is None else _compared(original, given, colours),
    )


def _original(path: Path, given: NDArray[Any]) -> NDArray[Any]:
    from tilevault.archive.formats.pictures import read_picture

    picture = read_picture(path)
    original = picture.samples[: picture.colours]
    if original.shape != given.shape or original.dtype != given.dtype:
        raise InvalidRequest(
            f"{path} is {original.dtype} of {original.shape}, the picture {given.dtype} of {given.shape}"
        )
    return original


def _compared(original: NDArray[Any], before: NDArray[Any], after: NDArray[Any]) -> Comparison:
    """Against 255 for bytes, against the range of the original for other words."""
    from tilevault.codecs.metrics import measure

    peak = 255.0 if original.dtype == np.uint8 else float(original.max()) - float(original.min())
    was, now = measure(original, before, peak), measure(original, after, peak)
    return Comparison(was.psnr, now.psnr, was.ssim, now.ssim)
