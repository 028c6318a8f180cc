"""Tables: a number or a class from the other columns of a row."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fieldguide.cli.job import Job, source
from fieldguide.cli.tasks.classes import judged, named, ranking
from fieldguide.cli.tasks.task import Facts, Task, Trained
from fieldguide.data.columns import Column
from fieldguide.data.tabular import Rows, TableData, open_rows, open_table
from fieldguide.errors import FieldguideError
from fieldguide.metrics import RegressionMetrics
from fieldguide.models import load_model, read_config
from fieldguide.objectives import Classification, Objective, Regression
from fieldguide.report import Numbers, Predictions, worst_mistakes
from fieldguide.shapes import Float, Tensor
from fieldguide.train.pieces import as_many_as_fit
from fieldguide.train.recipe import Recipe
from fieldguide.train.run import RunFolder


@dataclass(frozen=True, kw_only=True)
class Tables(Task):
    """Rows of a table, for one of its columns."""

    purpose = "it learns a column of a table from the others: a CSV with a header, --target names the column"
    unit = "rows"
    embedded = ""
    options = frozenset({"target", "on_missing"})

    data: TableData

    @classmethod
    def open(cls, job: Job, run: RunFolder | None) -> "Tables":
        return cls(job=job, data=open_data(job))

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"focal", "class_balance"} if self.data.classes else ())

    def network(self) -> nn.Module:
        """Its units are those of the training part."""
        d = self.data
        model: Any = self.job.network(in_features=len(d.mean), out_features=len(d.classes) if d.classes else 1)
        model.inputs.set(d.mean, d.std)
        if d.classes is None:
            model.outputs.set([d.target_mean], [d.target_std])
        return model

    def objective(self, recipe: Recipe) -> Objective:
        if self.data.classes:
            return Classification.of(recipe, self.data.train.targets, len(self.data.classes))
        return Regression(units=(self.data.target_std,))

    def preparation(self) -> dict[str, Any]:
        d = self.data
        columns, classes = [asdict(column) for column in d.columns], list(d.classes) if d.classes else None
        return {"kind": "table", "columns": columns, "target": d.target, "classes": classes}

    def facts(self) -> Facts:
        d = self.data
        words = [column for column in d.columns if column.levels]
        kinds = f"{len(d.columns) - len(words)} columns of numbers and {len(words)} of words"
        dropped = f", {d.dropped:,} rows with a missing value left out" if d.dropped else ""
        told = (
            f"one of {len(d.classes)} classes" if d.classes else f"a number, {d.target_mean:.4g} ± {d.target_std:.3g}"
        )
        return {
            "data": f"{d.name}: {len(d.train):,} training, {len(d.val):,} validation and {len(d.test):,} test rows, "
            f"{kinds}{dropped}",
            "target": f"{d.target}, {told}",
        }

    def examine(self, run: RunFolder, device: str) -> Mapping[str, float]:
        trained, rows = TrainedTable.of(run, device), self.data.test
        output = trained.output(rows)
        if self.data.classes:
            worst = worst_mistakes(output, rows.targets)
            Predictions.of(self.data.classes, output, rows.targets, worst).save(run.path)
        else:
            Numbers(target=self.data.target, truth=rows.targets, predicted=output[:, 0]).save(run.path)
        return {}

    def next_command(self, run: str) -> str:
        return f"fieldguide predict {run} TABLE.csv"

    @classmethod
    def trained(cls, run: RunFolder, device: str) -> "TrainedTable":
        return TrainedTable.of(run, device)

    @classmethod
    def evaluate(cls, run: RunFolder, data: str | None, device: str, on_bad_file: str) -> dict[str, Any]:
        trained = TrainedTable.of(run, device)
        rows = _evaluated(run, trained, data)
        output, count = trained.output(rows), {"rows": len(rows)}
        if not trained.classes:
            units: Any = trained.model.get_buffer("outputs.std").tolist()
            numbers = RegressionMetrics(lambda model, batch: batch, units)
            numbers.add(output[:, 0], rows.targets)
            return {**count, **numbers.compute()}
        return {**count, **judged(output, rows.targets, trained.classes)}


def open_data(job: Job) -> TableData:
    if not job.data:
        raise FieldguideError(
            f"{job.model} needs a table: fieldguide train {job.model} --data TABLE.csv --target COLUMN"
        )
    if job.target is None:
        raise FieldguideError(f"{job.model} learns one column of a table from the others; name it with --target")
    return open_table(job.data, job.target, on_missing=job.on_missing or "stop")


def _evaluated(run: RunFolder, trained: "TrainedTable", data: str | None) -> Rows:
    job = Job.recall(run)
    if data is not None and source(data) != job.data:  # never its training rows: they would flatter it
        return open_rows(source(data), trained.columns, trained.target, trained.classes)
    own = open_data(job)
    if own.fingerprint != job.fingerprint:
        raise FieldguideError(f"the table {job.data} has changed since the run; name another with --data")
    return own.test


@dataclass(frozen=True, kw_only=True)
class TrainedTable(Trained):
    """A network in evaluation mode with the meaning of its inputs and outputs."""

    model: nn.Module
    columns: tuple[Column, ...]
    target: str
    classes: tuple[str, ...] | None

    @classmethod
    def of(cls, run: RunFolder, device: str = "cpu") -> "TrainedTable":
        data = read_config(run.model).data
        assert data
        columns = tuple(
            Column(name=c["name"], levels=tuple(c["levels"]) if c["levels"] else None, fill=c["fill"])
            for c in data["columns"]
        )
        classes = tuple(data["classes"]) if data["classes"] else None
        return cls(model=load_model(run.model).to(device), columns=columns, target=data["target"], classes=classes)

    @torch.inference_mode()
    def output(self, rows: Rows) -> Float[Tensor, "n t"]:
        """Numbers in the target's units, or logits."""

        def output(size: int) -> Tensor:
            return torch.cat([self.model(some.to(self.device)).float().cpu() for some in rows.inputs.split(size)])

        return as_many_as_fit(max(1, len(rows)), output)

    def predict(self, inputs: Sequence[str], top: int) -> list[dict[str, Any]]:
        """An answer for each row of each table."""
        if not inputs:
            raise FieldguideError("predict needs tables: fieldguide predict RUN TABLE.csv…")
        return [answer for file in inputs for answer in self._answers(file, open_rows(Path(file), self.columns), top)]

    def shown(self, answer: Mapping[str, Any]) -> str:
        if self.classes:
            return "\n".join([answer["row"], *ranking(answer["classes"])])
        return f"{answer['row']}  {self.target} {answer[self.target]:.6g}"

    def _answers(self, file: str, rows: Rows, top: int) -> list[dict[str, Any]]:
        output, places = self.output(rows), [{"row": f"{file}:{line}"} for line in rows.lines.tolist()]
        if not self.classes:
            return [p | {self.target: value} for p, value in zip(places, output[:, 0].tolist(), strict=True)]
        chances, chosen = output.softmax(1).topk(min(top, len(self.classes)))
        found = zip(places, chosen.tolist(), chances.tolist(), strict=True)
        return [place | {"classes": named(self.classes, cs, ps)} for place, cs, ps in found]
