"""The user's own images: ``folder:PATH``."""

import hashlib
from pathlib import Path

import numpy as np

from score_sde.data.base import SPLITS, ArraySource, SourceInfo
from score_sde.data.images import ImageFormat, decode_image, image_format
from score_sde.errors import UserError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
FOLDER_TEST_SHARE = 10  # one file in ten goes to the test split when there are no train/ and test/ subfolders


def load_folder(path: str, split: str) -> ArraySource:
    """A split of a folder of images (png, jpg, jpeg, webp, bmp; subfolders included), decoded into memory.

    With subfolders ``train/`` and ``test/`` those are the splits; otherwise about a tenth of the files, chosen by
    a hash of the relative name, is the test split, so that adding files moves none of the others. Images come as
    uint8 ``(n, height, width, channels)`` in the order of their names: 1 channel if all are grey, else 3.

    Raises:
        UserError: for a missing or empty folder, an empty split, images of different sizes, transparency, more
            than 8 bits per channel, or an unreadable file.
    """
    root = Path(path)
    files = _image_files(root)
    # All splits are compared, so that training and test images cannot differ in shape.
    height, width, channels = _common_format(root, [file for names in files.values() for file in names])
    chosen = files[split]
    if not chosen:
        raise UserError(
            f"folder:{path}: no image fell into the {split} split, expected about one in {FOLDER_TEST_SHARE} in test "
            f"and the others in train. Add images, or put them into {root / 'train'} and {root / 'test'} yourself."
        )
    images = np.empty((len(chosen), height, width, channels), np.uint8)
    for row, file in enumerate(chosen):
        images[row] = decode_image(root / file, str(root / file), channels)
    return ArraySource(SourceInfo(f"folder:{path}", images.shape[1:], 256, None), images)


def _image_files(root: Path) -> dict[str, list[str]]:
    """The relative names of the images of each split, sorted."""
    if not root.is_dir():
        raise UserError(f"folder:{root}: there is no such folder. Give the path of a folder of images.")
    present = [split for split in SPLITS if (root / split).is_dir()]
    if len(present) == 1:
        missing = SPLITS[1 - SPLITS.index(present[0])]
        raise UserError(
            f"folder:{root} has a subfolder {present[0]}, expected {missing} as well (or neither, to split one tenth "
            f"off). Add {missing}, or rename {present[0]}."
        )
    if present:
        files = {split: [f"{split}/{name}" for name in _images_under(root / split)] for split in SPLITS}
    else:
        names = _images_under(root)
        files = {split: [name for name in names if _split_of(name) == split] for split in SPLITS}
    if not any(files.values()):
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"folder:{root} holds no images, expected files ending in {known}. Add some.")
    return files


def _images_under(top: Path) -> list[str]:
    """Image files under a folder, by relative name with forward slashes, in an order no file system changes."""
    files = (file for file in top.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    return sorted(file.relative_to(top).as_posix() for file in files)


def _split_of(name: str) -> str:
    digest = hashlib.md5(name.encode(), usedforsecurity=False).digest()
    return "test" if int.from_bytes(digest[:8], "big") % FOLDER_TEST_SHARE == 0 else "train"


def _common_format(root: Path, files: list[str]) -> ImageFormat:
    """The size that all images share, and their channels; reads headers only, so it is cheap."""
    formats = [image_format(root / file, str(root / file)) for file in files]
    first = formats[0]
    for file, found in zip(files, formats, strict=True):
        if found[:2] != first[:2]:
            expected = f"{first.width}x{first.height}"
            raise UserError(
                f"folder:{root}: {file} is {found.width}x{found.height} (width x height), expected {expected} like "
                f"{files[0]}. Bring all images to one size, for example: mogrify -resize '{expected}^' -gravity center "
                f"-extent {expected} FILES."
            )
    return first._replace(channels=max(found.channels for found in formats))
