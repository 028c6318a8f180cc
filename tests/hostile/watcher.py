"""A process that opens files it is told of, each in a fork, and says what that did: for hostile files.

A line of JSON comes in – entrance, file, folder – and one goes out: the error, the bytes of memory that it took, and
every event of Python's audit hooks that no reading of a file has need of.
"""

import json
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path

from tests.hostile.entrances import ENTRANCES
from tests.hostile.runs import a_run_of_images, a_run_of_text

from fieldguide.errors import FieldguideError

SECONDS = 2
"""Of processor, after which the system ends the fork."""
PATIENCE = 10
"""Seconds of wall time, for what waits and computes nothing; other processes may have the processor meanwhile."""
FORBIDDEN = ("os.system", "subprocess.", "os.exec", "os.posix_spawn", "os.spawn", "socket.", "pickle.find_class",
             "ctypes.dlopen", "webbrowser.", "urllib.", "ftplib.", "smtplib.", "shutil.rmtree")  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def memory(name: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def watch(log: int, folder: str) -> None:
    """Every forbidden event, and every file that is opened to be written elsewhere than in ``folder`` or a temporary
    one, goes into ``log``; forks of this process keep doing so."""
    own = (folder, os.path.join(tempfile.gettempdir(), "fieldguide-"), "/dev/null", "/proc/self")

    def hook(event: str, details: tuple) -> None:
        told = event.startswith(FORBIDDEN) and event != "socket.gethostname"  # a lock says whose it is
        if event == "shutil.rmtree":
            told = not str(details[0]).startswith(own)
        if event == "open" and isinstance(details[2], int) and details[2] & WRITES:
            told = isinstance(details[0], str | bytes | os.PathLike) and not os.fsdecode(details[0]).startswith(own)
        if told:
            os.write(log, f"{event} {details!r}\n".replace("\n", " ")[:300].encode() + b"\n")

    sys.addaudithook(hook)


def opened(entrance: str, path: Path, folder: str) -> dict:
    before = memory("VmRSS")
    problem = ""
    try:
        ENTRANCES[entrance](path)
    except FieldguideError as error:
        problem = str(error)
    except BaseException as error:
        return {"crash": f"{type(error).__name__}: {error}"}
    children = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"problem": problem, "memory": max(memory("VmHWM"), children) - before}


def main() -> None:
    for line in sys.stdin:
        entrance, path, folder = json.loads(line)
        answers, answer = os.pipe()
        logged, log = os.pipe()
        os.set_blocking(log, False)
        child = os.fork()
        if child == 0:
            try:
                resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
                signal.alarm(PATIENCE)
                watch(log, folder)
                os.write(answer, json.dumps(opened(entrance, Path(path), folder)).encode())
            finally:
                os._exit(0)
        os.close(answer)
        os.close(log)
        with os.fdopen(answers, "rb") as answers, os.fdopen(logged, "rb") as logged:
            said = answers.read()
            events = logged.read().decode().splitlines()
        _, status = os.waitpid(child, 0)
        result = json.loads(said) if said else {"crash": f"died with status {status}"}
        print(json.dumps({**result, "events": events}), flush=True)


def warm_up() -> None:
    """What torch imports the first time that it is needed is start-up, and no cost of a file."""
    with tempfile.TemporaryDirectory() as folder:
        for make, name in ((a_run_of_images, "report"), (a_run_of_images, "predict"), (a_run_of_text, "generate")):
            place = Path(folder, name)
            place.mkdir()
            ENTRANCES[f"command {name}"](make(place))


if __name__ == "__main__":
    warm_up()
    print("ready", flush=True)
    main()
