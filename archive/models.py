"""The models that an archive's images need: each lies in it once, under the digest that names it."""

from tilevault.archive.blobs import LocalBlobs
from tilevault.archive.places import Blobs
from tilevault.codecs import LearnedCodec
from tilevault.codecs.base import TileCodec
from tilevault.codecs.errors import IntegrityError, TileMissing
from tilevault.codecs.weights import MAX_MODEL, add_source, model_blob

__all__ = ["find_models_in", "keep_model", "model_key", "model_of"]


def model_key(digest: str) -> str:
    """Where the model lies in an archive."""
    return f"models/{digest}/model.tvlm"


def model_of(codec: TileCodec | None) -> str:
    """Digest of the model that decoding needs; empty: none."""
    return codec.model if isinstance(codec, LearnedCodec) else ""


def keep_model(blobs: LocalBlobs, codec: TileCodec | None) -> None:
    """Put the model that decoding needs into the archive, durably, unless it is there."""
    digest = model_of(codec)
    if digest:
        blobs.create(model_key(digest), [model_blob(digest)])
        blobs.sync(f"models/{digest}")


def find_models_in(blobs: Blobs) -> None:
    """Let codecs find the archive's models."""

    def find(digest: str) -> bytes | None:
        try:
            return blobs.read(model_key(digest), limit=MAX_MODEL)
        except (TileMissing, IntegrityError):
            return None

    add_source(blobs.location, find)
