"""What the command line reads and writes: arguments, conditions, windows, names in a terminal."""

import io
import json
import string
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevault.codecs.errors import InvalidRequest, TileCorrupt, gravest
from tilevault.workflows.cli import _joined, build_parser
from tilevault.workflows.console import (
    Column,
    Console,
    Progress,
    human_bytes,
    jsonable,
    printable,
    reason_alone,
)
from tilevault.workflows.listing import short_ids
from tilevault.workflows.parallel import in_order
from tilevault.workflows.query import Query
from tilevault.workflows.reading import parse_index, parse_window


def parse(*arguments: str) -> Any:
    return build_parser().parse_args(_joined(list(arguments)))


# -- arguments -------------------------------------------------------------------------------------------


def test_options_may_stand_anywhere() -> None:
    for arguments in (
        ["add", "a", "b", "--dry-run", "archive"],
        ["add", "--dry-run", "a", "b", "archive"],
        ["add", "a", "--dry-run", "b", "archive"],
    ):
        options = parse(*arguments)
        assert (options.sources, options.archive, options.dry_run) == (["a", "b"], "archive", True)


def test_conditions_take_what_follows_and_no_more() -> None:
    options = parse("ls", "--where", "A=1", "B=2", "archive", "--where", "C=3")
    assert (options.where, options.archive) == (["A=1", "B=2", "C=3"], "archive")


def test_a_negative_window_reaches_the_command() -> None:
    options = parse("read", "a", "i", "--window", "-5:3,0:9", "-o", "x.npy", "--index", "z=3", "t=1")
    assert (options.window, options.index) == ("-5:3,0:9", ["z=3", "t=1"])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["add", "one"],
        ["add", "a", "b", "--tile", "65"],
        ["add", "a", "b", "--tile", "32"],
        ["add", "a", "b", "--workers", "0"],
        ["read", "a", "i"],
        ["export", "a"],
        ["export", "a", "-o", "x", "--format", "jpeg"],
        ["verify", "a", "--depth", "deep"],
        ["verify", "a", "--sample", "0"],
        ["verify", "a", "--sample", "101"],
        ["verify", "a", "--sample", "nan"],
        ["rm", "a"],
        ["ls", "a", "--jso"],
    ],
)
def test_wrong_usage_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        parse(*arguments)
    assert exit.value.code == 2
    assert "usage: tilevault" in capsys.readouterr().err


def test_every_command_has_json_and_debug() -> None:
    parser = build_parser()
    (commands,) = [a for a in parser._actions if isinstance(a.choices, dict)]
    assert set(commands.choices) == {
        "add",
        "ls",
        "info",
        "read",
        "export",
        "verify",
        "rm",
        "publish",
        "doctor",
        "serve",
        "token",
        "reindex",
        "train",
        "restore",
    }
    for command in commands.choices.values():
        assert {"--json", "--debug"} <= set(command._option_string_actions)


def test_the_gravest_exit_code_wins() -> None:
    assert gravest([]) == gravest([0, 0]) == 0
    assert gravest([3, 4, 8]) == 4
    assert gravest([3, 70, 4]) == 70
    assert gravest([0, 3, 7]) == 7
    assert gravest([99]) == 99


# -- text --------------------------------------------------------------------------------------------------


@given(st.text())
def test_printable_leaves_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text


def test_printable_escapes_what_names_may_hide() -> None:
    assert printable("a\x1b[31mb\nc") == "a\\x1b[31mb\\x0ac"
    assert printable("\u202egnp.exe") == "\\u202egnp.exe"
    assert printable("a\u00a0b") == "a b"
    assert printable(b"caf\xe9".decode("utf-8", "surrogateescape")) == "caf\\udce9"
    assert printable("abcdefghij", 5) == "ab…ij"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_json_is_ascii_and_strict(value: Any) -> None:
    out = io.StringIO()
    Console(True, out, io.StringIO()).record("thing", value=value)
    (line,) = out.getvalue().splitlines()
    assert line.isascii()
    assert json.loads(line, parse_constant=pytest.fail)["type"] == "thing"


def test_jsonable_knows_numpy_and_the_numbers_that_json_lacks() -> None:
    made = jsonable(
        {"a": np.arange(3, dtype=np.uint8), "b": float("nan"), "c": -float("inf"), "d": np.float32(1)}
    )
    assert made == {"a": [0, 1, 2], "b": "NaN", "c": "-Infinity", "d": 1.0}


