"""A training that is followed while it writes: logs, rows, state, addresses, and the page in a real browser."""

import http.client
import json
import shutil
import threading
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.report.browser import browser
from torch import nn

from fieldguide import trace
from fieldguide.cli.doctor import records_of
from fieldguide.cli.watch import _Ward
from fieldguide.doctor.examination import examine
from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification
from fieldguide.report import live_rows
from fieldguide.report.live import Live
from fieldguide.report.live_log import LiveLog
from fieldguide.report.live_rows import LiveRows
from fieldguide.report.live_server import LiveServer
from fieldguide.train.callbacks import Callback
from fieldguide.train.fitting import fit
from fieldguide.train.recipe import Recipe
from fieldguide.train.run import RunFolder


@pytest.fixture
def serve():
    """Starts a server for a run, and gives what asks it."""
    servers = []

    def start(run: Path):
        server = LiveServer(Live(run, _Ward))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)

        def ask(path: str, method: str = "GET", headers: dict | None = None):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return answer, answer.read()

        ask.address = server.address
        return ask

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def fit_on(run: Path, *callbacks: Callback, epochs: int = 3, resume: bool = False):
    torch.manual_seed(0)
    inputs, labels = torch.randn(80, 8), torch.randint(0, 3, (80,))
    recipe = Recipe(epochs=epochs, batch_size=16, threads=1)
    folder = RunFolder.open(run) if resume else RunFolder.create_at(run)
    data = (inputs, labels), (inputs, labels)
    return fit(nn.Linear(8, 3), data, Classification(), recipe, run=folder, callbacks=callbacks, resume=resume)


def test_a_line_that_is_not_finished_waits(tmp_path):
    log = LiveLog(tmp_path / "log")
    assert log.look() == (True, [])
    (tmp_path / "log").write_bytes(b'{"step":1}\n{"st')
    assert log.look() == (True, [{"step": 1}])
    assert log.look() == (True, [])
    (tmp_path / "log").write_bytes(b'{"step":1}\n{"step":"NaN","text":"\xc3\xa9"}\n')
    same, (record,) = log.look()
    assert same
    assert record["step"] != record["step"]
    assert record["text"] == "é"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.integers(-40, -1), st.integers(1, 60), st.just(0)), max_size=25))
def test_whatever_happens_to_a_log_what_was_read_is_what_stands_in_it(tmp_path_factory, moves):
    """A positive move appends so many bytes of further lines, a negative one cuts at a line, 0 looks."""
    path = tmp_path_factory.mktemp("log") / "log"
    log, seen, coming, number = LiveLog(path), [], b"", 0
    path.touch()
    for move in [*moves, 0]:
        content = path.read_bytes()
        if move > 0:
            while len(coming) < move:
                number += 1
                coming += json.dumps({"step": number}).encode() + b"\n"
            path.write_bytes(content + coming[:move])
            coming = coming[move:]
        elif move < 0:
            path.write_bytes(content[: content.rfind(b"\n", 0, max(0, len(content) + move)) + 1])
            coming = b""
        else:
            while True:
                same, records = log.look()
                seen = [*(seen if same else []), *records]
                if not records:
                    break
            whole = path.read_bytes().rpartition(b"\n")[0]
            assert seen == [json.loads(line) for line in whole.splitlines()]


def test_a_line_without_end_and_one_that_is_no_record(tmp_path, monkeypatch):
    (tmp_path / "log").write_text("nonsense\n")
    with pytest.raises(ValueError, match="log: a line is not a JSON object"):
        LiveLog(tmp_path / "log").look()
    monkeypatch.setattr(trace, "LINE_LIMIT", 100)
    (tmp_path / "log").write_text(json.dumps({"step": 1, "text": "x" * 200}) + "\n")
    with pytest.raises(ValueError, match="longer than any record"):
        LiveLog(tmp_path / "log").look()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["step", "sample", "epoch", "look", "clear"]), max_size=120))
def test_a_reader_who_comes_now_and_then_has_all_rows(kinds):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_rows, "MOST", 10)
        rows, had, end = LiveRows(), [], 0
        for step, kind in enumerate([*kinds, "look"]):
            if kind == "look":
                new = rows.since(end)
                had = [*had, *new] if len(new) == rows.end - end else [*new]
                end = rows.end
                assert had == rows.rows
                assert len(had) < 10
            elif kind == "clear":
                rows.clear()
            else:
                rows.add({"kind": kind, "step": step, "loss": 1.0})


def test_halved_rows_are_means(monkeypatch):
    monkeypatch.setattr(live_rows, "MOST", 8)
    rows = LiveRows()
    for step in range(1, 65):
        rows.add({"kind": "step", "step": step, "loss": float(step), "seconds": 0.5, "text": "no figure"})
    found = [(row["step"], row["loss"], row["seconds"]) for row in rows.rows]
    width = 64 // len(found)
    assert found == [(end, end - (width - 1) / 2, 0.5) for end in range(width, 65, width)]


