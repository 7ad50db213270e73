from collections.abc import Sequence
from typing import Any

from numpy import uint8
from numpy.typing import NDArray

class Corrupt(ValueError): ...

def encode(
    samples: NDArray[uint8],
    type: int,
    extents: Sequence[int],
    levels: int,
    pack: bool,
    size: bool,
    huffman: bool,
) -> bytes: ...
def decode(
    data: NDArray[uint8], type: int, extents: Sequence[int], reduce: int, levels: int, out: NDArray[Any]
) -> None: ...
def segment_ends(data: NDArray[uint8], type: int, levels: int) -> list[int]: ...
