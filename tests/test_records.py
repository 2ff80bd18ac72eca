"""Files of ours, cut off, of another shape, of another schema, or hostile: one error that names the file."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from loupe import records
from loupe.config import overrides
from loupe.data import array_file, checksums, hashing
from loupe.data.array_file import ArrayRecord
from loupe.data.pixels.pixel_cache import KnownDamage
from loupe.errors import LoupeError
from loupe.models import bundle
from loupe.models.bundle import BundleConfig
from loupe.records import Part, Record, RecordError
from loupe.training import activations, checkpoint
from loupe.training.checkpoint import Checkpoints, CheckpointState, DamagedError, Snapshot
from loupe.training.train_state import TrainState

RECORDS = [ArrayRecord, BundleConfig, CheckpointState, KnownDamage]
DEEP = "[" * 100_000
NOT_ONE = ["", "{", "null", "[]", "3", '"text"', "[1, 2]", DEEP, '{"schema": 99}', "{}", '{"a": NaN}', '{"a": 1e999}']
NOT_ONE += ['{"a":' * 100_000, '{"schema": [1]}', '{"network": ' + "[" * 60 + "]" * 60 + "}", '{"a": "\\ud800"}']

in_a_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(numbers, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))


class Pet(Part):
    name: str
    legs: int = 4


class Pets(Record):
    SCHEMA = 2
    REMEDY = "Count again."

    pets: tuple[Pet, ...]


def test_a_record_comes_back_with_the_keys_it_was_made_with_and_those_of_a_later_version(tmp_path):
    path = tmp_path / "pets.json"
    content = {"schema": 2, "pets": [{"name": "cat", "tail": [1, {"x": None}]}, {"name": "hen", "legs": 2}], "new": 1.5}
    path.write_text(json.dumps(content))
    pets = Pets.read(path)
    assert [pet.legs for pet in pets.pets] == [4, 2]
    pets.write(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == content
    assert Pets.read_if_there(tmp_path / "none.json") is None


@pytest.mark.parametrize("text", [*NOT_ONE, '{"pets": [{"legs": 3}]}'])
@pytest.mark.parametrize("kind", [Pets, *RECORDS], ids=lambda kind: kind.__name__)
def test_a_file_that_is_no_such_record_is_one_error_that_names_it(tmp_path, kind, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(RecordError) as told:
        kind.read(path)
    assert told.value.path == path and str(path) in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@given(
    content=st.dictionaries(
        st.sampled_from(
            KEYS := [
                *("schema", "network", "preprocessing", "classes", "precision", "temperature", "weights_blake2b"),
                *("values", "files", "damaged"),
            ]
        ),
        values,
    )
    | values
)
@in_a_folder
def test_any_json_is_a_record_or_one_error(tmp_path, kind, content):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content))
    try:
        record = kind.read(path)
    except RecordError:
        return
    json.dumps(record.to_json(), allow_nan=False)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@given(data=st.binary())
@in_a_folder
def test_any_bytes_are_one_error(tmp_path, kind, data):
    path = tmp_path / "file.json"
    path.write_bytes(data)
    with pytest.raises(RecordError):
        kind.read(path)


def test_a_folder_or_a_missing_file_is_that_error_too(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(RecordError):
            BundleConfig.read(path)


CNN = {"name": "tiny", "blocks": [{"filters": [4]}]}
CONFIG = {
    "schema": 1,
    "network": CNN,
    "preprocessing": {"size_px": 8, "load_px": 8},
    "classes": ["cat", "dog"],
    "precision": "fp32",
    "temperature": 1.0,
}


def put_bundle(folder, weights: bytes, **changes) -> None:
    folder.mkdir(exist_ok=True)
    config = {**CONFIG, "weights_blake2b": bundle.content_digest(weights), **changes}
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))


def refused(folder) -> str:
    with pytest.raises(LoupeError) as told:
        bundle.load(folder, torch.device("cpu"))
    assert str(folder) in str(told.value) and "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize(
    "changes",
    [
        *({key: "gone"} for key in ("network", "preprocessing", "classes", "precision", "weights_blake2b")),
        *({key: None} for key in CONFIG),
        *({"precision": "int4"}, {"temperature": "x"}, {"temperature": 0}, {"temperature": -1}, {"classes": []}),
        *({"schema": 2}, {"schema": "1"}, {"network": {"backbone": "no-such-network"}}, {"network": []}),
        {"network": {**CNN, "blocks": [{"filters": [2**40, 2**40]}]}},
        {"network": {**CNN, "hidden": [{"units": 2**62}]}},
        {"preprocessing": {"size_px": 2**40, "load_px": 2**40}},
        {"preprocessing": {"size_px": 1, "load_px": 1}, "network": {**CNN, "blocks": [{"filters": [4]}] * 3}},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_a_hostile_config_of_a_bundle_is_refused(tmp_path, changes):
    put_bundle(tmp_path / "model", b"", **changes)
    refused(tmp_path / "model")


@given(weights=st.binary(max_size=64))
@example(weights=b"")
@example(weights=(2**63).to_bytes(8, "little") + b"{}")
@example(weights=safetensors.torch.save({"w": torch.zeros(3)}))
@example(weights=safetensors.torch.save({}))
@in_a_folder
def test_weights_that_have_the_right_hash_and_are_none_are_refused(tmp_path, weights):
    put_bundle(tmp_path / "model", weights)
    refused(tmp_path / "model")


def test_weights_of_the_right_shape_and_another_type_are_refused(tmp_path):
    put_bundle(tmp_path / "model", b"")
    config = BundleConfig.read(tmp_path / "model" / "config.json")
    model = bundle.build(config.network, config.preprocessing, config.classes, seed=0)
    for kind in (torch.int8, torch.float64):
        weights = {name: value.contiguous().to(kind) for name, value in model.state_dict().items()}
        put_bundle(tmp_path / "model", safetensors.torch.save(weights))
        assert "do not fit" in refused(tmp_path / "model")


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
NOT_A_RECIPE = [
    *("", "- a", "3", "name: [", "a: &a [*a]", "&a {name: *a}", DEEP, "? " * 5000, "name: !!python/object:os.system x"),
    *(
        "seed: 2024-99-99",
        "seed: !!timestamp x",
        'seed: !!int ""',
        "seed: !!bool x",
        "seed: !!binary é",
        "\x00",
        LAUGHS,
    ),
    *("{[a]: b}", "seed: " + "9" * 5000, "a: *b", "--- a\n--- b", "<<: 3", "name: " + "x" * 100_000, "1: 2"),
    "a: &a {<<: [*b]}",
    LAUGHS.replace("[", "{<<: [").replace("]", "]}"),
]


@pytest.mark.parametrize("text", NOT_A_RECIPE, ids=range(len(NOT_A_RECIPE)))
def test_a_file_that_is_no_recipe_is_one_short_error(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LoupeError) as told:
        overrides.load(path)
    assert str(path) in str(told.value) and "\n" not in str(told.value) and len(str(told.value)) < 5000


@given(data=st.binary() | st.text(alphabet="ab:-[]{}&*!<?'\"|> \n0", max_size=60).map(str.encode))
@in_a_folder
def test_any_bytes_are_no_recipe(tmp_path, data):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(data)
    with pytest.raises(LoupeError):
        overrides.load(path)


@given(content=st.dictionaries(st.sampled_from(["name", "model", "stages", "input", "split", "seed"]), values))
@in_a_folder
def test_any_values_under_a_recipes_keys_are_no_recipe(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(content))
    with pytest.raises(LoupeError):
        overrides.load(path)


def test_a_recipe_may_use_an_alias(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("x: &rate 0.5\n", encoding="utf-8")
    with pytest.raises(LoupeError, match="x"):
        overrides.load(path)
    assert overrides.parse_yaml("a: &rate {lr: 1}\nb: *rate") == {"a": {"lr": 1}, "b": {"lr": 1}}


@pytest.mark.parametrize(
    "body",
    [*NOT_ONE, '{"values": 3, "files": {}}', '{"values": {}, "files": {"../x": "0"}}', '{"schema": 2, "values": {}}'],
)
def test_a_checkpoint_whose_state_has_the_right_hash_and_is_none_is_damaged(tmp_path, body):
    (tmp_path / "state.json").write_text(json.dumps({"digest": checkpoint.content_digest(body.encode()), "body": body}))
    with pytest.raises(DamagedError):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize("text", NOT_ONE)
def test_a_checkpoint_whose_state_cannot_be_read_is_damaged(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(DamagedError):
        checkpoint.read(tmp_path)


def test_a_checkpoint_of_before_there_was_a_schema_is_read(tmp_path):
    saved = Checkpoints(tmp_path)
    saved.save_last(Snapshot({}, {"step": 3}))
    [path] = (tmp_path / "last").glob("*/state.json")
    body = json.loads(json.loads(path.read_text())["body"])
    assert body.pop("schema") == CheckpointState.SCHEMA
    old = json.dumps(body)
    path.write_text(json.dumps({"digest": checkpoint.content_digest(old.encode()), "body": old}))
    assert checkpoint.read(path.parent).values == {"step": 3}


@given(content=st.dictionaries(st.sampled_from(["stage", "epoch", "sums", "history", "x"]), values) | values)
@in_a_folder
def test_a_state_of_training_is_one_or_a_value_error(content):
    try:
        assert isinstance(TrainState.of(content), TrainState)
    except ValueError:
        return


@given(data=st.binary(max_size=200))
@example(data=b"\x93NUMPY\x01\x00\x10\x00((((((((((((((((")
@example(data=b"\x93NUMPY\x01\x00\x10\x00'''             \n")
@in_a_folder
def test_arrays_of_the_cache_are_read_or_made_again(tmp_path, data):
    path = tmp_path / "key" / "activations.npy"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with pytest.raises(ValueError):
        array_file.mapped(path)
    assert activations.load(path.parent) is None
    assert not path.parent.exists()


@given(text=st.binary(max_size=100) | values.map(lambda value: json.dumps(value).encode()))
@example(text=b'{"shape": [4, 3], "dtype": "<f4", "rows": 4, "checksums": [1, 2]}')
@example(text=b'{"shape": [4, 3], "dtype": "<f4", "rows": 4, "checksums": [], "seconds": 1e13}')
@in_a_folder
def test_activations_with_other_checksums_than_their_own_are_made_again(tmp_path, text):
    for name in ("key", ".key"):  # whole, and begun
        (tmp_path / name).mkdir(exist_ok=True)
        np.save(tmp_path / name / "activations.npy", np.zeros((4, 3), np.float32))
        (tmp_path / name / "array.json").write_bytes(text)
    assert activations.seconds_of(tmp_path / "key") is None
    made = np.arange(12, dtype=np.float32).reshape(4, 3)
    rows = activations.load_or_compute(
        tmp_path, "key", (4, 3), np.float32, lambda numbers: (made[part] for part in [numbers]), lambda: None, batch=4
    )
    np.testing.assert_array_equal(rows, made)


@pytest.mark.parametrize("rows", [0, 2, 4])
def test_activations_begun_in_another_shape_are_begun_again(tmp_path, rows):
    (tmp_path / ".key").mkdir()
    begun = np.zeros((4, 7), np.float64)
    np.save(tmp_path / ".key" / "activations.npy", begun)
    sums = checksums.BlockChecksums()
    sums.add(array_file.bytes_of(begun[:rows]))
    record = ArrayRecord(shape=(4, 7), dtype="<f8", rows=rows, checksums=sums.all())
    record.write(tmp_path / ".key" / array_file.RECORD)
    made = np.arange(12, dtype=np.float32).reshape(4, 3)
    kept = activations.load_or_compute(
        tmp_path, "key", (4, 3), np.float32, lambda numbers: (made[part] for part in [numbers]), lambda: None, batch=4
    )
    np.testing.assert_array_equal(kept, made)


def test_digests_of_the_cache_that_are_not_whole_are_made_again(tmp_path):
    columns = [pa.array([None, "a"][:1], field.type) for field in hashing._COLUMNS]
    pq.write_table(pa.Table.from_arrays(columns, schema=hashing._COLUMNS), tmp_path / "null.parquet")
    (tmp_path / "bytes.parquet").write_bytes(b"PAR1" + bytes(64) + b"PAR1")
    for name in ("null.parquet", "bytes.parquet"):
        assert hashing.recalled_hashes(tmp_path / name) == {}


@given(text=st.text() | values.map(json.dumps))
@in_a_folder
def test_json_is_parsed_or_a_value_error(text):
    try:
        json.dumps(records.parse(text), allow_nan=False)
    except ValueError:
        return
