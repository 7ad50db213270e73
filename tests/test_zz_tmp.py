"""Archives made to do harm: every digest is right, what the documents say is not.

Whatever is asked of such an archive ends with an answer or with an error of ours, soon, and in little memory;
nothing outside its folder changes.
"""

import contextlib
import copy
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import collection
from test_damage import noise, write_tiff
from tilevault.archive.documents import MAX_DEPTH, canonical, parse, seal, sha256_hex
from tilevault.archive.image import Window
from tilevault.archive.plain import compress, expand
from tilevault.archive.store import Archive
from tilevault.codecs.errors import IntegrityError, LimitExceeded, TilevaultError
from tilevault.workflows.ingest import add

SECONDS = 20.0
"""For everything that is asked of one archive, on a slow and busy machine."""
MEMORY = 600 << 20
"""By which the memory of the process may grow in one test."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Archives of one small image each, by name."""
    folder, found = tmp_path_factory.mktemp("sound"), {}
    collection.write_ct_series(folder / "ct", slices=3, side=70)
    write_tiff(folder / "plain" / "a.tif", noise((1, 70, 300)))
    write_tiff(folder / "bands" / "b.tif", noise((3, 70, 300)), compress="deflate", nodata=0)
    (folder / "bands" / "b.tif.aux.xml").write_text("<PAMDataset/>")
    for name in ("ct", "plain", "bands"):
        found[name] = folder / f"{name}.archive"
        assert add([folder / name], found[name], tile=64).totals["failed"] == 0
    return found


@pytest.fixture
def archive(sound, tmp_path):
    """A copy of one of them, to be ruined."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(sound[name], tmp_path / name))

    return copied


def memory(name: str) -> int:
    """Bytes of this process's memory: ``VmRSS`` now, ``VmHWM`` at most since it was reset."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(name))


@pytest.fixture(autouse=True)
def _little_memory(sound):
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    yield
    assert memory("VmHWM") - before < MEMORY


# -- making them ----------------------------------------------------------------------------------------


def generation(archive: Path) -> Path:
    """The folder of the one generation."""
    (folder,) = archive.glob("images/*/*")
    return folder


def put(archive: Path, key: str, data: bytes, entry: dict[str, Any] | None = None) -> None:
    """Replace an object of the generation, and every digest up to the commit."""
    (generation(archive) / key).parent.mkdir(parents=True, exist_ok=True)
    (generation(archive) / key).write_bytes(data)
    document = json.loads((generation(archive) / "manifest.json").read_bytes())
    document["objects"] = [o for o in document["objects"] if o["key"] != key]
    document["objects"].append({"key": key, "size": len(data), "sha256": sha256_hex(data), **(entry or {})})
    put_manifest(archive, canonical(document))


def put_manifest(archive: Path, data: bytes) -> None:
    """Replace the manifest, and its digest in the commit."""
    (generation(archive) / "manifest.json").write_bytes(data)
    put_commit(archive, lambda record: record.update(manifest=sha256_hex(data)))


