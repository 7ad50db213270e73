"""In which form frames and instances leave: what a client accepts against what is stored (PS3.18 8.7.3).

Without a transfer syntax a media type has its default: of ``application/octet-stream`` and
``application/dicom`` Explicit VR Little Endian, of images the lossless one. ``*`` takes what is stored where
the media type can hold it. Nothing is altered unless baseline JPEG is named. Pure but for the encoders.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tilevault.archive.formats.dicom_scan import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from tilevault.codecs.errors import NotAcceptable, UnsupportedSyntax
from tilevault.codecs.frame_encode import ENCODERS, encode_frame
from tilevault.workflows.serve.dicomweb.accept import MediaRange
from tilevault.workflows.serve.dicomweb.instances import Instance

__all__ = ["Form", "frame_form", "frame_in", "instance_form"]

OCTETS, DICOM = "application/octet-stream", "application/dicom"
J = "1.2.840.10008.1.2.4."
MEDIA = {
    "image/jpeg": (J + "70", {J + n for n in ("50", "51", "57", "70")}),
    "image/jls": (J + "80", {J + n for n in ("80", "81")}),
    "image/jp2": (J + "90", {J + n for n in ("90", "91")}),
    "image/jphc": (J + "201", {J + n for n in ("201", "202", "203")}),
    "image/jxl": (J + "110", {J + n for n in ("110", "111", "112")}),
    "image/dicom-rle": ("1.2.840.10008.1.2.5", {"1.2.840.10008.1.2.5"}),
}
"""Media types of single frames: the default syntax, and those that the type can hold (table 8.7.3-2)."""
NATIVE = frozenset((EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED))
LITTLE = frozenset((EXPLICIT_LITTLE, IMPLICIT_LITTLE))
"""In both, the bytes of a native frame are the same."""


@dataclass(frozen=True)
class Form:
    """The form of one part of an answer."""

    media: str
    syntax: str
    """Transfer syntax UID."""
    multipart: bool = True

    @property
    def content_type(self) -> str:
        """For the header of the part."""
        return f"{self.media}; transfer-syntax={self.syntax}"


def frame_form(ranges: Sequence[MediaRange], instance: Instance, single: bool) -> Form:
    """The best form for frames of an instance; ``single``: one frame is asked for, which needs no multipart.

    Raises `NotAcceptable`.
    """
    for one in ranges:
        for media, syntax in _candidates(one, instance.syntax):
            if (one.multipart or single or one.type == "*/*") and _possible(instance, syntax):
                return Form(media, syntax, one.multipart or one.type == "*/*")
    raise NotAcceptable(
        "no accepted form of these frames can be made: multipart/related of application/octet-stream, "
        f"{', '.join(MEDIA)}, with a transfer syntax that is stored ({instance.syntax}), native, or one of "
        f"{', '.join(ENCODERS)} where the samples allow it"
    )


def _candidates(one: MediaRange, stored: str) -> Iterator[tuple[str, str]]:
    """(media type, transfer syntax) that a range asks for, in its order."""
    named = [uid for uid in one.transfer_syntaxes if uid != "*"]
    anything = "*" in one.transfer_syntaxes
    if one.matches(OCTETS):
        yield from ((OCTETS, uid) for uid in named)
        if anything:
            yield OCTETS, EXPLICIT_LITTLE if stored in NATIVE else stored
        if not one.transfer_syntaxes:
            yield OCTETS, EXPLICIT_LITTLE
    for media, (default, held) in MEDIA.items():
        if one.type == media:
            yield from ((media, uid) for uid in named if uid in held)
            if (anything or not named) and stored in held:
                yield media, stored
            if anything or not named:
                yield media, default


def _possible(instance: Instance, syntax: str) -> bool:
    """Whether frames of an instance can be had in a transfer syntax, as far as its header tells."""
    if syntax == instance.syntax and syntax not in NATIVE:
        return True
    if syntax in LITTLE:
        return True
    pixels, layout = instance.file.record["pixels"], instance.file.record["pixels"]["layout"]
    plain = not pixels["floating"] and not layout.get("subsampled") and pixels["allocated"] in (8, 16)
    small = pixels["samples"] == 1 or (pixels["samples"] == 3 and pixels["allocated"] == 8)
    fits = syntax != J + "50" or (pixels["allocated"] == 8 and not pixels["signed"])
    return syntax in ENCODERS and plain and small and fits


def frame_in(instance: Instance, frame: int, form: Form) -> bytes:
    """A frame (from 0) in a form that `frame_form` gave. Raises `NotAcceptable` where it cannot be made."""
    if form.syntax in LITTLE:
        return instance.native_frame(frame)
    if form.syntax == instance.syntax:
        return instance.stream(frame)
    try:
        return encode_frame(instance.words(frame), form.syntax)
    except UnsupportedSyntax as error:
        raise NotAcceptable(error.message) from error


def instance_form(ranges: Sequence[MediaRange], instance: Instance, single: bool) -> Form | None:
    """The best form for a whole instance, ``single`` where it is the only one; None if none can be made."""
    for one in ranges:
        if not one.matches(DICOM) or not (one.multipart or single or one.type == "*/*"):
            continue
        for uid in one.transfer_syntaxes or (EXPLICIT_LITTLE,):
            if uid in ("*", instance.syntax):
                return Form(DICOM, instance.syntax, one.multipart or one.type == "*/*")
            if uid == EXPLICIT_LITTLE and _converts(instance):
                return Form(DICOM, EXPLICIT_LITTLE, one.multipart or one.type == "*/*")
    return None


def _converts(instance: Instance) -> bool:
    """Whether an instance can be made Explicit VR Little Endian."""
    record = instance.file.record
    return record["pixels"] is not None or str(record.get("object")) == "no pixel data"
