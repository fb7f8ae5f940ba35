"""Chat templates are small programs that a model brings. Each is tried once, where it can do no harm."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from vlmed.errors import Problem
from vlmed.models.snapshot import read_config

_SECONDS = 5
# Exit codes of the child; 0 stands for a template that ends, whatever it writes or complains about.
_ESCAPES, _EXHAUSTS = 3, 4
# In jinja2's sandbox, as transformers uses it, and with little time and memory: the sandbox limits neither.
_CHILD = """
import sys
from jinja2.ext import loopcontrols
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]),) * 2)
except ImportError:
    pass
def stop(message):
    raise ValueError(message)
image, text = {"type": "image"}, {"type": "text", "text": "Is there a nodule?"}
try:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals.update(raise_exception=stop, strftime_now=str)
    template = environment.from_string(sys.stdin.read())
    for content in [image, text], [text], text["text"]:
        messages = [{"role": "user", "content": content}]
        try:
            template.render(messages=messages, add_generation_prompt=True, bos_token="<s>", eos_token="</s>")
        except ValueError:
            pass
except SecurityError as error:
    print(error)
    sys.exit(3)
except (MemoryError, OverflowError):
    sys.exit(4)
except Exception:
    pass
"""


def check_chat_templates(file: Path) -> list[Problem]:
    """What is wrong with the chat templates in a `.jinja` file or a configuration.

    Raises:
        InputError: The configuration is not JSON.
    """
    return [problem for place, template in _templates(file) if (problem := _try(file, place, template))]


def _templates(file: Path) -> list[tuple[str, str]]:
    """Place and text of each template."""
    if file.suffix == ".jinja":
        return [("", file.read_text("utf-8", errors="replace"))]
    if not re.fullmatch(r"(tokenizer|processor|\w*preprocessor)_config\.json|chat_template\.json", file.name):
        return []
    held: Any = read_config(file).get("chat_template")
    named = held if isinstance(held, list) else [{"template": held}]
    texts = [entry.get("template") for entry in named if isinstance(entry, dict)]
    return [("$.chat_template", text) for text in texts if isinstance(text, str)]


def _try(file: Path, place: str, template: str) -> Problem | None:
    """What is wrong with it, if anything."""
    # A tag of transformers' own; what stands between its ends is rendered all the same.
    code, said = _render(re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template))
    if code == _ESCAPES:
        return _problem("the chat template tries to leave its sandbox", file, place, "text", said[:200])
    if code == _EXHAUSTS:
        return _problem("the chat template exhausts the memory", file, place, "at most 1 GB")
    if code < 0:
        return _problem("the chat template doesn't end", file, place, f"an end within {_SECONDS} s and 1 GB")
    return None


@cache
def _render(template: str) -> tuple[int, str]:
    """The child's exit code, negative where it was stopped, and what it said; once for each template and process."""
    # -P: a file jinja2.py in the current folder is not what is meant.
    command = [sys.executable, "-P", "-c", _CHILD, str(_SECONDS)]
    try:
        child = subprocess.run(command, input=template, capture_output=True, text=True, timeout=2 * _SECONDS)
    except subprocess.TimeoutExpired:
        return -1, ""
    return child.returncode, child.stdout.strip()


def _problem(what: str, file: Path, place: str, expected: str, got: str = "") -> Problem:
    return Problem(what, str(file), place, expected, got, "read the template; delete it if the model needs none")
