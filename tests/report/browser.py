"""A real browser without a window, spoken to over two pipes as its developer tools do (Chrome DevTools Protocol)."""

import fcntl
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    """One page. ``events`` keeps what the browser has reported meanwhile."""

    def __init__(self, commands: int, answers: int):
        self.commands, self.answers = commands, os.fdopen(answers, "rb")
        self.events: list[dict[str, Any]] = []
        self.number, self.session = 0, None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, /, **details: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": details}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, address: str) -> None:
        """Goes there, and waits until all of the page is: before, expressions see the page that was."""
        self.ask("Page.navigate", url=address)
        self.wait(f"location.href === new URL({json.dumps(address)}).href && document.readyState === 'complete'")

    def find(self, expression: str) -> Any:
        """What an expression of JavaScript is in the page now."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 20) -> Any:
        """What it is as soon as it is true."""
        end = monotonic() + seconds
        while not (found := self.find(expression)):
            assert monotonic() < end, f"{expression} did not come true; {self.find('document.body.innerText')!r}"
        return found

    def of(self, method: str) -> list[dict[str, Any]]:
        self.find("0")  # and with the answer whatever came before it
        return [event["params"] for event in self.events if event["method"] == method]

    def _next(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            assert byte, "the browser has gone"
            message += byte
        return json.loads(message)


def _above_four(pipe: int) -> int:
    """The same end of a pipe under a number that the browser, which wants 3 and 4, does not take away."""
    higher = fcntl.fcntl(pipe, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(pipe)
    return higher


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A fresh browser that keeps its things in ``folder``; the test is skipped where none is installed."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser is installed ({', '.join(NAMES)})")
    (hear, commands), (answers, tell) = (map(_above_four, os.pipe()) for _ in range(2))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += ["--remote-debugging-pipe", f"--user-data-dir={folder}", "--disable-background-networking"]
    quiet = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    pipes = [(os.POSIX_SPAWN_DUP2, hear, 3), (os.POSIX_SPAWN_DUP2, tell, 4)]
    process = os.posix_spawn(program, [program, *options], os.environ, file_actions=[*quiet, *pipes])
    os.close(hear), os.close(tell)
    try:
        yield Browser(commands, answers)
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(commands)
