"""Write the record of an evaluation."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON. A file of this name is whole at any time: an earlier one stays until this one is written.

    Args:
        path: The file. Its folder is made if it is missing.
        record: What is written.
    """
    write_whole(path, json.dumps(record, indent=1) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a text in the same way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.replace(path)
