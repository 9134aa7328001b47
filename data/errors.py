"""The error that the data package raises, and the names of options in errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager


class DataError(ValueError):
    """Data are missing, damaged or not what the run needs. The message is one line that says what to change."""


@contextmanager
def options_of_data() -> Iterator[None]:
    """Name options as those of a data module, data.tokenizer and not tokenizer, in errors that are raised inside.

    It is for functions that commands also call, whose options have no such prefix.
    """
    try:
        yield
    except ValueError as error:  # a DataError too
        raise type(error)(re.sub(r"^(?=\w+: )", "data.", str(error))) from error
