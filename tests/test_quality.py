"""Records of quality: what goes in comes out, the image follows from its tiles, and nothing is infinite."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevault.archive.quality import QUALITY_ARRAYS, QualityTables, TileQuality
from tilevault.codecs import InvalidRequest, ManifestCorrupt
from tilevault.codecs.metrics import PSNR_EXACT, Quality, measure, psnr, ssim

MODEL = bytes(range(16))
ORDINARY = TileQuality(
    4096, 100, 7.0, 41.5, 0.98, 0.99, 3.25, 9.0, 41.25, 0.975, 0.985, MODEL
)  # fmt: skip
ERRORLESS = Quality(0.0, PSNR_EXACT, 1.0, 1.0)

finite = st.floats(0, 500, width=32)
records = st.builds(
    TileQuality, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), *[finite] * 9,
    st.binary(min_size=16, max_size=16),
)  # fmt: skip


@given(records)
def test_a_record_survives_json_and_the_arrays(record: TileQuality) -> None:
    assert TileQuality.from_json(json.loads(json.dumps(record.to_json()))) == record
    tables = QualityTables.empty((2, 3))
    tables.put((1, 2), record)
    assert tables.at((1, 2)) == record
    assert tables.arrays["restoration_gain"][1, 2] == np.float32(record.psnr - record.psnr_unrestored)
    assert all(not np.asarray(array[0]).any() for array in tables.arrays.values())
    again = QualityTables.checked(dict(tables.arrays), (2, 3))
    assert again.at((1, 2)) == record


def test_of_a_tile_without_restoration_both_are_the_same() -> None:
    found = Quality(3.0, 50.0, 0.9, 0.95)
    record = TileQuality.measured(b"12345", 10, found, step=2.0, model=MODEL)
    assert (record.bits, record.samples, record.step, record.model) == (40, 10, 2.0, MODEL)
    assert (record.psnr_unrestored, record.ms_ssim_unrestored) == (50.0, 0.95)
    assert record.restoration_gain == 0
    assert not record.exact
    restored = TileQuality.measured(b"", 10, found, Quality(4.0, 49.0, 0.8, 0.9))
    assert restored.restoration_gain == 1
    assert restored.max_abs_error_unrestored == 4
    assert TileQuality.measured(b"1", 10, ERRORLESS).exact


def test_an_image_is_its_tiles_pooled() -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(0, 4000, (64, 96)).astype("u2")
    y = (x + rng.integers(-20, 21, x.shape) * (np.arange(96) // 32 != 1)).clip(0, 4000).astype("u2")
    tables = QualityTables.empty((2, 3))
    for i, j in np.ndindex(2, 3):
        at = np.s_[32 * i : 32 * i + 32, 32 * j : 32 * j + 32]
        worse = np.where(x[at] > 2000, y[at], x[at] // 2).astype("u2")
        found = measure(x[at], y[at], 4000)
        tables.put((i, j), TileQuality.measured(b"1", x[at].size, found, measure(x[at], worse, 4000)))
    assert tables.exact.tolist() == [[False, True, False]] * 2
    assert tables.pooled_psnr() == pytest.approx(psnr(x, y, 4000), abs=1e-4)
    assert tables.pooled_psnr("psnr_unrestored") < tables.pooled_psnr()
    summary = tables.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert (summary["tiles"], summary["exact_tiles"]) == (6, 2)
    assert summary["max_abs_error"] == np.abs(x.astype(int) - y).max()
    i, j = summary["max_abs_error_at"]
    assert tables.at((i, j)).max_abs_error == summary["max_abs_error"]
    assert summary["psnr_tiles"]["max"] < 100
    assert summary["ssim"] == pytest.approx(
        np.mean([ssim(x[a : a + 32, b : b + 32], y[a : a + 32, b : b + 32], 4000)
                 for a in (0, 32) for b in (0, 32, 64)]), abs=1e-6
    )  # fmt: skip


def test_the_worst_come_first_and_only_what_lost_something() -> None:
    tables = QualityTables.empty((2, 2))
    for at, decibels in (((0, 0), 44.0), ((0, 1), 39.0), ((1, 1), 41.0)):
        tables.put(at, replace(ORDINARY, psnr=decibels))
    tables.put((1, 0), TileQuality.measured(b"", 9, ERRORLESS))
    assert tables.worst(2) == [(0, 1), (1, 1)]
    assert tables.worst(99) == [(0, 1), (1, 1), (0, 0)]
    assert tables.summary()["psnr_min_at"] == [0, 1]


def test_an_image_that_lost_nothing_has_finite_numbers() -> None:
    tables = QualityTables.empty((1, 2))
    tables.put((0, 0), TileQuality.measured(b"123", 9, ERRORLESS))
    tables.put((0, 1), TileQuality.measured(b"123", 0, ERRORLESS))
    summary = tables.summary()
    assert summary == {
        "tiles": 2, "exact_tiles": 2, "restored_tiles": 0, "psnr": 999.0, "psnr_unrestored": 999.0,
        "ssim": 1.0, "ms_ssim": 1.0, "max_abs_error": 0.0,
    }  # fmt: skip
    assert tables.worst(3) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"psnr": float("inf")},
        {"ssim": float("nan")},
        {"bits": -1},
        {"samples": -1},
        {"step": -0.5},
        {"model": b""},
    ],
)
def test_what_is_no_quality_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        replace(ORDINARY, **wrong)


KEPT = ORDINARY.to_json()


@pytest.mark.parametrize(
    "values",
    [None, 7, [], ["x"], KEPT[:-1], [*KEPT, 1], [*KEPT[:-1], "zz"], [1.5, *KEPT[1:]], [True, *KEPT[1:]],
     [*KEPT[:-2], "1", KEPT[-1]], [*KEPT[:-2], float("nan"), KEPT[-1]], [*KEPT[:-2], 10**400, KEPT[-1]]],
)  # fmt: skip
def test_damaged_records_are_refused(values: Any) -> None:
    with pytest.raises(ManifestCorrupt):
        TileQuality.from_json(values)


def test_damaged_arrays_are_refused() -> None:
    whole = dict(QualityTables.empty((2,)).arrays)
    for name, array in whole.items():
        for damaged in (None, array[:1], array.astype("f2"), array[None]):
            with pytest.raises(ManifestCorrupt, match=name):
                QualityTables.checked({**whole, name: damaged}, (2,))  # type: ignore[dict-item]
    whole["psnr"][1] = np.inf
    with pytest.raises(ManifestCorrupt, match="finite"):
        QualityTables.checked(whole, (2,))


def test_every_array_says_what_it_is() -> None:
    names = [a.name for a in QUALITY_ARRAYS]
    assert names[0] == "bits"
    assert len(set(names)) == len(names)
    for a in QUALITY_ARRAYS:
        attributes = a.attributes("HU")
        assert attributes["long_name"]
        assert attributes["units"] in ("bit", "1", "dB", "HU")
    assert "units" not in next(a for a in QUALITY_ARRAYS if a.name == "step").attributes()
