"""Turn the message of a parser, of Lightning or of the system into one line that says what to change."""

import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from lrnn.runtime.wrong_class import wrong_class

LONGEST = 290  # characters


def one_line(message: str, arguments: Sequence[str] = (), options: Sequence[str] = ()) -> str:
    """Return the part of a message that says what to change.

    Args:
        message: The message of an error.
        arguments: Those of the command line. If the message names none of them, the last ones are added to it.
        options: Names of the command's options, such as trainer.max_steps. If the message is about an option that is
            none of them, the closest ones are added to it.
    """
    message = " ".join(message.split())
    message = wrong_class(message) or _hinted(_unknown(_must_be(_important(message)), options))
    given = _given(message, arguments)
    return _shorten(message, LONGEST - len(given)) + given


def _important(message: str) -> str:
    end = r" - (?:Expected a|Problem with|Not a valid subclass)"  # of one of the parser's attempts
    if "Parser key" not in message and (alone := re.search(rf"Errors: - (.*?){end}", message)):
        return alone[1]
    problem_of = rf"Problem with given class_path '(?!lightning\.Callback')([\w.]+)': (.*?){end}"
    union = re.search(rf'Parser key "([\w.]+)": (.*){problem_of}', message)
    if not union:
        return _expected(message)
    key, before, class_path, problem = union.groups()
    inside = re.search(r'Parser key "([\w.]+)": (?!.*Given value)', before)
    if inside:  # the class is a part of this option
        key = f"{key}.{inside[1]}"
    if unknown := re.fullmatch(r"Option '(.+)' is not accepted", problem):
        help_option = "" if inside else f"; --{key}.help={class_path} lists what is allowed"
        return f"{key}.{unknown[1]}: {class_path} has no such option{help_option}"
    if missing := re.fullmatch(r"the following arguments are required: (.+)", problem):
        return f"{key}: {class_path} needs {missing[1]}"
    if problem.endswith(":"):  # what follows is a union
        return f"{key}.{_union(message[union.start(4) :])}"
    # an option of a class that a callable stands for
    problem = re.sub(r'": Does .* a callable class: Parser key "(.*?)\. Got value: Name.*', r".\1", problem)
    return re.sub(r'^Parser key "(.+)":', rf"{key}.\1:", problem) if "Parser key" in problem else f"{key}: {problem}"


def _unknown(message: str, options: Sequence[str]) -> str:
    """Name an option that the command or a file of options does not have, and those that were likely meant."""
    argument = re.fullmatch(r"unrecognized arguments: --([\w.]+)\+?(?:[= ].*)?", message)
    in_file = re.fullmatch(
        r"(?:Group '([\w.]+)' does not accept option|Option) '([\w.]+)'(?: is not accepted)?", message
    )
    if not options or not (argument or in_file):
        return message
    name = argument[1] if argument else ".".join(filter(None, in_file.groups())) if in_file else ""
    if re.match(r"(optimizer|lr_scheduler)\b", name):
        hint = "the model makes its optimizer (configure_optimizers), and --schedule sets the rate"
    elif close := get_close_matches(name, options, n=2, cutoff=0.8):
        hint = f"did you mean {' or '.join(close)}?"
    else:
        hint = "--help lists what is allowed"
    return f"{name}: there is no such option; {hint}"


def _hinted(message: str) -> str:
    """Add what was likely meant: the closest class of a module, or a file of options without --config."""
    if unknown := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        module, name = unknown.groups()
        close = get_close_matches(name, getattr(sys.modules.get(module), "__all__", ()), n=1)
        return message + "".join(f"; did you mean {module}.{one}?" for one in close)
    if re.search(r"unrecognized arguments: .*\.ya?ml|arguments are required: .*(data|cells)", message):
        file = "conf/sweeps/parity.yaml" if "cells" in message else "conf/parity.yaml"
        return f"{message}; a file of options is given by --config, as in --config {file}"
    if flag := re.fullmatch(r"argument (--[\w.]+): expected one argument", message):
        return f"{flag[1].lstrip('-')}: must have a value, as in {flag[1]}=true"
    return message


def _expected(message: str) -> str:
    """Say what a value must be, in place of the parser's account of what it tried."""
    union = re.search(r'Parser key "([\w.]+)": .*Errors: (- .*) Given value type: .* Given value: (.*)$', message)
    if not union:
        return message
    key, errors, value = union.groups()
    allowed = [_plain(kind) for kind in re.findall(r"Expected an? (.+?)(?=\. Got| - |$)", errors)]
    return f"{key}: must be {' or '.join(dict.fromkeys(allowed))}, got {value[:60]}" if allowed else message


def _union(message: str) -> str:
    """Say what the value of the first key must be, from the types of its union."""
    found = re.match(r'Parser key "([\w.]+)":.*? Subtypes: \[(.*?)\] Errors: .*? Given value: (.*?) - \w', message)
    if not found:
        return message
    key, types, value = found.groups()
    allowed = [_plain(kind) for kind in re.split(r", (?![^\[]*\])", types)]
    return f"{key}: must be {' or '.join(allowed)}, got {value[:60]}"


def _must_be(message: str) -> str:
    """Say what a single value must be, in place of the parser's words."""
    message = re.sub(r'^Parser key "([\w.]+)": Expected', r"\1: Expected", message)
    if wrong := re.fullmatch(r"([\w.]+): Expected an? (.+?)\. Got value: (.*)", message):
        key, kind, value = wrong.groups()
        return f"{key}: must be {_plain(kind)}, got {value[:60]}"
    return message


def _plain(kind: str) -> str:
    """Return the parser's name of a type as the user writes its values."""
    if kind.startswith("dot import path string"):
        return "a class"
    kind = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", re.sub(r"<class '(.*?)'>", r"\1", kind)).replace("'", "")
    kind = kind.replace("tuple with", "a list with")
    kind = re.sub(r"(?:\w+\.)+(\w+)", r"\1", kind) if kind.startswith(("list[", "tuple[", "dict[")) else kind
    if kind in ("tuple", "collections.abc.Sequence"):
        return "a list"
    names = {"NoneType": "null", "collections.abc.Iterable": "list", "bool": "true or false", "int": "a whole number"}
    return {**names, "float": "a number", "str": "a text"}.get(kind, kind)


def _given(message: str, arguments: Sequence[str]) -> str:
    options = [argument for argument in arguments if argument.startswith("--") and not argument.startswith("--config")]
    words = set(re.findall(r"\w+", message))
    if any(set(_last_name(option)) & words for option in options):
        return ""
    said = ""
    for option in reversed(options):  # the later, the likelier at fault
        if len(said) + len(option[:80]) > 120:
            break
        said = f"{option[:80]} {said}"
    return f" (given {said.strip()})" if said else ""


def _last_name(option: str) -> list[str]:
    return re.findall(r"(\w+)\+?(?:=|$)", option)[:1]


def _shorten(message: str, longest: int) -> str:
    if len(message) <= longest:
        return message
    half = (longest - 5) // 2
    return f"{message[:half]} ... {message[-half:]}"
