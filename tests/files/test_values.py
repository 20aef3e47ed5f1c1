"""The values that files hold: what comes back from a form, what has none, and forms that nobody wrote."""

import io
import json
from collections import Counter, OrderedDict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from skorch.history import History

from helpers.parameter_ids import in_words
from sklearn_kd.files._history import decode_history, encode_history
from sklearn_kd.files._tensors import dump_tensors, hash_tensor, load_tensors
from sklearn_kd.files._values import JSON_VALUES, STATE_VALUES, ContentError, Unserializable, is_same

PLAIN = [None, True, 3, -(10**30), 2.5, float("inf"), "ü", [], [1, [2.0, None]], {"a": 1}, {"tuple": [1]}, {}]
PLAIN += [(1, (2, [3])), ({"a": (1,)},), {"dict": {"b": ()}}]
EXACT = [
    {1: "a", (2, 3): "b"},
    OrderedDict(b=1, a=(2,)),
    Counter("abba"),
    deque([1, 2], maxlen=3),
    {1, 2},
    frozenset("ab"),
    1 + 2j,
    b"\x00\xff",
    np.float32(0.5),
    np.bool_(True),
    torch.device("cpu"),
    torch.Size([2, 3]),
]
ARRAYS = [
    np.arange(6, dtype=np.int16).reshape(2, 3),
    np.array(["a", "bc"]),
    np.array([("a", 1.5)], dtype=[("name", "<U3"), ("value", "f4", (2,))]),
    np.empty((0, 4), np.float32),
    np.array(7.0),
    np.array(["2020-01-01"], dtype="datetime64[D]"),
]


def through_json(value):
    return JSON_VALUES.decode(json.loads(json.dumps(JSON_VALUES.encode(value))))


def through_state(value):
    return STATE_VALUES.decode(load_tensors(bytes(dump_tensors(STATE_VALUES.encode(value)))))


@pytest.mark.parametrize("value", PLAIN, ids=in_words)
@pytest.mark.parametrize("through", [through_json, through_state])
def test_values_of_both_codecs(value, through):
    again = through(value)
    assert again == value and type(again) is type(value)


@pytest.mark.parametrize("value", EXACT, ids=in_words)
def test_states_keep_types(value):
    again = through_state(value)
    assert again == value and type(again) is type(value)
    assert getattr(again, "maxlen", None) == getattr(value, "maxlen", None)


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_states_keep_arrays(array):
    again = through_state({"inside": [array]})["inside"][0]
    assert again.dtype == array.dtype and again.shape == array.shape and again.tobytes() == array.tobytes()
    assert again.flags.writeable


def test_states_keep_tensors_apart_from_the_original():
    weight = torch.nn.Parameter(torch.ones(2))
    form = STATE_VALUES.encode([weight, torch.arange(3, dtype=torch.bfloat16)])
    with torch.no_grad():
        weight.add_(1)
    assert form[0].tolist() == [1, 1] and not form[0].requires_grad
    assert STATE_VALUES.decode(form)[1].dtype is torch.bfloat16


def test_states_keep_where_generators_stand():
    generators = np.random.default_rng(3), np.random.RandomState(3), torch.Generator().manual_seed(3)
    generators[0].random(), generators[1].rand(), torch.rand(2, generator=generators[2])
    first, second, third = through_state(list(generators))
    assert first.random() == generators[0].random() and second.rand() == generators[1].rand()
    assert torch.equal(torch.rand(2, generator=third), torch.rand(2, generator=generators[2]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.str_("a"), "a"),
        (torch.device("cpu"), "cpu"),
        (Path("folder") / "file", str(Path("folder") / "file")),
    ],
    ids=in_words,
)
def test_json_has_simpler_values_for_some(value, expected):
    again = through_json((value,))[0]
    assert again == expected and type(again) is type(expected)


@pytest.mark.parametrize("column", [np.array([1, 2]), np.array(["a", "b"]), np.array([0.5, np.inf])])
def test_json_has_columns(column):
    again = through_json(column)
    assert isinstance(again, np.ndarray) and again.tolist() == column.tolist()


def test_json_has_mappings_of_labels():
    """Their keys stay what they are, where JSON alone would make strings of them."""
    mapping = {0: 2.0, True: 1, "a": [1], (1, "b"): None}
    assert through_json(mapping) == mapping and through_json(mapping).keys() == mapping.keys()


