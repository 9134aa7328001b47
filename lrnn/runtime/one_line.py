"""Turn the message of a parser, of Lightning or of the system into one line that says what to change."""

import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches

LONGEST = 290  # characters


def one_line(message: str, arguments: Sequence[str] = ()) -> str:
    """Return the part of a message that says what to change.

    Args:
        message: The message of an error.
        arguments: Those of the command line. If the message names none of them, the last ones are added to it.
    """
    message = _hinted(_typed(_important(" ".join(message.split()))))
    given = _given(message, arguments)
    return _shorten(message, LONGEST - len(given)) + given


def _important(message: str) -> str:
    if "Parser key" not in message and (alone := re.search(r"Errors: - (.*?) - Expected a", message)):
        return alone[1]
    problem_of = (
        r"Problem with given class_path '(?!lightning\.Callback')([\w.]+)': (.*?) - (?:Expected a|Problem with)"
    )
    union = re.search(rf'Parser key "([\w.]+)": .*{problem_of}', message)
    if not union:
        return _expected(message)
    key, class_path, problem = union.groups()
    if unknown := re.fullmatch(r"Option '(.+)' is not accepted", problem):
        return f"{key}.{unknown[1]}: {class_path} has no such option; --{key}.help={class_path} lists what is allowed"
    return re.sub(r'^Parser key "(.+)":', rf"{key}.\1:", problem) if "Parser key" in problem else f"{key}: {problem}"


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


def _typed(message: str) -> str:
    """Say what a value must be, where the parser tried one type."""
    one = re.fullmatch(r'(?:Parser key ")?([\w.]+)"?: Expected an? (.+?)\. Got value: (.*)', message)
    return f"{one[1]}: must be {_plain(one[2])}, got {one[3][:60]}" if one else message


def _expected(message: str) -> str:
    """Say what a value must be, in place of the parser's account of what it tried."""
    union = re.search(r'Parser key "([\w.]+)": .*Errors: (- .*) Given value type: .* Given value: (.*)$', message)
    if not union:
        return message
    key, errors, value = union.groups()
    allowed = [_plain(kind) for kind in re.findall(r"Expected an? (.+?)(?=\. Got| - |$)", errors)]
    return f"{key}: must be {' or '.join(dict.fromkeys(allowed))}, got {value[:60]}" if allowed else message


def _plain(kind: str) -> str:
    """Return the parser's name of a type as the user writes its values."""
    if kind.startswith("dot import path string"):
        return "a class"
    kind = re.sub(r"typing\.Literal\[(.*?)\]", r"\1", re.sub(r"<class '(.*?)'>", r"\1", kind)).replace("'", "")
    if kind in ("tuple", "list", "collections.abc.Iterable", "collections.abc.Sequence"):
        return "a list in brackets"
    names = {"NoneType": "null", "bool": "true or false", "int": "a whole number", "float": "a number"}
    return names.get(kind, re.sub("^(tuple|list) with", r"a list with", kind))


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
