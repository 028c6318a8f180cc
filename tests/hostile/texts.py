"""Texts, tables and vocabularies that a stranger would send, and configurations of other libraries beside weights."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file
from tests.hostile.files import HOSTILE, hostile, saved

from fieldguide import create_model
from fieldguide.models.store import save_model

NAMES = {"pairs": "x.tsv", "labelled": "x.jsonl", "table": "x.csv", "text": "x.txt", "images": "x.csv",
         "tokenizer": "tokenizer.json", "trace": "trace.jsonl", "recipe": "recipe.toml",
         "weights": "m.safetensors"}  # fmt: skip


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_gigabyte_of_nothing(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def a_line_without_end(path: Path) -> None:
    path.write_bytes(b"a" * 40_000_000)


def another_encoding(path: Path) -> None:
    path.write_bytes(b"\xff\xfb\x80\n" * 4)


def enter(entrance: str, make: Callable[[Path], None]) -> None:
    def build(folder: Path, canary: Path) -> Path:
        path = folder / NAMES[entrance]
        make(path)
        return path

    HOSTILE[f"{make.__name__}-{entrance}"] = entrance, build


for entrance in NAMES:
    for make in (a_pipe, a_device, a_gigabyte_of_nothing, another_encoding):
        enter(entrance, make)
for entrance in ("pairs", "labelled", "table", "images", "trace"):
    enter(entrance, a_line_without_end)


# ---------------------------------------------------------------------------------------------------- vocabularies


def vocabulary(**parts: object) -> str:
    return json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, **parts})


def splitting(pattern: str) -> str:
    part = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return vocabulary(pre_tokenizer=part)


SWELLING = {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaa"}
VOCABULARIES = {
    "a-repeated-repetition": splitting("(a+)+$"),
    "a-deep-repetition": splitting(r"((\w+\s?)*x?)*$"),
    "no-pattern": splitting("(((("),
    "a-swelling": vocabulary(normalizer={"type": "Sequence", "normalizers": [SWELLING] * 30}),
    "a-thousand-parts": vocabulary(normalizer={"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 1000}),
    "a-number-too-high": vocabulary(added_tokens=[], model={"type": "BPE", "vocab": {"a": 2**32 - 1}, "merges": []}),
    "long-words": vocabulary(model={"type": "WordPiece", "vocab": {"a": 0}, "max_input_chars_per_word": 10**9}),
    "millions": '{"model": {"type": "BPE", "vocab": {' + ",".join(f'"{n}":{n}' for n in range(4_100_000)) + "}}}",
    "a-name-twice": '{"model": {"type": "BPE"}, "model": {"type": "BPE"}}',
}


@hostile("tokenizer", *VOCABULARIES)
def a_vocabulary(folder: Path, canary: Path, kind: str) -> Path:
    (folder / "tokenizer.json").write_text(VOCABULARIES[kind])
    return folder / "tokenizer.json"


# --------------------------------------------------------------------------------------------------- configurations

BESIDE = {
    "deep": "[" * 100_000,
    "a-name-twice": '{"a": 1, "a": 2}',
    "nan": '{"num_hidden_layers": NaN}',
    "a-size-of-words": '{"pretrained_cfg": {"input_size": ["__import__"]}}',
    "a-size-of-light-years": '{"pretrained_cfg": {"input_size": [3, 1e18, 1e18]}}',
    "negative": '{"pretrained_cfg": {"input_size": [3, -1, -1]}}',
    "digits": '{"pretrained_cfg": {"input_size": ' + "9" * 5000 + "}}",
}


@hostile("weights-of-images", *BESIDE)
def a_configuration_beside_weights(folder: Path, canary: Path, kind: str) -> Path:
    return beside_weights(folder, BESIDE[kind])


@hostile("weights-of-images")
def half_a_gigabyte_of_configuration(folder: Path, canary: Path) -> Path:
    path = beside_weights(folder, "")
    with (path / "config.json").open("wb") as file:
        file.truncate(500_000_000)
    return path


def beside_weights(folder: Path, text: str) -> Path:
    save_file(create_model("resnet_mini").state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(text)
    return folder


PASSED_OVER = {
    "auto_map": {"auto_map": {"AutoModel": "evil--modeling.Evil", "AutoConfig": "configuration.Evil"}},
    "an-address": {"_name_or_path": "https://example.invalid/evil", "architectures": ["os.system"]},
    "a-path": {"_name_or_path": "/etc/passwd", "tokenizer_class": "../../evil.py"},
    "trust": {"trust_remote_code": True, "_attn_implementation_internal": "kernels/evil"},
    "numbers": {"num_hidden_layers": 10**9, "vocab_size": 2**40, "hidden_size": -1, "num_attention_heads": 0.5},
}
"""What other libraries have acted on: never read here, so the weights beside it are read as if it were not there."""


def passed_over(folder: Path, kind: str) -> Path:
    return beside_weights(folder, json.dumps(PASSED_OVER[kind]))


NUMBERS = [
    ("gpt_mini", "num_layers", 10**9), ("gpt_mini", "vocab_size", 2**40), ("gpt_mini", "d_model", 2**62),
    ("gpt_mini", "num_heads", 0), ("gpt_mini", "num_layers", -1), ("gpt_mini", "max_len", 2**62),
    ("resnet_mini", "depths", [10**9] * 3), ("resnet_mini", "widths", [2**40] * 3), ("vit_mini", "num_layers", 10**9),
    ("vit_mini", "image_size", 2**40), ("swin_mini", "window_size", 2**20), ("t5_mini", "num_layers", 10**9),
    ("vgg_mini", "stages", [10**9] * 3), ("bert_mini", "num_layers", 10**9),
]  # fmt: skip


@hostile("model", *range(len(NUMBERS)))
def a_number(folder: Path, canary: Path, place: int) -> Path:
    name, field, value = NUMBERS[place]
    save_model(create_model(name), folder / "model")
    path = folder / "model/config.json"
    content = json.loads(path.read_text())
    content["config"][field] = value
    path.write_text(json.dumps(content))
    return folder / "model"


@hostile("model", "name-twice", "nan", "sixteen-megabytes")
def a_text(folder: Path, canary: Path, kind: str) -> Path:
    return saved(folder, lambda config: {
        "name-twice": '{"fieldguide": "1", ' + json.dumps(config)[1:],
        "nan": json.dumps(config).replace('"hidden": [', '"hidden": [NaN, '),
        "sixteen-megabytes": json.dumps(config | {"name": "x" * 17_000_000}),
    }[kind])  # fmt: skip
