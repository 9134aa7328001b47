"""Which files of a folder are documents, and which are not."""

import glob
from collections import Counter
from pathlib import Path

from data.errors import DataError

POINTER = b"version https://git-lfs.github.com/spec/v1\n"
POINTER_BYTES = 1024  # a pointer is smaller
POINTERS = "Git LFS pointer"
FETCH = "git lfs pull fetches what they point to"


def is_pointer(path: Path) -> bool:
    """Whether a file is what Git checks out in place of a large file that it has not fetched."""
    try:
        with path.open("rb") as file:
            return path.stat().st_size < POINTER_BYTES and file.read(len(POINTER)) == POINTER
    except OSError:  # reading the file will raise it again
        return False


def list_files(name: str) -> tuple[list[Path], str]:
    """Return the data files that `name` stands for, sorted, and a line that says what was left out.

    `name` is a folder, a pattern or a file.

    Raises DataError if a file that is named is a Git LFS pointer, or if everything was left out.
    """
    path = Path(name)
    if path.is_file():
        if is_pointer(path):
            raise DataError(f"source: {name} is a Git LFS pointer, not the file itself; git lfs pull fetches it")
        return [path], ""
    found = sorted(path.rglob("*")) if path.is_dir() else [Path(match) for match in sorted(glob.glob(name))]
    kept, left_out = [], Counter[str]()
    for file in found:
        kind = _kind(file, file.relative_to(path) if path.is_dir() else Path(file.name))
        if kind:
            left_out[kind] += 1
        elif not file.is_dir():
            kept.append(file)
        elif not path.is_dir():
            left_out["folder"] += 1
    said = "not read: " + ", ".join(f"{count:,} {kind}{'s' * (count > 1)}" for kind, count in sorted(left_out.items()))
    said += f" ({FETCH})" * (POINTERS in left_out)
    if left_out and not kept:
        raise DataError(f"source: {name} holds no documents ({said})")
    return kept, said if left_out else ""


def _kind(file: Path, inside: Path) -> str | None:
    """Return why a file is not data, or None for data and for folders."""
    if file.is_dir():
        return None
    if any(part.startswith(".") for part in inside.parts):
        return "hidden file"
    if not file.is_file():
        return "broken link or device"
    if file.name.split(".")[0].upper() == "README":
        return "README"
    return POINTERS if is_pointer(file) else None
