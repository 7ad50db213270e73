"""The search for the quantiser's step: few encodings, none where nothing can come of it."""

import math

import numpy as np
import pytest

from tilevault.codecs import _native
from tilevault.codecs.lossy_search import Trial, coarsest, search
from tilevault.codecs.weights import CURRENT_MODEL, native_model

CODES = range(128, 1408)


class Encoder:
    """An excess that rises with the code, and with the slope's fall; what was asked for."""

    def __init__(self, target: int, rise: float = 0.04, jump: float = 0.0) -> None:
        self.target, self.rise, self.jump = target, rise, jump
        self.asked: list[tuple[int, float]] = []

    def __call__(self, code: int, slope: float = 9.0) -> Trial:
        self.asked.append((code, slope))
        away = code - self.target
        excess = self.rise * away + math.copysign(self.jump, away + 0.5) - 0.3 * math.log2(slope / 9)
        return Trial(bytes(max(10, 4000 - code)), excess)


def never(trial: Trial) -> bool:
    return False


@pytest.mark.parametrize("off", [0.0, 1.3, -0.8])
@pytest.mark.parametrize("target", [140, 777, 1400])
def test_an_estimate_that_is_off_by_a_constant_is_mended_by_one_encoding(target: int, off: float) -> None:
    encode = Encoder(target)
    found = search(encode, lambda code: 0.04 * (code - target) + off, CODES, 9.0, 0.1, never)
    assert found is not None
    assert -0.1 <= found.excess <= 0
    assert len(encode.asked) <= 2


def test_where_no_code_ends_in_the_window_a_slope_does() -> None:
    encode = Encoder(700, jump=0.4)
    found = search(encode, lambda code: 0.05 * (code - 650), CODES, 9.0, 0.1, never)
    assert found is not None
    assert -0.1 <= found.excess <= 0
    assert any(slope != 9.0 for _, slope in encode.asked)


def test_a_window_that_nothing_leads_into_is_given_up() -> None:
    def encode(code: int, slope: float) -> Trial:
        return Trial(b"", -1.0 if code <= 700 else 1.0)

    assert search(encode, lambda code: 0.05 * (code - 650), CODES, 9.0, 0.1, never) is None
    best = coarsest(lambda code: encode(code, 9.0), lambda code: 0.05 * (code - 650), CODES, 0.1, never)
    assert best is not None
    assert best.excess == -1.0


def test_the_search_ends_where_a_trial_says_so() -> None:
    encode = Encoder(700)
    assert search(encode, lambda code: 0.04 * (code - 900), CODES, 9.0, 0.1, lambda t: True) is None
    assert len(encode.asked) == 1


def test_bytes_at_the_target_are_no_fewer_than_high_rates_would_have() -> None:
    assert Trial(bytes(1000), -6.02).least_at_target(800) == pytest.approx(900)
    assert Trial(bytes(1000), 3.0).least_at_target(800) == 1000


@pytest.mark.parametrize("code", [200, 300, 400, 600, 700])
def test_the_estimate_is_near_what_an_encoder_leaves(code: int) -> None:
    y, x = np.mgrid[0:150, 0:170]
    noise = 40 * np.random.default_rng(1).normal(size=y.shape)
    samples = np.rint(4000 + 900 * np.sin(x / 11) * np.cos(y / 17) + noise).astype(np.int32)[None]
    model, scratch = native_model(CURRENT_MODEL), np.empty_like(samples)
    estimate = _native.LossyEstimate(model, samples).squares(code, 9.0)
    _native.encode_lossy(model, samples, 0, 65535, code, 9.0, False, scratch, np.empty_like(samples))
    found = float(np.square((scratch - samples).astype(float)).sum())
    assert abs(10 * math.log10(estimate / found)) < 1


def test_an_estimate_refuses_what_an_encoder_does() -> None:
    model = native_model(CURRENT_MODEL)
    with pytest.raises(ValueError, match="out of range"):
        _native.LossyEstimate(model, np.array([[[0, 1 << 17]]], np.int32))
    estimate = _native.LossyEstimate(model, np.zeros((1, 4, 4), np.int32))
    for code, slope in ((1408, 9.0), (700, 0.0)):
        with pytest.raises(ValueError, match="out of range"):
            estimate.squares(code, slope)