def put_commit(archive: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the commit record, and its seal."""
    (path,) = archive.glob("commits/*/0.json")
    record = parse(path.read_bytes(), "commit")
    del record["sha256"]
    change(record)
    path.write_bytes(seal(record))


def described(archive: Path) -> dict[str, Any]:
    """What the generation says of itself."""
    return parse((generation(archive) / "source/image.json").read_bytes(), "image.json")


def listed(archive: Path) -> Any:
    """The list of the source files."""
    data = (generation(archive) / "source/files.json.zst").read_bytes()
    return parse(expand(data, zstandard.frame_content_size(data), "files"), "files.json")


def describe(archive: Path, **changes: Any) -> None:
    """Change fields of image.json; those of the image as an array by their own names."""
    document = described(archive)
    for name, value in changes.items():
        (document if name in document else document["info"])[name] = value
    put(archive, "source/image.json", canonical(document))


# -- asking them ----------------------------------------------------------------------------------------


def questions(image: Any) -> list[Callable[[], Any]]:
    """Everything that can be asked of an image, in little pieces."""
    return [
        lambda: repr(image),
        lambda: (image.info, image.grid, image.codec, image.levels, image.stored_levels, image.round_trip),
        lambda: image[..., 0, 0],
        lambda: image[...] if np.prod(image.shape) < 1 << 24 else None,
        lambda: image.words[..., -1:, -1:],
        lambda: image.read(Window((0, 0), (1, 1)), 2),
        lambda: image.read(Window((0, 0), (1, 1)), 3),
        lambda: image.read_mask(Window((0, 0), (1, 1))),
        lambda: image.read_mask(Window((0, 0), (1, 1)), 3),
        lambda: image.quality.bits,
        lambda: image.quality.bits_per_sample,
        lambda: image.to_xarray(),
        lambda: image.to_xarray(level=3, units="HU"),
        lambda: image.source.image,
        lambda: [sum(map(len, image.source.verbatim(i))) for i in range(len(image.source.files))],
        lambda: [sum(map(len, image.source.rebuild(i))) for i in range(len(image.source.files))],
        lambda: image.check("pixels"),
    ]


def ask(archive: Path) -> list[TilevaultError]:
    """Ask everything; the errors of ours that came. Any other one fails the test."""
    began, errors = time.monotonic(), []

    def one(question: Callable[[], Any]) -> Any:
        try:
            return question()
        except TilevaultError as error:
            errors.append(error)
            return None

    opened = one(lambda: Archive.open(archive))
    if opened is not None:
        one(lambda: len(opened))
        one(lambda: list(opened.uncommitted()))
        one(lambda: list(opened.search({"name": "x"})))
        one(lambda: opened["no such name"])
        for name in one(lambda: list(opened)) or []:
            one(lambda name=name: opened.commits(name))
            image = one(lambda name=name: opened[name])
            for question in questions(image) if image is not None else ():
                one(question)
    assert time.monotonic() - began < SECONDS
    return errors


def refused(archive: Path) -> None:
    """Something that was asked is refused for what the archive is, or a check says what is wrong."""
    errors = ask(archive)
    if not any(isinstance(error, IntegrityError | LimitExceeded) for error in errors):
        image = next(iter(Archive.open(archive).values()))
        assert image.check("pixels").findings, errors


def test_the_sound_ones_answer(sound):
    for name, path in sound.items():
        unasked = {"ct": {"has no mask"}, "plain": {"has no mask"}, "bands": {"byte for byte", "has no mask"}}
        errors = [e.message for e in ask(path)]
        assert not [
            e for e in errors if not any(part in e for part in unasked[name] | {"rescalable", "answers"})
        ]


HUGE = 1 << 60
SHAPES = [
    [HUGE, 300],
    [1 << 30, 1 << 30],
    [0, 300],
    [-70, 300],
    [True, 300],
    ["70", 300],
    [70.0, 300],
    [70],
    [],
    [1] * 6,
    None,
    "70",
    {"70": 300},
    [1 << 18, 1 << 18],
    [70, 301],
    [64, 300],
]
EDGES = [
    [0, 0],
    [-64, 64],
    [1 << 40, 1 << 40],
    [True, True],
    [64.0, 64],
    ["64", "64"],
    [64],
    [64, 64, 64],
    [],
    None,
    [1, 1],
    [33, 33],
    [64, 1 << 62],
    [96, 320 << 20],
    "64",
]
INFO: dict[str, list[Any]] = {
    "shape": SHAPES,
    "dtype": [
        "O",
        "V9",
        "i4,i4",
        "(1000,1000)i4",
        "U9",
        "datetime64[s]",
        "float128",
        "(",
        "",
        5,
        None,
        ["u2"],
        "uint8",
        "complex128",
    ],
    "axes": [["x", "y"], ["y", "y"], ["z", "y", "x"], ["y"], [1, 2], [["y"], ["x"]], "yx", None, ["q", "x"]],
    "kind": ["planet", None, 3, ["satellite"], "medical"],
    "bits_stored": [-1, 0, 17, HUGE, True, "12", 3.5, [12], 1],
    "nodata": [True, "0", [0], {}, 1 << 80, -(1 << 200)],
    "categorical": [1, None, "no"],
    "has_mask": [True, 1, None],
    "native_blocks": [5, {}],
    "attributes": [
        None,
        [],
        "x",
        {"high_bit": -1},
        {"transform": "x", "crs_wkt": 5, "bands": 7},
        {"rescale": 3},
    ],
}
FIELDS: dict[str, list[Any]] = {
    "tile": EDGES,
    "shard": EDGES,
    "mask_shard": [[64, 64], "x", 5],
    "codec": [
        None,
        {},
        [],
        "x",
        {"name": "numpy"},
        {"name": "blosc", "configuration": {}},
        {"name": ["tilevault.lossless"]},
        *(
            {"name": "tilevault.lossless", "configuration": c}
            for c in (
                5,
                [],
                {"decompositions": 0},
                {"decompositions": 15},
                {"decompositions": -1},
                {"decompositions": True},
                {"decompositions": HUGE},
                {"pack": 1},
                {"x": 1},
            )
        ),
        {"name": "tilevault.frame", "configuration": {"transfer_syntax": "1.2.840.10008.1.2.4.50"}},
        {
            "name": "tilevault.frame",
            "configuration": {"transfer_syntax": "1.2.840.10008.1.2.5", "samples": 4},
        },
        {"name": "tilevault.frame", "configuration": {"transfer_syntax": "../x"}},
    ],
    "downsampling": [None, "x", 3, ["mean"]],
    "levels": [
        [],
        [3],
        [0, 0],
        [0, 1],
        [0, 4, 3],
        [0, 3, 3],
        [0, 99],
        [0, -3],
        [False, 3],
        [0, True],
        "0",
        None,
        5,
    ],
    "image": ["0" * 32, None, 5],
    "kind": ["dicom"],
    "key": ["x", 5, None],
    "format": [5, None],
    "round_trip": ["perfect", None, 5],
    "name": [None, 5, []],
    "search": [None, [], "x"],
    "layout": [None, [], "x"],
    "warnings": [None, 5, [5], [[]]],
    "info": [5, [], {}, "x"],
}


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        (part, n, v)
        for part, table in (("info", INFO), ("", FIELDS))
        for n, values in table.items()
        for v in values
    ],
)
def test_a_description_that_cannot_be(archive, part, name, value):
    path = archive("plain")
    document = described(path)
    (document[part] if part else document)[name] = value
    put(path, "source/image.json", canonical(document))
    if name in ("attributes", "bits_stored", "native_blocks"):
        ask(path)  # some of these are another sound image, of which nothing but itself can say more
    else:
        refused(path)


def test_a_format_that_nobody_knows(archive):
    path = archive("plain")
    describe(path, format="pickle")
    assert any("format" in error.message for error in ask(path))


VALUES = [
    None,
    True,
    -1,
    0,
    1,
    7,
    1 << 31,
    HUGE,
    -HUGE,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\0",
    "../../x",
    "\ud800",
    [],
    {},
    [[]],
    [0] * 9,
    {"": {}},
    [-1, 2, HUGE],
    "1.2.840.10008.1.2.4.50",
]


def places(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    items: Any = ()
    if isinstance(document, dict | list):
        items = document.items() if isinstance(document, dict) else enumerate(document)
    return ([at] if at else []) + [deeper for key, child in items for deeper in places(child, (*at, key))]


def changed(document: Any, at: tuple[Any, ...], value: Any) -> Any:
    """A copy in which one value is another one; a key is gone where the value is `...`."""
    made = copy.deepcopy(document)
    *way, last = at
    parent = made
    for key in way:
        parent = parent[key]
    if not isinstance(parent, dict if isinstance(last, str) else list):
        raise LookupError(last)
    if value is ...:
        del parent[last]
    else:
        parent[last] = value
    return made


@pytest.mark.parametrize("name", ["ct", "plain", "bands"])
@pytest.mark.parametrize("document", ["image", "files"])
def test_any_value_of_a_document_may_be_any_other(sound, tmp_path_factory, name, document):
    path = Path(shutil.copytree(sound[name], tmp_path_factory.mktemp("any") / name))
    original = described(path) if document == "image" else listed(path)
    everywhere = places(original)

    @settings(max_examples=700, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(
            st.tuples(st.sampled_from(everywhere), st.sampled_from([*VALUES, ...])), min_size=1, max_size=2
        )
    )
    def run(changes):
        made = original
        for at, value in changes:
            with contextlib.suppress(LookupError, TypeError):
                made = changed(made, at, value)
        key = "source/image.json" if document == "image" else "source/files.json.zst"
        put(path, key, canonical(made) if document == "image" else compress(canonical(made)))
        ask(path)

    run()


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b'{"image":1,"image":2}',
        b'{"shape":NaN}',
        b"1" * 10_000,
        b"\xff",
        b"",
        b"[" + b"[]," * 9_000_000 + b"[]]",
    ],
    ids=["deep", "limit", "twice", "nan", "digits", "utf8", "empty", "many"],
)
def test_documents_that_are_bombs(archive, data):
    path = archive("plain")
    put(path, "source/image.json", data)
    refused(path)
    fresh = archive("bands")
    put(fresh, "source/files.json.zst", compress(data, 3))
    refused(fresh)


@pytest.mark.parametrize("key", ["tiles/data/ends/c/0/0/0", "source/files.json.zst", "source/blocks/0-0"])
def test_zstd_bombs(archive, key):
    path = archive("plain")
    assert (generation(path) / key).exists()
    for megabytes in (1, 1 << 10):
        packer = zstandard.ZstdCompressor(level=1).compressobj(size=megabytes << 20)
        pieces = [packer.compress(bytes(1 << 20)) for _ in range(megabytes)]
        put(path, key, b"".join([*pieces, packer.flush()]))
        refused(path)


def test_tables_that_lie(archive):
    path = archive("plain")
    key = "tiles/data/ends/c/0/0/0"
    data = (generation(path) / key).read_bytes()
    raw = expand(data, zstandard.frame_content_size(data), key)
    for lie in (2**32 - 1, 2**32 - 5, 2**31, 0, 3):
        put(path, key, compress(np.full(len(raw) // 4, lie, "<u4").tobytes()))
        refused(path)
    put(path, key, compress(raw[:-4]))
    refused(path)


ENTRY = {"key": "a", "size": 0, "sha256": "0" * 64}


@pytest.mark.parametrize(
    "entry",
    [
        {"key": key}
        for key in (
            "../x",
            "/etc/passwd",
            "a//b",
            "a\\b",
            "A",
            "con\0",
            "a/../b",
            "",
            "ä",
            ".staging/x",
            5,
            None,
            [],
        )
    ]
    + [{"size": size} for size in (-1, True, 1.5, "1", None)]
    + [{"sha256": digest} for digest in ("", "x" * 64, None, 5, "0" * 63)]
    + [{"inputs": inputs} for inputs in ([], 5, "x")]
    + [{"key": "0/data/c/0/0/0"}, {"key": "0/data/c/x"}, {"key": "0/data/c/-1/0/0"}, {"key": "0/data/c/9/9"}],
)
def test_manifest_entries_that_cannot_be(archive, entry):
    path = archive("bands")
    document = json.loads((generation(path) / "manifest.json").read_bytes())
    document["objects"].append({**ENTRY, **entry})
    put_manifest(path, canonical(document))
    refused(path)


@pytest.mark.parametrize(
    "document", [[], {}, 5, None, {"objects": 5}, {"objects": [5]}, {"objects": [[]]}, "x"]
)
def test_manifests_that_are_none(archive, document):
    path = archive("plain")
    put_manifest(path, canonical(document))
    refused(path)


@pytest.mark.parametrize(
    "change",
    [
        {"generation": "../../etc"},
        {"generation": "0" * 32},
        {"generation": None},
        {"manifest": None},
        {"n": True},
        {"n": -1},
        {"image": "0" * 32},
        {"summary": []},
        {"provenance": 5},
        {"previous": 5},
        {"x": 1},
        {"format": 2},
        {"sources": "x"},
    ],
)
def test_commit_records_that_cannot_be(archive, change):
    path = archive("plain")
    put_commit(path, lambda record: record.update(change))
    refused(path)


def test_a_summary_may_hold_anything_and_others_still_go_in(archive, tmp_path):
    path = archive("ct")
    weird = {"bytes_stored": [], "name": 5, "SeriesInstanceUID": {}, "shape": "x"}
    put_commit(path, lambda record: record.update(summary=weird))
    ask(path)
    write_tiff(tmp_path / "in" / "new.tif", noise((1, 64, 64)))
    assert add([tmp_path / "in"], path).totals["added"] == 1


def test_pieces_that_lie(archive):
    path = archive("bands")
    original = listed(path)
    (block,) = {piece[0] for file in original for piece in file["pieces"]}
    size, whole = original[0]["size"], sum(piece[2] for file in original for piece in file["pieces"])
    for pieces in (
        [[block, 0, 1 << 40]],
        [[block, -1, 1]],
        [[block, 0, True]],
        [["source/image.json", 0, 1]],
        [["../../../archive.json", 0, 1]],
        [[block]],
        [[[block], 0, 1]],
        [5],
        5,
        None,
        [[block, 0, whole]] * (((64 << 20) + size) // whole + 1),
    ):
        files = copy.deepcopy(original)
        files[0]["pieces"] = pieces
        put(path, "source/files.json.zst", compress(canonical(files), 3))
        image = next(iter(Archive.open(path).values()))
        with pytest.raises(IntegrityError):
            sum(map(len, image.source.verbatim(0)))


# -- files and folders ----------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["archive.json", "commit", "manifest", "object", "shard"])
def test_a_file_of_a_terabyte_is_not_read(archive, which):
    path = archive("plain")
    name = {
        "archive.json": path / "archive.json",
        "commit": next(path.glob("commits/*/0.json")),
        "manifest": generation(path) / "manifest.json",
        "object": generation(path) / "source/image.json",
        "shard": next(p for p in generation(path).glob("0/data/c/**/*") if p.is_file()),
    }[which]
    os.truncate(name, 1 << 40)
    if which == "shard":
        assert next(iter(Archive.open(path).values())).check("digest").findings
    else:
        refused(path)


@pytest.mark.parametrize("folder", ["images", "commits", ".staging", "images/*", "commits/*", "images/*/*"])
def test_links_lead_nowhere(archive, tmp_path, folder):
    path, outside = archive("plain"), tmp_path / "outside"
    (path / ".staging").mkdir(exist_ok=True)
    (name,) = path.glob(folder)
    shutil.move(name, outside)
    (outside / "precious").write_text("mine")
    name.symlink_to(outside, target_is_directory=True)
    before = {p: p.stat().st_mtime_ns for p in [outside, *outside.rglob("*")]}
    ask(path)
    for image in (p.name for p in path.glob("commits/*")):
        with contextlib.suppress(TilevaultError):
            Archive.open(path).remove(image)
    write_tiff(tmp_path / "in" / "new.tif", noise((1, 64, 64)))
    with contextlib.suppress(TilevaultError):
        add([tmp_path / "in"], path)
    assert {p: p.stat().st_mtime_ns for p in [outside, *outside.rglob("*")]} == before
    assert (outside / "precious").read_text() == "mine"


def test_hard_links_are_never_written_through(archive, tmp_path):
    path = archive("plain")
    outside = tmp_path / "precious"
    outside.write_bytes(b"mine")
    target = generation(path) / "source/image.json"
    target.unlink()
    target.hardlink_to(outside)
    (image,) = Archive.open(path)
    ask(path)
    Archive.open(path).remove(image)
    assert outside.read_bytes() == b"mine"


def test_folders_nested_without_end(archive):
    path = archive("plain")
    at = os.open(generation(path), os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    ask(path)
    (image,) = Archive.open(path)
    Archive.open(path).remove(image)
    assert not (path / "images" / image).exists()


def test_strange_names_hide_no_image(archive):
    path = archive("plain")
    (name,) = Archive.open(path)
    for strange in ("UPPER", "with space", "..x", "0" * 31, "lost+found"):
        (path / "commits" / strange).mkdir()
        (path / "images" / strange).mkdir()
        (path / "images" / name / strange).mkdir()
    for strange in ("00.json", "1.json.bak", "x.json", "-1.json", "\u0663.json"):
        (path / "commits" / name / strange).write_text("{}")
    assert list(Archive.open(path)) == [name]
    assert list(Archive.open(path).uncommitted()) == []
    assert Archive.open(path)[name].check("pixels").findings == ()


def test_a_commit_of_another_image_is_none_of_this_one(sound, tmp_path):
    path = Path(shutil.copytree(sound["plain"], tmp_path / "both"))
    other = next(sound["bands"].glob("commits/*/0.json"))
    mine = next(path.glob("commits/*/0.json"))
    shutil.copy(other, mine)
    refused(path)
    target = generation(path)
    shutil.rmtree(target)
    shutil.copytree(generation(sound["bands"]), target)
    refused(path)
