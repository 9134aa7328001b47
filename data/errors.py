"""The one error of this room."""


class DataError(ValueError):
    """Data that are missing, damaged or not what the run needs; the message is one line that says what to change."""
