"""The search for the quantiser's step: few encodings, since each costs as much as all that is around it.

An encoder says what a step leaves, in decibels of error beyond the target (0 and below meet it); an estimate,
which needs no encoding, says about the same for every step. Where the estimate is off it is off by nearly as
much at the next step, so that the second encoding mostly ends the search.
"""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Trial", "coarsest", "search"]

TRIES = 9
AIM = 0.4
"""Where in the window the search aims, from the target on."""
STEEPEST = 8.0
"""Of the usual slope, the multiple beyond which nothing changes."""
BITS_PER_DECIBEL = 1 / 6.02
"""What a sample costs at high rates; below them less."""


@dataclass(frozen=True)
class Trial:
    """One encoding."""

    data: bytes
    excess: float
    """Decibels of error beyond the target: at most 0 if it is met."""

    def least_at_target(self, samples: int) -> float:
        """Bytes of which the tile has hardly fewer at the target itself."""
        return len(self.data) + min(self.excess, 0.0) * BITS_PER_DECIBEL * samples / 8


@dataclass
class _Bracket:
    """What is known: the coarsest code that meets the target and the finest that misses it."""

    codes: range
    expected: Callable[[int], float]
    meets: tuple[int, Trial] | None = None
    misses: tuple[int, Trial] | None = None
    bias: float = 0.0
    """The last trial's excess over what was expected."""

    def add(self, code: int, trial: Trial) -> None:
        self.bias = trial.excess - self.expected(code)
        if trial.excess <= 0:
            if self.meets is None or code > self.meets[0]:
                self.meets = (code, trial)
        elif self.misses is None or code < self.misses[0]:
            self.misses = (code, trial)

    def following(self, aim: float) -> int | None:
        """The code to try next; None where there is none between what met and what missed."""
        low = self.codes.start if self.meets is None else self.meets[0] + 1
        high = self.codes.stop - 1 if self.misses is None else self.misses[0] - 1
        if low > high:
            return None
        first, last = low, high
        while low < high:
            middle = (low + high + 1) // 2
            if self.expected(middle) + self._bias_at(middle) <= aim:
                low = middle
            else:
                high = middle - 1
        return min(max(low, first), last)

    def _bias_at(self, code: int) -> float:
        """Between two trials their biases are mixed."""
        if self.meets is None or self.misses is None or self.meets[0] >= self.misses[0]:
            return self.bias
        ends = [trial.excess - self.expected(at) for at, trial in (self.meets, self.misses)]
        share = (code - self.meets[0]) / (self.misses[0] - self.meets[0])
        return ends[0] + share * (ends[1] - ends[0])


def search(
    encode: Callable[[int, float], Trial],
    expected: Callable[[int], float],
    codes: range,
    slope: float,
    window: float,
    enough: Callable[[Trial], bool],
) -> Trial | None:
    """A trial that meets the target by less than ``window`` decibels, at a large code of ``codes``.

    encode: of a code and a slope, which is what an error is worth in bits: the less, the more is left out.
    expected: the excess before anything is encoded, rising with the code. enough: whether a trial says that
    nothing can come of it. None then, and where no trial ends in the window.

    The code decides coarsely; where no code leads into the window, the slope does.
    """
    bracket = _coarsest(lambda code: encode(code, slope), expected, codes, window, enough)
    if bracket is None or bracket.meets is None:
        return None
    code, best = bracket.meets
    if best.excess >= -window:
        return best
    found = _dialled(lambda way: encode(code, way), (0.0, slope), window)
    if found is None and bracket.misses is not None:
        above = bracket.misses[0]
        found = _dialled(lambda way: encode(above, way), (slope, STEEPEST * slope), window)
    return found


def coarsest(
    encode: Callable[[int], Trial],
    expected: Callable[[int], float],
    codes: range,
    window: float,
    enough: Callable[[Trial], bool],
) -> Trial | None:
    """As `search`, with codes only: the coarsest trial that meets the target, however far."""
    bracket = _coarsest(encode, expected, codes, window, enough)
    return None if bracket is None or bracket.meets is None else bracket.meets[1]


def _coarsest(
    encode: Callable[[int], Trial],
    expected: Callable[[int], float],
    codes: range,
    window: float,
    enough: Callable[[Trial], bool],
) -> _Bracket | None:
    bracket = _Bracket(codes, expected)
    for _ in range(TRIES):
        code = bracket.following(-AIM * window)
        if code is None:
            break
        trial = encode(code)
        if enough(trial):
            return None
        bracket.add(code, trial)
        if -window <= trial.excess <= 0:
            break
    return bracket


def _dialled(encode: Callable[[float], Trial], slopes: tuple[float, float], window: float) -> Trial | None:
    """A trial in the window between a slope that misses the target and one that meets it by more."""
    low, high = slopes
    for _ in range(TRIES):
        slope = (low + high) / 2
        trial = encode(slope)
        if -window <= trial.excess <= 0:
            return trial
        low, high = (low, slope) if trial.excess <= 0 else (slope, high)
    return None
