"""PyTorch files: both layouts give the arrays that were stored, and a hostile file gives an error and nothing else."""

import pickle

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.interop import file_kind, read_torch
from tests.interop.torch_writer import (
    BFLOAT16,
    FLAT,
    ORDERED,
    STORAGE_NAMES,
    Call,
    Name,
    Persistent,
    archive,
    assemble,
    each_layout,
    legacy,
    numpy_bytes,
    numpy_dtype,
    numpy_scalar,
    reference,
    small_checkpoint,
    tensor,
)


def _dtype(name):
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def _random(dtype, size=24):
    if dtype.kind == "b":
        return np.arange(size) % 3 == 0
    return (np.random.default_rng(0).standard_normal(size) * 50).astype(dtype)


# What is stored comes back.


@each_layout
@pytest.mark.parametrize("name", STORAGE_NAMES)
@pytest.mark.filterwarnings("ignore:overflow")
def test_every_type_of_tensor_comes_back_bit_by_bit(load, layout, name):
    array = _random(_dtype(name))
    loaded = load(layout(assemble(tensor("7", array)), {"7": array}))
    assert loaded.dtype == array.dtype
    assert loaded.tobytes() == array.tobytes()


VIEWS = {
    "whole": (0, (24,), (1,)),
    "matrix": (0, (4, 6), (6, 1)),
    "transposed": (0, (6, 4), (1, 6)),
    "channels last": (0, (2, 3, 2, 2), (12, 1, 6, 3)),
    "every third": (3, (7,), (3,)),
    "last": (23, (1, 1), (100, 100)),
    "scalar": (5, (), ()),
    "overlapping": (0, (5, 3), (1, 2)),
    "expanded": (2, (4, 3), (0, 1)),
    "empty": (24, (0,), (1,)),
    "empty, of any size": (0, (3, 0, 10**6), (5, 5, 5)),
}


@each_layout
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_offset_and_strides_select_the_elements_that_they_name(load, layout, view):
    offset, shape, strides = view
    loaded = load(layout(assemble(tensor("0", FLAT, *view)), {"0": FLAT}))
    assert loaded.shape == shape
    expected = [FLAT[offset + sum(i * s for i, s in zip(index, strides, strict=True))] for index in np.ndindex(shape)]
    assert list(loaded.flat) == expected


@each_layout
def test_views_of_a_storage_share_its_memory_and_cannot_be_written(load, layout):
    views = [tensor("0", FLAT, 0, (12,), (1,)), tensor("0", FLAT, 6, (12,), (1,)), tensor("1", FLAT)]
    first, second, other = load(layout(assemble(views), {"0": FLAT, "1": FLAT}))
    assert np.shares_memory(first, second)
    assert not np.shares_memory(first, other)
    assert not first.flags.writeable


@pytest.mark.parametrize("name", STORAGE_NAMES)
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_file_from_a_big_endian_machine_holds_the_same_numbers(load, name):
    array = _random(_dtype(name))
    swapped = array.view(np.uint16).byteswap() if array.dtype == BFLOAT16 else array.byteswap()
    pickled = assemble([tensor("0", array), tensor("0", array, 3, (2,), (2,))])
    whole, part = load(archive(pickled, {"0": swapped}, order="big"))
    assert whole.tobytes() == array.tobytes()
    assert part.tobytes() == array[3:6:2].tobytes()


def test_archives_without_a_byte_order_and_with_any_top_folder_are_read(load):
    pickled = assemble(tensor("0", FLAT))
    for data in (archive(pickled, {"0": FLAT}, order=None), archive(pickled, {"0": FLAT}, top="checkpoint_26")):
        np.testing.assert_array_equal(load(data), FLAT)
    with pytest.raises(UserError, match="byte order is 'middle'"):
        load(archive(pickled, {"0": FLAT}, order="middle"))


@each_layout
def test_a_training_checkpoint_comes_back_in_plain_containers(load, layout):
    weight, moment = _random(np.dtype(np.float32), 6), _random(np.dtype(np.float32), 6)
    parameter = Call(
        Name("torch._utils", "_rebuild_parameter"), (tensor("0", weight, 0, (2, 3), (3, 1)), True, Call(ORDERED, ()))
    )
    model = Call(
        ORDERED,
        (),
        state={"_metadata": {"": {"version": 1}}},
        items={"module.z": parameter, "module.a": tensor("0", weight)},
    )
    group = {
        "lr": numpy_scalar(np.float64(2e-4)),
        "betas": (0.9, 0.999),
        "params": [0],
        "amsgrad": False,
        "foreach": None,
    }
    optimizer = {"state": {0: {"step": 4, "exp_avg": tensor("1", moment)}}, "param_groups": [group]}
    ema = {"decay": 0.999, "num_updates": 4, "shadow_params": [tensor("1", moment)]}
    value = {"optimizer": optimizer, "model": model, "ema": ema, "step": 4}
    loaded = load(layout(assemble(value), {"0": weight, "1": moment}))

    assert list(loaded) == ["optimizer", "model", "ema", "step"]
    assert type(loaded["model"]) is dict and list(loaded["model"]) == ["module.z", "module.a"]
    np.testing.assert_array_equal(loaded["model"]["module.z"], weight.reshape(2, 3))
    np.testing.assert_array_equal(loaded["ema"]["shadow_params"][0], moment)
    group = loaded["optimizer"]["param_groups"][0]
    assert type(group["lr"]) is np.float64 and group["lr"] == 2e-4
    assert group["betas"] == (0.9, 0.999) and group["amsgrad"] is False and group["foreach"] is None
    assert loaded["optimizer"]["state"][0]["step"] == 4


