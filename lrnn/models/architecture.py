"""An architecture: a language model all of whose blocks have the same kind of mixer.

    class DeltaNet(Architecture, mixer=DeltaNetMixer):
        ...

is all that it takes to make one. The options of DeltaNet are those of LanguageModel and those of DeltaNetMixer. Each
option is declared and described in one place.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter
from types import MappingProxyType
from typing import Any

from lrnn.models.language_model import LanguageModel
from lrnn.models.mixer import Mixer


class Architecture(LanguageModel):
    """Base of the architectures. A subclass names its mixer, and may change the default of any option."""

    _mixer: type[Mixer] | None = None
    _defaults: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, **options: Any):
        raise TypeError(f"{type(self).__name__} names no mixer: class {type(self).__name__}(Architecture, mixer=...)")

    def __init_subclass__(cls, mixer: type[Mixer] | None = None, **defaults: Any) -> None:
        """
        Args:
            mixer: class of the mixers; that of the parent class when absent.
            defaults: other defaults of options, by name. A class without `mixer` inherits those of its parent class.

        Raises:
            TypeError: if the mixer declares an option that LanguageModel declares, or a default has no option.
        """
        super().__init_subclass__()
        if mixer is not None:
            cls._mixer, cls._defaults = mixer, defaults
        elif defaults and cls._mixer is not None:
            cls._defaults = {**cls._defaults, **defaults}
        else:
            return
        cls.__init__ = _initializer(cls._mixer, cls._defaults)  # type: ignore[method-assign]


def _initializer(mixer: type[Mixer], defaults: Mapping[str, Any]) -> Callable[..., None]:
    """Make the `__init__` of an architecture. Its signature is what the command line reads."""
    mixer_options, model_options = _options(mixer), _options(LanguageModel)
    twice = mixer_options.keys() & model_options.keys()
    if twice:
        raise TypeError(f"{mixer.__name__} declares {', '.join(sorted(twice))}, which LanguageModel declares too")
    options = mixer_options | model_options
    if unknown := defaults.keys() - options.keys():
        raise TypeError(f"{mixer.__name__}: there is no option {', '.join(sorted(unknown))} to give a default")
    parameters = [p.replace(default=defaults.get(name, p.default)) for name, p in options.items()]
    signature = inspect.Signature([Parameter("self", Parameter.POSITIONAL_OR_KEYWORD), *parameters])

    def __init__(self: LanguageModel, **given: Any) -> None:
        bound = signature.bind(self, **given)
        bound.apply_defaults()
        chosen = {name: value for name, value in bound.arguments.items() if name != "self"}
        make_mixer = partial(mixer, **{name: chosen[name] for name in mixer_options})
        LanguageModel.__init__(self, make_mixer, **{name: chosen[name] for name in model_options})
        self.record_options(chosen)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    __init__.__doc__ = "Take the options of the mixer and of the model.\n\nArgs:\n" + "\n".join(
        inspect.cleandoc(source.__init__.__doc__ or "").partition("Args:\n")[2] for source in (mixer, LanguageModel)
    )
    return __init__


def _options(owner: type) -> dict[str, Parameter]:
    """Return the options that a class declares: the parameters of `__init__` after `self` and the first argument.

    The first argument of a mixer is its `Layer`, and that of LanguageModel makes the mixers. Neither is an option.
    """
    _, _, *declared = inspect.signature(owner.__init__).parameters.values()  # type: ignore[misc]
    return {p.name: p.replace(kind=Parameter.KEYWORD_ONLY) for p in declared}
