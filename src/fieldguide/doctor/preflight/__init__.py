"""Tests that are made before the first step: of copies, with the first batches, in about a second."""

import io
import time
from collections.abc import Callable
from contextlib import redirect_stdout

import torch

from fieldguide.doctor.preflight.affine import affine
from fieldguide.doctor.preflight.batch_independence import batch_independence
from fieldguide.doctor.preflight.causal import causal
from fieldguide.doctor.preflight.connected import connected
from fieldguide.doctor.preflight.deterministic import deterministic
from fieldguide.doctor.preflight.frozen_trained import frozen_trained
from fieldguide.doctor.preflight.input_matters import input_matters
from fieldguide.doctor.preflight.label_agreement import label_agreement
from fieldguide.doctor.preflight.larger_batch import larger_batch
from fieldguide.doctor.preflight.loss_scale import loss_scale
from fieldguide.doctor.preflight.masked_rows import masked_rows
from fieldguide.doctor.preflight.random_state import random_state_kept
from fieldguide.doctor.preflight.repeatable import repeatable
from fieldguide.doctor.preflight.time_gradient import time_gradient
from fieldguide.doctor.preflight.twin import Replay, Twin
from fieldguide.doctor.records import Test

__all__ = ["TESTS", "random_state_kept", "tests"]

TESTS: tuple[Callable[[Twin], Test], ...] = (
    masked_rows,
    batch_independence,
    causal,
    affine,
    deterministic,
    input_matters,
    loss_scale,
    frozen_trained,
    label_agreement,
    time_gradient,
    repeatable,
    larger_batch,
    connected,  # last: it alone leaves eval mode
)


def tests(replay: Replay, budget: float = 1.0) -> dict[str, Test]:  # noqa: PT028  (these tests are no pytest)
    """Every test by name. One that cannot be done says why, with ``ok`` None, and so does one that ``budget`` seconds
    do not suffice for."""
    results: dict[str, Test] = {}
    end = time.perf_counter() + budget
    with random_state_kept(), torch.enable_grad(), redirect_stdout(io.StringIO()):  # a forward may print
        try:
            twin = Twin(replay, end)
        except Exception as problem:
            return {test.__name__: _not_done(problem) for test in TESTS}
        for test in TESTS:
            try:
                results[test.__name__] = test(twin)
            except TimeoutError as late:
                results[test.__name__] = {"ok": None, "says": str(late)}
            except Exception as problem:  # a network may do anything; a test that cannot be done is no finding
                results[test.__name__] = _not_done(problem)
    return results


def _not_done(problem: Exception) -> Test:
    return {"ok": None, "says": f"{type(problem).__name__}: {' '.join(str(problem).split())}"[:200]}