def test_a_reason_does_not_repeat_the_name() -> None:
    assert reason_alone("a/b.tif: a/b.tif: b.tif is cut", "a/b.tif", "") == "b.tif is cut"
    assert reason_alone("x: y: z", "y", "x") == "z"
    assert reason_alone("cut", "x") == "cut"


def test_an_error_is_a_record_and_a_line() -> None:
    out, err = io.StringIO(), io.StringIO()
    Console(True, out, err).error(TileCorrupt("tile \x1b[2J is bad", level=0, index=[1, 2]), image="ab")
    record = json.loads(out.getvalue())
    assert record["type"] == "error"
    assert (record["code"], record["exit_code"], record["level"], record["image"]) == (
        "TileCorrupt",
        4,
        0,
        "ab",
    )
    assert err.getvalue() == "tilevault: TileCorrupt: tile \\x1b[2J is bad\n"


def test_tables_show_hostile_names_as_text() -> None:
    out = io.StringIO()
    Console(False, out).table((Column("name"), Column("n", right=True)), [["[red]x[/red] \x1b[31m", "3"]])
    assert "[red]x[/red] \\x1b[31m" in out.getvalue()
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize("screen", [200, 80, 60, 40, 30, 10])
def test_tables_fit_the_screen(screen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", str(screen))
    out = Terminal()
    columns = (
        Column("image"),
        Column("name", flexible=True),
        Column("n", right=True),
        Column("added", optional=True),
    )
    rows = [
        ["12345678", "a/very/long/name/of/a/file/" * 3, "12", "2024-01-01"],
        ["1", "医用画像" * 9, "3", "x"],
    ]
    Console(False, out).table(columns, rows)
    lines = out.getvalue().splitlines()
    assert len(lines) == 4
    wide = [sum(2 if ord(char) > 0x2FFF else 1 for char in line) for line in lines]
    assert max(wide) <= max(screen, 15)
    assert all(line.split()[0] in ("image", "--------", "12345678", "1") for line in lines)
    assert ("added" in lines[0]) == (screen >= 60)
    if screen == 200:
        assert rows[0][1] in lines[2]


def test_plain_progress_says_little() -> None:
    err = io.StringIO()
    with Progress("add", err) as progress:
        for i in range(1000):
            progress.update(files=i, files_total=1000, bytes_done=i, bytes_total=1000)
        progress._spoken -= 100
        progress.update(3, 10, 5_000_000, 10_000_000, 2_500_000, message="a\x1bb")
    (line,) = err.getvalue().splitlines()
    assert line.startswith("add: 3/10 files, 5 MB of 10 MB, ")
    assert "ratio 2.00" in line
    assert "left" in line
    assert "a\\x1bb" in line


def test_no_progress_with_json_into_a_file() -> None:
    err = io.StringIO()
    with Console(True, io.StringIO(), err).progress("add") as progress:
        progress._spoken -= 100
        progress.update(1, 2)
    assert err.getvalue() == ""


def test_bytes_for_people() -> None:
    assert [human_bytes(n) for n in (0, 999, 1000, 12_345, 999_600, 10**13)] == [
        "0 B",
        "999 B",
        "1 kB",
        "12.3 kB",
        "1 MB",
        "10 TB",
    ]


@given(st.lists(st.text("01", min_size=32, max_size=32), unique=True, min_size=1))
def test_short_ids_are_unambiguous(ids: list[str]) -> None:
    short = short_ids(ids)
    for one in ids:
        assert one.startswith(short[one])
        assert [other for other in ids if other.startswith(short[one])] == [one]
        assert len(short[one]) >= 8


# -- conditions --------------------------------------------------------------------------------------------

CT = {
    "PatientID": "LIDC-0314",
    "PatientName": "DOE^JANE",
    "StudyDate": "20240229",
    "Modality": "CT",
    "name": "hospital/ct [1]",
}
SCENE = {"bbox": [13.0, 46.0, 14.0, 47.0], "time": "2024-06-12T10:20:31Z", "name": "maps/scene.tif"}


@pytest.mark.parametrize(
    ("where", "summary", "expected"),
    [
        ([], CT, True),
        (["Modality=CT"], CT, True),
        (["modality=ct"], CT, True),
        (["Modality=C"], CT, False),
        (["Modality=?T", "PatientID=LIDC*"], CT, True),
        (["Modality=?T", "PatientID=TCGA*"], CT, False),
        (["Nothing=*"], CT, False),
        (["name=*ct [1]"], CT, True),
        (["StudyDate=20240229"], CT, True),
        (["StudyDate=20240101-20241231"], CT, True),
        (["StudyDate=20240301-"], CT, False),
        (["StudyDate=-20240301"], CT, True),
        (["StudyDate=-20240228"], CT, False),
        (["StudyDate=2024*"], CT, True),
        (["bbox=13.5,46.5,20,50"], SCENE, True),
        (["bbox=14.1,46.5,20,50"], SCENE, False),
        (["bbox=170,-90,-170,90"], SCENE, False),
        (["bbox=-180,-90,180,90"], CT, False),
        (["time=2024-06-01/2024-06-30"], SCENE, True),
        (["time=2024-06-12"], SCENE, True),
        (["time=2024"], SCENE, True),
        (["time=2024-06-12T10:20:32/.."], SCENE, False),
        (["time=../2024-06-12T10:20:31"], SCENE, True),
        (["time=20240201/20240301"], CT, True),
        (["time=/2024-02-28"], CT, False),
    ],
)
def test_where(where: list[str], summary: dict[str, Any], expected: bool) -> None:
    assert Query.parse(where).matches(summary) is expected


def test_keys_that_no_image_has() -> None:
    query = Query.parse(["PatientD=1", "modality=CT", "time=2024", "bbox=0,0,1,1"])
    assert query.unknown(["Modality", "StudyDate"]) == ["patientd", "bbox"]


def test_boxes_across_the_antimeridian() -> None:
    fiji = {"bbox": [177.0, -20.0, -178.0, -16.0]}
    assert Query.parse(["bbox=179,-18,-179,-17"]).matches(fiji)
    assert Query.parse(["bbox=-179,-18,-170,-17"]).matches(fiji)
    assert not Query.parse(["bbox=0,-18,170,-17"]).matches(fiji)


@pytest.mark.parametrize(
    "expression",
    [
        "CT",
        "=CT",
        "bbox=1,2,3",
        "bbox=a,b,c,d",
        "bbox=0,5,1,4",
        "bbox=nan,0,1,1",
        "time=yesterday",
        "time=2025/2024",
    ],
)
def test_conditions_that_make_no_sense(expression: str) -> None:
    with pytest.raises(InvalidRequest):
        Query.parse([expression])


@given(st.text(string.printable), st.text(string.printable))
def test_any_condition_is_answered_or_refused(key: str, value: str) -> None:
    try:
        query = Query.parse([f"{key}={value}"])
    except InvalidRequest:
        return
    assert query.matches(CT) in (True, False)


# -- windows -----------------------------------------------------------------------------------------------


def test_windows() -> None:
    assert parse_window(None, 30, 40) == ((0, 30), (0, 40))
    assert parse_window("1:3,4:8", 30, 40) == ((1, 3), (4, 8))
    assert parse_window(" 1 : , :8 ", 30, 40) == ((1, 30), (0, 8))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1:2",
        "1:2,3:4,5:6",
        "-1:2,0:3",
        "0:31,0:3",
        "0:3,0:41",
        "3:3,0:1",
        "3:2,0:1",
        "a:b,c:d",
        "0:1,0:-1",
        "--:,:",
        "-:,:",
    ],
)
def test_windows_that_are_not_in_the_image(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_window(text, 30, 40)


@given(st.text("-0123456789:, "))
def test_any_window_is_inside_or_refused(text: str) -> None:
    try:
        (y0, y1), (x0, x1) = parse_window(text, 30, 40)
    except InvalidRequest:
        return
    assert 0 <= y0 < y1 <= 30
    assert 0 <= x0 < x1 <= 40


def test_positions_along_axes() -> None:
    assert parse_index(["z=3", "t=0"]) == {"z": 3, "t": 0}
    for wrong in (["z"], ["z=a"], ["z=1", "z=2"], ["y=1"], ["z="], ["=1"]):
        with pytest.raises(InvalidRequest):
            parse_index(wrong)


# -- threads -----------------------------------------------------------------------------------------------


def test_work_comes_back_in_order() -> None:
    assert list(in_order(lambda n: n * n, range(100), workers=3)) == [n * n for n in range(100)]
    assert list(in_order(str, [], workers=3)) == []


def test_a_failure_comes_when_its_turn_is() -> None:
    results = in_order(lambda n: 1 // (3 - n), range(100), workers=2)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_items_are_taken_as_they_are_needed() -> None:
    taken = []

    def items() -> Any:
        for n in range(1000):
            taken.append(n)
            yield n

    results = in_order(str, items(), workers=2)
    next(results)
    assert len(taken) <= 8
    results.close()  # type: ignore[attr-defined]  # it is a generator
