from collections.abc import Sequence
from typing import Any

from numpy import float64, uint8
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
def ssim_sums(
    x: NDArray[float64], y: NDArray[float64], valid: NDArray[uint8] | None, shift: float, c1: float, c2: float
) -> tuple[float, float, int]: ...
