"""Training: a short one, killed and continued, gives the model of an uninterrupted one; it loads natively."""

from __future__ import annotations

import dataclasses
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dicom_builder
import nn_twin
import tiff_builder
from tilevault.codecs import _native
from tilevault.codecs.errors import Conflict, InvalidRequest, ModelMismatch
from tilevault.codecs.models.blob import SUM_LIMIT, Model, NetworkWriter, read_network

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

from tilevault.codecs.models import (  # noqa: E402
    crops,
    finishing,
    integer,
    pool,
    quantise,
    restart,
    tables,
    training,
    transform,
)
from tilevault.codecs.models.networks import EntropyNetwork, RestorationNetwork  # noqa: E402
from tilevault.workflows.train import Plan, collect, curves, train  # noqa: E402

COUNTS = finishing.Counts(calibration=1, fitting=1)
SETTINGS = training.Settings(
    {"entropy": 3, "choice": 2, "restoration": 3},
    batch=2,
    fine=(8, 1),
    coarse=(8, 1),
    restoration=(8, 1),
    looks=2,
    report_every=1,
)


def texture(seed: int, shape: tuple[int, int] = (230, 210)) -> np.ndarray:
    """Waves, an edge and grain."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = 300 * np.sin(x / (5 + seed)) * np.cos(y / 11)
    return (1000 + waves + 400 * (x > y) + draw.normal(0, 9, shape)).astype(np.int32)


@pytest.fixture(scope="module")
def material() -> crops.Crops:
    return crops.Crops({"a": [[texture(1)], [texture(2)]], "b": [[texture(3), texture(4)]]})


@pytest.fixture(scope="module")
def trained(material: crops.Crops) -> training.Training:
    made = training.Training(SETTINGS, material)
    made.run()
    return made


@pytest.fixture(scope="module")
def model(trained: training.Training) -> Model:
    return finishing.finished(trained, COUNTS)


class Killed(Exception):
    pass


@pytest.mark.parametrize(("stage", "iteration"), [("choice", 1), ("restoration", 2)])
def test_a_killed_training_continues_to_the_same_model(
    stage: str, iteration: int, material: crops.Crops, model: Model, tmp_path: Path
) -> None:
    def kill(progress: training.Progress) -> None:
        if (progress.stage, progress.iteration) == (stage, iteration):
            raise Killed

    checkpoint = tmp_path / "checkpoint.pt"
    hasty = dataclasses.replace(SETTINGS, save_every=0.0)
    with pytest.raises(Killed):
        training.Training(hasty, material).run(checkpoint, kill)
    again = training.Training(hasty, material)
    again.resume(checkpoint)
    assert (again.stage, again.iteration) == (training.STAGES.index(stage), iteration - 1)
    again.run(checkpoint)
    assert finishing.finished(again, COUNTS).digest == model.digest


def test_a_training_of_restoration_alone_keeps_the_rest_of_its_model(
    material: crops.Crops, model: Model
) -> None:
    alone = dataclasses.replace(SETTINGS, iterations={"entropy": 0, "choice": 0, "restoration": 3})
    made = training.Training(alone, material, model)
    before = {name: value.clone() for name, value in made.entropy.state_dict().items()}
    made.run()
    assert all((made.entropy.state_dict()[name] == value).all() for name, value in before.items())
    other = finishing.finished(made, COUNTS)
    assert other.networks[:4] == model.networks[:4]
    assert other.networks[4] != model.networks[4]
    assert (other.frequencies == model.frequencies).all()
    assert made.settings.base == model.digest


def test_a_model_that_is_not_trained_on_stays_what_it_is(material: crops.Crops, model: Model) -> None:
    nothing = dataclasses.replace(SETTINGS, iterations=dict.fromkeys(training.STAGES, 0))
    made = training.Training(nothing, material, model)
    made.run()
    assert finishing.finished(made, COUNTS).digest == model.digest


def test_a_model_of_other_networks_is_refused(material: crops.Crops, model: Model) -> None:
    for shape, why in (((8, 2), "fewer layers|a layer of"), ((12, 1), "a layer of")):
        with pytest.raises(InvalidRequest, match=why):
            training.Training(dataclasses.replace(SETTINGS, restoration=shape), material, model)


def test_a_checkpoint_of_other_settings_is_refused(trained: training.Training, tmp_path: Path) -> None:
    trained.save(tmp_path / "checkpoint.pt")
    other = training.Training(dataclasses.replace(SETTINGS, seed=1), trained.crops)
    with pytest.raises(InvalidRequest, match="other settings"):
        other.resume(tmp_path / "checkpoint.pt")


def test_training_lowers_the_loss(material: crops.Crops) -> None:
    losses: list[float] = []
    longer = dataclasses.replace(
        SETTINGS, iterations={"entropy": 40, "choice": 1, "restoration": 1}, report_every=10
    )
    training.Training(longer, material).run(report=lambda p: losses.append(p.loss))
    assert losses[3] < losses[0] - 0.1


def test_a_restoration_network_that_harms_all_it_sees_still_learns(material: crops.Crops) -> None:
    made = training.Training(SETTINGS, material)
    torch.nn.init.constant_(made.restoration.leave.bias, 0.9)
    features, error = made.pool.looks((1,), 2)
    correction = made.restoration(features).clamp(-1, 1)
    assert (training.gained(error, correction, (0.5, 1.0, 1.5)) < 0).all()
    assert training.gained(error, correction).abs().max() < 1e-4
    made._restoration_loss((1,), exact=True).backward()
    assert made.restoration.leave.bias.grad.abs().max() > 1e-2


def test_a_model_survives_its_bytes(model: Model) -> None:
    again = Model.from_bytes(model.to_bytes())
    assert again.digest == model.digest
    assert (again.frequencies == model.frequencies).all()
    assert again.networks == model.networks


@pytest.mark.parametrize("cut", [0, 7, 100, 9000, -1])
def test_a_cut_model_is_refused(cut: int, model: Model) -> None:
    data = model.to_bytes()
    with pytest.raises(ModelMismatch):
        Model.from_bytes(data[:cut])


def test_a_changed_table_is_refused(model: Model) -> None:
    worse = model.frequencies.copy()
    worse[3, 4, 5] += 1
    with pytest.raises(ModelMismatch, match="2\\^15"):
        Model.from_bytes(dataclasses.replace(model, frequencies=worse).to_bytes())


def test_all_implementations_of_the_networks_agree(model: Model) -> None:
    draw = np.random.default_rng(5)
    for blob in model.networks:
        shapes = finishing._input_shapes(blob, 7, 9)
        inputs = [draw.integers(-3000, 3000, shape).astype(np.int16) for shape in shapes]
        twin = nn_twin.run(blob, inputs, 7, 9)
        floats = integer.integer_network(blob)(*(torch.from_numpy(x[None]).double() for x in inputs))
        native = [np.zeros(y.shape, np.int16) for y in twin]
        _native.Network(blob, SUM_LIMIT).run(inputs, native, 7, 9)
        for a, b, c in zip(twin, floats, native, strict=True):
            np.testing.assert_array_equal(a, b[0].numpy())
            np.testing.assert_array_equal(a, c)


def test_disagreement_is_noticed(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = finishing.integer_network

    def off_by_one(blob: bytes) -> object:
        run = honest(blob)
        return lambda *inputs: [y + 1 for y in run(*inputs)]

    monkeypatch.setattr(finishing, "integer_network", off_by_one)
    with pytest.raises(ModelMismatch, match="does not give what torch gives"):
        finishing.conformance(model)


def observed(network: torch.nn.Module, *inputs: object) -> quantise.Ranges:
    ranges = quantise.Ranges()
    with torch.no_grad():
        if isinstance(network, EntropyNetwork):
            hidden, _ = network.first_pass(inputs[0], ranges)
            network.second_pass(hidden, inputs[1], ranges)
        else:
            network(inputs[0], ranges)
    return ranges


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """With weights where training would have put some: layers begin with zeros."""
    torch.manual_seed(2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return network.double()


def test_integers_stay_near_the_floats_they_come_from() -> None:
    network = shaken(EntropyNetwork(12, 2))
    draw = np.random.default_rng(3)
    features = torch.from_numpy(draw.integers(-500, 500, (1, 6, 20, 20))).double()
    seen = torch.from_numpy(draw.integers(-500, 500, (1, 6, 20, 20))).double()
    ranges = observed(network, features / 128, seen / 128)
    first, second = (integer.integer_network(blob) for blob in quantise.entropy_blobs(network, ranges))
    with torch.no_grad():
        hidden, expected = network.first_pass(features / 128)
        later = network.second_pass(hidden, seen / 128)
    state, found = first(features)
    (after,) = second(state, seen)
    for exact, whole in ((expected, found), (later, after)):
        assert (exact[:, :3] - whole[:, :3] / 8).abs().max() < 0.08
        rows = (exact[:, 3:].clamp(-4, 9) + 4) * 63 / 13
        assert (rows - whole[:, 3:]).abs().max() < 0.7


def test_restoration_integers_stay_near_the_floats() -> None:
    network = shaken(RestorationNetwork(12, 2))
    features = torch.from_numpy(np.random.default_rng(4).integers(-70, 70, (1, 1, 40, 44))).double()
    blob = quantise.restoration_blob(network, observed(network, features / 16))
    with torch.no_grad():
        exact = network(features / 16).clamp(-1, 1)
    (found,) = integer.integer_network(blob)(features)
    error = (exact - found / 256).abs()
    assert error.max() < 0.04  # of a step: weights of one byte where there are 24 inputs or more
    assert error.mean() < 1e-3


@pytest.mark.parametrize("seed", [0, 1])
def test_networks_come_back_from_their_integers(seed: int) -> None:
    """What the integers compute, floats made of them compute, too; and they are no new network each time."""
    draw = np.random.default_rng(seed)
    features = torch.from_numpy(draw.integers(-70, 70, (1, 1, 40, 44))).double()
    network = shaken(RestorationNetwork(12, 2))
    blob = quantise.restoration_blob(network, observed(network, features / 16))
    again = RestorationNetwork(12, 2).double()
    restart.load_restoration(again, blob)
    (whole,) = integer.integer_network(blob)(features)
    with torch.no_grad():
        assert (again(features / 16).clamp(-1, 1) - whole / 256).abs().max() < 0.02
        assert whole.abs().max() > 100

    entropy = shaken(EntropyNetwork(12, 2))
    features = torch.from_numpy(draw.integers(-500, 500, (1, 6, 20, 20))).double()
    blobs = quantise.entropy_blobs(entropy, observed(entropy, features / 128, features.flip(-1) / 128))
    back = EntropyNetwork(12, 2).double()
    restart.load_entropy(back, *blobs)
    with torch.no_grad():
        hidden, first = back.first_pass(features / 128)
        second = back.second_pass(hidden, features.flip(-1) / 128)
    first_network, second_network = (integer.integer_network(blob) for blob in blobs)
    state, early = first_network(features)
    (late,) = second_network(state, features.flip(-1))
    for exact, found in ((first, early), (second, late)):
        assert (exact[:, :3] - found[:, :3] / 8).abs().max() < 0.08
        assert ((exact[:, 3:].clamp(-4, 9) + 4) * 63 / 13 - found[:, 3:]).abs().max() < 0.7


def test_no_sum_can_overflow() -> None:
    """Weights far beyond what training gives are either scaled into the limit or refused."""
    network = shaken(EntropyNetwork(8, 1))
    with torch.no_grad():
        network.mix.weight.mul_(1e3)
    features = torch.ones(1, 6, 8, 8).double()
    for blob in quantise.entropy_blobs(network, observed(network, features, features)):
        _native.Network(blob, SUM_LIMIT)
    with torch.no_grad():
        network.first.weight.mul_(1e9)
    with pytest.raises(InvalidRequest, match="too large"):
        quantise.entropy_blobs(network, observed(network, features, features))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (33, 2), (37, 51)])
def test_the_integer_wavelet_is_undone(shape: tuple[int, int]) -> None:
    plane = np.random.default_rng(1).integers(-8000, 8000, shape)
    low, bands = transform.forward(torch.from_numpy(plane)[None, None])
    np.testing.assert_array_equal(transform.inverse(low, bands)[0, 0].numpy(), plane)


@pytest.mark.parametrize(("level", "k"), [(0, 0), (0, 2), (1, 1), (2, 2)])
def test_gains_say_what_noise_of_a_band_becomes(level: int, k: int) -> None:
    """Quantisation errors are such noise; a step is right where all bands add the same error."""
    side, amplitude = 512, 1000
    low, bands = transform.forward(torch.zeros(1, 1, side, side, dtype=torch.int64))
    draw = np.random.default_rng(8)
    noise = draw.normal(0, amplitude, tuple(bands[level][k].shape)).round().astype(np.int64)
    chosen = [list(each) for each in bands]
    chosen[level][k] = torch.from_numpy(noise)
    plane = transform.inverse(low, [(hl, lh, hh) for hl, lh, hh in chosen]).double()
    gain = float(plane.square().mean().sqrt()) * 2 ** (level + 1) / amplitude
    assert 2**14 / transform.inverse_gains()[3 * level + k] == pytest.approx(gain, rel=0.03)


def test_steps_are_the_nearest_of_the_table() -> None:
    for step in (8.0, 9.7, 100.0, 4000.0):
        assert transform.nearest_step(step) / 64 == pytest.approx(step, rel=0.004)


def test_tables_sum_up_and_follow_what_was_seen() -> None:
    raw = tables.raw_bits()
    assert raw[0] == 0
    assert (np.diff(raw) >= 0).all()
    q = torch.full((5000,), 3)
    seen = [(q, torch.zeros_like(q), torch.full_like(q, 20))]
    fitted = tables.fitted(seen, raw)
    assert (fitted.sum(axis=-1) == 1 << 15).all()
    assert (fitted[..., -1] > 0).all()
    bits = tables.table_bits(fitted, raw)
    zero, row = torch.zeros(1, dtype=torch.int64), torch.full((1,), 20)
    assert bits(q[:1], zero, row) < 1.2
    assert bits(-q[:1], zero, row) == pytest.approx(bits(q[:1], zero, row), abs=0.01)
    assert torch.isfinite(bits(torch.full((1,), 10**6), zero, row)).all()


def test_low_pass_rows_rise_with_activity() -> None:
    raw = tables.raw_bits()
    draw = np.random.default_rng(6)
    low = torch.from_numpy(
        np.concatenate([draw.integers(0, 3, (1, 1, 40, 40)), draw.integers(0, 200, (1, 1, 40, 40))])
    )
    rows = tables.low_pass_rows([low], tables.table_bits(tables.starting(raw), raw))
    assert rows.shape == (256,)
    assert (np.diff(rows) >= 0).all()
    assert rows[255] > rows[0] + 10


def test_crops_come_again_with_their_seed(material: crops.Crops) -> None:
    one, same, other = (material.batch(seed, 3) for seed in ((1, 2), (1, 2), (1, 3)))
    assert all((a.samples == b.samples).all() and a.step == b.step for a, b in zip(one, same, strict=True))
    assert any((a.samples != b.samples).any() for a, b in zip(one, other, strict=True))
    assert all(c.samples.shape == (crops.SIDE, crops.SIDE) and c.step >= 1 for c in one)


def test_coarse_steps_are_drawn_more_often(material: crops.Crops) -> None:
    even, coarse = (np.median([c.step for c in material.batch((3,), 60, k)]) for k in (1.0, 3.0))
    assert coarse > 1.5 * even


def test_kinds_count_by_the_root_of_their_images() -> None:
    """Four images of one kind, one of another: twice as many crops, not four times."""
    many, few = (np.full((200, 200), level, np.int32) + np.arange(200) % 9 for level in (0, 100))
    drawn = crops.Crops({"many": [[many]] * 4, "few": [[few]]}).batch((1,), 300)
    share = np.mean([c.samples.min() < 50 for c in drawn])
    assert 0.58 < share < 0.75


def test_a_pool_codes_each_crop_once_and_shows_windows_of_it(material: crops.Crops) -> None:
    coded: list[int] = []

    def decode(given: list[crops.Crop]) -> tuple[np.ndarray, np.ndarray]:
        coded.append(len(given))
        samples = np.stack([crop.samples for crop in given])
        return samples - samples.min(), samples * 0.001

    shown = pool.Pool(material, decode, (7,), 12, 1.0)
    features, errors = shown.looks((1, 2), 5)
    again = pool.Pool(material, decode, (7,), 12, 1.0)
    again.looks((9, 9), 40)  # another order of coding
    for a, b in zip((features, errors), again.looks((1, 2), 5), strict=True):
        assert a.shape == (5, 1, pool.WINDOW, pool.WINDOW)
        assert (a == b).all()
    assert (features[0] != features[1]).any()
    assert sum(coded) <= 24


def test_what_restoration_gains_is_counted_at_the_best_strength_of_each_block() -> None:
    error = torch.ones(1, 1, 64, 128)
    correction = torch.cat([torch.full((1, 1, 64, 64), 2.0), torch.full((1, 1, 64, 64), -1.0)], 3)
    # Half of the first correction takes the error away; none of the second is wanted.
    expected = 10 * np.log10((1 + 1e-3) / (0.5 + 1e-3))
    assert float(training.gained(error, correction)[0]) == pytest.approx(expected, abs=1e-4)
    assert float(training.gained(error, 0 * correction)[0]) == 0


def test_planes_that_teach_nothing_are_left_out() -> None:
    assert not crops.planes_of(np.zeros((200, 200), np.uint8))
    assert not crops.planes_of(np.arange(400, dtype=np.uint16).reshape(20, 20))
    assert not crops.planes_of(texture(1).astype(np.uint32))
    (plane,) = crops.planes_of((texture(1) / 7).astype(np.float32))
    assert plane.max() == crops.FLOAT_LEVELS
    rgb = np.random.default_rng(0).integers(0, 255, (3, 120, 120)).astype(np.uint8)
    green, red, blue = crops.planes_of(rgb, colour=True)
    np.testing.assert_array_equal(red + green, rgb[0])
    np.testing.assert_array_equal(blue + green, rgb[2])


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no image"):
        crops.Crops({"a": [[]]})


# -- the command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    for i in range(3):
        pixels = texture(i).astype(np.uint16)
        (data / f"scene{i}.tif").write_bytes(tiff_builder.tiff([tiff_builder.page(pixels)]).data)
    (data / "notes.txt").write_text("no image")
    return data


def test_images_are_sorted_into_what_they_are_for(folder: Path) -> None:
    material = collect([str(folder)], ["*2.tif"])
    assert sorted(material.names["training"]) == ["scene0.tif", "scene1.tif"]
    assert material.names["held_out"] == ["scene2.tif"]
    ((kind, images),) = material.training.items()
    assert kind == "geotiff, one band, uint16"
    assert len(images) == 2


def test_the_whole_way(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilevault.workflows.train._settings", lambda plan: SETTINGS)
    monkeypatch.setattr(finishing, "Counts", lambda: COUNTS)
    target = tmp_path / "small.tvlm"
    stages: list[str] = []
    done = train([str(folder)], str(target), Plan(hold_out=("scene2*",)), lambda p: stages.append(p.stage))
    assert list(dict.fromkeys(stages)) == list(training.STAGES)
    assert Model.from_bytes(target.read_bytes()).digest == done.digest
    assert set(done.measured) == {"training", "held_out"}
    beside = tmp_path / "small.tvlm.train"
    assert len((beside / "log.jsonl").read_text().splitlines()) == len(stages)
    assert (beside / "curves.svg").read_text().count("<polyline") == 3
    made = json.loads((beside / "training.json").read_text())
    assert made["digest"] == done.digest
    assert made["images"]["held_out"] == ["scene2.tif"]
    with pytest.raises(Conflict):
        train([str(folder)], str(target))


def test_going_on_from_a_model(
    folder: Path, tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = {name: getattr(SETTINGS, name) for name in ("fine", "coarse", "restoration")}
    real = training.Settings
    monkeypatch.setattr(training, "Settings", lambda *of, **more: real(*of, **{**more, **shapes}))
    monkeypatch.setattr(finishing, "Counts", lambda: COUNTS)
    base, target = tmp_path / "base.tvlm", tmp_path / "better.tvlm"
    base.write_bytes(model.to_bytes())
    plan = Plan(iterations=1, base=str(base), stages=("restoration",))
    stages: set[str] = set()
    train([str(folder)], str(target), plan, lambda p: stages.add(p.stage))
    assert stages == {"restoration"}
    made = Model.from_bytes(target.read_bytes())
    assert made.networks[:4] == model.networks[:4] != made.networks[4]
    told = json.loads((tmp_path / "better.tvlm.train" / "training.json").read_text())
    assert told["base"] == model.digest


def test_what_cannot_be_gone_on_from_is_refused(folder: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "m.tvlm")
    with pytest.raises(InvalidRequest, match="a model to begin with"):
        train([str(folder)], target, Plan(stages=("restoration",)))
    with pytest.raises(InvalidRequest, match="cannot read"):
        train([str(folder)], target, Plan(base=str(tmp_path / "none.tvlm")))
    (tmp_path / "none.tvlm").write_bytes(b"nothing of the kind")
    with pytest.raises(ModelMismatch):
        train([str(folder)], target, Plan(base=str(tmp_path / "none.tvlm")))


def test_frames_are_learned_from_where_nothing_was_lost(tmp_path: Path) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    words = (texture(5, (128, 128)) // 8).astype(np.uint8)
    rows = b"".join(bytes([127]) + row.tobytes() for row in words)
    streams = {
        "1.2.840.10008.1.2.5": struct.pack("<16I", 1, 64, *[0] * 14) + rows,
        "1.2.840.10008.1.2.4.50": imagecodecs.jpeg8_encode(words, level=95),
    }
    form = {"Rows": 128, "Columns": 128, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    for i, (syntax, stream) in enumerate(streams.items()):
        value = dicom_builder.encapsulate([[stream + bytes(len(stream) % 2)]])
        form["SOPInstanceUID"] = f"1.2.3.{i}"
        form["SeriesInstanceUID"] = f"1.2.4.{i}"
        file = dicom_builder.image(value, syntax, vr="OB", length=0xFFFFFFFF, **form)
        (tmp_path / f"{i}.dcm").write_bytes(file)
    form |= {"SOPInstanceUID": "1.2.3.2", "SeriesInstanceUID": "1.2.4.2", "LossyImageCompression": "01"}
    (tmp_path / "2.dcm").write_bytes(dicom_builder.image(words.tobytes(), **form))
    material = collect([str(tmp_path)])
    assert material.names["training"] == ["0.dcm"]
    assert sorted(material.names["left_out"]) == ["1.dcm", "2.dcm"]
    (((plane,),),) = material.training.values()
    np.testing.assert_array_equal(plane, words)


def test_curves_of_one_point_are_drawn() -> None:
    assert "<polyline" in curves([{"stage": "entropy", "iteration": 1, "loss": 0.5}])


def test_a_network_that_is_none_is_refused() -> None:
    writer = NetworkWriter()
    writer.output(writer.input(1, 0, 9))
    assert len(read_network(writer.blob())) == 2
    with pytest.raises(ModelMismatch, match="follow the end"):
        read_network(writer.blob() + b"\0")
    with pytest.raises(ModelMismatch, match="not there yet"):
        read_network(b"TVNN\x01\0\x01\0" + b"\x05\0\0\x01")


def test_without_torch_the_command_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from tilevault.workflows.cli import main\n"
        f"sys.exit(main(['train', {str(folder)!r}, '-o', {str(tmp_path / 'm')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "needs torch" in done.stderr
