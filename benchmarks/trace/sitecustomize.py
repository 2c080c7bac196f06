"""Every Python process that finds this on its path writes down when it reaches what is watched below.

Python imports `sitecustomize` by itself, before anything else, hence in Ray's workers too. The standard library alone, and
only what a process has loaded anyway. One JSON line per event, appended to the file that `KILN_BENCH_TRACE` names:
`t` (seconds since the epoch), `pid`, `what`, and `imports`, the seconds that this process has spent on imports so far.
`KILN_BENCH_EVERY` may name one of those that are watched, every call of which is then noted.
"""

import builtins
import functools
import os
import sys
import threading
import time

TRACE, EVERY = os.environ.get("KILN_BENCH_TRACE"), os.environ.get("KILN_BENCH_EVERY")
# module -> attributes of it (dotted) whose first call is noted when it begins and when it ends.
WATCHED = {
    "ray": ["init"],
    "mlflow": [],
    "torch": [],
    "components.tracking.store": ["connect"],
    "components.training.precision": ["probe"],
    "components.orchestration.trainer": ["fit"],
    "components.training.loop": ["train"],
    "components.orchestration.worker": ["run", "_open"],
    "components.training.state": ["State.advance"],
}
_STEP_S = 0.25


def note(what):
    line = f'{{"t": {time.time()!r}, "pid": {os.getpid()}, "what": "{what}", "imports": {spent[0]!r}}}\n'
    file = os.open(TRACE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, line.encode())
    os.close(file)


def watch(module, names):
    for dotted in names:
        owner, name = module, dotted
        if "." in dotted:
            kind, name = dotted.split(".")
            owner = getattr(module, kind)
        setattr(owner, name, noted(f"{module.__name__}.{dotted}", getattr(owner, name)))


def noted(label, function):
    calls = []

    @functools.wraps(function)
    def wrapper(*words, **named):
        if calls and label != EVERY:
            return function(*words, **named)
        calls.append(1)
        note(f"{label} begins")
        try:
            return function(*words, **named)
        finally:
            note(f"{label} ends")

    return wrapper


def install():
    """Times outermost imports, and wraps what is watched once its module is there."""
    plain, here, last = builtins.__import__, threading.local(), [0.0]
    pending = dict(WATCHED)

    def timed(name, *words, **named):
        if getattr(here, "inside", False):
            module = plain(name, *words, **named)
        else:
            here.inside, start = True, time.perf_counter()
            try:
                module = plain(name, *words, **named)
            finally:
                here.inside = False
                spent[0] += time.perf_counter() - start
            if spent[0] - last[0] > _STEP_S:
                last[0] = spent[0]
                note(f"imported {name}")
        for known in [known for known in pending if finished(known)]:
            watch(sys.modules[known], pending.pop(known))
        return module

    builtins.__import__ = timed


def finished(name):
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


spent = [0.0]
if TRACE:
    words = " ".join(" ".join(sys.orig_argv).split())[:120]
    note("process " + words.replace("\\", "/").replace('"', "'"))
    install()