def cycle():
    value = [1]
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("codec", "value", "type_name"),
    [
        (JSON_VALUES, {1, 2}, "set"),
        (JSON_VALUES, np.zeros((2, 2)), "ndarray"),
        (JSON_VALUES, torch.zeros(2), "Tensor"),
        (JSON_VALUES, np.random.RandomState(0), "RandomState"),
        (JSON_VALUES, cycle(), "a list that contains itself"),
        (STATE_VALUES, io.BytesIO(), "BytesIO"),
        (STATE_VALUES, [{"a": object()}], "object"),
        (STATE_VALUES, np.array([object()]), "an array of objects"),
        (STATE_VALUES, type("Mine", (dict,), {})(), "Mine"),
        (STATE_VALUES, cycle(), "a list that contains itself"),
    ],
)
def test_values_without_a_form_are_named(codec, value, type_name):
    with pytest.raises(Unserializable) as told:
        codec.encode(value)
    assert told.value.type_name == type_name


@pytest.mark.parametrize("codec", [JSON_VALUES, STATE_VALUES])
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"a": 1},
        {"os.system": "ls"},
        {"tuple": 3},
        {"tuple": "ab"},
        {"tuple": [1], "dict": {}},
        {"dict": [1]},
    ],
    ids=in_words,
)
def test_forms_that_no_codec_makes(codec, form):
    with pytest.raises(ContentError, match="which this version does not know"):
        codec.decode([form])


@pytest.mark.parametrize(
    "form",
    [
        {"bytes": 10**12},  # bytes(n) would take n bytes
        {"ndarray": [{"tuple": ["<f8"]}, [2], None]},
        {"ndarray": ["O", [1], torch.zeros(8, dtype=torch.uint8)]},
        {"ndarray": ["<f8", [10**12], None]},
        {"numpy.random.Generator": ["os.system", {"dict": {}}]},
        {"torch.Generator": torch.zeros(3)},
        {"deque": 3},
    ],
    ids=in_words,
)
def test_wrong_forms_of_known_kinds(form):
    with pytest.raises(Exception):  # noqa: B017
        STATE_VALUES.decode(form)


def test_forms_are_compared_by_type_and_with_nan():
    a, b = ({"x": [float("nan"), torch.ones(2)], "y": (1,)} for _ in range(2))
    assert is_same(STATE_VALUES.encode(a), STATE_VALUES.encode(b))
    for other in (
        {**b, "y": [1]},
        {**b, "x": [float("nan"), torch.ones(2).double()]},
        {**b, "z": 1},
        {**b, "y": (1.0,)},
    ):
        assert not is_same(STATE_VALUES.encode(a), STATE_VALUES.encode(other))


# --------------------------------------------------------------------------------------
# Histories


@pytest.mark.parametrize("codec", [JSON_VALUES, STATE_VALUES])
def test_a_history_comes_back(codec):
    history = History([{"epoch": 1, "batches": [{"train_loss": 0.5}], "pair": (1, 2), "named": {"a": None}}])
    again = decode_history(encode_history(history, codec, lambda *lost: 1 / 0), codec)
    assert again == history and isinstance(again, History) and again[-1, "pair"] == (1, 2)


def test_columns_without_a_form_are_left_out_and_named():
    history, lost = History([{"epoch": 1, "batches": [{"b": io.BytesIO()}], "a": object(), "c": 1}]), []
    rows = encode_history(history, JSON_VALUES, lambda *found: lost.append(found))
    assert rows == [{"epoch": 1, "batches": [{}], "c": 1}]
    assert lost == [("column 'b' of the history", "BytesIO"), ("column 'a' of the history", "object")]


@pytest.mark.parametrize(
    "rows",
    [
        3,
        ["a"],
        [{"epoch": 2, "batches": []}],
        [{"epoch": 1, "batches": [3]}],
        [{"epoch": 1}],
        [{"batches": []}],
    ],
    ids=in_words,
)
def test_what_is_no_history_is_refused(rows):
    with pytest.raises(ContentError, match="a search_history that is not a list of epochs"):
        decode_history(rows, STATE_VALUES, "search_history")


# --------------------------------------------------------------------------------------
# Digests


def test_a_digest_depends_on_name_type_shape_and_numbers():
    def data(tensor, name=""):
        found = []
        hash_tensor(lambda part: found.append(bytes(part)), tensor, name)
        return b"".join(found)

    first = torch.arange(6.0).reshape(2, 3)
    assert data(first) == data(torch.nn.Parameter(first.t().contiguous().t()))
    others = [first.reshape(3, 2), first.double(), first.bfloat16(), first + 1, first[:0]]
    assert len({data(first), data(first, "name"), *map(data, others)}) == 7
