import json
import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldguide import trace

records = st.dictionaries(st.text(min_size=1), st.one_of(st.integers(), st.floats(), st.booleans(), st.none()))


def _same(a, b):
    return a.keys() == b.keys() and all(
        x == y or (x != x and y != y) for x, y in zip(a.values(), b.values(), strict=True)
    )


@given(st.lists(records))
def test_what_is_written_comes_back(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    log = trace.Log(path)
    for record in written:
        log.write(record)
    read = list(trace.read(path)) if written else []
    assert len(read) == len(written)
    assert all(map(_same, read, written))


def test_every_line_is_standard_json_even_for_nan(tmp_path):
    path = tmp_path / "metrics.jsonl"
    trace.write(path, [{"loss": math.nan, "grad_norm": math.inf}])
    parsed = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert parsed == {"loss": "NaN", "grad_norm": "Infinity"}
    (record,) = trace.read(path)
    assert math.isnan(record["loss"])
    assert record["grad_norm"] == math.inf


def test_a_line_is_there_when_write_returns(tmp_path):
    log = trace.Log(tmp_path / "metrics.jsonl")
    log.write({"step": 1})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step":1}\n'


def test_an_unfinished_last_line_is_left_out_and_a_broken_one_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2')
    assert list(trace.read(path)) == [{"step": 1}]
    path.write_text('{"step": 1}\nhello\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2"):
        list(trace.read(path))


def test_kinds(tmp_path):
    path = tmp_path / "metrics.jsonl"
    trace.write(path, [{"kind": "step", "step": 1}, {"kind": "epoch", "epoch": 0}])
    assert [record["epoch"] for record in trace.read(path, "epoch")] == [0]


def test_rewind_cuts_back_and_goes_on(tmp_path):
    log = trace.Log(tmp_path / "metrics.jsonl")
    log.write({"step": 1})
    position = log.position
    log.write({"step": 2})
    log.rewind(position)
    log.write({"step": 3})
    assert [record["step"] for record in trace.read(log.path)] == [1, 3]
    log.rewind(10**9)
    assert [record["step"] for record in trace.read(log.path)] == [1, 3]


def test_lines_that_cannot_be_written_wait(tmp_path):
    folder = tmp_path / "gone"
    log = trace.Log(folder / "metrics.jsonl")
    log.write({"step": 1})
    assert "cannot write" in log.failure
    folder.mkdir()
    log.write({"step": 2})
    assert log.failure is None
    assert [record["step"] for record in trace.read(log.path)] == [1, 2]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_reported_and_not_raised(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = trace.Log(tmp_path / "metrics.jsonl")
    log.write({"step": 1})
    assert "No space left" in log.failure


def test_needs_no_torch():
    code = "import sys, fieldguide.trace; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_numbers_inside_tables_that_are_not_finite_come_back(tmp_path):
    record = {"kind": "sample", "step": 3, "layers": {"0": {"output": math.inf, "grad": math.nan, "type": "Linear"}}}
    log = trace.Log(tmp_path / "trace.jsonl")
    log.write(record)
    (back,) = trace.read(tmp_path / "trace.jsonl")
    assert math.isnan(back["layers"]["0"].pop("grad"))
    assert back["layers"]["0"] == {"output": math.inf, "type": "Linear"}
