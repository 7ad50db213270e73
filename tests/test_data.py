"""Every real image beside the project, and every test file that pydicom ships, goes in and comes out."""

from pathlib import Path

import pydicom
import pytest

from round_trip import round_trip


@pytest.mark.data
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", ["medical", "satellite"])
def test_every_real_image_comes_back(data_dir, tmp_path, part):
    outcome = round_trip(data_dir / part, tmp_path)
    assert outcome.faults == []
    assert outcome.rejected == []
    assert outcome.exact + outcome.equal > 30


@pytest.mark.timeout(900)
def test_every_file_of_pydicom_comes_back_or_is_refused_with_a_reason(tmp_path):
    outcome = round_trip(Path(pydicom.__file__).parent / "data" / "test_files", tmp_path)
    assert outcome.faults == []
    assert {file.code for file in outcome.rejected} <= {"TruncatedSource", "InconsistentHeader"}
    assert all(file.reason for file in outcome.rejected)
    assert outcome.exact > 100
