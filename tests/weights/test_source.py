"""Where weights come from: files, folders, shards and the Hub's local cache; only ``hub:`` may use the network."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.weights.source import describe, read_source

TENSORS = {"a": torch.arange(3.0), "b": torch.ones(2, 2), "c": torch.zeros(1)}


def write_shards(folder, split=(("a",), ("b", "c")), ending="safetensors"):
    stem = "model" if ending == "safetensors" else "pytorch_model"
    where = {}
    for number, names in enumerate(split, 1):
        shard = f"{stem}-{number:05}-of-{len(split):05}.{ending}"
        tensors = {name: TENSORS[name] for name in names}
        (save_file if ending == "safetensors" else torch.save)(tensors, folder / shard)
        where |= dict.fromkeys(names, shard)
    index = folder / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": where}))
    return index


def same(read):
    return read.keys() == TENSORS.keys() and all(torch.equal(read[name], TENSORS[name]) for name in TENSORS)


def test_a_state_dict_wrapped_or_not():
    assert same(read_source(TENSORS))
    assert same(read_source({"state_dict": TENSORS, "epoch": 1}))
    with pytest.raises(DamagedFile, match="'epoch' is int"):
        read_source(TENSORS | {"epoch": 1})
    assert describe(TENSORS) == "a state dict"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "resnet18-5c106cde.pth", "any.safetensors"])
def test_a_file_and_the_folder_that_holds_it(tmp_path, name):
    (save_file if name.endswith("safetensors") else torch.save)(TENSORS, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    assert same(read_source(tmp_path / name))
    assert same(read_source(tmp_path))
    assert same(read_source(str(tmp_path)))


def test_safetensors_win_over_a_pickle_beside_them(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    assert same(read_source(tmp_path))


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_by_folder_and_by_index(tmp_path, ending):
    index = write_shards(tmp_path, ending=ending)
    assert same(read_source(tmp_path))
    assert same(read_source(index))


def test_transformers_shards_are_read(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    model = transformers.ResNetForImageClassification(config)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    one, many = read_source(tmp_path / "one"), read_source(tmp_path / "many")
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_half_a_sharded_checkpoint_names_what_is_missing(tmp_path):
    write_shards(tmp_path, split=(("a",), ("b",), ("c",)))
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(DamagedFile, match=r"1 of 3 shards are missing \(model-00002-of-00003.safetensors\)"):
        read_source(tmp_path)


def test_one_shard_alone_is_not_a_checkpoint(tmp_path):
    index = write_shards(tmp_path)
    with pytest.raises(FieldguideError, match="one of 2 shards; give the folder"):
        read_source(tmp_path / "model-00001-of-00002.safetensors")
    index.unlink()
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FieldguideError, match="one of 2 shards"):
        read_source(tmp_path)


def test_shards_of_another_checkpoint_are_noticed(tmp_path):
    write_shards(tmp_path)
    save_file({"a": TENSORS["a"], "x": TENSORS["b"]}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(DamagedFile, match="disagree about 1 tensors, the first is x"):
        read_source(tmp_path)


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", ""])
def test_an_index_cannot_point_outside_its_folder(tmp_path, shard):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(DamagedFile, match=r"outside its folder|no weight_map"):
        read_source(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', '{"weight_map": [1]}']
)
def test_an_index_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(DamagedFile, match=r"not the index|not whole JSON"):
        read_source(tmp_path)


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(FieldguideError, match="there are no weights at"):
        read_source(tmp_path / "nothing.pth")
    with pytest.raises(FieldguideError, match=r"holds no weights; expected one of model\.safetensors"):
        read_source(tmp_path)
    for name in "xyz":
        torch.save(TENSORS, tmp_path / f"{name}.pth")
    with pytest.raises(FieldguideError, match=r"3 weights files \(x.pth, y.pth, z.pth\); name one"):
        read_source(tmp_path)


# ----------------------------------------------------------------------------------------------------------- the Hub


def test_the_hub_needs_its_extra_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FieldguideError, match=r'hub:org/name needs the extra "hub": pip install "fieldguide\[hub\]"'):
        read_source("hub:org/name")


def offline(code, cache):
    """Run code in a process of its own with the Hub's library offline and a cache of ours."""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache), "PATH": "", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_hub_reads_its_local_cache_and_reports_what_it_lacks(tmp_path):
    pytest.importorskip("huggingface_hub")
    repository = tmp_path / "hub" / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(TENSORS, repository / "snapshots" / ("0" * 40) / "model.safetensors")
    code = """
from fieldguide.errors import FieldguideError
from fieldguide.weights.source import read_source
print(sorted(read_source("hub:org/name")))
for address in ("hub:org/name@v2", "hub:org/absent", "hub:not a name", "hub:"):
    try:
        read_source(address)
    except FieldguideError as error:
        print(len(str(error).splitlines()), str(error)[:12])
"""
    lines = offline(code, tmp_path).splitlines()
    assert lines == ["['a', 'b', 'c']", *["1 cannot fetch"] * 4]


def test_reading_files_does_not_import_the_hub():
    code = "import sys, fieldguide.weights; print('huggingface_hub' in sys.modules, 'transformers' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.split() == ["False", "False"]
