"""Errors that say what the user must change, and the check that raises most of them."""


class ConfigError(Exception):
    """Something in the configuration, the command line or the run's folder that the user must change."""


def check_at_least(least: int, **options: int | None) -> None:
    """Check that no option is below `least`, else raise a ConfigError that names it; None is allowed."""
    for name, value in options.items():
        if value is not None and value < least:
            raise ConfigError(f"{name}: must be at least {least}, got {value}")
