"""Tracer: every Python process that has this folder on its path logs when it reaches `WATCHED`.

Python imports a module of this name at start-up, in Ray's workers too. It uses only modules of the
standard library that every process has loaded anyway, because it must not add to the imports that
it measures.

Each event is a JSON line, appended to the file that `KILN_BENCH_TRACE` names: `time` (seconds
since the epoch), `pid`, `name`, and `import_s` (seconds that this process has spent on imports so
far). Only the first call of a watched function is logged, except for the one that
`KILN_BENCH_EVERY` names.
"""

import builtins
import functools
import os
import sys
import threading
import time

TRACE = os.environ.get("KILN_BENCH_TRACE")
EVERY = os.environ.get("KILN_BENCH_EVERY")
WATCHED = {
    "ray": ["init"],
    "mlflow": [],
    "torch": [],
    "components.tracking.store": ["connect"],
    "components.training.precision": ["probe"],
    "components.orchestration.trainer": ["Training.__init__"],
    "components.training.loop": ["train"],
    "components.orchestration.worker": ["run_worker", "_open_images"],
    "components.training.state": ["TrainState.optimizer_step"],
}
"""Module -> functions (dotted below the module) whose begin and end are logged.

A module that lacks one of its functions fails to import.
"""

MIN_IMPORT_S = 0.25
"""Seconds of imports after which the next import statement to end is logged."""

import_s = 0.0


def log(name):
    """Append an event with the present time to the trace."""
    line = (
        f'{{"time": {time.time()!r}, "pid": {os.getpid()}, "name": "{name}", '
        f'"import_s": {import_s!r}}}\n'
    )
    file = os.open(TRACE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, line.encode())
    os.close(file)


def watch(module, names):
    """Replace functions of a module by wrappers that log their calls."""
    for dotted in names:
        *path, name = dotted.split(".")
        owner = module
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, name, logged(f"{module.__name__}.{dotted}", getattr(owner, name)))


def logged(label, function):
    """Return `function` with an event before and after its first call, or after each."""
    called = False

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        nonlocal called
        if called and label != EVERY:
            return function(*args, **kwargs)
        called = True
        log(f"{label} begins")
        try:
            return function(*args, **kwargs)
        finally:
            log(f"{label} ends")

    return wrapper


def install():
    """Replace `import` by one that is timed, and watch each module of `WATCHED` once it is loaded.

    Only outermost import statements are timed: they contain the time of the nested ones.
    """
    plain_import = builtins.__import__
    thread = threading.local()
    last_logged_s = 0.0
    pending = dict(WATCHED)

    def timed_import(name, *args, **kwargs):
        global import_s
        nonlocal last_logged_s
        if getattr(thread, "importing", False):
            module = plain_import(name, *args, **kwargs)
        else:
            thread.importing = True
            start = time.perf_counter()
            try:
                module = plain_import(name, *args, **kwargs)
            finally:
                thread.importing = False
                import_s += time.perf_counter() - start
            if import_s - last_logged_s > MIN_IMPORT_S:
                last_logged_s = import_s
                log(f"imported {name}")
        for loaded in [candidate for candidate in pending if is_loaded(candidate)]:
            watch(sys.modules[loaded], pending.pop(loaded))
        return module

    builtins.__import__ = timed_import


def is_loaded(name):
    """Return whether a module's code has run to its end.

    The import system itself sets `_initializing` while the code runs.
    """
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


if TRACE:
    command = " ".join(" ".join(sys.orig_argv).split())[:120]
    log("process " + command.replace("\\", "/").replace('"', "'"))
    install()
