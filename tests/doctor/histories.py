"""Records of made-up trainings, healthy unless something is asked for."""

from collections.abc import Callable
from typing import Any

from fieldguide.doctor.examination import Diagnosis, examine
from fieldguide.doctor.history import History
from fieldguide.trace import Record

SETUP: Record = {
    "kind": "setup",
    "step": 0,
    "model": {"type": "Sequential", "parameters": 5898, "trainable": 5898, "training": True, "models": 1},
    "layers": [
        {"name": "0", "type": "Linear", "parameters": 1088, "trainable": True},
        {"name": "1", "type": "ReLU", "parameters": 0, "trainable": False},
        {"name": "2", "type": "Linear", "parameters": 650, "trainable": True},
    ],
    "tensors": {
        name: {"shape": shape, "layer": name[0], "trainable": True, "in_optimizer": True, "gradient": "there",
               "equal_rows": False, "std": 0.1}
        for name, shape in (("0.weight", [64, 16]), ("2.weight", [10, 64]))
    },
    "optimizers": [{"type": "Adam", "lr": 1e-3, "weight_decay": 0.0, "eps": 1e-8, "betas": [0.9, 0.999]}],
    "loss": {
        "name": "cross_entropy", "reduction": "mean", "value": 2.31, "factor": 1.0, "baseline": 2.3, "expected": 2.3,
        "output_shape": [32, 10], "target_shape": [32], "target_dtype": "int64", "output_min": -0.5, "output_max": 0.5,
        "output_std": 0.2, "row_sum_one": False, "column_sum_one": False, "made_by": "Addmm", "smoothing": 0.0,
        "detached": False,
    },
    "inputs": {"shape": [32, 16], "dtype": "float32", "samples": 1280, "min": -3.0, "max": 3.0, "mean": 0.0, "std": 1.0,
               "abs_mean": 0.8, "non_finite": 0, "constant": 0, "feature_std_ratio": 1.3, "whole": False},
    "targets": {"shape": [32], "dtype": "int64", "samples": 1280, "min": 0.0, "max": 9.0, "mean": 4.5, "std": 2.9,
                "whole": True, "non_finite": 0, "distinct": 10, "classes": {str(c): 128 for c in range(10)}},
    "loader": {"batch_size": 32, "shuffle": True, "workers": 0, "dataset_size": 1200, "generators": [], "order_z": 0.3,
               "batch_purity": 0.2},
    "tests": {},
}  # fmt: skip


def learning(step: int) -> float:
    """A loss that falls from 2.3 towards 0.1, with a little noise."""
    return 0.1 + 2.2 * 0.98**step + 0.02 * ((step * 7919) % 13 - 6) / 6


def stuck(step: int) -> float:
    """A loss that stays where it began."""
    return 2.3 + 0.02 * ((step * 7919) % 13 - 6) / 6


def sampled(step: int) -> bool:
    return step <= 5 or (step <= 50 and step % 5 == 0) or step % 10 == 0


def training(
    steps: int = 200,
    loss: Callable[[int], float] = learning,
    setup: dict[str, dict[str, Any]] | None = None,
    sample: Callable[[int], Record] | Record | None = None,
    evals: Callable[[int], Record] | None = None,
    probes: dict[str, dict[str, float]] | None = None,
    end: Record | None = None,
) -> list[Record]:
    """``setup``, ``sample`` and ``end`` are laid over what is healthy; ``evals`` gives one every 20 steps."""
    first = {**SETUP}
    for part, facts in (setup or {}).items():
        first[part] = {**first[part], **facts} if isinstance(first.get(part), dict) else facts
    records: list[Record] = [first]
    for step in range(1, steps + 1):
        now = loss(step)
        records.append({"kind": "step", "step": step, "loss": now, "lr": 1e-3, "seconds": 0.01})
        if sampled(step):
            layers = {
                name: {"type": "Linear", "weight": 0.1, "grad": 1e-3, "update": 3e-3, "input": 1.0, "output": 0.8,
                       "dead": 0.05, "zeros": 0.5}
                for name in ("0", "2", "4")
            }  # fmt: skip
            healthy: Record = {
                "kind": "sample", "step": step, "loss": now, "lr": 1e-3, "grad_norm": 0.5, "update_ratio": 3e-3,
                "update_cosine": 0.9, "weight_norm": 5.0, "data_wait": 0.01, "seconds": 0.01, "unchanged": False,
                "stale_gradient": False, "backwards": 1.0, "memory": 500.0, "training": True, "baseline": 2.3,
                "decay_ratio": 0.0, "layers": layers,
            }  # fmt: skip
            more = sample(step) if callable(sample) else sample or {}
            records.append({**healthy, **more})
        if probes and step == 60:
            records += [{"kind": "probe", "step": step, "name": name, "figures": f} for name, f in probes.items()]
        if step % 20 == 0:
            shown = evals(step) if evals else {"loss": now + 0.05, "accuracy": min(0.98, 1 - now / 3)}
            record = {"kind": "eval", "step": step, "samples": 300, "training": False, "baseline": 2.3}
            records.append({**record, **shown})
    return [*records, {"kind": "end", "step": steps, "batches": steps, "networks": 1, **(end or {})}]


def seen(records: list[Record], most: str = "info") -> Diagnosis:
    return examine(records)


def history(records: list[Record]) -> History:
    return History.of(records)
