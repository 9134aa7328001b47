"""Errors that say what the user must change."""


class ConfigError(Exception):
    """Something in the configuration, the command line or the run's folder that the user must change."""
