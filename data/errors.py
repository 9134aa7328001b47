"""The error that the data package raises."""


class DataError(ValueError):
    """Data are missing, damaged or not what the run needs. The message is one line that says what to change."""
