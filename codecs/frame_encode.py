"""Frames coded for the way to a client: stored words to a bit stream of a DICOM transfer syntax.

The archive keeps nothing of this. Lossless syntaxes carry every bit of the stored words, those above
BitsStored too: the stream's precision is that of the words. JPEG-LS and lossless JPEG know no sign and carry
the bit patterns, as PS3.5 has them (PixelRepresentation tells); JPEG 2000 and HTJ2K carry the sign. Baseline
JPEG alone alters pixels. RGB stays RGB in JPEG (Adobe marker) and JPEG-LS; in JPEG 2000 and HTJ2K it goes
through the reversible component transform, which decoders undo.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevault.codecs.errors import UnsupportedSyntax

__all__ = ["ENCODERS", "JPEG_BASELINE", "encode_frame"]

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_QUALITY = 90
SLACK = 4096
"""Bytes by which a JPEG-LS stream of noise may be longer than twice its samples."""

Frame = NDArray[Any]


def _unsigned(frame: Frame) -> Frame:
    return frame.view(np.dtype(f"u{frame.dtype.itemsize}"))


def _jpeg_baseline(codecs: Any, frame: Frame) -> bytes:
    if frame.dtype != np.uint8:
        raise UnsupportedSyntax(f"baseline JPEG holds samples of 8 bits, not {frame.dtype}")
    return bytes(codecs.jpeg8_encode(frame, level=JPEG_QUALITY, **_colours(frame)))


def _jpeg_lossless(codecs: Any, frame: Frame) -> bytes:
    bits = 8 * frame.dtype.itemsize
    words = _unsigned(frame)
    return bytes(
        codecs.jpeg8_encode(words, lossless=True, predictor=1, bitspersample=bits, **_colours(frame))
    )


def _colours(frame: Frame) -> dict[str, str]:
    return {"colorspace": "rgb", "outcolorspace": "rgb"} if frame.ndim == 3 else {}


def _jpeg_ls(codecs: Any, frame: Frame) -> bytes:
    return bytes(codecs.jpegls_encode(_unsigned(frame), out=2 * frame.nbytes + SLACK))


def _jpeg_2000(codecs: Any, frame: Frame) -> bytes:
    return bytes(codecs.jpeg2k_encode(frame, level=0, reversible=True, codecformat="j2k", mct=True))


def _htj2k(codecs: Any, frame: Frame) -> bytes:
    return bytes(codecs.htj2k_encode(frame, reversible=True))


ENCODERS: dict[str, Callable[[Any, Frame], bytes]] = {
    JPEG_BASELINE: _jpeg_baseline,
    "1.2.840.10008.1.2.4.70": _jpeg_lossless,
    "1.2.840.10008.1.2.4.80": _jpeg_ls,
    "1.2.840.10008.1.2.4.90": _jpeg_2000,
    "1.2.840.10008.1.2.4.201": _htj2k,
}
"""By transfer syntax: JPEG baseline, and exact JPEG lossless SV1, JPEG-LS, JPEG 2000, HTJ2K."""


def encode_frame(frame: Frame, transfer_syntax: str) -> bytes:
    """Code a frame, (y, x) or (c, y, x) with three planes, 8 or 16 bits, signed or not.

    Raises `UnsupportedSyntax` for other frames, other syntaxes, and where imagecodecs is not installed.
    """
    encode = ENCODERS.get(transfer_syntax)
    if encode is None:
        raise UnsupportedSyntax(f"frames are not coded as {transfer_syntax:.80}")
    grey, colour = frame.ndim == 2, frame.ndim == 3 and frame.shape[0] == 3
    if frame.dtype.kind not in "iu" or frame.dtype.itemsize > 2 or not (grey or colour):
        raise UnsupportedSyntax(
            f"{frame.dtype} frames of shape {frame.shape} are not coded as {transfer_syntax}"
        )
    if colour and frame.dtype != np.uint8:
        raise UnsupportedSyntax(f"colours of {frame.dtype} are not coded as {transfer_syntax}")
    try:
        import imagecodecs
    except ImportError as error:
        raise UnsupportedSyntax("imagecodecs is not installed: pip install 'tilevault[dicom]'") from error
    words = np.ascontiguousarray(np.moveaxis(frame, 0, -1) if colour else frame)
    try:
        return encode(imagecodecs, words)
    except (ValueError, RuntimeError) as error:
        raise UnsupportedSyntax(f"a frame cannot be coded as {transfer_syntax}: {error}"[:300]) from error
