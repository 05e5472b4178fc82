"""Sources are what they say: the published data, fixed splits, and errors that tell the user what to do."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from score_sde.data import check_images, load_source, source_info, toys
from score_sde.data.base import Source
from score_sde.errors import UserError

DIGITS_TEST_MD5 = "e153119a6bed1945dc8675af881c271b"


def _all(source: Source) -> np.ndarray:
    return source.gather(np.arange(len(source)))


def _labels(source: Source) -> np.ndarray:
    labels = source.labels(np.arange(len(source)))
    assert labels is not None
    return labels


def _rows(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    """Labelled examples as something that can be sorted and compared as a multiset."""
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys; import score_sde.data; "
        "print([m for m in ('grain', 'tensorflow_datasets', 'sklearn', 'PIL', 'tensorflow') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_unknown_names_and_splits_are_refused_with_the_nearest() -> None:
    for name, suggestion in [
        ("cifar", "cifar10"),
        ("digit", "digits"),
        ("toy", "toy:moons"),
        ("folder", "folder:PATH"),
    ]:
        with pytest.raises(UserError, match=f"Unknown dataset '{name}'.*{suggestion}"):
            load_source(name, "train")
        with pytest.raises(UserError, match=f"Unknown dataset '{name}'"):
            source_info(name)
    with pytest.raises(UserError, match=r"Unknown split 'validation'.*test, train"):
        load_source("digits", "validation")
    with pytest.raises(UserError, match="Did you mean 'checkerboard'"):
        load_source("toy:chekerboard", "train")


# --- digits ---


def test_digits_are_all_of_scikit_learns_and_the_splits_are_disjoint() -> None:
    from sklearn import datasets

    original: Any = datasets.load_digits()
    train, test = load_source("digits", "train"), load_source("digits", "test")
    assert (len(train), len(test)) == (1500, 297)
    images = np.concatenate([_all(train), _all(test)])
    expected = original.images[..., None].astype(np.uint8)
    assert _rows(images, np.concatenate([_labels(train), _labels(test)])) == _rows(expected, original.target)
    assert np.unique(images).tolist() == list(range(17))
    for source in (train, test):
        check_images(_all(source), source.info)
        assert set(_labels(source).tolist()) == set(range(10))
    assert train.info == test.info == source_info("digits")


def test_the_digits_split_never_changes() -> None:
    np.testing.assert_array_equal(_all(load_source("digits", "train")), _all(load_source("digits", "train")))
    # A constant of the data set, like its size: results on it compare only while it holds.
    assert hashlib.md5(_all(load_source("digits", "test")).tobytes()).hexdigest() == DIGITS_TEST_MD5


# --- toys ---


@pytest.mark.parametrize("name", sorted(toys.TOYS))
def test_toys_are_fixed_float32_points_at_about_unit_scale(name: str) -> None:
    train, test = load_source(f"toy:{name}", "train"), load_source(f"toy:{name}", "test")
    points = _all(train)
    check_images(points, train.info)
    assert train.info == source_info(f"toy:{name}")
    np.testing.assert_array_equal(points, _all(load_source(f"toy:{name}", "train")))
    assert np.all((0.3 < points.std(axis=0)) & (points.std(axis=0) < 0.8))
    assert np.abs(points).max() < 1.5
    assert not set(map(bytes, points)) & set(map(bytes, _all(test)))
    # The two splits are samples of one distribution.
    np.testing.assert_allclose(points.mean(axis=0), _all(test).mean(axis=0), atol=5 * 0.8 / np.sqrt(10_000))


def test_the_checkerboard_fills_the_dark_squares_evenly_and_leaves_the_others_empty() -> None:
    cells = np.floor((_all(load_source("toy:checkerboard", "train")) + 1.0) * 2.0).astype(int)
    counts = np.zeros((4, 4))
    np.add.at(counts, tuple(cells.T), 1)
    dark = np.add.outer(np.arange(4), np.arange(4)) % 2 == 0
    assert (counts[~dark] == 0).all()
    assert np.abs(counts[dark] - 50_000 / 8).max() < 5 * np.sqrt(50_000 / 8)


def test_the_gaussians_have_the_stated_weights_means_and_std() -> None:
    points = _all(load_source("toy:gaussians", "train"))
    angle = 2 * np.pi * np.arange(8) / 8
    centres = toys.GAUSSIANS_RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    mode = np.argmin(((points[:, None] - centres) ** 2).sum(-1), axis=1)
    for k in range(8):
        mine = points[mode == k]
        assert abs(len(mine) - 6250) < 5 * np.sqrt(6250)
        np.testing.assert_allclose(mine.mean(axis=0), centres[k], atol=5 * toys.GAUSSIANS_STD / np.sqrt(6000))
        np.testing.assert_allclose(mine.std(axis=0), toys.GAUSSIANS_STD, rtol=0.06)


def test_the_rings_have_the_stated_radii() -> None:
    radius = np.linalg.norm(_all(load_source("toy:rings", "train")), axis=1)
    distance = np.abs(radius[:, None] - np.asarray(toys.RINGS_RADII)).min(axis=1)
    assert np.quantile(distance, 0.99) < 3 * toys.RINGS_STD


# --- npz ---


def _save(tmp_path: Path, **arrays: np.ndarray) -> str:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    return f"npz:{path}"


def _random_images(n: int, levels: int = 256) -> np.ndarray:
    return np.random.RandomState(n).randint(0, levels, size=(n, 4, 5, 3)).astype(np.uint8)


def test_npz_splits_one_array_into_disjoint_parts_that_make_the_whole(tmp_path: Path) -> None:
    images, labels = _random_images(35), np.arange(35) % 7
    name = _save(tmp_path, images=images, labels=labels)
    train, test = load_source(name, "train"), load_source(name, "test")
    assert (len(train), len(test)) == (32, 3)
    joined = np.concatenate([_all(train), _all(test)]), np.concatenate([_labels(train), _labels(test)])
    assert _rows(*joined) == _rows(images, labels)
    assert train.info == test.info == source_info(name)
    assert train.info[1:] == ((4, 5, 3), 256, 7)


def test_npz_takes_explicit_splits_levels_and_continuous_data(tmp_path: Path) -> None:
    train, test = _random_images(6, 16), _random_images(4, 16)
    name = _save(tmp_path, train=train, test=test, test_labels=np.array([0, 1, 2, 1]), num_levels=np.array(16))
    np.testing.assert_array_equal(_all(load_source(name, "train")), train)
    np.testing.assert_array_equal(_all(load_source(name, "test")), test)
    assert load_source(name, "test").info[1:] == ((4, 5, 3), 16, 3)
    points = load_source(_save(tmp_path, x=np.linspace(0, 1, 60).reshape(20, 3)), "train")
    assert points.info[1:] == ((3,), None, None)
    check_images(_all(points), points.info)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pictures": _random_images(4)}, ["'pictures'", "expected 'images' or 'x'", "savez"]),
        ({"train": _random_images(4)}, ["'train'", "both 'train' and 'test'"]),
        ({"images": _random_images(4) / 255.0}, ["float64", "uint8", "(255 * x).round()"]),
        ({"images": _random_images(4)[..., 0]}, ["(4, 4, 5)", "[..., None]"]),
        ({"images": _random_images(4).transpose(0, 3, 1, 2)}, ["5 channels", "1 or 3", "transpose"]),
        ({"images": _random_images(4)[..., :2]}, ["2 channels", "1 or 3"]),
        ({"images": _random_images(4), "num_levels": np.array(17)}, ["found level", "0 to 16"]),
        ({"images": _random_images(4), "num_levels": np.array(8.5)}, ["num_levels", "8.5", "2 to 256"]),
        ({"images": _random_images(4)[:0]}, ["(0, 4, 5, 3)", "at least one"]),
        ({"images": _random_images(4)[:1]}, ["1 example", "at least 2"]),
        ({"images": _random_images(4), "labels": np.arange(3)}, ["shape (3,)", "(4,)"]),
        ({"x": np.array([[0.0, np.nan]] * 4)}, ["NaN", "finite"]),
        ({"train": np.zeros((4, 2)), "test": np.zeros((4, 3))}, ["(4, 2)", "(4, 3)"]),
    ],
)
def test_npz_errors_say_what_is_wrong(tmp_path: Path, arrays: dict[str, np.ndarray], words: list[str]) -> None:
    name = _save(tmp_path, **arrays)
    with pytest.raises(UserError) as caught:
        load_source(name, "train")
    for word in [name, *words]:
        assert word in str(caught.value)


def test_npz_files_that_are_not_archives_of_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with pytest.raises(UserError, match="there is no such file"):
        load_source(f"npz:{path}", "train")
    path.write_bytes(b"not a zip file")
    with pytest.raises(UserError, match=r"cannot be read.*intact"):
        load_source(f"npz:{path}", "train")
    np.savez(path, images=np.array([{"code": 1}], dtype=object))
    with pytest.raises(UserError, match="objects of Python, which may run code"):
        load_source(f"npz:{path}", "train")
    np.savez(path, images=_random_images(50))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cannot be read.*intact"):
        load_source(f"npz:{path}", "train")
    with path.open("wb") as sink:
        np.save(sink, _random_images(3))
    with pytest.raises(UserError, match="bare array"):
        load_source(f"npz:{path}", "train")


# --- folder ---


def _write_images(folder: Path, images: np.ndarray, pattern: str = "{:03d}.png") -> None:
    for row, image in enumerate(images):
        path = folder / pattern.format(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(path)


def test_folder_splits_by_name_and_reads_every_pixel(tmp_path: Path) -> None:
    images = _random_images(60)
    _write_images(tmp_path, images, "class/{:03d}.png")
    train, test = load_source(f"folder:{tmp_path}", "train"), load_source(f"folder:{tmp_path}", "test")
    none = np.zeros(60)
    assert _rows(np.concatenate([_all(train), _all(test)]), none) == _rows(images, none)
    assert 1 <= len(test) <= 15
    assert train.info == test.info and train.info[1:] == ((4, 5, 3), 256, None)
    # More files leave the split of the others as it was.
    _write_images(tmp_path, _random_images(5), "more/{:03d}.png")
    later = {image.tobytes() for image in _all(load_source(f"folder:{tmp_path}", "test"))}
    assert {image.tobytes() for image in _all(test)} <= later


def test_folder_takes_explicit_splits_and_gray_images_in_order_of_name(tmp_path: Path) -> None:
    train, test = _random_images(12)[..., :1], _random_images(3)[..., :1]
    _write_images(tmp_path / "train", train, "{:03d}.bmp")
    _write_images(tmp_path / "test", test, "{:03d}.PNG")
    np.testing.assert_array_equal(_all(load_source(f"folder:{tmp_path}", "train")), train)
    np.testing.assert_array_equal(_all(load_source(f"folder:{tmp_path}", "test")), test)
    # One color image among gray ones makes all of them color, with three equal channels.
    _write_images(tmp_path / "test", _random_images(1), "z{}.png")
    color = _all(load_source(f"folder:{tmp_path}", "train"))
    np.testing.assert_array_equal(color, np.repeat(train, 3, axis=-1))


def _damage_size(folder: Path) -> None:
    _write_images(folder, np.zeros((1, 7, 9, 3), np.uint8), "odd{}.png")


def _damage_end(folder: Path) -> None:
    path = folder / "005.png"
    path.write_bytes(path.read_bytes()[:-40])


def _damage_start(folder: Path) -> None:
    (folder / "005.png").write_bytes(b"no image")


def _damage_alpha(folder: Path) -> None:
    Image.fromarray(np.full((4, 5, 4), 100, np.uint8)).save(folder / "005.png")


def _damage_depth(folder: Path) -> None:
    Image.fromarray(np.full((4, 5), 1000, np.uint16)).save(folder / "005.png")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_damage_size, ["odd0.png", "9x7", "5x4", "000.png", "mogrify"]),
        (_damage_end, ["005.png", "cannot be read"]),
        (_damage_start, ["005.png", "cannot be read"]),
        (_damage_alpha, ["005.png", "transparent", "Flatten"]),
        (_damage_depth, ["005.png", "I;16", "8-bit"]),
    ],
)
def test_folder_errors_name_the_file(tmp_path: Path, damage: Callable[[Path], None], words: list[str]) -> None:
    for split in ("train", "test"):
        _write_images(tmp_path / split, _random_images(8))
    damage(tmp_path / "train")
    with pytest.raises(UserError) as caught:
        load_source(f"folder:{tmp_path}", "train")
    for word in words:
        assert word in str(caught.value)


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        load_source(f"folder:{tmp_path / 'nowhere'}", "train")
    with pytest.raises(UserError, match=r"holds no images, expected .*\.png"):
        load_source(f"folder:{tmp_path}", "train")
    _write_images(tmp_path / "train", _random_images(2))
    with pytest.raises(UserError, match="has a subfolder train, expected test as well"):
        load_source(f"folder:{tmp_path}", "train")
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match="no image fell into the test split"):
        load_source(f"folder:{tmp_path}", "test")
