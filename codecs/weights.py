"""Models of the learned codec: found by the SHA-256 that names them, checked, and loaded once.

A model is one blob of integers (``docs/format.md``, section 10). It is looked for among the models that come
with the package, in the archives that are open, and in the folder that the environment variable
``TILEVAULT_MODELS`` names, as ``<sha256>.tvlm``.
"""

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from tilevault.codecs import _native
from tilevault.codecs.errors import ModelMismatch

__all__ = ["CURRENT_MODEL", "MAX_MODEL", "add_source", "model_blob", "native_model"]

CURRENT_MODEL = "8f6154345f18f60e695ee0bb3fd3fe3c5a927bcb8e716fdc953b3e720516f51a"
"""What new tiles are coded with."""
MAX_MODEL = 16 << 20
"""Bytes of a model at most."""
VARIABLE = "TILEVAULT_MODELS"
_SHIPPED = Path(__file__).parent / "trained"
_sources: dict[str, Callable[[str], bytes | None]] = {}


def add_source(name: str, find: Callable[[str], bytes | None]) -> None:
    """Look for models there too: ``find(digest)`` gives a blob or None. The same name replaces a source."""
    _sources[name] = find


def model_blob(digest: str) -> bytes:
    """The blob that ``digest`` names. Raises `ModelMismatch` if it is nowhere, or has become another."""
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ModelMismatch(f"a model is named by 64 hexadecimal digits, not {digest!r:.80}")
    for find in (_in_folder(_SHIPPED), *_sources.values(), _in_folder(_named_folder())):
        blob = find(digest)
        if blob is None:
            continue
        found = hashlib.sha256(blob).hexdigest()
        if found != digest:
            raise ModelMismatch(f"the model {digest} has become {found}")
        return blob
    raise ModelMismatch(
        f"the model {digest} is not here: it comes with the archive (models/) or the package; "
        f"{VARIABLE} names a folder of others"
    )


@lru_cache(maxsize=4)
def native_model(digest: str) -> _native.Model:
    """The model, ready to run; its sums are checked. Raises `ModelMismatch`."""
    try:
        return _native.Model(model_blob(digest))
    except _native.Corrupt as error:
        raise ModelMismatch(f"the model {digest}: {error}") from error


def _named_folder() -> Path | None:
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def _in_folder(folder: Path | None) -> Callable[[str], bytes | None]:
    def find(digest: str) -> bytes | None:
        path = None if folder is None else folder / f"{digest}.tvlm"
        try:
            if path is None or path.stat().st_size > MAX_MODEL:
                return None
            return path.read_bytes()
        except OSError:
            return None

    return find
