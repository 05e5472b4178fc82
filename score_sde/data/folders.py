"""The user's own images: ``folder:PATH``."""

import hashlib
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from score_sde.data.base import SPLITS, ArraySource, SourceInfo
from score_sde.data.description import counted, suffixes
from score_sde.data.images import ImageFormat, decode_image, image_format
from score_sde.errors import UserError, plural
from score_sde.files import reason_of
from score_sde.machine import memory_bytes

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
FOLDER_TEST_SHARE = 10  # one file in ten goes to the test split when there are no train/ and test/ subfolders
# Names of splits in use, lower case: training, val, train2017, testA, held-out, validation_images.
_LIKE_A_SPLIT = re.compile(
    "(train|training|trn|tests?|testing|tst|val|valid|validation|eval|evaluation|dev|hold-?out|held[-_ ]?out)"
    "(set|data|images|a|b|[^a-z].*)?"
)


def load_folder(path: str, split: str) -> ArraySource:
    """A split of a folder of images (png, jpg, jpeg, webp, bmp; subfolders included), decoded into memory.

    Subfolders ``train/`` and ``test/`` (or ``Train/`` and ``TEST/``) are the splits. Without them, about a tenth of the
    files, chosen by a hash of the relative name, is the test split, so that adding files moves no others. Images come
    as uint8 ``(n, height, width, channels)`` in the order of their names: 1 channel if all are gray, else 3; upright,
    by their orientation tags. Hidden files and folders are left out, and links to folders are not followed. Where all
    images lie in subfolders (of the splits), and in two or more, these are their classes, in the order of their names.

    Raises:
        UserError: for a missing, unreadable or empty folder, an empty split, parts of a split under other names, images
            of different sizes or of more than the memory of this machine, and an image that
            :func:`~score_sde.data.images.decode_image` refuses.
    """
    root = Path(path)
    files, notes = _image_files(root)
    # All splits are compared, so that training and test images cannot differ in shape.
    names = [file for split_files in files.values() for file in split_files]
    formats = [image_format(root / file, shown(root / file)) for file in names]
    height, width, channels = _common_format(root, names, formats)
    chosen = files[split]
    if not chosen:
        raise UserError(
            f"folder:{path}: no image fell into the {split} split, expected about one in {FOLDER_TEST_SHARE} in test "
            f"and the others in train. Add images, or put them into {root / 'train'} and {root / 'test'} yourself."
        )
    images = np.empty((len(chosen), height, width, channels), np.uint8)
    for row, file in enumerate(chosen):
        pixels = decode_image(root / file, shown(root / file), channels)
        if pixels.shape != images.shape[1:]:  # by an orientation tag after the pixels, not in the header
            raise _other_size(root, file, ImageFormat(*pixels.shape), chosen[0], ImageFormat(*images.shape[1:]))
        images[row] = pixels
    gray = sum(found.channels < channels for found in formats)
    notes += [
        counted(gray, "image is", "images are", "gray, taken as RGB"),
        counted(sum(found.turned for found in formats), "image is", "images are", "turned upright by a tag"),
        counted(sum(found.profiled for found in formats), "image has", "images have", "a color profile, left aside"),
    ]
    depth = 1 if _splits_of(root) else 0
    classes = tuple(sorted({_class_of(name, depth) for name in names}))
    if len(classes) < 2 or "" in classes:
        classes = ()
    labels = np.asarray([classes.index(_class_of(name, depth)) for name in chosen], np.int32) if classes else None
    info = SourceInfo(f"folder:{path}", images.shape[1:], 256, len(classes) or None)
    return ArraySource(info, images, labels, notes=tuple(filter(None, notes)), classes=classes)


def _class_of(name: str, depth: int) -> str:
    """The subfolder that an image lies in, below ``depth`` folders; empty for none."""
    parts = name.split("/")[depth:]
    return parts[0] if len(parts) > 1 else ""


class _Found(NamedTuple):
    """The content of a folder: images by relative name, and omissions."""

    images: list[str]
    others: list[str]
    hidden: int
    links: int


