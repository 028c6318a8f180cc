"""Hashes of trained weights: what they see, and that two processes agree."""

import torch
from benchmarks import hashes, pages
from benchmarks.hashes import Row, compared, elsewhere, train, weights_hash
from benchmarks.lessons import FAMILIES

ROW = Row("mlp", 10, 0.25, "0123456789abcdef" * 4)


def test_two_processes_end_with_the_same_bits() -> None:
    assert elsewhere(["mlp", "gpt"]) == [train("mlp"), train("gpt")]


def test_a_hash_sees_names_types_shapes_and_every_bit() -> None:
    state = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    others = [
        {"a": torch.zeros(2, 3), "c": torch.ones(2)},
        {"a": torch.zeros(3, 2), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.ones(2)},
        {"a": -torch.zeros(2, 3), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3), "b": torch.ones(2).nextafter(torch.tensor(2.0))},
    ]
    assert weights_hash(dict(reversed(state.items()))) == weights_hash(state)
    assert len({weights_hash(other) for other in [state, *others]}) == 6


def test_the_page_has_a_row_for_every_family() -> None:
    assert hashes.published()[1].keys() == FAMILIES.keys()


def test_a_difference_is_shown_only_where_the_place_is_the_same(tmp_path, monkeypatch, capsys) -> None:
    page = tmp_path / "reliability.md"
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    page.write_text(f"before\n<!-- hashes -->\n{hashes.table([ROW])}\n<!-- /hashes -->\nafter\n")
    assert compared([ROW]) == []
    other = Row("mlp", 10, 0.25, "f" * 64)
    assert compared([other]) == [f"mlp: {ROW} → {other}"]
    assert compared([Row("gpt", 10, 0.25, "f" * 64)])[0].startswith("gpt: nothing → ")
    page.write_text(page.read_text().replace("torch ", "torch 1.0, not "))
    assert compared([other]) == []
    assert "not compared: the page's hashes are of torch 1.0" in capsys.readouterr().out
