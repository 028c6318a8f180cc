"""A runnable field guide to neural networks. Names load on first use; importing this package does not import torch."""

from importlib import import_module

_HOME = {
    "list_models": "fieldguide.catalog",
    "FieldguideError": "fieldguide.errors",
    "create_model": "fieldguide.models",
    "save_model": "fieldguide.models.store",
    "load_model": "fieldguide.models.store",
    "load_weights": "fieldguide.weights",
    "export_weights": "fieldguide.weights",
    "open_images": "fieldguide.data",
    "open_table": "fieldguide.data",
    "attend": "fieldguide.blocks.attention",
    "explain": "fieldguide.blocks.attention",
    "Attention": "fieldguide.blocks.attention",
    "swap_attention": "fieldguide.blocks.swapping",
    "capture": "fieldguide.blocks.capture",
    "freeze": "fieldguide.blocks.freezing",
    "unfreeze": "fieldguide.blocks.freezing",
    "lora": "fieldguide.blocks.lora",
    "merge_lora": "fieldguide.blocks.lora",
    "reset_head": "fieldguide.models.heads",
    "fit": "fieldguide.train",
    "lr_range_test": "fieldguide.train.range_test",
    "Recipe": "fieldguide.train.recipe",
    "Doctor": "fieldguide.doctor.attending",
    "profile": "fieldguide.profile",
    "complexity": "fieldguide.profile",
    "tune": "fieldguide.profile.tuning",
}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604  (names, loaded lazily)
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'fieldguide' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
