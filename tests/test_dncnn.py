"""The reference DnCNN: the published structure, its stored form, and what it computes part by part."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tilevault.codecs.errors import InvalidRequest, ModelMismatch
from tilevault.codecs.models import reference_blob
from tilevault.codecs.models.grey import grey_range, luma, to_grey
from tilevault.codecs.models.reference_blob import CURRENT_REFERENCE, Layer, ReferenceModel, load_reference


def made_layers(depth: int = 4, channels: int = 5, seed: int = 0) -> list[Layer]:
    """Random layers of small weights."""
    draw = np.random.default_rng(seed)
    sides = [1, *[channels] * (depth - 1), 1]
    return [
        Layer(draw.normal(0, 0.3, (out, within, 3, 3)), draw.normal(0, 0.1, out))
        for within, out in pairwise(sides)
    ]


# -- the stored form, without torch -------------------------------------------------------------------------


def test_a_model_survives_its_bytes() -> None:
    model = ReferenceModel.from_layers(made_layers())
    again = ReferenceModel.from_bytes(model.to_bytes())
    assert again.to_bytes() == model.to_bytes()
    assert again.digest == model.digest
    for stored, read in zip(model.integers, again.integers, strict=True):
        assert (stored.weight == read.weight).all()
        assert (stored.shift == read.shift).all()
        assert (stored.bias == read.bias).all()


def test_extreme_weights_survive_their_bytes() -> None:
    layers = made_layers(3, 3)
    layers[1].weight[0] = 0
    layers[1].weight[1] = 1500.0
    layers[1].weight[2, 0] = -1e-9
    model = ReferenceModel.from_layers(layers)
    assert model.integers[1].weight[1].max() == 1500
    assert ReferenceModel.from_bytes(model.to_bytes()).to_bytes() == model.to_bytes()


def test_twelve_bits_are_near_the_floats() -> None:
    layers = made_layers()
    for exact, stored in zip(layers, ReferenceModel.from_layers(layers).layers(), strict=True):
        most = np.abs(exact.weight).max((1, 2, 3), keepdims=True)
        assert (np.abs(exact.weight - stored.weight) <= most / 1000).all()
        assert np.abs(exact.bias - stored.bias).max() <= 2.0**-21


DAMAGED = {
    "empty": lambda blob: b"",
    "another beginning": lambda blob: b"TVLM" + blob[4:],
    "another version": lambda blob: blob[:4] + struct.pack("<H", 2) + blob[6:],
    "more layers than there are": lambda blob: blob[:6] + struct.pack("<H", 5) + blob[8:],
    "fewer layers than there are": lambda blob: blob[:6] + struct.pack("<H", 3) + blob[8:],
    "too many layers": lambda blob: blob[:6] + struct.pack("<H", 65535) + blob[8:],
    "no channels": lambda blob: blob[:8] + struct.pack("<H", 0) + blob[10:],
    "two input channels": lambda blob: blob[:10] + struct.pack("<H", 2) + blob[12:],
    "a shift of 31": lambda blob: blob[:12] + b"\x1f" + blob[13:],
    "truncated in a head": lambda blob: blob[:10],
    "truncated": lambda blob: blob[:-1],
    "longer": lambda blob: blob + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_model_is_refused(damage: str) -> None:
    blob = ReferenceModel.from_layers(made_layers()).to_bytes()
    with pytest.raises(ModelMismatch):
        ReferenceModel.from_bytes(DAMAGED[damage](blob))


def test_random_bytes_raise_our_errors_only() -> None:
    draw, blob = np.random.default_rng(1), ReferenceModel.from_layers(made_layers()).to_bytes()
    refused = 0
    for _ in range(300):
        changed = bytearray(blob)
        for _ in range(3):
            changed[draw.integers(40)] = draw.integers(256)
        try:
            ReferenceModel.from_bytes(bytes(changed))
        except ModelMismatch:
            refused += 1
    assert refused > 100


def test_the_model_of_the_package_is_the_one_it_names() -> None:
    model = load_reference()
    assert model.digest == CURRENT_REFERENCE
    assert 17 <= len(model.integers) <= 20
    assert {layer.weight.shape for layer in model.integers[1:-1]} == {(64, 64, 3, 3)}


def test_a_changed_model_of_the_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = bytearray(load_reference().to_bytes())
    blob[5000] ^= 1
    (tmp_path / f"{CURRENT_REFERENCE}.tvdn").write_bytes(blob)
    monkeypatch.setattr(reference_blob, "_SHIPPED", tmp_path)
    with pytest.raises(ModelMismatch, match="has become"):
        load_reference()


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelMismatch, match=r"none\.tvdn"):
        load_reference(tmp_path / "none.tvdn")


def test_luma_and_range() -> None:
    rgb = np.zeros((3, 2, 2), np.uint8)
    rgb[1] = 100
    assert luma(rgb) == pytest.approx(np.full((2, 2), 58.7))
    words = np.arange(10001, dtype=np.uint16).reshape(1, -1) + 5
    assert grey_range(words) == pytest.approx((15, 9995))
    assert to_grey(words).min() == 0
    assert to_grey(words).max() == 255
    assert grey_range(rgb) == (0, 255)


# -- the network --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dncnn():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    from tilevault.codecs.models import dncnn

    return dncnn


@pytest.fixture(scope="module")
def lived(dncnn):
    """A small network whose normalisation has seen something."""
    import torch

    torch.manual_seed(3)
    network = dncnn.DnCNN(5, 6)
    torch.nn.init.normal_(network.leave.weight)
    for layer in network.normalise:
        torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
        torch.nn.init.normal_(layer.bias)
    network.train()
    for _ in range(5):
        network(torch.rand(4, 1, 16, 16))
    return network.eval()


def test_the_structure_is_the_published_one(dncnn) -> None:
    from torch import nn

    network = dncnn.DnCNN()
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    normalisations = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(convolutions) == dncnn.DEPTH == 20
    assert len(normalisations) == 18
    assert [tuple(c.weight.shape) for c in convolutions] == [
        (64, 1, 3, 3),
        *[(64, 64, 3, 3)] * 18,
        (1, 64, 3, 3),
    ]
    assert [c.bias is None for c in convolutions] == [False, *[True] * 18, False]


def test_the_receptive_field_is_what_an_output_sees(dncnn, lived) -> None:
    import torch

    plane = torch.rand(1, 1, 31, 31, requires_grad=True)
    lived(plane)[0, 0, 15, 15].backward()
    rows, columns = np.nonzero(plane.grad[0, 0].numpy())
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == 11
    assert dncnn.receptive_field(5) == 11
    assert dncnn.receptive_field(20) == 41


def test_a_new_network_changes_nothing(dncnn) -> None:
    import torch

    assert (dncnn.DnCNN().eval()(torch.rand(1, 1, 9, 9)) == 0).all()


def test_folding_keeps_the_function(dncnn, lived) -> None:
    import torch

    plane = torch.rand(2, 1, 24, 20)
    with torch.no_grad():
        expected, found = lived(plane), dncnn.FoldedDnCNN(dncnn.folded(lived))(plane)
    assert expected.abs().max() > 0.01
    assert torch.allclose(found, expected, atol=1e-6, rtol=1e-5)


def test_integers_keep_the_function_nearly(dncnn, lived) -> None:
    import torch

    plane = torch.rand(2, 1, 24, 20)
    stored = ReferenceModel.from_layers(dncnn.folded(lived))
    with torch.no_grad():
        expected, found = lived(plane), dncnn.FoldedDnCNN.of(stored)(plane)
    assert (found - expected).abs().max() < 0.01 * expected.abs().max()


@pytest.mark.parametrize("shape", [(70, 51), (16, 16), (5, 100), (33, 1)])
def test_parts_are_what_the_whole_gives(dncnn, lived, shape: tuple[int, int]) -> None:
    network = dncnn.FoldedDnCNN(dncnn.folded(lived))
    plane = np.random.default_rng(0).random(shape, np.float32)
    heard = []
    parts = dncnn.residual(network, plane, 16, lambda *counts: heard.append(counts))
    whole = dncnn.residual(network, plane, 1024)
    assert np.abs(whole).max() > 0.01
    assert np.abs(parts - whole).max() < 1e-5
    assert heard[-1] == (len(heard), -(-shape[0] // 16) * -(-shape[1] // 16))


def test_a_margin_short_by_one_would_be_seen(dncnn, lived, monkeypatch: pytest.MonkeyPatch) -> None:
    network = dncnn.FoldedDnCNN(dncnn.folded(lived))
    plane = np.random.default_rng(0).random((64, 64), np.float32)
    whole = dncnn.residual(network, plane, 64)
    monkeypatch.setattr(dncnn.FoldedDnCNN, "depth", 4)
    assert np.abs(dncnn.residual(network, plane, 16) - whole).max() > 1e-4


def test_words_keep_their_precision_and_range(dncnn, lived) -> None:
    network = dncnn.FoldedDnCNN(dncnn.folded(lived))
    words = np.random.default_rng(0).integers(1000, 5000, (1, 40, 40)).astype(np.uint16)
    found = dncnn.restored(network, words)
    assert found.dtype == np.uint16
    assert words.min() <= found.min()
    assert found.max() <= words.max()
    assert len(np.unique(found.astype(int) - words)) > 300
    constant = np.full((1, 20, 20), 700, np.uint16)
    assert (dncnn.restored(network, constant) == constant).all()


def test_colours_change_by_their_luma(dncnn, lived) -> None:
    network = dncnn.FoldedDnCNN(dncnn.folded(lived))
    rgb = np.random.default_rng(0).integers(90, 160, (3, 30, 30)).astype(np.uint8)
    change = dncnn.restored(network, rgb).astype(int) - rgb
    assert change.any()
    inside = (change + rgb > 0).all(0) & (change + rgb < 255).all(0)
    assert (np.ptp(change[:, inside], 0) == 0).all()


def test_restoration_of_jpeg_gains(dncnn) -> None:
    pytest.importorskip("PIL")
    from tilevault.codecs.metrics import psnr
    from tilevault.codecs.models.jpeg_crops import compressed, decompressed

    y, x = np.mgrid[:96, :112]
    waves = 120 + 60 * np.sin(x / 9) * np.cos(y / 13) + 50 * (x + y > 100) - 40 * ((x - 60) ** 2 + y**2 < 900)
    plane = waves.clip(0, 255).astype(np.uint8)
    network = dncnn.FoldedDnCNN.of(load_reference())
    decoded = decompressed(compressed(plane, 10))
    after = dncnn.restored(network, decoded[None])[0]
    assert psnr(plane, after, 255) > psnr(plane, decoded, 255) + 0.3


# -- training -----------------------------------------------------------------------------------------------


@pytest.fixture
def training(dncnn):
    pytest.importorskip("PIL")
    from tilevault.codecs.models import reference_training

    return reference_training


def planes() -> dict[str, list[list[np.ndarray]]]:
    """Two kinds of generated images."""
    y, x = np.mgrid[:90, :80]
    waves = [(128 + 90 * np.sin(x / (3 + i)) * np.cos(y / 7)).astype(np.uint8) for i in range(3)]
    return {"a": [[waves[0]], [waves[1]]], "b": [[waves[2]]]}


def settings(training, iterations: int = 6, **others):
    return training.ReferenceSettings(
        iterations, batch=2, depth=3, channels=4, report_every=1, save_every=0, **others
    )


def test_pairs_depend_on_the_seed_alone(training) -> None:
    from tilevault.codecs.models.jpeg_crops import SIDE, JpegCrops

    first, second = (JpegCrops(planes()).batch((1, 2), 5) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert (a[0] == b[0]).all()
        assert (a[1] == b[1]).all()
        assert a[0].shape == a[1].shape == (SIDE, SIDE)
    assert any((a[0] != b[0]).any() for a, b in zip(first, JpegCrops(planes()).batch((1, 3), 5), strict=True))
    with pytest.raises(InvalidRequest, match="no image"):
        JpegCrops({})


def test_a_continued_training_gives_the_same_model(training, tmp_path: Path) -> None:
    from tilevault.codecs.models.jpeg_crops import JpegCrops

    whole = training.ReferenceTraining(settings(training), JpegCrops(planes()))
    whole.run()

    class Cut(Exception):
        pass

    def cut(progress) -> None:
        if progress.iteration == 4:
            raise Cut

    begun = training.ReferenceTraining(settings(training), JpegCrops(planes()))
    with pytest.raises(Cut):
        begun.run(tmp_path / "checkpoint.pt", cut)
    again = training.ReferenceTraining(settings(training), JpegCrops(planes()))
    again.resume(tmp_path / "checkpoint.pt")
    assert again.iteration == 3
    again.run()
    assert training.finished(again).digest == training.finished(whole).digest


def test_a_training_can_be_shortened_until_its_rate_falls(training, tmp_path: Path) -> None:
    from tilevault.codecs.models.jpeg_crops import JpegCrops

    crops, path = JpegCrops(planes()), tmp_path / "checkpoint.pt"
    long = training.ReferenceTraining(settings(training, 40), crops)
    for long.iteration in range(4):
        long._step()
    long.iteration = 4
    long.save(path)
    short = training.ReferenceTraining(settings(training, 6), crops)
    short.resume(path)
    short.run()
    straight = training.ReferenceTraining(settings(training, 6), crops)
    straight.run()
    assert training.finished(short).digest == training.finished(straight).digest
    with pytest.raises(InvalidRequest, match="other settings"):
        training.ReferenceTraining(settings(training, 4), crops).resume(path)
    with pytest.raises(InvalidRequest, match="other settings"):
        training.ReferenceTraining(settings(training, 6, seed=1), crops).resume(path)


def test_the_command_trains_measures_and_continues(training, tmp_path: Path) -> None:
    import json

    import tiff_builder
    from tilevault.workflows.train import Plan
    from tilevault.workflows.train_reference import train_reference

    (tmp_path / "data").mkdir()
    for name, kind in planes().items():
        pixels = kind[0][0].astype(np.uint16) * 16
        (tmp_path / "data" / f"{name}.tif").write_bytes(tiff_builder.tiff([tiff_builder.page(pixels)]).data)
    plan = Plan(iterations=2, batch=1, hold_out=("b*",))
    done = train_reference([str(tmp_path / "data")], str(tmp_path / "m.tvdn"), plan)
    assert load_reference(tmp_path / "m.tvdn").digest == done.digest
    assert set(done.measured) == {"training", "held_out"}
    assert set(done.measured["held_out"]) == {"gain_q10", "gain_q20", "gain_q40", "gain_q80"}
    beside = tmp_path / "m.tvdn.train"
    assert json.loads((beside / "training.json").read_text())["images"]["held_out"] == ["b.tif"]
    assert (beside / "curves.svg").read_text().startswith("<svg")
    (tmp_path / "m.tvdn").unlink()
    again = train_reference([str(tmp_path / "data")], str(tmp_path / "m.tvdn"), plan)
    assert again.digest == done.digest
