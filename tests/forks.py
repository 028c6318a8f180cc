"""``python(…)``: what ``[sys.executable, …]`` would do, in a fork of a process that has everything imported already.

Starting an interpreter with torch takes longer than most of what tests do in one. The fork has a standard input, output
and error, an environment, a folder and an exit code of its own, and dies of signals as any process.
"""

import atexit
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
USED = (
    "torch._dynamo", "matplotlib.backends.backend_agg", "sklearn.datasets", "fieldguide.doctor.scripts",
    "fieldguide.cli.doctor", "fieldguide.cli.train", "fieldguide.cli.processes", "fieldguide.report",
)  # fmt: skip


def python(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``words`` are ``-m MODULE``, ``-c CODE`` or a file, and its arguments."""
    server = _server()
    assert server.stdin
    assert server.stdout
    with tempfile.TemporaryDirectory(prefix="fork-") as place:
        request = {"words": [*map(str, words)], "cwd": str(cwd or Path.cwd()), "place": place}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        said, errors = (Path(place, name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess([sys.executable, *request["words"]], code, said, errors)


@cache
def _server() -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.forks"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    atexit.register(server.kill)
    return server


def _serve() -> None:
    for name in USED:
        import_module(name)
    answers = os.dup(1)  # what a fork prints goes elsewhere
    for line in sys.stdin:
        request = json.loads(line)
        if (child := os.fork()) == 0:
            os.close(answers)
            _redirect(Path(request["place"]))
            os.chdir(request["cwd"])
            os._exit(_exit_code(lambda words=request["words"]: _run(*words)))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(answers, f"{code}\n".encode())


def _redirect(place: Path) -> None:
    for number, name in enumerate((os.devnull, place / "out", place / "err")):
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)


def _run(kind: str, *words: str) -> None:
    if kind == "-m":
        sys.argv, sys.path[0] = [words[0], *words[1:]], os.getcwd()
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *words[1:]]
        exec(words[0], {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = [kind, *words], str(Path(kind).resolve().parent)
        runpy.run_path(kind, run_name="__main__")


def _exit_code(act: Callable[[], None]) -> int:
    """As Python's own, but for Ctrl-C."""
    code = 0
    try:
        act()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException as crash:
        sys.excepthook(type(crash), crash, crash.__traceback__)
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    _serve()
