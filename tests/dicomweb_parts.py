"""What the DICOMweb tests share: generated series, multipart bodies built and taken apart by hand."""

from pathlib import Path
from typing import Any

import numpy as np

from dicom_builder import image

__all__ = ["STOW_TYPE", "ct_slice", "multipart", "parts", "write_series"]

STOW_TYPE = 'multipart/related; type="application/dicom"; boundary=XyZ'


def ct_slice(
    number: int, study: str = "1.2.3", series: str = "1.2.3.1", side: int = 32, **more: Any
) -> bytes:
    """A slice of a generated series: a smooth field with some noise, signed, with a rescale and a window."""
    y, x = np.mgrid[:side, :side]
    noise = np.random.default_rng(number).integers(-20, 20, (side, side))
    words = (900 * np.sin(x / 9 + number / 5) + 8 * y - 200 + noise).astype("<i2")
    named: dict[str, Any] = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
        "SOPInstanceUID": f"{series}.{number}",
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "InstanceNumber": str(number),
        "PatientID": "TV-1",
        "Modality": "CT",
        "Rows": side,
        "Columns": side,
        "PixelRepresentation": 1,
        "ImagePositionPatient": [0, 0, 2.5 * number],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.7, 0.7],
        "RescaleSlope": "1",
        "RescaleIntercept": "-1024",
        "WindowCenter": "40",
        "WindowWidth": "400",
    }
    return image(words.tobytes(), **{**named, **more})


def write_series(folder: Path, count: int, first: int = 1, **more: Any) -> list[Path]:
    """Files of a generated series."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(first, first + count):
        path = folder / f"{number:04d}.dcm"
        path.write_bytes(ct_slice(number, **more))
        made.append(path)
    return made


def multipart(contents: list[bytes], kind: str = "application/dicom", boundary: str = "XyZ") -> bytes:
    """A multipart/related body, as RFC 2046 has it."""
    head = f"\r\n--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode()
    return b"".join(head + content for content in contents) + f"\r\n--{boundary}--\r\n".encode()


def parts(response: Any) -> list[tuple[dict[str, str], bytes]]:
    """Headers (lower case) and content of each part of an answer; not by the code under test."""
    kind = response.headers["content-type"]
    assert kind.startswith("multipart/related")
    boundary = kind.partition("boundary=")[2].strip('"').encode()
    body = b"\r\n" + response.content
    pieces = body.split(b"\r\n--" + boundary)
    assert pieces[0] == b""
    assert pieces[-1].startswith(b"--")
    found = []
    for piece in pieces[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        lines = [line.split(":", 1) for line in head.decode().strip().split("\r\n")]
        headers = {name.lower(): value.strip() for name, value in lines}
        assert int(headers["content-length"]) == len(content)
        found.append((headers, content))
    return found
