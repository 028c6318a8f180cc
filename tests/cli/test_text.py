"""Text through the command: language models, masked tokens, classes and translations, on small real and made texts."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from fieldguide.cli import run
from fieldguide.cli.generation import Generation, Sampling
from fieldguide.cli.tasks.text import TextTask
from fieldguide.data.tokenizer import open_tokenizer
from fieldguide.errors import DamagedFile
from fieldguide.models import read_config
from fieldguide.train.run import RunFolder

QUICK = ["--threads", "1", "--batch-size", "8"]


def train(*arguments: str | Path) -> int:
    return run(["train", *map(str, arguments), *QUICK])


def said(capsys, *arguments: str | Path):
    """What a verb prints as JSON."""
    assert run([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("text")
    (place / "book.txt").write_text("The king said: the crown is mine.\n" * 120)
    rows = [f"{word} is {kind},{kind}" for word in ("rain", "snow", "sun", "wind") for kind in ("good", "bad")] * 12
    (place / "moods.csv").write_text("text,label\n" + "\n".join(f"number {i}: {row}" for i, row in enumerate(rows)))
    pairs = [f"{a} {b}\t{b} {a}" for a in "abcdefgh" for b in "abcdefgh"]
    (place / "swap.tsv").write_text("\n".join(pairs))
    return place


@pytest.fixture(scope="module")
def writer(place) -> Path:
    assert train("gpt_mini", "--data", place / "book.txt", "--steps", "60", "--length", "32",
                 "--config.num_layers", "1", "--out", place, "--name", "writer") == 0  # fmt: skip
    return place / "writer"


@pytest.fixture(scope="module")
def judge(place) -> Path:
    options = ["--epochs", "6", "--config.num_layers", "1", "--length", "64"]
    assert train("bert_mini", "--data", place / "moods.csv", *options, "--out", place, "--name", "judge") == 0
    return place / "judge"


@pytest.fixture(scope="module")
def finder(place) -> Path:
    options = ["--steps", "6", "--config.num_layers", "1", "--tokenizer", "bpe:300", "--length", "24"]
    assert train("bert_mini", "--data", place / "book.txt", *options, "--out", place, "--name", "finder") == 0
    return place / "finder"


@pytest.fixture(scope="module")
def translator(place) -> Path:
    options = ["--steps", "6", "--config.num_layers", "1", "--length", "16"]
    assert (
        train("transformer_mini", "--data", place / "swap.tsv", *options, "--out", place, "--name", "translator") == 0
    )
    return place / "translator"


def test_a_language_model_leaves_a_complete_run(writer):
    assert {path.name for path in (writer / "model").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json"}  # fmt: skip
    stored = read_config(writer / "model")
    assert stored.data == {"kind": "text", "classes": None, "length": 32}
    assert stored.config.num_layers == 1
    records = [json.loads(line) for line in (writer / "metrics.jsonl").read_text().splitlines()]
    assert sum(record["kind"] == "step" for record in records) == 60
    test = records[-1]
    assert test["test_bits_per_byte"] == pytest.approx(test["test_bits_per_token"]), "a token is a byte"
    assert test["test_bits_per_byte"] < 4, "it has learned something of this text"
    report = (writer / "report.html").read_text()
    assert "What it writes" in report
    assert "bits per byte" in report
    assert "tokens a second" in report


def test_eval_repeats_the_test_figures(writer, judge, finder, capsys):
    for folder in (writer, judge, finder):
        test = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][-1]
        figures = said(capsys, "eval", folder)
        assert figures["loss"] == pytest.approx(test["test_loss"], rel=1e-4)


def test_other_text_is_measured_whole(writer, place, tmp_path, capsys):
    (tmp_path / "other.txt").write_text("The king said: no.\n" * 30)
    assert said(capsys, "eval", writer, "--data", tmp_path / "other.txt")["tokens"] == 19 * 30
    assert run(["eval", str(writer), "--data", str(place / "nothing.txt")]) == 2


def test_writing_is_seeded_and_streams_the_same(writer, capsys):
    options = ["--prompt", "The king", "--temperature", "1", "--max-new-tokens", "20", "--seed", "3"]
    first, again = (said(capsys, "generate", writer, *options) for _ in range(2))
    assert first == again
    text = first[0]["texts"][0]["text"]
    assert said(capsys, "generate", writer, *options[:-1], "4")[0]["texts"][0]["text"] != text
    assert run(["generate", str(writer), *options, "--stream"]) == 0
    assert capsys.readouterr().out == text + "\n"


def test_prompts_together_are_written_on_as_alone(writer, capsys):
    prompts = ["The king said", "crown"]
    together = said(capsys, "generate", writer, "--prompt", prompts[0], "--prompt", prompts[1], "--max-new-tokens", "9")
    for prompt, found in zip(prompts, together, strict=True):
        assert said(capsys, "generate", writer, "--prompt", prompt, "--max-new-tokens", "9")[0] == found


def test_a_stop_text_ends_and_is_not_shown(writer):
    network = Generation.of(RunFolder.open(writer))
    whole = network.write(["The king"], 24, Sampling())[0]
    stop = whole[10:12]
    until = whole[: whole.index(stop)]
    assert network.write(["The king"], 24, Sampling(), [stop]) == [until]
    assert "".join(network.stream("The king", 24, Sampling(), [stop])) == until


def test_rounded_weights_write_nearly_the_same(writer):
    prompts, folder = ["The king said"], RunFolder.open(writer)
    exact, half, bytes_ = (
        Generation.of(folder, precision=kind).write(prompts, 40, Sampling()) for kind in ("fp32", "fp16", "int8")
    )
    assert half == exact
    assert len(bytes_[0]) == len(exact[0])


def test_beams_come_with_scores_best_first(writer, capsys):
    options = ["--prompt", "The", "--beams", "3", "--best", "3", "--max-new-tokens", "6"]
    texts = said(capsys, "generate", writer, *options)[0]["texts"]
    assert [t["score"] for t in texts] == sorted((t["score"] for t in texts), reverse=True)
    assert len({t["text"] for t in texts}) == 3


def test_the_tokenizer_learned_from_the_text_lies_beside_the_model(finder, capsys):
    tokenizer = open_tokenizer(finder / "model")
    assert tokenizer.vocab_size == read_config(finder / "model").config.vocab_size <= 300
    assert len(tokenizer.encode("The king said: the crown is mine.")) < 15
    answers = said(capsys, "predict", finder, "The [MASK] said", "--top", "2")
    assert len(answers[0]["classes"]) == 2
    assert "What it finds" in (finder / "report.html").read_text()


def test_classes_of_texts(judge, capsys):
    assert read_config(judge / "model").data == {"kind": "text", "classes": ["bad", "good"], "length": 64}
    answers = said(capsys, "predict", judge, "rain is good", "snow is bad")
    assert [len(answer["classes"]) for answer in answers] == [2, 2]
    assert all(sum(c["probability"] for c in answer["classes"]) == pytest.approx(1) for answer in answers)
    assert "texts a second" in (judge / "report.html").read_text()


def test_answers_of_a_text_to_text_network(translator, capsys):
    records = [json.loads(line) for line in (translator / "metrics.jsonl").read_text().splitlines()]
    assert 0 <= records[-1]["test_exact_match"] <= 1
    assert said(capsys, "eval", translator)["exact_match"] == records[-1]["test_exact_match"]
    answer = said(capsys, "predict", translator, "a b")[0]["answer"]
    assert (
        said(capsys, "generate", translator, "--prompt", "a b", "--max-new-tokens", "16")[0]["texts"][0]["text"]
        == answer
    )


def test_an_interrupted_run_ends_in_the_same_weights(finder, tmp_path):
    """From the checkpoint of the epoch before, with the tokenizer that the run began with."""
    done = load_file(finder / "model" / "model.safetensors")
    newest = sorted(path for path in (finder / "checkpoints").iterdir() if path.name[0].isdigit() and path.is_dir())
    assert newest
    assert run(["train", "--resume", str(finder)]) == 0
    again = load_file(finder / "model" / "model.safetensors")
    assert all(torch.equal(done[name], again[name]) for name in done)


def test_weights_of_a_run_bring_their_tokenizer(finder, place, tmp_path):
    options = ["--weights", finder, "--data", place / "book.txt", "--steps", "2", "--config.num_layers", "1"]
    assert train("bert_mini", *options, "--length", "24", "--out", tmp_path, "--name", "more") == 0
    more = tmp_path / "more"
    assert (more / "model" / "tokenizer.json").read_text() == (finder / "tokenizer.json").read_text()
    done = load_file(more / "model" / "model.safetensors")
    shutil.rmtree(more / "checkpoints")  # as if it had died before the first one
    (more / "checkpoints").mkdir()
    shutil.rmtree(more / "model")
    assert run(["train", "--resume", str(more)]) == 0
    again = load_file(more / "model" / "model.safetensors")
    assert all(torch.equal(done[name], again[name]) for name in done), "it began with its weights once more"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train gpt_mini --data PLACE/nothing.txt", ["nothing.txt"]),
        ("train gpt_mini --data PLACE/empty.txt", ["empty.txt", "empty"]),
        ("train gpt_mini --data PLACE/latin.txt", ["latin.txt", "UTF-8", "byte 5"]),
        ("train gpt_mini --image-size 8", ["--image-size", "gpt_mini"]),
        ("train resnet_mini --tokenizer bytes", ["--tokenizer", "resnet_mini"]),
        ("train gpt_mini --data PLACE/book.txt --tokenizer bpe", ["bpe:8000"]),
        ("train gpt_mini --data PLACE/book.txt --tokenizer bpe:100", ["100", "257"]),
        ("train gpt_mini --data PLACE/book.txt --tokenizer PLACE/none.json", ["none.json"]),
        ("train gpt_mini --data PLACE/book.txt --config.num_layrs 1", ["num_layrs", "num_layers"]),
        ("train gpt_mini --data PLACE/book.txt --length 1", ["--length 1"]),
        ("train gpt_mini --data PLACE/book.txt --focal 2", ["focal", "classes"]),
        ("train bert_mini --data PLACE/moods.csv --augment.flip", ["augment", "images"]),
        ("train bert_mini --data PLACE/moods.csv --length 10", ["line", "10", "--on-long cut"]),
        ("train transformer_mini --data PLACE/book.txt,PLACE/short.txt", ["120", "2", "lines"]),
        ("train bert_mini --data PLACE/book.txt --weights PLACE/writer", ["gpt_mini", "bert_mini"]),
        ("generate PLACE/writer", ["--prompt"]),
        ("generate PLACE/writer --prompt=", ["empty"]),
        ("generate PLACE/translator --prompt=", ["empty"]),
        ("generate PLACE/writer --prompt a --best 2", ["--beams"]),
        ("generate PLACE/writer --prompt a --prompt b --stream", ["--stream"]),
        ("generate PLACE/writer --prompt a --max-new-tokens 500", ["128", "500"]),
        ("generate PLACE/judge --prompt a", ["fieldguide predict"]),
        ("predict PLACE/judge", ["texts"]),
        ("predict PLACE/finder nothing", ["[MASK]"]),
        ("look cam PLACE/judge x.png", ["texts", "images"]),
    ],
)
def test_one_line_and_exit_code_2(
    command, words, place, writer, judge, finder, translator, tmp_path, capfd, monkeypatch
):
    (place / "empty.txt").write_text("")
    (place / "latin.txt").write_bytes(b"a caf" + b"\xe9 " + b"words " * 50)
    (place / "short.txt").write_text("one\ntwo\n")
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    assert run(command.replace("PLACE", str(place)).split()) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_vocabularies_that_disagree_are_refused(writer, finder, capsys, tmp_path):
    broken = shutil.copytree(writer, tmp_path / "broken")
    shutil.copy(finder / "tokenizer.json", broken / "model" / "tokenizer.json")
    assert run(["generate", str(broken), "--prompt", "a"]) == 2
    assert "take the tokenizer that belongs" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "told"), [("huge", "larger than the 64 MB"), ("pipe", "a pipe or a device"),
                                            ("bytes", "not UTF-8")])  # fmt: skip
def test_a_tokenizer_that_was_exchanged_during_the_training_is_not_saved(tmp_path, kind, told):
    run_folder = RunFolder.create_at(tmp_path / "run")
    file = run_folder.path / "tokenizer.json"
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.write_bytes(b"\xff")
        os.truncate(file, 1 << 30 if kind == "huge" else 1)
    task = SimpleNamespace(preparation=dict)
    with pytest.raises(DamagedFile, match=told):
        TextTask.save(task, torch.nn.Linear(1, 1), run_folder)  # pyright: ignore[reportArgumentType]
    assert not run_folder.model.exists()
