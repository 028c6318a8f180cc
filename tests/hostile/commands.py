"""Run folders that a stranger has tampered with, and every verb that would read what was put there."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tests.hostile.entrances import COMMANDS
from tests.hostile.files import HOSTILE, payload
from tests.hostile.runs import a_run_of_images, a_run_of_text

DEEP = "[" * 100_000
USING_THE_MODEL = {"predict", "eval", "export", "profile", "look", "weights"}
READING_THE_LOG = {"report", "compare", "doctor", "doctor-report"}
READING_THE_JOB = {"report", "compare", "resume", "eval"}


def sparse(path: Path) -> None:
    """A gigabyte that takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(1 << 30)


def changed(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def written(text: str | bytes) -> Callable[[Path, Path], object]:
    return lambda path, canary: path.write_bytes(text if isinstance(text, bytes) else text.encode())


def a_pickle(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps(payload("os.system", canary)))


def a_pipe(path: Path, canary: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_device(path: Path, canary: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def a_job_of(**changes: object) -> Callable[[Path, Path], None]:
    def tamper(path: Path, canary: Path) -> None:
        changed(path, job=json.loads(path.read_text())["job"] | changes)

    return tamper


def data_of(**changes: object) -> Callable[[Path, Path], None]:
    def tamper(path: Path, canary: Path) -> None:
        changed(path, data=json.loads(path.read_text())["data"] | changes)

    return tamper


def numbers_of(**changes: object) -> Callable[[Path, Path], None]:
    def tamper(path: Path, canary: Path) -> None:
        changed(path, config=json.loads(path.read_text())["config"] | changes)

    return tamper


def answers(**changes: object) -> Callable[[Path, Path], None]:
    """Predictions of which some are as no run keeps them."""

    def tamper(path: Path, canary: Path) -> None:
        two = torch.tensor([0, 1])
        tensors = {"labels": two, "predicted": two.clone(), "probability": torch.rand(2), "worst": two[:1].clone(),
                   "worst_images": torch.zeros(1, 1, 8, 8, dtype=torch.uint8)}  # fmt: skip
        texts = {"classes": '["a", "b"]', "worst_names": '["x"]'}
        merged = {name: changes.get(name, value) for name, value in (tensors | texts).items()}
        texts = {name: value for name, value in merged.items() if isinstance(value, str)}
        save_file({name: value for name, value in merged.items() if name not in texts}, path, metadata=texts)

    return tamper


Tamper = Callable[[Path, Path], object]
TAMPERED: list[tuple[str, str, Tamper, set[str]]] = [
    ("deep", "model/config.json", written(DEEP), USING_THE_MODEL),
    ("pipe", "model/config.json", a_pipe, USING_THE_MODEL),
    ("device", "model/config.json", a_device, USING_THE_MODEL),
    ("pickle", "model/model.safetensors", a_pickle, USING_THE_MODEL),
    ("pipe", "model/model.safetensors", a_pipe, USING_THE_MODEL),
    ("sparse", "model/model.safetensors", lambda path, canary: sparse(path), {"predict", "weights"}),
    ("layers", "model/config.json", numbers_of(depths=[10**9] * 3), USING_THE_MODEL),
    ("no-classes", "model/config.json", data_of(classes=["a"]), {"predict", "eval", "export", "look"}),
    ("classes-of-nothing", "model/config.json", data_of(classes=[{}] * 10), {"predict", "eval"}),
    ("a-size", "model/config.json", data_of(image_size=[10**9, 10**9]), {"predict", "profile", "export"}),
    ("deep", "environment.json", written(DEEP), READING_THE_JOB),
    ("a-list", "environment.json", written("[]"), READING_THE_JOB),
    ("pipe", "environment.json", a_pipe, READING_THE_JOB),
    ("a-number-for-a-model", "environment.json", a_job_of(model=7), READING_THE_JOB),
    ("a-table-for-weights", "environment.json", a_job_of(weights={}), {"resume", "eval"}),
    ("a-key-too-many", "environment.json", a_job_of(auto_map="evil.Model"), {"resume", "eval"}),
    ("sparse", "metrics.jsonl", lambda path, canary: sparse(path), READING_THE_LOG),
    ("pipe", "metrics.jsonl", a_pipe, READING_THE_LOG),
    ("device", "metrics.jsonl", a_device, READING_THE_LOG),
    ("words", "metrics.jsonl", written('{"kind": "step", "step": "x"}\n'), READING_THE_LOG),
    ("digits", "metrics.jsonl", written('{"kind": "step", "step": 1' + "0" * 400 + "}\n"), {"report", "compare"}),
    ("layers", "trace.jsonl", written('{"kind": "sample", "step": 1, "layers": {"a": {"grad": "x"}}}\n'),
     {"report", "doctor"}),
    ("deep", "trace.jsonl", written(DEEP + "\n"), {"report", "doctor"}),
    ("deep", "recipe.toml", written("a = " + DEEP), {"report", "compare", "resume", "schedule"}),
    ("pipe", "recipe.toml", a_pipe, {"report", "compare", "resume", "schedule"}),
    ("sparse", "recipe.toml", lambda path, canary: sparse(path), {"report", "schedule"}),
    ("a-label-too-high", "figures/predictions.safetensors", answers(labels=torch.tensor([0, 7])), {"report"}),
    ("a-place-too-high", "figures/predictions.safetensors", answers(worst=torch.tensor([9])), {"report", "export"}),
    ("numbers-for-names", "figures/predictions.safetensors", answers(classes="[1, 2]"), {"report"}),
    ("a-million-classes", "figures/predictions.safetensors", answers(classes=json.dumps(["a"] * 10**6)), {"report"}),
    ("pickle", "figures/predictions.safetensors", a_pickle, {"report", "export"}),
    ("words-for-pictures", "figures/predictions.safetensors", answers(worst_images=torch.zeros(1)), {"report"}),
    ("tables", "figures/examples.json", written('{"title": {}, "story": "", "columns": [], "rows": []}'), {"report"}),
    ("deep", "figures/examples.json", written(DEEP), {"report"}),
    ("nothing-of-a-training", "checkpoints/last", lambda path, canary: None, {"resume"}),
    ("pickle", "checkpoints/0001-step-000030/state.safetensors", a_pickle, {"resume"}),
]  # fmt: skip
WRITING: list[tuple[str, str, Tamper, set[str]]] = [
    ("layers", "model/config.json", numbers_of(num_layers=10**9), {"generate", "predict-words", "profile", "eval"}),
    ("words", "model/config.json", numbers_of(vocab_size=2**40), {"generate"}),
    ("pickle", "model/model.safetensors", a_pickle, {"generate", "predict-words", "eval"}),
    ("deep", "model/tokenizer.json", written(DEEP), {"generate", "predict-words", "eval"}),
    ("pipe", "model/tokenizer.json", a_pipe, {"generate"}),
    ("another", "model/tokenizer.json", written('{"fieldguide": "os", "specials": []}'), {"generate"}),
]


def enter(make: Callable[[Path], Path], kind: str, file: str, tamper: Tamper, verb: str) -> None:
    def build(folder: Path, canary: Path) -> Path:
        run = make(folder)
        shutil.copytree(run, folder / "other")
        tamper(run / file, canary)
        return run

    HOSTILE[f"{verb}-{kind}-{file}"] = f"command {verb}", build


for make, rows in ((a_run_of_images, TAMPERED), (a_run_of_text, WRITING)):
    for kind, file, tamper, verbs in rows:
        for verb in sorted(verbs):
            assert verb in COMMANDS
            enter(make, kind, file, tamper, verb)