def test_a_training_is_seen_step_by_step(tmp_path, serve):
    """Real requests of a real training that writes; what is read is what its log holds, and the doctor agrees."""
    ask, rows, seen = serve(tmp_path / "run"), [], []

    class Reader(Callback):
        def look(self):
            answer, body = ask(f"/state.json?since={seen[-1]['end'] if seen else 0}")
            assert answer.status == 200
            state = json.loads(body)
            assert state["fresh"] == (not seen)
            rows.extend(state["rows"])
            seen.append(state)
            return state

        def on_start(self, loop):
            super().on_start(loop)
            assert self.look()["step"] == 0

        def on_step(self, record):
            state = self.look()
            assert (state["step"], state["finished"], state["problem"]) == (record["step"], record["step"] == 15, None)
            assert [row for row in state["rows"] if row["kind"] == "step"][-1]["loss"] == record["loss"]

    fit_on(tmp_path / "run", Reader())
    assert [row["kind"] for row in rows].count("step") == 15
    logged = [record["loss"] for record in trace.read(tmp_path / "run" / "metrics.jsonl", "step")]
    assert [row["loss"] for row in rows if row["kind"] == "step"] == logged
    assert [state["steps"] for state in seen[1:]] == [None] * 5 + [15] * 10
    assert all(state["seconds_left"] > 0 for state in seen[6:-1])
    (tmp_path / "run" / "metrics.jsonl").open("a").write('{"kind":"test","step":15,"test_accuracy":0.5}\n')
    state = json.loads(ask("/state.json")[1])
    assert state["results"] == {"accuracy": "50.00%"}
    own = examine(records_of(tmp_path / "run")).to_json()
    assert {key: state["doctor"][key] for key in ("verdict", "step")} == {key: own[key] for key in ("verdict", "step")}
    assert [found["slug"] for found in state["doctor"]["findings"]] == [found["slug"] for found in own["findings"]]


def test_a_resumed_training_begins_anew_where_it_was_cut(tmp_path):
    live = Live(tmp_path / "run", _Ward)

    class Unplugged(Callback):
        def on_step(self, record):
            if record["step"] == 8:
                raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        fit_on(tmp_path / "run", Unplugged())
    before = live.state()
    assert (before["step"], before["finished"]) == (8, False)
    fit_on(tmp_path / "run", resume=True)
    after = live.state(before["end"])
    assert after["fresh"]
    assert [row["step"] for row in after["rows"] if row["kind"] == "step"] == list(range(1, 16))


def test_a_run_without_news_one_that_is_damaged_and_one_that_is_gone(run, tmp_path):
    live = Live(run, _Ward)
    assert live.state()["problem"] is None
    kept = live.state()["end"]
    (run / "metrics.jsonl").open("a").write("nonsense\n")
    assert "not a JSON object" in live.state()["problem"]
    (run / "recipe.toml").write_text("= nothing")
    assert "recipe.toml cannot be read" in live.state()["problem"]
    shutil.rmtree(run)
    state = live.state()
    assert state["problem"] == f"{run} is gone; this is what was read of it"
    assert (state["end"], len(state["rows"])) == (kept, 168)
    run.mkdir()
    state = live.state(kept)
    assert (state["problem"], state["fresh"], state["rows"], state["step"]) == (None, True, [], 0)


@pytest.mark.parametrize(
    "line",
    [
        '{"kind":"step","step":"NaN","loss":"NaN"}',
        '{"kind":"step","step":{},"loss":[]}',
        '{"kind":["step"],"step":1}',
        '{"kind":"test","step":1,"test_accuracy":"</script><script>alert(1)</script>"}',
        '{"kind":"epoch","step":1e999,"val_loss":{"a":1}}',
        '{"kind":"sample","step":1,"layers":7,"data_wait":true}',
        '{"kind":"failure","step":1,"message":["x"]}',
        '{"kind":"step","step":1' + "0" * 1000 + "}",
    ],
)
def test_whatever_a_log_holds_the_answer_is_json(line, run, serve):
    (run / "metrics.jsonl").write_text(line + "\n" + '{"kind":"step","step":3,"loss":"Infinity"}\n')
    answer, body = serve(run)("/state.json")
    assert answer.status == 200
    refused = []
    json.loads(body, parse_constant=refused.append)
    assert not refused


