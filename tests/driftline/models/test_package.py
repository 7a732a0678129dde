"""Packages are reproducible, and rejected unless digest and signature are valid."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest

from driftline.errors import DigestMismatch, PackageCheckFailed, PackageError, UntrustedPackage
from driftline.models import load, score
from driftline.models.export import export_model
from driftline.models.keys import Signature, Signer, new_key
from driftline.models.load import ModelLoader, VerifiedPackage
from driftline.models.package import MANIFEST, REFERENCE, read_manifest, read_member
from driftline.models.package_reference import load_reference, save_reference
from driftline.models.store import ModelStore, digest_of
from driftline.wire.feature_records import RecordCodec
from tests.training import (
    CLASSIFICATION,
    REGRESSION,
    first_model,
    record,
    settings,
    with_candidates,
)
from trainer.first import TrainedModel

TREE = with_candidates(CLASSIFICATION, "decision_tree", tune=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def trained(home: Path) -> TrainedModel:
    return first_model(TREE, home)


@pytest.fixture(scope="module")
def data(home: Path, trained: TrainedModel) -> bytes:
    return ModelStore(settings(home).model_store).get(trained.digest)


def models(home: Path) -> ModelLoader:
    return ModelLoader.of(settings(home), TREE)


def stored(folder: Path, home: Path, data: bytes, signature: Signature | None) -> ModelLoader:
    """Return another store that contains these bytes, with the trusted keys of `home`."""
    ModelStore(str(folder)).put(data, signature)
    changed = msgspec.structs.replace(settings(home), model_store=str(folder))
    return ModelLoader.of(changed, TREE)


@pytest.fixture
def no_deserializing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if any content of a package is read."""

    def fail(*_: object) -> None:
        pytest.fail("bytes were read before they were verified")

    for module, name in (
        (load, "read_manifest"),
        (load, "read_member"),
        (load, "load_reference"),
        (score, "OnnxScorer"),
    ):
        monkeypatch.setattr(module, name, fail)
    monkeypatch.setattr("joblib.load", fail)


# ---- rejected before a byte is read --------------------------------------------------------------


@pytest.mark.usefixtures("no_deserializing")
@pytest.mark.parametrize("at", [0, 1000, -1])
def test_a_changed_package_is_rejected_unread(
    tmp_path: Path, home: Path, trained: TrainedModel, data: bytes, at: int
) -> None:
    tampered = bytearray(data)
    tampered[at] ^= 1
    hexadecimal = trained.digest.removeprefix("sha256:")
    (tmp_path / f"{hexadecimal}.zip").write_bytes(bytes(tampered))
    changed = msgspec.structs.replace(settings(home), model_store=str(tmp_path))
    with pytest.raises(DigestMismatch, match=trained.digest):
        ModelLoader.of(changed, TREE).load(trained.announcement)


@pytest.mark.usefixtures("no_deserializing")
def test_an_unsigned_package_is_rejected_unread(tmp_path: Path, home: Path, data: bytes) -> None:
    with pytest.raises(UntrustedPackage, match="unsigned"):
        stored(tmp_path, home, data, None).load(digest_of(data))


@pytest.mark.usefixtures("no_deserializing")
def test_a_package_signed_with_an_untrusted_key_is_rejected_unread(
    tmp_path: Path, home: Path, data: bytes
) -> None:
    new_key(tmp_path / "stranger")
    signature = Signer(tmp_path / "stranger").sign(digest_of(data))
    with pytest.raises(UntrustedPackage, match="not trusted here"):
        stored(tmp_path / "store", home, data, signature).load(digest_of(data))


@pytest.mark.usefixtures("no_deserializing")
def test_a_package_whose_announcement_has_a_wrong_signature_is_rejected_unread(
    home: Path, trained: TrainedModel
) -> None:
    forged = msgspec.structs.replace(trained.announcement, signature="00" * 64)
    with pytest.raises(UntrustedPackage, match="is invalid"):
        models(home).load(forged)


def test_signed_bytes_that_are_not_a_package_are_rejected(tmp_path: Path, home: Path) -> None:
    signature = Signer(settings(home).keys).sign(digest_of(b"no zip"))
    with pytest.raises(PackageCheckFailed, match="not a model package"):
        stored(tmp_path, home, b"no zip", signature).load(digest_of(b"no zip"))


# ---- valid packages ------------------------------------------------------------------------------


def test_a_valid_package_gives_the_predictions_of_the_training(
    home: Path, trained: TrainedModel
) -> None:
    model = models(home).load(trained.announcement)
    model.warm_up()
    model.check()
    assert model.digest == trained.digest
    assert len(model.manifest.check) == 16
    assert model.manifest.schema.classes == ("no", "yes")
    batch = RecordCodec(TREE).decode([record(i) for i in range(1000, 1020)])
    scores = model.predict(batch.columns)
    assert len(scores.predictions) == 20
    assert scores.probabilities is not None
    assert np.allclose(scores.probabilities.sum(axis=1), 1, atol=1e-5)