def _image_files(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The relative names of the images of each split, sorted; and the omissions, in words."""
    if not root.is_dir():
        raise UserError(f"folder:{root}: there is no such folder. Give the path of a folder of images.")
    present = _splits_of(root)
    rest = _under(root, without=tuple(present.values()))
    parts = {split: _under(root / name, prefix=f"{name}/") for split, name in present.items()}
    files = {split: part.images for split, part in parts.items()}
    if not present:
        _check_no_split(root, rest.images)
        files = {split: [name for name in rest.images if _split_of(name) == split] for split in SPLITS}
    others = [name for part in (rest, *parts.values()) for name in part.others]
    hidden, links = (sum(getattr(part, what) for part in (rest, *parts.values())) for what in ("hidden", "links"))
    beside = len(rest.images) if present else 0
    if not any(files.values()):
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"folder:{root} holds no images, expected files ending in {known}. Add some.")
    notes = [
        counted(len(others), "file of another kind is", "files of other kinds are", f"ignored ({suffixes(others)})"),
        counted(hidden, "hidden file or folder is", "hidden files and folders are", "ignored"),
        counted(links, "link to a folder or to nothing is", "links to folders or to nothing are", "ignored"),
        counted(beside, "image beside train and test is", "images beside train and test are", "ignored"),
    ]
    return files, notes


def _splits_of(root: Path) -> dict[str, str]:
    """The subfolder of each split, in any case; none, or one for each."""
    try:
        names = sorted(name for name in os.listdir(root) if (root / name).is_dir())
    except OSError as error:
        _refuse(error)
    found = {split: [name for name in names if name.lower() == split] for split in SPLITS}
    if twice := next((names for names in found.values() if len(names) > 1), None):
        raise UserError(f"folder:{root} has the subfolders {' and '.join(twice)}; expected one of them. Join them.")
    present = {split: names[0] for split, names in found.items() if names}
    if len(present) == 1:
        ((split, name),) = present.items()
        missing = SPLITS[1 - SPLITS.index(split)]
        alike = " or ".join(shown(Path(one)) for one in names if _LIKE_A_SPLIT.fullmatch(one.lower()) and one != name)
        raise UserError(
            f"folder:{root} has a subfolder {name}, expected {missing} as well (or neither, to split one tenth "
            f"off). Add {missing}{f', such as by renaming {alike}' * bool(alike)}, or rename {name}."
        )
    return present


def _check_no_split(root: Path, images: Sequence[str]) -> None:
    """Refuse folders that are already split: a new split of all images would train on held-out ones."""
    parts = {part for name in images for part in name.split("/")[:-1] if _LIKE_A_SPLIT.fullmatch(part.lower())}
    if parts:
        words = " and ".join(shown(Path(part)) for part in sorted(parts))
        look = "look like parts" if len(parts) > 1 else "looks like part"
        raise UserError(
            f"folder:{root}: {words} {look} of a split, and the splits are {root / 'train'} and "
            f"{root / 'test'}. Rename or move them to these two, or give them other names to have one tenth of all "
            "images split off."
        )


def _under(top: Path, *, prefix: str = "", without: Sequence[str] = ()) -> _Found:
    """The content of a folder, except for some of its subfolders, in an order independent of the file system."""
    images, others, hidden, links = [], [], 0, 0
    for folder, subfolders, files in os.walk(top, onerror=_refuse):
        if Path(folder) == top:
            subfolders[:] = [name for name in subfolders if name not in without]
        entries = [name for name in (*subfolders, *files) if not name.startswith(".")]
        hidden += len(subfolders) + len(files) - len(entries)
        dead = {name for name in entries if _leads_nowhere(Path(folder, name))}
        links += len(dead)
        subfolders[:] = [name for name in subfolders if name in entries and name not in dead]
        for name in sorted(set(files) & set(entries) - dead):
            path = Path(folder, name)
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                images.append(prefix + path.relative_to(top).as_posix())
            else:
                others.append(name)
    return _Found(sorted(images), others, hidden, links)


def _leads_nowhere(path: Path) -> bool:
    """Whether the path is a link to a folder, which may be circular, or to nothing."""
    return path.is_symlink() and not path.is_file()


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"folder:{error.filename} cannot be read ({reason_of(error)}). Make it readable, or remove it.")


def _split_of(name: str) -> str:
    # A name that is not text is compared by its bytes in the file system.
    digest = hashlib.md5(os.fsencode(name), usedforsecurity=False).digest()
    return "test" if int.from_bytes(digest[:8], "big") % FOLDER_TEST_SHARE == 0 else "train"


def shown(path: Path) -> str:
    """The name of a file as printable text, even if it is not text."""
    return os.fsencode(path).decode("utf-8", "replace")


def _common_format(root: Path, files: Sequence[str], formats: Sequence[ImageFormat]) -> tuple[int, int, int]:
    """The height and width that all images share, and their channels, after a look at the memory they need."""
    first = formats[0]
    for file, found in zip(files, formats, strict=True):
        if found[:2] != first[:2]:
            raise _other_size(root, file, found, files[0], first)
    shape = (first.height, first.width, max(found.channels for found in formats))
    needed, memory = len(files) * math.prod(shape), memory_bytes()
    if needed > memory:
        raise UserError(
            f"folder:{root} holds {len(files):,} {plural(len(files), 'image')} of {first.width}x{first.height}, which "
            f"{plural(len(files), 'takes', 'take')} {needed / 1e9:,.1f} GB, and this machine has "
            f"{memory / 1e9:,.1f} GB. Write them as ArrayRecord files (arrayrecord:PATH), which are read "
            "one by one, or make the images smaller."
        )
    return shape


def _other_size(root: Path, file: str, found: ImageFormat, like: str, wanted: ImageFormat) -> UserError:
    expected = f"{wanted.width}x{wanted.height}"
    return UserError(
        f"folder:{root}: {shown(Path(file))} is {found.width}x{found.height} (width x height, upright), expected "
        f"{expected} like {shown(Path(like))}. Bring all images to one size, for example: mogrify -auto-orient -resize "
        f"'{expected}^' -gravity center -extent {expected} FILES."
    )
