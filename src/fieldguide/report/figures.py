"""The figures that a report knows: what they are called, how they are written, and which way is better."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple


class Figure(NamedTuple):
    title: str
    format: str
    note: str = ""
    better: Literal["max", "min"] = "max"


FIGURES = {
    "accuracy": Figure("accuracy", "{:.2%}"),
    "f1": Figure("F1", "{:.2%}", "mean over the classes"),
    "exact_match": Figure("exact match", "{:.2%}", "whole answers"),
    "bleu": Figure("BLEU", "{:.1f}", "of 100"),
    "bits_per_byte": Figure("bits per byte", "{:.3f}", better="min"),
    "perplexity": Figure("perplexity", "{:,.2f}", "per token", "min"),
    "token_accuracy": Figure("token accuracy", "{:.2%}"),
    "rmse": Figure("RMSE", "{:.4g}", "in units of the target", "min"),
    "mae": Figure("MAE", "{:.4g}", "in units of the target", "min"),
    "r2": Figure("R²", "{:.4f}"),
    "loss": Figure("loss", "{:.4f}", better="min"),
}
"""In the order in which they are shown. Figures that are not here stay in the log."""


def shown(figures: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """``{"accuracy": "98.61%"}``: the known ones among ``figures``, whose names there begin with ``prefix``."""
    return {
        figure.title: figure.format.format(figures[prefix + name])
        for name, figure in FIGURES.items()
        if prefix + name in figures
    }


def headline(figures: Mapping[str, Any], prefix: str = "val_") -> str | None:
    """The name of the first known figure: what a run is judged by."""
    return next((name for name in FIGURES if prefix + name in figures), None)
