"""Swin's layouts beyond parity: buffers that follow from others, the authors' files, and what is refused."""

import pytest
import torch
from torchvision.models import SwinTransformer

from fieldguide.errors import FieldguideError
from fieldguide.models.vision.swin import Swin, SwinConfig
from fieldguide.weights import export_weights, load_weights
from fieldguide.weights.swin import pairs

SMALL = SwinConfig(embed_dim=16, depths=(2, 2), head_dim=8, window_size=4, num_classes=7)
INDEX = "features.1.0.attn.relative_position_index"


def torchvision_swin() -> SwinTransformer:
    return SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=7)


@pytest.mark.parametrize("size", [1, 2, 7, 12])
def test_the_index_of_a_window_is_torchvisions(size):
    theirs = SwinTransformer([4, 4], 8, [1, 1], [1, 1], [size, size]).state_dict()
    table = theirs["features.1.0.attn.relative_position_bias_table"]
    assert torch.equal(pairs(table), theirs["features.1.0.attn.relative_position_index"])


def test_torchvision_loads_what_is_exported():
    ours = Swin(SMALL)
    exported = export_weights(ours, "torchvision")
    assert exported[INDEX].dtype == torch.int64
    theirs = torchvision_swin()
    theirs.load_state_dict(exported)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(theirs.eval()(images), ours.eval()(images), rtol=1e-4, atol=1e-6)


def test_the_index_may_be_absent_but_not_wrong():
    state = torchvision_swin().state_dict()
    report = load_weights(Swin(SMALL), state)
    assert report.ignored[INDEX] == "it follows from features.1.0.attn.relative_position_bias_table"
    assert not load_weights(Swin(SMALL), {n: t for n, t in state.items() if n != INDEX}).ignored.get(INDEX)
    with pytest.raises(FieldguideError, match=f"{INDEX} is not what follows from its features.1.0.attn.relative_pos"):
        load_weights(Swin(SMALL), state | {INDEX: state[INDEX].flip(0)})
    del state["features.1.0.attn.relative_position_bias_table"]
    with pytest.raises(FieldguideError, match="relative_position_bias_table"):
        load_weights(Swin(SMALL), state)


def test_the_authors_files_merge_at_the_end_of_a_stage_and_hold_buffers():
    timm = pytest.importorskip("timm")
    ours = Swin(SMALL)
    state = export_weights(ours, "microsoft")
    arguments = {"img_size": 64, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
    oracle = timm.create_model("swin_tiny_patch4_window7_224", num_classes=7, **arguments)
    oracle.load_state_dict(timm.models.swin_transformer.checkpoint_filter_fn(dict(state), oracle))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(oracle.eval()(images), ours.eval()(images), rtol=1e-4, atol=1e-6)
    state |= {"layers.0.blocks.1.attn_mask": torch.zeros(16, 16, 16)}
    state |= {"layers.0.blocks.1.attn.relative_position_index": torch.zeros(16, 16, dtype=torch.long)}
    again = Swin(SMALL)
    assert load_weights(again, state).layout == "microsoft"
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True))


def test_old_transformers_files_hold_an_index_and_may_lack_the_prefix():
    ours = Swin(SMALL)
    state = export_weights(ours, "transformers")
    name = "swin.encoder.layers.0.blocks.0.attention.self.relative_position_index"
    assert load_weights(Swin(SMALL), state | {name: torch.zeros(16, 16, dtype=torch.long)}).layout == "transformers"
    body = {n.removeprefix("swin."): t for n, t in state.items() if not n.startswith("classifier")}
    assert load_weights(Swin(SMALL), body, strict=False).kept.keys() == {"head.weight", "head.bias"}


def test_another_window_is_refused():
    with pytest.raises(FieldguideError, match="relative_position_bias_table"):
        load_weights(
            Swin(SwinConfig(embed_dim=16, depths=(2, 2), head_dim=8, num_classes=7)), torchvision_swin().state_dict()
        )


def test_other_numbers_of_channels_and_classes_are_adapted():
    grey = SwinConfig(embed_dim=16, depths=(2, 2), head_dim=8, window_size=4, num_classes=3, in_channels=1)
    report = load_weights(Swin(grey), torchvision_swin().state_dict(), strict=False)
    assert report.adapted.keys() == {"stem.conv.weight"}
    assert report.kept.keys() == {"head.weight", "head.bias"}
