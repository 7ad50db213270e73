from collections.abc import Sequence
from typing import Any

from numpy import float64, int16, int32, uint8
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
def network_paths() -> list[str]: ...

class Network:
    def __init__(self, blob: bytes, limit: int = ..., path: str = "") -> None: ...
    @property
    def path(self) -> str: ...
    @property
    def products(self) -> int: ...
    def run(
        self, inputs: Sequence[NDArray[int16]], outputs: Sequence[NDArray[int16]], rows: int, columns: int
    ) -> None: ...

class Model:
    def __init__(self, blob: bytes, path: str = "") -> None: ...

class LossyEstimate:
    def __init__(self, model: Model, samples: NDArray[int32]) -> None: ...
    def squares(self, step: int, slope: float) -> float: ...

def encode_lossy(
    model: Model,
    samples: NDArray[int32],
    least: int,
    most: int,
    step: int,
    slope: float,
    restore: bool,
    plain: NDArray[int32],
    restored: NDArray[int32],
) -> bytes: ...
def decode_lossy(
    model: Model,
    data: NDArray[uint8],
    least: int,
    most: int,
    plain: NDArray[int32],
    restored: NDArray[int32] | None,
) -> None: ...
def ssim_sums(
    x: NDArray[float64], y: NDArray[float64], valid: NDArray[uint8] | None, shift: float, c1: float, c2: float
) -> tuple[float, float, int]: ...
