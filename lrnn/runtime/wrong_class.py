"""Say which classes an option may name, in place of the parser's account of a name that it can't use."""

import inspect
import re
from difflib import get_close_matches
from importlib import import_module

FAMILIES = {  # option: the module that has our classes for it, and the base class of all that it takes
    "model": ("lrnn.models", "LanguageModel"),
    "model.mixers": ("lrnn.models", "Mixer"),
    "model.channel_mixer": ("lrnn.models", "Mixer"),
    "data": ("data", "LightningDataModule"),
    "trainer.callbacks": ("callbacks", "Callback"),
}
UNFIT = r"Expected a dot import path|does not correspond to a subclass|to be a subclass of|but is abstract"
VALUES = (  # where the parser says which class was given, the surest place first
    r"given class_path '([\w.]+)': module ",
    r"dot import path string: (\S+)",
    r"(?:Got|Given) value: (?:Namespace\(class_path='|\{'class_path': ')?([\w.]+)",
)


def wrong_class(message: str) -> str | None:
    """Return one line that names the option, what was given, and the class that was meant or those that there are.

    Args:
        message: The parser's message, in one line.

    Returns:
        None if the message is not about the name of a model, a mixer, a data module or a callback.
    """
    option = ".".join(dict.fromkeys(re.findall(r'Parser key "([\w.]+)"', message)))
    value = next((found[1] for pattern in VALUES if (found := re.search(pattern, message))), "")
    missing = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message)
    # a module that exists may lack an attribute of yet another module, which it uses
    absent = missing is not None and f"{value}.".startswith(f"{missing[1]}.{missing[2]}.")
    if option not in FAMILIES or not (absent or re.search(UNFIT, message)):
        return None
    module, base = FAMILIES[option]
    nested = re.search(r"NestedArg\(key='([\w.]+)'", message)  # the name of a mixer too
    key = f"{option.partition('.')[0]}.{nested[1]}" if nested else option
    if absent and missing and value.partition(".")[0] != module.partition(".")[0]:  # the user's own module
        return f"{key}: {missing[0]}"
    return f"{key}: must be the import path of a {base}, got {value[:60]}; {_hint(value, module, base)}"


def _hint(value: str, module: str, base: str) -> str:
    names = _classes(module, base)
    paths = [f"{module}.{name}" for name in names]
    close = get_close_matches(value if "." in value else f"{module}.{value}", paths, n=1, cutoff=0.8)
    return f"did you mean {close[0]}?" if close else f"{module} has {', '.join(names)}"


def _classes(module: str, base: str) -> list[str]:
    """Return the names of the classes of a module that are a `base`, without those that others of them extend."""
    found = import_module(module)  # only now, as commands without such options do not need it
    classes = [one for one in (getattr(found, name) for name in found.__all__) if inspect.isclass(one)]
    extended = {of for one in classes for of in one.__mro__[1:]}
    return [one.__name__ for one in classes if one not in extended and base in [of.__name__ for of in one.__mro__]]