def test_three_addresses_and_nothing_else(run, serve):
    ask = serve(run)
    for path, kind in (("/", "text/html"), ("/state.json", "application/json"), ("/icon.svg", "image/svg+xml")):
        answer, body = ask(path)
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith(kind)
        assert int(answer.headers["Content-Length"]) == len(body)
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
    for path in ("/recipe.toml", "/../recipe.toml", "/%2e%2e/recipe.toml", "//etc/passwd", "/state.json/", "/state"):
        assert ask(path)[0].status == 404
    for since in ("-1", "1.5", "x", "9" * 30, "²"):
        assert ask(f"/state.json?since={quote(since)}")[0].status == 400
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
        assert ask("/", method)[0].status == 501


@pytest.mark.parametrize(("host", "status"), [
    ("localhost", 200), ("localhost:8080", 200), ("127.0.0.1", 200), ("evil.example", 403), ("", 403),
    ("127.0.0.1.evil.example:80", 403), ("localhost.evil.example", 403), ("[::1]", 403),
])  # fmt: skip
def test_no_other_name_leads_here(run, serve, host, status):
    ask = serve(run)
    for path in ("/", "/state.json", "/nothing"):
        answer, body = ask(path, headers={"Host": host})
        assert answer.status == (status if path != "/nothing" or status == 403 else 404)
        assert status == 200 or (b"loss" not in body and str(run).encode() not in body)


def test_only_this_machine_and_a_port_once(run):
    with LiveServer(Live(run, _Ward)) as server:
        assert server.socket.getsockname()[0] == "127.0.0.1"
        with pytest.raises(FieldguideError, match=f"--port {server.server_port}: .*in use; choose another one"):
            LiveServer(Live(run, _Ward), server.server_port)


class Paced(Callback):
    """Lets the training take its steps when it is told to."""

    def __init__(self):
        self.may, self.done = threading.Semaphore(0), threading.Event()

    def on_step(self, record):
        self.may.acquire(timeout=60)

    def on_test(self, record):
        self.done.set()


def test_the_page_in_a_real_browser(tmp_path, serve):
    """It follows a training that goes on, loads nothing but its three addresses, and breaks no rule of its own."""
    path, pace = tmp_path / "run", Paced()
    ask = serve(path)
    with browser(tmp_path / "browser") as page:
        page.open(ask.address)
        assert "is gone" in page.wait("document.querySelector('#problem').innerText")
        training = threading.Thread(target=fit_on, args=(path, pace), daemon=True)
        training.start()
        page.wait("document.querySelector('#tiles').innerText.includes('step\\n1')")
        for _ in range(7):
            pace.may.release()
        page.wait("document.querySelector('#tiles').innerText.includes('8 / 15')")
        assert page.find("document.querySelector('#problem').hidden")
        assert page.find("document.querySelector('#status').innerText").startswith("training · ")
        assert page.find("document.title") == "53 % · run"
        for _ in range(8):
            pace.may.release()
        training.join(timeout=60)
        page.wait("document.querySelector('#status').innerText.startsWith('finished')")
        said = page.find("[...document.querySelectorAll('svg')].map(svg => svg.getAttribute('aria-label'))")
        losses = [record["val_loss"] for record in trace.read(path / "metrics.jsonl", "epoch")]
        assert f"validation {losses[-1]:.4g}" in said[0]
        assert [title.split(" by step")[0] for title in said] == [
            *("loss", "validation accuracy, %", "learning rate", "gradient norm", "samples a second", "memory, GiB"),
            *("waiting for data, % of the time", "‖update‖ / ‖weights‖"),
        ]
        drawn = page.find("document.querySelector('#charts').innerHTML")
        assert "<path" in drawn
        assert "NaN" not in drawn
        assert "Infinity" not in drawn
        shutil.rmtree(path)
        page.wait("document.querySelector('#problem').innerText.includes('is gone')")
        asked = {event["request"]["url"].partition("?")[0] for event in page.of("Network.requestWillBeSent")}
        assert asked == {ask.address, f"{ask.address}state.json"} | (asked & {f"{ask.address}icon.svg"})
        assert not page.of("Log.entryAdded")
        assert not page.of("Runtime.exceptionThrown")


def test_what_a_run_says_is_never_run(run, serve, tmp_path):
    """Names, evidence and failures of a stranger's run are text in the page."""
    evil = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
    (run / "environment.json").write_text(json.dumps({"job": {"model": evil, "data": "d", "unit": evil}}))
    with (run / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"kind": "failure", "step": 9, "message": evil}) + "\n")
    ask = serve(run)
    with browser(tmp_path / "browser") as page:
        page.open(ask.address)
        page.wait("document.querySelector('h1').innerText.includes('onerror')")
        assert page.find("document.querySelector('#said').innerText") == evil
        assert page.find("document.images.length + document.scripts.length") == 1
        assert page.find("document.title") == f"100 % · {evil} on d"
