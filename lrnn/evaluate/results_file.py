"""A file of results that grows by one result at a time, so that a failure later on loses none."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrnn.evaluate.record import write_record
from lrnn.runtime.errors import ConfigError


class ResultsFile:
    """JSON: {"checkpoint": ..., "step": ..., more of what was evaluated and how, "results": {name: result}}.

    Results of an earlier command stay if it evaluated the same in the same way. Else the first result replaces them,
    which is said at once, while there is time to move the file away.
    """

    def __init__(self, path: Path, setting: Mapping[str, Any]):
        """
        Args:
            path: The file.
            setting: What is evaluated and how.

        Raises:
            ConfigError: if a file of that name is no file of results.
        """
        self.path = path
        self.record: dict[str, Any] = {**setting, "results": {}}
        if path.is_file():
            old = read_results(path)
            new = json.loads(json.dumps(self.record))
            differing = [name for name in old | new if name != "results" and old.get(name) != new.get(name)]
            if not differing:
                self.record["results"] = old["results"]
            elif old["results"]:
                print(f"the results in {path} will be replaced, since these differ: {', '.join(differing)}")

    def add(self, name: str, result: Any) -> None:
        """Add a result, or replace the one of that name, and write the whole file.

        Raises:
            ConfigError: if the file can't be written.
        """
        self.record["results"][name] = result
        try:
            write_record(self.path, self.record)
        except OSError as error:
            raise ConfigError(f"out: {self.path} could not be written ({error.strerror or error})") from error


def read_results(path: Path) -> dict[str, Any]:
    """Read a file of results.

    Raises:
        ConfigError: if it is none.
    """
    try:
        record = json.loads(path.read_text())
        record["results"].items()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"out: {path} is no file of results; move it away") from error
    return dict(record)