@each_layout
def test_sizes_devices_and_types_become_plain_values(load, layout):
    device = Name("torch", "device")
    value = [
        Call(Name("torch", "Size"), ((2, 3),)),
        Call(device, ("cpu",)),
        Call(device, ("cuda", 1)),
        Name("torch", "bfloat16"),
    ]
    loaded = load(layout(assemble(value), {}))
    assert loaded == [(2, 3), "cpu", "cuda:1", BFLOAT16]
    assert type(loaded[0]) is tuple


def test_newer_types_are_views_of_untyped_storages(load):
    array = np.array([1, 65535, 7], np.uint16)
    untyped = Persistent(("storage", Name("torch.storage", "UntypedStorage"), "0", "cpu", array.nbytes))
    args = (untyped, 1, (2,), (1,), False, Call(ORDERED, ()), Name("torch", "uint16"))
    loaded = load(archive(assemble(Call(Name("torch._utils", "_rebuild_tensor_v3"), args)), {"0": array}))
    assert loaded.dtype == np.uint16 and list(loaded) == [65535, 7]


@each_layout
@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
@pytest.mark.parametrize("fortran", [False, True])
def test_numpy_arrays_come_back_in_either_order(load, layout, module, fortran):
    array = np.arange(6.0).reshape(2, 3)
    stored = array.T if fortran else array  # whose C order is the Fortran order of the array
    start = (Name("numpy", "ndarray"), (0,), Call(Name("_codecs", "encode"), ("b", "latin1")))
    state = (1, array.shape, numpy_dtype(array), fortran, numpy_bytes(stored))
    loaded = load(layout(assemble(Call(Name(module, "_reconstruct"), start, state)), {}))
    np.testing.assert_array_equal(loaded, array)


# What cannot be true is refused.

OUTSIDE = {
    "offset": (1, (24,), (1,)),
    "stride": (0, (24,), (2,)),
    "one over": (0, (5, 5), (5, 1)),
    "huge": (0, (2**62,), (1,)),
    "overflowing": (0, (2,), (2**70,)),
    "scalar": (24, (), ()),
    "empty": (25, (0,), (1,)),
    "negative size": (0, (-1,), (1,)),
    "negative stride": (23, (24,), (-1,)),
    "negative offset": (-1, (1,), (1,)),
    "fraction": (0, (1.0,), (1,)),
    "truth": (True, (1,), (1,)),
    "text": ("0", "2", "1"),
    "uneven": (0, (2, 3), (1,)),
    "no size": (0, None, None),
    "many": (0, (1,) * 65, (1,) * 65),
    "repeated": (0, (10**6, 10**6), (0, 0)),
}


@each_layout
@pytest.mark.parametrize("view", OUTSIDE.values(), ids=OUTSIDE)
def test_a_tensor_outside_its_storage_is_refused(refused, layout, view):
    offset, shape, strides = view
    args = (Persistent(reference("0", FLAT)), offset, shape, strides, False, Call(ORDERED, ()))
    call = Call(Name("torch._utils", "_rebuild_tensor_v2"), args)
    assert "PyTorch checkpoint" in refused(layout(assemble(call), {"0": FLAT}))


@each_layout
@pytest.mark.parametrize("size", [0, 23, 25, 2**40, -1, "24", None])
def test_a_storage_of_another_size_than_announced_is_refused(refused, layout, size):
    flat = tensor("0", FLAT, 0, (0,), (1,))
    args = (Persistent((*reference("0", FLAT)[:4], size)), *flat.args[1:])
    refused(layout(assemble(Call(flat.function, args)), {"0": FLAT}))


@each_layout
def test_a_storage_that_is_missing_or_of_no_known_kind_is_refused(refused, layout):
    refused(layout(assemble(tensor("1", FLAT)), {"0": FLAT}))
    kind = Name("torch", "QInt8Storage")
    assert "torch.QInt8Storage" in refused(layout(assemble(Persistent(("storage", kind, "0", "cpu", 24))), {"0": FLAT}))
    for value in [(), ("module", 1, 2, 3, 4), ("storage", 1, "0", "cpu", 24), "storage"]:
        refused(layout(b"\x80\x02" + assemble(value)[2:-1] + b"Q.", {"0": FLAT}))


@each_layout
def test_views_that_numpy_cannot_hold_are_refused(refused, layout):
    call = tensor("0", FLAT)
    assert "conjugate" in refused(layout(assemble(Call(call.function, (*call.args, {"conj": True}))), {"0": FLAT}))


def test_other_files_are_refused_with_the_kind_that_they_are(refused, tmp_path):
    for data in (
        b"",
        b"\x80",
        b"PK",
        b"hello world" * 10,
        pickle.dumps({"a": 1}, 2),
        pickle.dumps([1], 0),
        bytes(1000),
    ):
        assert "none of the known" in refused(data)
    assert "flax file" in refused(b"\x81\xa1a\x01")
    with pytest.raises(UserError, match="is a directory"):
        read_torch(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_torch(tmp_path / "missing.pth")
    with pytest.raises(UserError, match="version is 1002"):
        path = tmp_path / "newer.pth"
        path.write_bytes(legacy(assemble(0), {}, version=1002))
        read_torch(path)


@each_layout
def test_the_kind_of_a_file_is_told_from_its_content(tmp_path, layout):
    path = tmp_path / "weights.safetensors"  # a wrong name on purpose
    path.write_bytes(small_checkpoint(layout))
    assert file_kind(path) == {archive: "torch-zip", legacy: "torch-legacy"}[layout]
