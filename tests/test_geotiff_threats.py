"""TIFFs that lie, loop, end early or pretend to be TIFFs: each ends in our own error, quickly, or is read."""

import contextlib
import os
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.errors import NotGeoreferencedWarning

from tiff_builder import ASCII, BYTE, LONG, SHORT, Built, Page, page, tiff
from tilevault.archive.formats import SourceImage, geotiff
from tilevault.archive.formats.geotiff import prove_metadata, write_original
from tilevault.archive.image import Window
from tilevault.codecs.errors import (
    InconsistentHeader,
    InputRejected,
    LimitExceeded,
    NotRecognized,
    SourceChanged,
    TilevaultError,
    TruncatedSource,
    UnsupportedSyntax,
    VerifyAfterEncodeFailed,
)

IMAGE = np.arange(2 * 24 * 30, dtype="uint16").reshape(2, 24, 30)


def scan(path: Path, data: bytes) -> SourceImage:
    path.write_bytes(data)
    images, rejected = geotiff.assemble(geotiff.scan(path, path.name))
    assert not rejected
    return images[0]


Kinds = type[TilevaultError] | tuple[type[TilevaultError], ...]


def refused(path: Path, data: bytes, kind: Kinds, match: str | None = None) -> InputRejected:
    with pytest.raises(kind, match=match) as caught:
        scan(path, data)
    assert isinstance(caught.value, InputRejected)
    return caught.value


def simple(**options: Any) -> Page:
    return page(IMAGE, rows=8, **options)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image.tif"


def use(path: Path, data: bytes) -> None:
    """Everything that ingest does with a file, reads by window included."""
    image = scan(path, data)
    assert image.info is not None
    shape = image.info.shape
    if np.prod(shape, dtype=float) > 1e7:
        shape = tuple(min(n, 64) for n in shape)
    with geotiff.open_reader(image) as reader:
        reader.read(Window((0,) * len(shape), shape))
        if image.info.has_mask:
            reader.read_mask(Window((0, 0), shape[-2:]))
        prove_metadata(image)
        for _ in reader.verbatim(0):
            pass


# G1: directories that contradict themselves


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True), (">", True)])
def test_every_byte_of_the_directory_may_be_wrong(path: Path, order: str, big: bool) -> None:
    built = tiff([simple(order=order)], order=order, big=big)
    (start, end), (first, _) = built.directories[0], built.values[0]
    outcomes: dict[str, int] = {}
    values = (0x00, 0x03, 0xFF)
    for at in [*range(16 if big else 8), *range(first, end)]:
        for value in values:
            data = bytearray(built.data)
            if data[at] == value:
                continue
            data[at] = value
            try:
                use(path, bytes(data))
                outcome = "read"
            except (InputRejected, VerifyAfterEncodeFailed) as error:
                outcome = error.code
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert outcomes["InconsistentHeader"] > 50
    assert outcomes["TruncatedSource"] > 5
    assert start < end


@pytest.mark.parametrize(
    ("tags", "kind", "match"),
    [
        ({256: None}, InconsistentHeader, "256 is missing"),
        ({257: (LONG, [0])}, InconsistentHeader, "30 x 0 pixels"),
        ({256: (LONG, [30, 30])}, InconsistentHeader, "2 values, not 1"),
        ({256: (ASCII, b"30\0")}, InconsistentHeader, "not an unsigned integer"),
        ({258: (SHORT, [16, 16, 16])}, InconsistentHeader, "3 values for 2 samples"),
        ({258: (SHORT, [16, 8])}, UnsupportedSyntax, "BitsPerSample differs"),
        ({258: (SHORT, [40, 40])}, UnsupportedSyntax, "40 bits"),
        ({258: (SHORT, [32, 32])}, InconsistentHeader, "rows need"),
        ({259: (SHORT, [6])}, UnsupportedSyntax, "compression 6"),
        ({259: (SHORT, [34661])}, UnsupportedSyntax, "compression 34661"),
        ({262: (SHORT, [8])}, UnsupportedSyntax, "PhotometricInterpretation 8"),
        ({262: (SHORT, [6])}, UnsupportedSyntax, "PhotometricInterpretation 6"),
        ({277: (SHORT, [5000])}, LimitExceeded, "5000 bands"),
        ({278: (LONG, [7])}, InconsistentHeader, "4 blocks but 3"),
        ({278: (LONG, [0])}, InconsistentHeader, "blocks of 30 x 0"),
        ({284: (SHORT, [3])}, InconsistentHeader, "PlanarConfiguration is 3"),
        ({322: (LONG, [16]), 323: (LONG, [16])}, InconsistentHeader, "both in strips and in tiles"),
        ({339: (SHORT, [9, 9])}, InconsistentHeader, "SampleFormat is 9"),
        ({339: (SHORT, [5, 5])}, UnsupportedSyntax, "complex_int8"),
        ({254: (LONG, [4])}, UnsupportedSyntax, "is a mask"),
    ],
)
def test_fields_that_contradict_each_other(path: Path, tags: Any, kind: Any, match: str) -> None:
    refused(path, tiff([simple(tags=tags)]).data, kind, match)


