"""Names of DICOM attributes as requests spell them: keyword or eight hexadecimal digits (PS3.18 8.3.1.1)."""

import re
from functools import lru_cache

import pydicom.datadict

__all__ = ["tag_of", "vr_of"]

_DIGITS = re.compile("[0-9a-fA-F]{8}")


@lru_cache(maxsize=4096)
def tag_of(name: str) -> int | None:
    """The tag of a keyword or of eight hexadecimal digits; None for anything else."""
    if _DIGITS.fullmatch(name):
        return int(name, 16)
    found = pydicom.datadict.tag_for_keyword(name)
    return None if found is None else int(found)


@lru_cache(maxsize=4096)
def vr_of(tag: int) -> str:
    """The VR of a standard attribute; UN for others."""
    try:
        return str(pydicom.datadict.dictionary_VR(tag))[:2]
    except KeyError:
        return "UN"