def test_scikit_learn_gives_the_same_predictions_if_onnx_runtime_is_missing(
    home: Path, trained: TrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained.manifest.scoring == "onnx"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    models(home).load(trained.announcement).check()


def test_an_empty_batch_has_no_predictions(home: Path, trained: TrainedModel) -> None:
    model = models(home).load(trained.announcement)
    assert len(model.predict(RecordCodec(TREE).decode([]).columns).predictions) == 0


def test_a_model_with_other_predictions_than_in_training_fails_its_check(
    home: Path, trained: TrainedModel
) -> None:
    model = models(home).load(trained.announcement)
    first, *rest = model.manifest.check
    wrong = msgspec.structs.replace(first, scores=tuple(1 - s for s in first.scores or ()))
    model.manifest = msgspec.structs.replace(model.manifest, check=(*rest, wrong))
    with pytest.raises(PackageCheckFailed, match="after its training it predicted"):
        model.check()


def test_a_model_of_another_stream_file_is_rejected(home: Path, trained: TrainedModel) -> None:
    derived = msgspec.structs.replace(TREE, derived={"per_size": "size / price"})
    with pytest.raises(PackageCheckFailed, match="derived features differ"):
        ModelLoader.of(settings(home), derived).load(trained.announcement).check()
    fewer = {name: spec for name, spec in TREE.inputs.items() if name != "colour"}
    changed = msgspec.structs.replace(TREE, features=fewer)
    with pytest.raises(PackageCheckFailed, match="'colour' is not in stream"):
        ModelLoader.of(settings(home), changed).load(trained.announcement).check()
    renamed = msgspec.structs.replace(TREE, name="other")
    with pytest.raises(PackageCheckFailed, match="made for stream 'paint', not 'other'"):
        ModelLoader.of(settings(home), renamed).load(trained.announcement)


def test_the_reference_is_read_back_unchanged(data: bytes) -> None:
    raw = read_member(data, REFERENCE)
    assert raw is not None
    reference = load_reference(raw)
    assert save_reference(reference) == raw
    assert len(reference.columns) == len(reference.predictions) == len(reference.positions) == 300
    assert set(reference.columns.numbers) == {"price", "size", "per_size"}
    assert set(reference.columns.categories["colour"]) == {"red", "green", "blue"}
    assert len(reference.errors) == len(reference.held_labels) == 60
    assert set(reference.errors) <= {0.0, 1.0}
    assert reference.levels == {"colour": ("blue", "green", "red")}
    low, high = reference.ranges["size"]
    assert 1 <= low < high <= 5
    assert reference.classes == ("no", "yes")
    held = reference.held_columns
    assert held is not None
    assert len(held) == 60
    # All 300 records are in the reference in order, the held-out ones last.
    assert held.numbers["price"].tolist() == reference.columns.numbers["price"][-60:].tolist()
    assert (
        held.categories["colour"].tolist() == reference.columns.categories["colour"][-60:].tolist()
    )


def test_a_reference_of_an_old_version_without_held_out_columns_is_read(data: bytes) -> None:
    raw = read_member(data, REFERENCE)
    assert raw is not None
    with np.load(io.BytesIO(raw)) as arrays:
        names = msgspec.json.decode(arrays["names"].tobytes())
        old = {name: arrays[name] for name in arrays if not name.startswith(("held_n", "held_c"))}
    del names["classes"], names["held"]
    old["names"] = np.frombuffer(msgspec.json.encode(names), dtype=np.uint8)
    file = io.BytesIO()
    np.savez(file, **old)
    reference = load_reference(file.getvalue())
    assert (reference.classes, reference.held_columns) == ((), None)
    assert len(reference.held_labels) == 60
    kept = load_reference(save_reference(reference))
    assert (kept.classes, kept.held_columns) == ((), None)


def test_reading_a_reference_never_unpickles_an_object(data: bytes) -> None:
    file = io.BytesIO()
    np.savez(file, names=np.array([object()], dtype=object))
    with pytest.raises(PackageCheckFailed, match="reference cannot be read"):
        load_reference(file.getvalue())


def test_a_missing_category_stays_missing_in_the_reference(data: bytes) -> None:
    raw = read_member(data, REFERENCE)
    assert raw is not None
    reference = load_reference(raw)
    reference.columns.categories["colour"][3] = None
    back = load_reference(save_reference(reference))
    assert back.columns.categories["colour"][3] is None
    assert (back.columns.categories["colour"] == reference.columns.categories["colour"]).all()


def test_the_manifest_contains_the_history_of_the_model(data: bytes) -> None:
    manifest = read_manifest(data)
    assert (manifest.candidate, manifest.rows, manifest.held_out) == ("decision_tree", 300, 60)
    assert (manifest.first_position, manifest.last_position) == (0, 299)
    assert manifest.trained_at == "2023-11-14T22:13:20Z"
    assert {"python", "numpy", "scikit-learn"} <= set(manifest.libraries)
    assert manifest.derived == {"per_size": "price / size"}


def test_the_files_in_a_package_have_no_timestamps(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as package:
        assert {entry.date_time for entry in package.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert package.namelist()[0] == MANIFEST


def test_a_model_is_exported_as_joblib_onnx_and_pickle(
    tmp_path: Path, home: Path, trained: TrainedModel
) -> None:
    import pickle

    import joblib

    paths = export_model(models(home).fetch(trained.announcement), tmp_path / "out")
    assert [path.suffix for path in paths] == [".json", ".joblib", ".onnx", ".pickle"]
    matrix = np.zeros((3, 6), dtype=np.float32)
    said = joblib.load(paths[1]).predict(matrix)
    assert (pickle.loads(paths[3].read_bytes()).predict(matrix) == said).all()


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "s\x1b[31m", "s\n", ""])
def test_a_package_with_an_invalid_name_of_its_stream_is_not_exported(
    tmp_path: Path, data: bytes, name: str
) -> None:
    """The name becomes part of file names."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(changed, "w") as new:
        for item in old.namelist():
            content = old.read(item)
            if item == "manifest.json":
                content = msgspec.json.encode(msgspec.json.decode(content) | {"stream": name})
            new.writestr(item, content)
    package = VerifiedPackage(digest_of(changed.getvalue()), changed.getvalue())
    with pytest.raises(PackageCheckFailed, match="stream"):
        export_model(package, tmp_path / "out" / "here")
    assert not [*tmp_path.rglob("*")]


def test_a_model_without_onnx_cannot_be_exported_as_onnx(tmp_path: Path) -> None:
    stream = with_candidates(REGRESSION, "hist_gradient_boosting", tune=False)
    trained = first_model(stream, tmp_path, 120)
    package = ModelLoader.of(settings(tmp_path), stream).fetch(trained.announcement)
    assert len(export_model(package, tmp_path / "out")) == 3
    with pytest.raises(PackageError, match="no ONNX form"):
        export_model(package, tmp_path / "out", ("onnx",))


# ---- reproducible packages -----------------------------------------------------------------------


def test_training_twice_on_the_same_data_gives_the_same_digest(
    home: Path, trained: TrainedModel
) -> None:
    assert first_model(TREE, home).digest == trained.digest


_CANDIDATES = [
    "logistic_regression",
    "decision_tree",
    "k_nearest_neighbours",
    "random_forest",
    "hist_gradient_boosting",
    "neural_network",
    "sklearn.naive_bayes.GaussianNB",
]

_IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from tests.training import CLASSIFICATION, first_model, with_candidates
for name in sys.argv[2:]:
    stream = with_candidates(CLASSIFICATION, name, tune=False)
    print(name, first_model(stream, Path(sys.argv[1]), 120).digest)
"""


def test_another_process_creates_the_same_packages(tmp_path: Path) -> None:
    streams = {name: with_candidates(CLASSIFICATION, name, tune=False) for name in _CANDIDATES}
    for stream in streams.values():  # earlier trainings in the process must make no difference
        first_model(stream, tmp_path, 120)
    here = [f"{name} {first_model(s, tmp_path, 120).digest}" for name, s in streams.items()]
    result = subprocess.run(
        [sys.executable, "-c", _IN_ANOTHER_PROCESS, str(tmp_path), *_CANDIDATES],
        capture_output=True,
        text=True,
        check=True,
        # With another hash seed, because nothing may depend on the order of a set.
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert result.stdout.splitlines() == here


_SCORE_ONLY = """
import sys
from pathlib import Path
from driftline.models.load import ModelLoader, VerifiedPackage
from driftline.config.settings import load_settings
from driftline.config.stream import loads
settings = load_settings({"DRIFTLINE_HOME": sys.argv[1], "DRIFTLINE_CLIENT": "memory"})
model = ModelLoader.of(settings, loads(sys.argv[3])).load(sys.argv[2])
model.warm_up()
model.check()
print(model.scoring, *sorted({"sklearn", "pandas", "joblib", "scipy"} & set(sys.modules)))
"""


def test_scoring_with_onnx_imports_no_training_library(home: Path, trained: TrainedModel) -> None:
    stream_file = """
version = 1
name = "paint"
task = "classification"
target = "sold"
features = { price = "number", size = "number", colour = "category" }
derived = { per_size = "price / size" }
record = { id = "id" }
"""
    result = subprocess.run(
        [sys.executable, "-c", _SCORE_ONLY, str(home), trained.digest, stream_file],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert result.stdout.split() == ["onnx"]