def test_complex_integers_are_named(path: Path) -> None:
    image = np.zeros((8, 8), "complex64")
    tags = {258: (SHORT, [32]), 339: (SHORT, [5])}
    refused(path, tiff([page(image, tags=tags)]).data, UnsupportedSyntax, "complex_int16")


def test_a_tag_given_twice(path: Path) -> None:
    built = tiff([simple()])
    at = built.directories[0][0] + 2
    data = bytearray(built.data)
    data[at + 12 : at + 14] = data[at : at + 2]
    refused(path, bytes(data), InconsistentHeader, "twice")


def test_an_unknown_field_type(path: Path) -> None:
    broken = simple()
    broken.raw_tags[60000] = (99, 1, bytes(4))
    refused(path, tiff([broken]).data, InconsistentHeader, "unknown type 99")


@pytest.mark.parametrize("kind", [ASCII, LONG])
def test_values_past_the_end_of_the_file(path: Path, kind: int) -> None:
    for count, offset in ((100, 10**9), (0xFFFFFF, 8), (5000, 4000)):
        broken = simple()
        broken.raw_tags[60000] = (kind, count, struct.pack("<I", offset))
        refused(path, tiff([broken]).data, (TruncatedSource, LimitExceeded), "60000")


def test_products_of_64_bit_counts_do_not_wrap(path: Path) -> None:
    for count in (2**61, 2**63, 2**64 - 1):
        broken = simple()
        broken.raw_tags[60000] = (12, count, bytes(8))
        refused(path, tiff([broken], big=True).data, LimitExceeded, "60000")
        broken = simple()
        broken.raw_tags[273] = (16, count, bytes(8))
        refused(path, tiff([broken], big=True).data, LimitExceeded, "strips or tiles")


@pytest.mark.parametrize("at", [2**63 - 1, 2**63, 2**64 - 10])
def test_block_positions_do_not_wrap(path: Path, at: int) -> None:
    broken = simple()
    broken.offsets = {1: at}
    refused(path, tiff([broken], big=True).data, InconsistentHeader, "in no file")
    broken = simple()
    broken.counts = {1: at}
    refused(path, tiff([broken], big=True).data, InconsistentHeader, "in no file")


def test_overlapping_blocks(path: Path) -> None:
    built = tiff([simple()])
    starts = [start for start, _ in built.blocks[0]]
    broken = simple()
    broken.offsets = {1: starts[0] + 1}
    refused(path, tiff([broken]).data, InconsistentHeader, "overlap")
    broken.offsets = {1: 4}
    refused(path, tiff([broken]).data, InconsistentHeader, "overlap")
    broken.offsets = {0: 0}
    refused(path, tiff([broken]).data, InconsistentHeader, "no offset")


def test_shared_blocks_are_read_and_reported(path: Path) -> None:
    """Some writers store equal tiles once; that is sound, but cannot be rebuilt byte for byte."""
    shared = simple()
    first = tiff([shared]).blocks[0][0][0]
    shared.offsets = {2: first}
    image = scan(path, tiff([shared]).data)
    assert image.round_trip == "metadata-exact"
    assert "several blocks lie in the same bytes" in image.warnings
    with geotiff.open_reader(image) as reader:
        words = reader.read(Window((0, 0, 0), (2, 24, 30)))
    assert np.array_equal(words[:, 16:], IMAGE[:, :8])


def test_blocks_shorter_than_their_rows(path: Path) -> None:
    broken = simple()
    broken.counts = {1: 959}
    refused(
        path, tiff([broken]).data, InconsistentHeader, "block 1 of image 0 has 959 bytes, its rows need 960"
    )


# G2: loops and crowds


def test_directory_loops(path: Path) -> None:
    refused(path, tiff([simple()], loop=True).data, InconsistentHeader, "its own successor")
    reduced = simple(tags={254: (LONG, [1])})
    refused(path, tiff([simple(), reduced], loop=True).data, InconsistentHeader, "its own successor")


