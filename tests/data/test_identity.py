"""Data are known by what they hold: a change of an example is seen, a change of place is not."""

import json

import numpy as np
import pytest

from score_sde.data import (
    ArraySource,
    DataRecord,
    SourceInfo,
    fingerprint,
    load_source,
    make_train_iterator,
    write_array_records,
)
from score_sde.errors import UserError


def _images(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 5, 1)).astype(np.uint8)


def _source(images, name="noise"):
    return ArraySource(SourceInfo(name, images.shape[1:], 256, None), images)


def _changed(images, row):
    images = images.copy()
    images[row, 0, 0, 0] ^= 1
    return images


@pytest.mark.parametrize("row", [0, 37, 299])
def test_one_bit_of_one_example_in_memory_is_another_data_set(row):
    images = _images(300)
    assert fingerprint(_source(images)) == fingerprint(_source(images.copy(), name="elsewhere"))
    assert fingerprint(_source(images)) != fingerprint(_source(_changed(images, row)))


def test_the_number_the_order_and_the_type_of_examples_count():
    images = _images(300)
    prints = [images, images[:-1], images[::-1], images.reshape(300, 5, 4, 1), images.astype(np.int16)]
    assert len({fingerprint(_source(one)) for one in prints}) == len(prints)


def test_of_records_the_first_and_the_last_are_read(tmp_path):
    images, prints = _images(600), []
    for name, changed in {"a": None, "b": None, "first": 0, "last": 599}.items():
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            contents = images if changed is None else _changed(images, changed)
            write_array_records(tmp_path / name / f"{split}.array_record", contents)
        source = load_source(f"arrayrecord:{tmp_path / name}", "train")
        prints.append(fingerprint(source))
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_record_reads_back_and_names_what_differs():
    sources = {"train": _source(_images(30)), "test": _source(_images(10, seed=1))}
    record = DataRecord.of(sources["train"].info, sources)
    assert DataRecord.from_json(json.loads(json.dumps(record.to_json()))) == record
    other = DataRecord.of(sources["train"].info, {"train": _source(_images(30, seed=2)), "test": sources["train"]})
    lines = record.differences(other)
    assert [line.split(": ")[0] for line in lines] == ["examples of the test split", "contents of the train split"]
    assert lines[0].endswith("10 -> 30")
    assert not record.differences(record._replace(name="npz:/elsewhere.npz"))
    assert not record.differences(record._replace(splits={}))


def test_a_stream_goes_on_with_the_same_data_under_another_name_only():
    images = _images(29)

    def stream(source):
        return make_train_iterator(source, batch_size=8, seed=3, contents=fingerprint(source))

    state = stream(_source(images, "npz:/a")).get_state()
    stream(_source(images, "folder:/b")).set_state(state)
    other = stream(_source(_changed(images, 5), "npz:/a"))
    with pytest.raises(UserError, match="contents"):
        other.set_state(state)
    del state["stream"]["contents"]  # as earlier versions left it
    other.set_state(state)
