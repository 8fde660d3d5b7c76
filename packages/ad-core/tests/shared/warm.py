"""Processes that have torch imported from the start, for tests that need many of them.

The fork server of `multiprocessing`, which has one thread, imports it once; each process is a fork
of that, with a memory, signals and an end of its own, as `python -c` has. What is imported when is
not for such a process to show.
"""

import multiprocessing
import os
import socket
import sys

_KIND = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_CONTEXT = multiprocessing.get_context(_KIND)
if _KIND == "forkserver":
    _CONTEXT.set_forkserver_preload(["timm", "ad.core.jobs.train", "ad.core.jobs.inspect"])


def start(program, *arguments, said, **environment):
    """Begin a program, with this process's folder and environment.

    Args:
        program: Python code, which is run as the main module.
        arguments: What it finds in `sys.argv` behind the first.
        said: File to which what it writes to stdout and stderr is added.
        environment: Variables beyond this process's.

    Returns:
        The process; after `join`, its `exitcode` is negative for a signal.
    """
    words = [str(argument) for argument in arguments]
    process = _CONTEXT.Process(
        target=_run,
        args=(program, words, str(said), os.getcwd(), {**os.environ, **environment}),
    )
    process.start()
    return process


def run(program, *arguments, said):
    """The same to its end: its exit status."""
    process = start(program, *arguments, said=said)
    process.join()
    return process.exitcode


def run_together(program, *arguments, said):
    """Two that learn together, as torchrun begins them: their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = [
        start(program, *arguments, said=said, LOCAL_RANK=rank, RANK=rank, **common)
        for rank in ("0", "1")
    ]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _run(program, arguments, said, folder, environment):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)
    sys.argv = ["-c", *arguments]
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