def test_subifd_cycles(path: Path) -> None:
    built = tiff([simple(tags={330: (LONG, [0])})])
    table = built.directories[0][0]
    refused(path, tiff([simple(tags={330: (LONG, [table])})]).data, InconsistentHeader, "its own successor")


def test_crowds_of_directories(path: Path) -> None:
    """Directories of one entry each, 4,096 and one more."""
    for number, kind in ((4096, UnsupportedSyntax), (4097, LimitExceeded)):
        entry = struct.pack("<HHHII", 1, 256, 4, 1, 1)
        out = bytearray(b"II*\0" + struct.pack("<I", 8))
        for i in range(number):
            following = 8 + (i + 1) * 18 if i + 1 < number else 0
            out += entry + struct.pack("<I", following)
        refused(path, bytes(out), kind)


def test_crowds_of_tags_and_bytes(path: Path) -> None:
    many = simple()
    for tag in range(40000, 40000 + 4097 - 12):
        many.raw_tags[tag] = (SHORT, 1, bytes(4))
    refused(path, tiff([many]).data, LimitExceeded, "4097 tags")
    del many.raw_tags[40000]
    assert scan(path, tiff([many]).data).info is not None
    refused(
        path, tiff([simple(tags={65000: (BYTE, bytes((16 << 20) + 1))})]).data, LimitExceeded, "bytes of tags"
    )


def test_overlapping_directories_cost_no_time(path: Path) -> None:
    """Directories a few bytes apart, each of 4,096 entries: work is bounded by the bytes they claim."""
    body = bytearray(70_000)
    for i in range(0, 8000, 2):
        struct.pack_into("<H", body, i, 4096)
    began = time.monotonic()
    with pytest.raises(InputRejected):
        scan(path, b"II*\0" + struct.pack("<I", 8) + bytes(body))
    assert time.monotonic() - began < 2


# G4: bombs


@pytest.mark.parametrize(
    ("width", "height"), [(2_000_000_000, 2_000_000_000), (2**32 - 1, 17), (2**18 + 1, 2**18)]
)
def test_dimension_bombs(path: Path, width: int, height: int) -> None:
    broken = Page(simple().tags | {256: (LONG, [width]), 257: (LONG, [height])}, [bytes(960)])
    began = time.monotonic()
    refused(path, tiff([broken]).data, (LimitExceeded, InconsistentHeader))
    assert time.monotonic() - began < 2


def test_the_largest_image_is_still_read(path: Path) -> None:
    """2^36 pixels, every block absent: a file of 3 MiB."""
    tags = simple().tags | {
        256: (LONG, [2**18]), 257: (LONG, [2**18]), 258: (SHORT, [8]), 277: (SHORT, [1]), 339: (SHORT, [1]),
        322: (LONG, [512]), 323: (LONG, [512]), 259: (SHORT, [8]),
    }  # fmt: skip
    tags = {k: v for k, v in tags.items() if k not in (278, 338)}
    image = scan(path, tiff([Page(tags, [None] * 2**18, True)]).data)
    assert image.info is not None
    assert image.info.shape == (2**18, 2**18)
    with geotiff.open_reader(image) as reader:
        assert not reader.read(Window((2**18 - 9, 0), (2**18, 9))).any()


def test_block_bombs(path: Path) -> None:
    """A tile of 4 GiB in a few bytes of deflate is refused before it is decoded."""
    tags = {256: (LONG, [65536]), 257: (LONG, [65536]), 258: (SHORT, [8]), 259: (SHORT, [8])}
    whole = {k: v for k, v in (simple().tags | tags).items() if k not in (278, 338)}
    whole |= {277: (SHORT, [1]), 339: (SHORT, [1])}
    tiled = whole | {322: (LONG, [65536]), 323: (LONG, [65536])}
    refused(path, tiff([Page(tiled, [bytes(100)], True)]).data, LimitExceeded, "blocks of 4294967296 bytes")
    refused(path, tiff([Page(whole, [bytes(100)])]).data, LimitExceeded, "blocks of 4294967296 bytes")


# G5: files that end early


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("big", [True, False])
def test_truncation_anywhere(path: Path, big: bool, first: bool) -> None:
    built = tiff([simple()], big=big, directories_first=first)
    edges = {place for part in (*built.blocks[0], *built.directories) for place in part}
    near = {edge + step for edge in edges for step in (-1, 0, 1)}
    for end in sorted({*range(4, len(built.data), 13), *near} & set(range(4, len(built.data)))):
        error = refused(path, built.data[:end], TruncatedSource)
        cut = [i for i, (_, stop) in enumerate(built.blocks[0]) if stop > end]
        if first and end >= built.directories[0][1]:
            assert error.details == {"block": cut[0], "image": 0}
            assert f"block {cut[0]} of image 0" in error.message


