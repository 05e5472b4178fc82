"""Nothing of the user's data is left out or altered in silence: it is kept, refused by name, or said."""

import io
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from score_sde.data import ArraySource, SourceInfo, describe, folders, load_source
from score_sde.data.images import decode_image, image_format
from score_sde.data.records import write_array_records
from score_sde.errors import UserError

PIXELS = np.random.RandomState(0).randint(0, 256, (5, 7, 3)).astype(np.uint8)
SAVED: dict[str, dict[str, Any]] = {"PNG": {}, "JPEG": {"quality": 95}, "WEBP": {"lossless": True}}
# What a viewer does by the tag of EXIF; n turns counterclockwise, after mirroring left to right where it says so.
UPRIGHT = {
    **{1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True)},
    **{5: (1, True), 6: (3, False), 7: (3, True), 8: (1, False)},
}


def _encoded(kind: str = "PNG", pixels: np.ndarray = PIXELS, orientation: int = 1, **options: Any) -> bytes:
    exif, sink = Image.Exif(), io.BytesIO()
    if orientation != 1:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(sink, kind, exif=exif, **SAVED[kind], **options)
    return sink.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, depth: int, color: int, rows: bytes, late: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + late + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _late_tag(pixels: np.ndarray, orientation: int) -> bytes:
    """A PNG whose orientation tag stands behind its pixels."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return _png(pixels.shape[1], pixels.shape[0], 8, 2, rows, _chunk(b"eXIf", exif.tobytes()[6:]))


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_image_comes_upright_whatever_its_tag_says(kind: str, orientation: int) -> None:
    lying = decode_image(_encoded(kind), "lying", 3)
    if kind != "JPEG":
        np.testing.assert_array_equal(lying, PIXELS)
    turns, mirrored = UPRIGHT[orientation]
    upright = np.rot90(lying[:, ::-1] if mirrored else lying, turns)
    file = _encoded(kind, orientation=orientation)
    np.testing.assert_array_equal(decode_image(file, "turned", 3), upright)
    found = image_format(file, "turned")
    assert found[:3] == (*upright.shape[:2], 3) and found.turned == (orientation != 1)


def _folder(path: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return f"folder:{path}"


def test_a_folder_of_photographs_from_a_turned_camera_is_upright_and_says_so(tmp_path: Path) -> None:
    files = {f"{split}/{n}.png": _encoded() for split in ("train", "test") for n in range(3)}
    files["train/turned.png"] = _encoded(pixels=np.ascontiguousarray(np.rot90(PIXELS)), orientation=6)
    source = load_source(_folder(tmp_path, files), "train")
    assert (source.gather(np.arange(4)) == PIXELS).all()
    assert "1 image is turned upright by a tag" in source.notes


def test_gray_images_among_colors_are_said(tmp_path: Path) -> None:
    gray = _encoded(pixels=PIXELS[..., 0])
    files = {f"{split}/{n}.png": gray if n < 2 else _encoded() for split in ("train", "test") for n in range(3)}
    sources = {split: load_source(_folder(tmp_path / "folder", files), split) for split in ("train", "test")}
    assert describe(sources)[1] == f"folder:{tmp_path / 'folder'}: 4 images are gray, taken as RGB."
    records = tmp_path / "records"
    records.mkdir()
    write_array_records(records / "train.array_record", [gray, _encoded(), gray])
    assert load_source(f"arrayrecord:{records}", "train").notes == ("2 of 3 images looked at are gray, taken as RGB",)
    for alike in (gray, _encoded()):
        name = _folder(tmp_path / "alike", {"train/a.png": alike, "train/b.png": alike, "test/a.png": alike})
        assert load_source(name, "train").notes == ()
        write_array_records(records / "train.array_record", [alike])
        assert load_source(f"arrayrecord:{records}", "train").notes == ()


def test_a_tag_behind_the_pixels_counts_too(tmp_path: Path) -> None:
    square = PIXELS[:5, :5]
    np.testing.assert_array_equal(decode_image(_late_tag(square, 6), "late", 3), np.rot90(square, 3))
    files = {"train/a.png": _encoded(), "test/a.png": _encoded(), "train/late.png": _late_tag(PIXELS, 6)}
    with pytest.raises(UserError, match=r"late\.png is 5x7 \(width x height, upright\), expected 7x5 like .*orient"):
        load_source(_folder(tmp_path, files), "train")
    write_array_records(tmp_path / "train.array_record", [_encoded(), _late_tag(PIXELS, 6)])
    with pytest.raises(UserError, match=r"Record 1 .* is 7x5 .*expected 5x7"):
        load_source(f"arrayrecord:{tmp_path}", "train").gather(np.arange(2))


def _animated(kind: str) -> bytes:
    sink = io.BytesIO()
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    frames[0].save(sink, kind, save_all=True, append_images=frames[1:])
    return sink.getvalue()


def _cmyk() -> bytes:
    sink = io.BytesIO()
    Image.fromarray(PIXELS).convert("CMYK").save(sink, "JPEG")
    return sink.getvalue()


def _transparent_palette() -> bytes:
    sink = io.BytesIO()
    Image.fromarray(PIXELS).convert("P").save(sink, "PNG", transparency=bytes([0] * 200))
    return sink.getvalue()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: _png(4, 3, 16, 2, 3 * (b"\0" + bytes(range(24)))), "RGB of 16 bits"),
        (lambda: _png(4, 3, 16, 6, 3 * (b"\0" + bytes(range(32)))), "RGBA of 16 bits"),
        (lambda: _png(4, 3, 16, 0, 3 * (b"\0" + bytes(range(8)))), "I;16"),
        (lambda: _animated("PNG"), "an animation of 2 frames"),
        (lambda: _animated("WEBP"), "an animation of 2 frames"),
        (lambda: _animated("GIF"), "an animation of 2 frames"),
        (_cmyk, "CMYK"),
        (_transparent_palette, "transparent pixels"),
        (lambda: b"II*\0" + bytes(100), "no image of a known kind"),
        (lambda: _encoded()[:60], "cannot be read"),
        (lambda: b"", "no image of a known kind"),
    ],
)
def test_what_cannot_be_kept_as_it_is_is_refused_by_name(make: Callable[[], bytes], words: str) -> None:
    with pytest.raises(UserError) as caught:
        decode_image(make(), "photo.png", 3)
    assert str(caught.value).startswith("photo.png ") and words in str(caught.value)


def test_few_bits_of_gray_span_the_whole_range_and_palettes_become_colors() -> None:
    levels = _png(4, 1, 2, 0, bytes([0, 0b00011011]))
    np.testing.assert_array_equal(decode_image(levels, "levels", 1).ravel(), [0, 85, 170, 255])
    sink, few = io.BytesIO(), PIXELS // 128 * 255
    Image.fromarray(few).convert("P", palette=Image.Palette.ADAPTIVE).save(sink, "PNG")
    np.testing.assert_array_equal(decode_image(sink.getvalue(), "palette", 3), few)


def test_the_first_picture_of_a_camera_that_stores_several_is_read() -> None:
    found = decode_image(_animated("MPO"), "photo.jpg", 3)
    sink = io.BytesIO()
    Image.fromarray(PIXELS).save(sink, "JPEG")
    assert np.abs(found.astype(int) - decode_image(sink.getvalue(), "one", 3)).max() < 40


def test_what_a_folder_holds_besides_images_is_counted(tmp_path: Path) -> None:
    good = {f"{split}/sub/{n}.PNG": _encoded() for split in ("train", "test") for n in range(2)}
    rest = {
        "train/.thumbnails/a.png": _encoded(),
        "train/._0.png": b"resource fork",
        "test/.hidden.png": _encoded(),
        "train/labels.txt": b"",
        "train/sub/movie.mp4": b"",
        "README": b"",
        "notes.TXT": b"",
        "val/0.png": _encoded(),
    }
    name = _folder(tmp_path, good | rest)
    (tmp_path / "train" / "round").symlink_to(tmp_path / "train")
    (tmp_path / "train" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "train" / "linked.png").symlink_to(tmp_path / "val" / "0.png")
    sources = {split: load_source(name, split) for split in ("train", "test")}
    assert (len(sources["train"]), len(sources["test"])) == (3, 2)
    assert describe(sources) == [
        f"{name}: 5 images of 5x7x3 with 256 levels, 3 in train and 2 in test.",
        f"{name}: 4 files of other kinds are ignored (.txt 2, .mp4 1, without suffix 1); 3 hidden files and folders "
        "are ignored; 2 links to folders or to nothing are ignored; 1 image beside train and test is ignored.",
        f"{name}: 2 of 2 test examples are in the training split too.",
    ]


def test_a_split_may_be_a_link(tmp_path: Path) -> None:
    name = _folder(tmp_path / "data", {"train/a.png": _encoded()})
    _folder(tmp_path / "elsewhere", {"b.png": _encoded()})
    (tmp_path / "data" / "test").symlink_to(tmp_path / "elsewhere")
    assert len(load_source(name, "test")) == len(load_source(name, "train")) == 1
    assert load_source(name, "test").notes == ()


@pytest.mark.skipif(os.name != "posix", reason="elsewhere names are text")
def test_names_that_are_no_text_are_names(tmp_path: Path) -> None:
    for n in range(40):
        path = os.fsencode(tmp_path) + b"/\xff\xfe%d.png" % n
        with open(path, "wb") as file:
            file.write(_encoded())
    sources = [load_source(f"folder:{tmp_path}", split) for split in ("train", "test")]
    assert sum(map(len, sources)) == 40
    with open(path, "wb") as file:
        file.write(b"no image")
    with pytest.raises(UserError, match=r"39\.png cannot be read") as caught:
        load_source(f"folder:{tmp_path}", "train")
    str(caught.value).encode()


def test_images_that_claim_more_than_the_memory_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = _png(4770, 4700, 8, 2, bytes(100))
    name = _folder(tmp_path, {f"{split}/{n}.png": bomb for split in ("train", "test") for n in range(15)})
    monkeypatch.setattr(folders, "memory_bytes", lambda: 10**9)
    monkeypatch.setattr(folders, "decode_image", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"30 images of 4770x4700, which take 2\.0 GB, and this machine has 1\.0 GB"):
        load_source(name, "train")


def test_files_beside_those_of_records_are_counted(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_array_records(tmp_path / f"{split}.array_record", PIXELS[None])
    (tmp_path / "validation.array_record").touch()
    (tmp_path / "labels.csv").touch()
    source = load_source(f"arrayrecord:{tmp_path}", "train")
    assert source.notes == ("2 other files and folders are ignored (.array_record 1, .csv 1)",)


def _npz(path: Path, **arrays: Any) -> str:
    np.savez(path / "data.npz", **arrays)
    return f"npz:{path / 'data.npz'}"


def test_keys_of_a_file_that_are_not_read_are_said(tmp_path: Path) -> None:
    images = np.zeros((20, 4, 4, 1), np.uint8)
    name = _npz(tmp_path, images=images, x=np.zeros((20, 2)), train_labels=np.zeros(3), labels=np.zeros(20, int))
    assert load_source(name, "train").notes == ("the arrays it holds besides are ignored ('x', 'train_labels')",)
    assert load_source(_npz(tmp_path, x=np.zeros((20, 2))), "train").notes == ()
    assert load_source(_npz(tmp_path, train=images, test=images, num_levels=np.asarray(4)), "test").notes == ()


LEVELS = np.random.RandomState(1).randint(0, 256, (12, 16, 1))


@pytest.mark.parametrize(
    "x",
    [
        LEVELS.astype(np.int64),
        LEVELS[..., None] - 1000,
        LEVELS.astype(np.uint8),
        LEVELS > 127,
        LEVELS.ravel().astype(np.float32),
        LEVELS.reshape(12, 16),
        LEVELS.reshape(12, 2, 2, 2, 2),
        LEVELS.reshape(12, 2, 2, 2, 2, 1).astype(np.float16),
    ],
    ids=lambda x: f"{x.dtype}-{x.shape}",
)
def test_every_hint_leads_to_data_that_are_taken(tmp_path: Path, x: np.ndarray) -> None:
    with pytest.raises(UserError) as caught:
        load_source(_npz(tmp_path, x=x), "train")
    hint = str(caught.value).partition("columns or channels. ")[2]
    recipes = re.findall(r"(?:levels: |use |with )(\S.*?)\.(?: |$)", hint)
    recipes = [recipe for recipe in recipes if "integers from" not in recipe]
    assert recipes, hint
    for recipe in recipes:
        taken = eval(f"x{recipe}" if recipe.startswith((".", "[")) else recipe, {"x": x})
        assert len(load_source(_npz(tmp_path, x=taken), "train")) == len(x) - max(1, len(x) // 10), recipe


@pytest.mark.parametrize("floats", [LEVELS / 255.0, LEVELS / 127.5 - 1.0, LEVELS.astype(np.float64), LEVELS - 0.5])
def test_floats_that_are_called_images_are_told_the_way_to_levels_and_to_continuous_data(
    tmp_path: Path, floats: np.ndarray
) -> None:
    images = floats[..., None]
    with pytest.raises(UserError, match="If they are continuous data, call the array x") as caught:
        load_source(_npz(tmp_path, images=images), "train")
    recipe = str(caught.value).partition("store their levels: ")[2].partition(". If")[0]
    if "integers from" not in recipe:
        assert len(load_source(_npz(tmp_path, images=eval(recipe, {"x": images})), "train")) == 11
    source = load_source(_npz(tmp_path, x=images), "train")
    assert source.info.num_grey_levels is None and f"for images of gray levels, store {recipe}" in source.notes[0]


@pytest.mark.parametrize("shape", [(6,), (6, 2), (4, 3, 2), (2, 3, 4, 2)])
def test_floats_of_any_shape_are_continuous_data(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = np.random.RandomState(0).standard_normal((20, *shape)).astype(np.float32)
    splits = [load_source(_npz(tmp_path, x=x), split) for split in ("train", "test")]
    assert all(source.info.shape == shape and source.info.num_grey_levels is None for source in splits)
    found = np.concatenate([source.gather(np.arange(len(source))) for source in splits])
    np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(x, axis=0))
    x.reshape(20, -1)[3, -1] = np.nan
    with pytest.raises(UserError, match="contains NaN or infinity"):
        load_source(_npz(tmp_path, x=x), "train")


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([1e39] + [0.0] * 9, r"'x' holds 1e\+39 in example 0, and float32 ends at 3\.4e\+38"),
        ([0.0] * 9 + [-1e300], r"'x' holds -1e\+300 in example 9"),
        (1e9 + np.arange(10.0), r"all values of coordinate 1 of 'x' are the same in float32"),
        (1e-60 * np.arange(10.0), r"all values of coordinate 1 of 'x' are the same in float32"),
    ],
)
def test_a_table_that_single_precision_does_not_hold_is_refused(tmp_path: Path, column: Any, words: str) -> None:
    x = np.stack([np.linspace(-1, 1, 10), np.asarray(column)], axis=1)
    with pytest.raises(UserError, match=words):
        load_source(_npz(tmp_path, x=x), "train")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f8", np.longdouble])
def test_floats_of_any_precision_become_single_ones(tmp_path: Path, dtype: Any) -> None:
    x = (np.arange(40).reshape(20, 2) / 8).astype(dtype)
    source = load_source(_npz(tmp_path, train=x, test=x), "train")
    found = source.gather(np.arange(20))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, x.astype(np.float32))


def _points(values: np.ndarray) -> ArraySource:
    return ArraySource(SourceInfo("points", (values.shape[1],), None, None), values.astype(np.float32))


def test_data_far_from_unit_scale_are_said_to_be() -> None:
    draws = np.random.RandomState(0).standard_normal((500, 3))
    assert len(describe({"train": _points(draws), "test": _points(0.2 * draws + 1.0)})) == 1
    for scale, shift, words in (
        (1000.0, 5000.0, "coordinate 1 has mean 5"),
        (1e-4, 0.0, "coordinate 1 has mean"),
        (1.0, 1e7, "Single precision, in which they are kept, tells few of its values apart"),
    ):
        values = draws * [1.0, scale, 1.0] + [0.0, shift, 0.0]
        line = describe({"train": _points(values)})[1]
        assert words in line and "standardize" in line and "train split is far from unit scale" in line


def test_constant_coordinates_are_to_be_left_out_and_a_single_example_has_no_scale() -> None:
    """Neither can be standardized, which would divide by 0."""
    draws = np.random.RandomState(0).standard_normal((500, 3)).astype(np.float32)
    values = draws * [1.0, 0.0, 1.0] + [0.0, 0.1, 0.0]
    said = "points: in the train split coordinate 1 is constant; leave it out."
    assert describe({"train": _points(values), "test": _points(values + 0.5)})[1:] == [said]
    far = describe({"train": _points(values * [1.0, 1.0, 1e3])})
    assert far[1] == said and "coordinate 2 has mean" in far[2] and len(far) == 3
    assert "3 coordinates (0, 1, 2) are constant; leave them out." in describe({"train": _points(0.0 * draws)})[1]
    assert len(describe({"train": _points(draws[:1] + 1e6)})) == 1


def test_test_examples_that_are_trained_on_are_counted() -> None:
    draws = np.random.RandomState(0).standard_normal((50, 2))
    lines = describe({"train": _points(draws), "test": _points(np.concatenate([draws[3:5], draws[:4] + 1.0]))})
    assert lines[1] == "points: 2 of 6 test examples are in the training split too."