def test_every_length_below_a_header(path: Path) -> None:
    data = tiff([simple()]).data
    for end in range(4):
        refused(path, data[:end], NotRecognized)


@pytest.mark.parametrize("compress", ["deflate", "lzw", "zstd", "packbits", "lerc"])
def test_blocks_that_do_not_decode_are_refused_when_read(path: Path, compress: str) -> None:
    """A block that ends early, by its own byte count: an error, never made-up pixels."""
    image = np.random.default_rng(1).integers(0, 255, (1, 64, 64), "uint8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", count=1, height=64, width=64, dtype="uint8", compress=compress
        ) as out:
            out.write(image)
    data = bytearray(path.read_bytes())
    table = struct.unpack_from("<I", data, 4)[0]
    entries = range(table + 2, table + 2 + 12 * struct.unpack_from("<H", data, table)[0], 12)
    at = next(e + 8 for e in entries if struct.unpack_from("<H", data, e)[0] == 279)
    length = struct.unpack_from("<I" if data[at - 6] == 4 else "<H", data, at)[0]
    struct.pack_into("<H", data, at, length // 2)
    damaged = scan(path, bytes(data))
    with geotiff.open_reader(damaged) as reader, pytest.raises(InputRejected):
        reader.read(Window((0, 0), (64, 64)))


def test_jpeg_blocks_without_an_end(path: Path) -> None:
    """libjpeg would fill the missing rows with grey and only warn."""
    image = np.random.default_rng(1).integers(0, 255, (1, 64, 64), "uint8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", count=1, height=64, width=64, dtype="uint8", compress="jpeg"
        ) as out:
            out.write(image)
    data = bytearray(path.read_bytes())
    end = data.rindex(b"\xff\xd9")
    for start in (end, end + 1, end - 1000):
        error = refused(path, bytes(data[:start]).ljust(len(data), b"\0"), TruncatedSource, "JPEG block 0")
        assert error.details["block"] == 0


# G6 to G10 are in test_geotiff.py


def test_masks_of_other_kinds(path: Path) -> None:
    mask = page(np.zeros((24, 30), "uint8"), tags={254: (LONG, [4]), 262: (SHORT, [4])})
    refused(path, tiff([simple(), mask]).data, UnsupportedSyntax, "a mask with 1 samples of 8 bits")
    small = page(np.zeros((24, 29), "uint8"), tags={254: (LONG, [4]), 262: (SHORT, [4]), 258: (SHORT, [1])})
    refused(path, tiff([simple(), small]).data, InconsistentHeader, "a mask of 29 x 24 pixels for 30 x 24")


def test_several_images(path: Path) -> None:
    refused(path, tiff([simple(), simple()]).data, UnsupportedSyntax, "2 full-size images")
    refused(
        path, tiff([simple(), simple(tags={254: (LONG, [2])})]).data, UnsupportedSyntax, "2 full-size images"
    )


# G11: what is no TIFF, or not a file


def test_a_vrt_in_disguise_reads_no_other_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.tif"
    secret.write_bytes(tiff([simple()]).data)
    vrt = f"""<VRTDataset rasterXSize="30" rasterYSize="24"><VRTRasterBand dataType="UInt16" band="1">
    <SimpleSource><SourceFilename>{secret}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"""
    for head in (b"", b"II*\0\x08\0\0\0"):
        path = tmp_path / "image.tif"
        refused(path, head + vrt.encode(), InputRejected)
        assert geotiff.recognizes(head + vrt.encode()) == bool(head)


def test_other_formats_are_not_recognized(path: Path) -> None:
    for data in (
        b"",
        b"II",
        b"GIF89a" + bytes(99),
        b"\x89PNG\r\n\x1a\n" + bytes(99),
        b"II\x2a\x01" + bytes(99),
    ):
        assert not geotiff.recognizes(data)
        refused(path, data, NotRecognized)
    for data in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        assert geotiff.recognizes(data + bytes(20))
        refused(path, data + bytes(20), InputRejected)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.tif"
    os.mkfifo(fifo)
    (tmp_path / "folder.tif").mkdir()
    for place in (fifo, tmp_path / "folder.tif", Path("/dev/zero"), tmp_path / "absent.tif"):
        with pytest.raises(InputRejected):
            geotiff.scan(place, "image.tif")


@pytest.mark.parametrize(
    "name", ["http:x.tif", "a#b.tif", "zip+file:x!y.tif", "GTIFF_DIR:1:x.tif", "a?b=c.tif", "ä .tif"]
)
def test_names_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(tiff([simple()]).data)
    image = geotiff.assemble(geotiff.scan(Path(name), name))[0][0]
    with geotiff.open_reader(image) as reader:
        assert np.array_equal(reader.read(Window((0, 0, 0), IMAGE.shape)), IMAGE)
    for remote in ("/vsicurl/http://127.0.0.1:9/x.tif", "http://127.0.0.1:9/x.tif", "/vsimem/x.tif"):
        with pytest.raises(InputRejected):
            geotiff.scan(Path(remote), "x.tif")


def test_no_sidecar_is_read_or_written(path: Path) -> None:
    """A .aux.xml that would change what GDAL reports, an .ovr and a .msk change nothing."""
    image = scan(path, tiff([simple()]).data)
    before = image.sources[0].record
    path.with_name("image.tif.aux.xml").write_text(
        "<PAMDataset><SRS>EPSG:4326</SRS><GeoTransform>1,2,3,4,5,6</GeoTransform>"
        '<Metadata><MDI key="A">B</MDI></Metadata></PAMDataset>'
    )
    path.with_name("image.tif.msk").write_bytes(tiff([page(np.zeros((24, 30), "uint8"))]).data)
    path.with_name("image.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    image = geotiff.assemble(geotiff.scan(path, "image.tif"))[0][0]
    assert image.sources[0].record == before
    prove_metadata(image)
    assert len(list(path.parent.iterdir())) == 4


def test_library_users_see_no_warnings(tmp_path: Path) -> None:
    """Not on stderr, not as Python warnings, for a file that makes GDAL and rasterio complain."""
    path = tmp_path / "image.tif"
    path.write_bytes(tiff([simple(tags={65000: (SHORT, [1]), 42113: (ASCII, b"1e400\0")})]).data)
    code = (
        "from pathlib import Path; from tilevault.archive.formats import geotiff\n"
        "image = geotiff.assemble(geotiff.scan(Path('image.tif'), 'image.tif'))[0][0]\n"
        "reader = geotiff.open_reader(image); geotiff.prove_metadata(image)\n"
        "geotiff.write_cog(Path('out.tif'), image, reader.read, None, reader.verbatim(0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


# G12: metadata bombs


def test_entity_bombs_are_not_expanded(path: Path) -> None:
    laughs = '<!DOCTYPE x [<!ENTITY a "haha">' + "".join(
        f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(12)
    )
    xml = f"{laughs}]><GDALMetadata><Item name='A'>&m;</Item></GDALMetadata>\0".encode()
    began = time.monotonic()
    use(path, tiff([simple(tags={42112: (ASCII, xml)})]).data)
    nested = b"<a>" * 100_000 + b"\0"
    use(path, tiff([simple(tags={42112: (ASCII, nested)})]).data)
    assert time.monotonic() - began < 5


# Anything


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_ends_in_our_error_or_in_pixels(tmp_path: Path, data: st.DataObject) -> None:
    order, big = data.draw(st.sampled_from("<>")), data.draw(st.booleans())
    tags = {42113: (ASCII, b"7\0"), 42112: (ASCII, b"<GDALMetadata><Item name='A'>B</Item></GDALMetadata>\0")}
    parts = [simple(order=order, tags=tags), page(IMAGE[:, ::2, ::2], order=order, tags={254: (LONG, [1])})]
    built = tiff(parts, order=order, big=big, directories_first=data.draw(st.booleans()))
    damaged = bytearray(built.data)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.sampled_from(_structural(built)))
        damaged[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "image.tif"
    with contextlib.suppress(InputRejected, VerifyAfterEncodeFailed):
        use(path, bytes(damaged))


def _structural(built: Built) -> list[int]:
    places = [*range(16)]
    for (start, _), (_, end) in zip(built.values, built.directories, strict=True):
        places += range(start, end)
    return places


def test_a_source_cut_between_scan_and_read(path: Path) -> None:
    built = tiff([simple()], directories_first=True)
    image = scan(path, built.data)
    with geotiff.open_reader(image) as reader:
        kept = b"".join(reader.verbatim(0))
        os.truncate(path, built.blocks[0][1][0])
        out = path.with_name("out.tif")
        with pytest.raises((SourceChanged, TruncatedSource)):
            write_original(out, image, reader.read, None, iter([kept]))
        assert not out.exists()
