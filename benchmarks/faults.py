"""Everything that may happen to checkpoints: kills, deaths at each system call, power cuts, refusals, damage.

    python -m benchmarks.faults [--kills 1000] [--trainings 60] [--corruptions 6000] [--seed 0] [--docs]

Each fault is dealt to real checkpoints in a fresh folder, and what a resume would do decides:

- *lost*: nothing can be loaded, or only something older than the program had been told is saved;
- *torn*: a checkpoint is there under its name and cannot be loaded;
- *mixed*: what is loaded is not one state, bit for bit;
- *undetected*: damaged content is believed.

Processes are forked from this one, which has everything imported. ``benchmarks.kills`` deals with whole trainings.
"""

import argparse
import errno
import mmap
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import kills
from benchmarks.crashes import Recording, at_call, die, refuse
from benchmarks.crews import Threads, crew, on_all, part
from benchmarks.pages import write
from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.trace import Log
from fieldguide.train.checkpoint import MANIFEST, TENSORS, VALUES, Checkpoints, load
from fieldguide.train.run import RunFolder

ON_PURPOSE = ".damaged on purpose"
REFUSALS = ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO")
LASTING = {"ENOSPC", "EDQUOT", "EROFS", "EACCES"}
"""A full disk stays full for the rest of the save; a bad block may be a single one."""


@dataclass
class Row:
    """One kind of fault, how often it was dealt, and what came of it."""

    fault: str
    expected: str
    cases: int = 0
    outcomes: Counter = field(default_factory=Counter)
    """How often something *lost*, *torn*, *mixed* or *undetected*."""
    examples: list[str] = field(default_factory=list)

    def failed(self, kind: str, what: str = "") -> None:
        self.outcomes[kind] += 1
        self.examples.append(f"{self.fault}: {kind}: {what}")


FILES = (TENSORS, VALUES, MANIFEST)
KINDS = ("lost", "torn", "mixed", "undetected")


def state_of(step: int, size: int = 15) -> dict[str, Any]:
    """A state that says in each of its files which step it is of, so that a mixture shows."""
    weight = torch.full((size,), float(step))
    return {"step": step, "model": {"weight": weight, "tied": weight}, "optimizer": {0: {"step": torch.tensor(step)}}}


def whole(state: Any) -> bool:
    """Whether this is one of ``state_of``, and all of one step."""
    step, weight = state["step"], state["model"]["weight"]
    tied = state["model"]["tied"] is weight
    return tied and bool((weight == step).all()) and state["optimizer"][0]["step"].item() == step


def saved(folder: Path, steps: int = 3, best: int = 0) -> Checkpoints:
    """The checkpoints of a training that has come so far."""
    folder.mkdir()
    checkpoints = Checkpoints(folder / "checkpoints")
    for step in range(1, steps + 1):
        checkpoints.save(state_of(step), step=step, best=step == best)
    return checkpoints


def judge(row: Row, checkpoints: Checkpoints, least: int, where: str) -> int:
    """What a resume finds after a death, of at least this step; the step it finds."""
    try:
        restored = checkpoints.newest()
    except DamagedFile as error:
        row.failed("lost", f"{where}: {error}")
        return -1
    if restored is None or restored.step < least:
        row.failed("lost", f"{where}: {restored.step if restored else None} instead of {least}")
    for reason in restored.refused if restored else []:
        row.failed("torn", f"{where}: {reason}")
    if restored and not (whole(restored.state) and restored.state["step"] == restored.step):
        row.failed("mixed", where)
    for path in checkpoints.numbered():
        try:
            load(path)
        except DamagedFile as error:
            row.failed("torn", f"{where}: {error}")
    return restored.step if restored else -1


def judge_next_save(row: Row, checkpoints: Checkpoints, where: str) -> None:
    """Whether a training that goes on from there saves as if nothing had been, and nothing is left lying about."""
    restored = checkpoints.newest()
    checkpoints.clean(restored.folder if restored else None)
    path = checkpoints.save(state_of(99), step=99)
    if judge(row, checkpoints, 99, f"{where}, then saved") == 99 and list(checkpoints.folder.glob(".*")):
        row.failed("torn", f"{where}: something is left beside {path}")


# ------------------------------------------------------------------------------------------------------------- deaths


def every_call(folder: Path, beside: Sequence[bool] = (False, True)) -> Iterator[Row]:
    """A process dies at each of the calls with which a save changes the disk."""
    for other in beside:
        name, save = ("save beside the training", begin_and_wait) if other else ("save", Checkpoints.save)
        row = Row(f"SIGKILL at each system call of a {name}", "the checkpoint before, or the new one")
        for number in range(1, calls_of(save, folder) + 1):
            checkpoints = saved(folder / f"{name}-{number}", best=1)
            if (child := os.fork()) == 0:
                with at_call(number, die):
                    save(checkpoints, state_of(4), step=4, best=True)
                os._exit(0)
            row.cases += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
            judge(row, checkpoints, 3, f"call {number}")
            judge_next_save(row, checkpoints, f"call {number}")
        yield row


def begin_and_wait(checkpoints: Checkpoints, state: Any, *, step: int, best: bool = False) -> Path:
    """``save`` beside a training that changes all its weights at once."""
    begun = checkpoints.begin(state, step=step, best=best)
    state["model"]["weight"].fill_(-1)
    state["optimizer"][0]["step"].fill_(-1)
    return begun.result()


def calls_of(save: Callable[..., Path], folder: Path) -> int:
    checkpoints = saved(folder / f"calls of {save.__name__}", best=1)
    with at_call(0, die) as made:
        save(checkpoints, state_of(4), step=4, best=True)
    return len(made)


def random_kills(folder: Path, count: int, chance: random.Random) -> Row:
    """A process that only saves, now this way, now the other, is killed at random moments, again and again."""
    row = Row("SIGKILL at random moments of saves", "the checkpoint before, or the new one")
    checkpoints, told, left = saved(folder), mmap.mmap(-1, 8), Counter()
    while row.cases < count:
        if (child := os.fork()) == 0:
            save_for_ever(checkpoints, told)
        time.sleep(chance.uniform(0.002, 0.05))
        os.kill(child, signal.SIGKILL)
        row.cases += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        left[what_is_left(checkpoints)] += 1
        judge(row, checkpoints, int.from_bytes(told[:], "little"), f"kill {row.cases}")
    row.fault += f": {left['written']:,} while one was written, {left['removed']:,} while old ones were removed"
    return row


def what_is_left(checkpoints: Checkpoints) -> str:
    """What the killed process was doing, from what it left."""
    if list(checkpoints.folder.glob(".0*.tmp")):
        return "written"
    return "removed" if list(checkpoints.folder.glob(".*.old")) or len(checkpoints.numbered()) > 3 else ""


def save_for_ever(checkpoints: Checkpoints, told: mmap.mmap) -> None:
    """What a resumed training does to its folder. Never returns."""
    restored = checkpoints.newest()
    checkpoints.clean(restored.folder if restored else None)
    step = restored.step if restored else 0
    while True:
        step += 1
        save = begin_and_wait if step % 2 else Checkpoints.save
        save(checkpoints, state_of(step, size=100_000), step=step, best=step % 3 == 0)
        told[:] = step.to_bytes(8, "little")


def trainings(folder: Path, count: int, seed: int) -> Row:
    """Real trainings, killed and resumed until they end."""
    row = Row("SIGKILL at random moments of trainings", "resumed, the weights and records of an undisturbed training")
    result = kills.survive(count, seed, 2, folder)
    row.cases = result.kills
    for reason in result.unloadable:
        row.failed("torn", reason)
    for reason in result.failed_resumes:
        row.failed("lost", reason)
    for _ in range(result.runs - result.identical):
        row.failed("mixed", "other weights or records than the undisturbed training")
    return row


# --------------------------------------------------------------------------------------------------------- power cuts


def first_save(folder: Path) -> Recording:
    folder.mkdir()
    checkpoints = Checkpoints(folder / "checkpoints")
    with Recording(folder, done=0) as recording:
        checkpoints.save(state_of(1), step=1, best=True)
        recording.mark(1)
    return recording


def two_saves(folder: Path) -> Recording:
    checkpoints = saved(folder)
    with Recording(folder, done=3, largest=512) as recording:
        checkpoints.save(state_of(4), step=4)
        recording.mark(4)
        checkpoints.save(state_of(5), step=5)
        recording.mark(5)
    return recording


def a_better_one(folder: Path) -> Recording:
    """Moves both links and removes the best one so far too."""
    checkpoints = saved(folder, best=1)
    with Recording(folder, done=3) as recording:
        begin_and_wait(checkpoints, state_of(4), step=4, best=True)
        recording.mark(4)
    return recording


def logs_as_well(folder: Path) -> Recording:
    checkpoints = saved(folder)
    log = Log(folder / "metrics.jsonl")
    with Recording(folder, done=3) as recording:
        log.write({"step": 4})
        state = state_of(4) | {"position": log.position}
        checkpoints.save(state, step=4, refers_to=[log.path])
        recording.mark(4)
    log.close()
    return recording


def after_damage(folder: Path) -> Recording:
    """A resume sets aside what cannot be believed, and the next save takes its number."""
    checkpoints = saved(folder, steps=4)
    damaged = checkpoints.folder / "0004-step-000004"
    (damaged / VALUES).write_bytes(b"")
    (damaged / ON_PURPOSE).touch()
    restored = checkpoints.newest()
    with Recording(folder, done=3) as recording:
        checkpoints.clean(restored.folder if restored else None)
        recording.mark(3)
        checkpoints.save(state_of(4), step=4)
        recording.mark(4)
    return recording


def by_two(folder: Path) -> Recording:
    """Two processes write one checkpoint together, each its part of the weight."""
    checkpoints = saved(folder)

    def save(member: Threads) -> Path:
        state = state_of(4)
        half = part(state["model"]["weight"], 0, member.rank, member.size)
        return checkpoints.save(state | {"model": {"weight": half, "tied": half}}, step=4, crew=member)

    with Recording(folder, done=3) as recording:
        for problem in on_all(save, crew(2)):
            if isinstance(problem, Exception):
                raise problem
        recording.mark(4)
    return recording


CUTS = {
    "the first save": first_save,
    "saves and removals": two_saves,
    "a save that moves both links": a_better_one,
    "a save and its logs": logs_as_well,
    "a resume and its first save": after_damage,
    "a save by two processes": by_two,
}


def power_cuts(folder: Path) -> Iterator[Row]:
    """Every state that a power cut may leave, from nothing synced but what was, to all."""
    for name, record in CUTS.items():
        row = Row(f"power cut during {name}", "the checkpoint before, or the new one; logs as far as it knows them")
        recording = record(folder / name)
        for done, disk in recording.crashes():
            row.cases += 1
            place = folder / f"{name}-{row.cases}"
            disk.write(place)
            judge_after_cut(row, place, done, f"state {row.cases}")
            shutil.rmtree(place)
        yield row


def judge_after_cut(row: Row, place: Path, done: int, where: str) -> None:
    checkpoints = Checkpoints(place / "checkpoints")
    if not done and not checkpoints.numbered():
        return  # nothing was promised yet
    on_purpose = [path for path in checkpoints.numbered() if (path / ON_PURPOSE).exists()]
    for path in on_purpose:  # not yet set aside for good
        path.rename(path.with_name(f"damaged-{path.name}"))
        (checkpoints.folder / "last").unlink(missing_ok=True)
    if judge(row, checkpoints, done, where) < 0:
        return
    for link in (checkpoints.folder / name for name in ("last", "best")):
        if link.is_symlink() and not link.exists():
            row.failed("lost", f"{where}: {link.name} points to nothing")
    restored = checkpoints.newest()
    log, position = place / "metrics.jsonl", restored.state.get("position", 0) if restored else 0
    if position and (not log.exists() or log.read_bytes()[:position] != b'{"step":4}\n'):
        row.failed("lost", f"{where}: the log has not what the checkpoint remembers")
    if row.cases % 16 == 0:
        judge_next_save(row, checkpoints, where)


# ----------------------------------------------------------------------------------------------------------- refusals


def refusals(folder: Path, names: Sequence[str] = REFUSALS) -> Iterator[Row]:
    """The system refuses at each call of a save; the folder is as before, and the next save works."""
    calls = calls_of(Checkpoints.save, folder)
    for name in names:
        row = Row(f"{name} at each system call of a save", "the checkpoint before, or the new one; the next save works")
        for number in range(1, calls + 1):
            checkpoints = saved(folder / f"{name}-{number}", best=1)
            code, lasting = getattr(errno, name), name in LASTING
            with suppress(OSError), at_call(number, refuse(code, lasting), lasting):
                checkpoints.save(state_of(4), step=4, best=True)
            row.cases += 1
            if list(checkpoints.folder.glob(".0*.tmp")):
                row.failed("torn", f"call {number}: the half-written checkpoint is still there")
            judge(row, checkpoints, 3, f"call {number}")
            judge_next_save(row, checkpoints, f"call {number}")
        yield row


def limits(folder: Path) -> Row:
    """The kernel itself refuses, at each size that a file may reach before."""
    row = Row("a limit of the system on the size of files", "said; the checkpoint before; the next save works")
    checkpoints = saved(folder)
    for limit in range(0, 900, 20):
        if (child := os.fork()) == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                checkpoints.save(state_of(4), step=4)
            except OSError as error:
                os._exit(7 if error.errno == errno.EFBIG else 8)
            os._exit(0)
        row.cases += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        judge(row, checkpoints, 3, f"limit {limit}")
    judge_next_save(row, checkpoints, "afterwards")
    return row


# ------------------------------------------------------------------------------------------------------------- damage


def flip(path: Path, other: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    bit = chance.randrange(len(content) * 8)
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def cut(path: Path, other: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))])


def lengthen(path: Path, other: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.randrange(1, 20)))


def blank(path: Path, other: Path, chance: random.Random) -> None:
    """A stretch of zeros, as of a block that never arrived."""
    content = bytearray(path.read_bytes())
    start = chance.randrange(len(content))
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content if content != path.read_bytes() else b"")


def empty(path: Path, other: Path, chance: random.Random) -> None:
    path.write_bytes(b"")


def remove(path: Path, other: Path, chance: random.Random) -> None:
    path.unlink()


def swap(path: Path, other: Path, chance: random.Random) -> None:
    """The same file of another step."""
    shutil.copy(other / path.name, path)


def link(path: Path, other: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to(Path("..") / other.name / path.name)


DAMAGE = {
    "a flipped bit": flip, "a cut file": cut, "a lengthened file": lengthen, "zeros to the end": blank,
    "an empty file": empty, "a missing file": remove, "a file of another step": swap, "a link elsewhere": link,
}  # fmt: skip


def corruptions(folder: Path, count: int, chance: random.Random) -> Iterator[Row]:
    """Random damage to each file of the newest checkpoint."""
    checkpoints = saved(folder)
    newest, before = checkpoints.numbered()[-1], checkpoints.numbered()[-2]
    twin = folder / "whole"
    shutil.copytree(newest, twin)
    for name, damage in DAMAGE.items():
        row = Row(f"{name} in the newest checkpoint", "refused with the file's name; the one before it")
        varied = damage in (flip, cut, lengthen, blank)
        for turn in range(count * (9 if damage is flip else 1) // 12 if varied else 3):
            file = FILES[turn % 3]
            damage(newest / file, before, chance)
            row.cases += 1
            restored = checkpoints.newest()
            if restored is None or restored.step == 3:
                row.failed("undetected", file)
            elif not whole(restored.state) or restored.step != 2:
                row.failed("mixed", file)
            elif not any(str(newest / name) in reason for reason in restored.refused for name in FILES):
                row.failed("undetected", f"no file is named: {restored.refused}")
            shutil.rmtree(newest)
            shutil.copytree(twin, newest)
        yield row


def litter(folder: Path) -> Row:
    """What else may lie about in a run's folder."""
    row = Row("stale temporaries, half-removed folders, links, old clocks", "the newest one; cleared away on resume")

    def stale(at: Path) -> None:
        (at / ".0004-step-000004.77.tmp").mkdir()
        (at / ".0004-step-000004.77.tmp" / TENSORS).write_bytes(b"half")

    def half_removed(at: Path) -> None:
        shutil.copytree(at / "0002-step-000002", at / ".0001-step-000001.old")
        (at / ".0001-step-000001.old" / VALUES).unlink()

    def stray_link(at: Path) -> None:
        (at / ".last.tmp").symlink_to("0002-step-000002")

    def clock_backwards(at: Path) -> None:
        for age, path in enumerate(sorted(at.glob("0*"))):
            os.utime(path, (2_000_000_000 - age * 86_400,) * 2)

    def dangling(at: Path) -> None:
        (at / "last").unlink()
        (at / "last").symlink_to("0077-step-000077")

    def loop(at: Path) -> None:
        (at / "best").symlink_to("best")

    def foreign(at: Path) -> None:
        (at / "notes.txt").write_text("mine")

    for act in (stale, half_removed, stray_link, clock_backwards, dangling, loop, foreign):
        row.cases += 1
        checkpoints = saved(folder / act.__name__)
        act(checkpoints.folder)
        judge(row, checkpoints, 3, act.__name__)
        judge_next_save(row, checkpoints, act.__name__)
    return row


def two_writers(folder: Path) -> Row:
    """Many processes want the same run; one at a time has it, and the others are told which."""
    row = Row("two processes on one run", "the second is refused and told the first one's number")
    run = RunFolder.create_at(folder)
    for _ in range(20):
        row.cases += 1
        ready, go = os.pipe(), os.pipe()
        if (child := os.fork()) == 0:
            with run.locked():
                os.write(ready[1], b"x")
                os.read(go[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
        try:
            with run.locked():
                row.failed("mixed", "both processes hold the run")
        except FieldguideError as error:
            if f"process {child} " not in str(error):
                row.failed("undetected", str(error))
        os.write(go[1], b"x")
        os.waitpid(child, 0)
        for descriptor in (*ready, *go):
            os.close(descriptor)
    return row


# -------------------------------------------------------------------------------------------------------------- table


def deal(folder: Path, kills: int, trained: int, damaged: int, seed: int) -> Iterator[Row]:
    """All faults, one kind after the other."""
    chance = random.Random(seed)
    place = {name: folder / name for name in ("calls", "cuts", "refusals", "damage", "litter", "trainings")}
    for path in place.values():
        path.mkdir()
    yield random_kills(folder / "kills", kills, chance)
    yield from every_call(place["calls"])
    if trained:
        yield trainings(place["trainings"], trained, seed)
    yield from power_cuts(place["cuts"])
    yield from refusals(place["refusals"])
    yield limits(folder / "limits")
    yield from corruptions(place["damage"] / "run", damaged, chance)
    yield litter(place["litter"])
    yield two_writers(folder / "writers")


def table(rows: list[Row]) -> str:
    lines = [f"| fault | expected | cases | {' | '.join(KINDS)} |", f"|---|---|{'---:|' * (len(KINDS) + 1)}"]
    total = Row("**all**", "", sum(row.cases for row in rows), sum((row.outcomes for row in rows), Counter()))
    for row in [*rows, total]:
        counts = " | ".join(f"{row.outcomes[kind]:,}" for kind in KINDS)
        lines.append(f"| {row.fault} | {row.expected} | {row.cases:,} | {counts} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="of processes that only save")
    parser.add_argument("--trainings", type=int, default=60, help="kills of real trainings")
    parser.add_argument("--corruptions", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--docs", action="store_true", help="write the table into docs/reliability.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, started = [], time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        for row in deal(Path(folder), options.kills, options.trainings, options.corruptions, options.seed):
            rows.append(row)
            print(f"{time.perf_counter() - started:6.0f} s  {row.fault}: {row.cases} cases", flush=True)
    print(table(rows))
    examples = [example for row in rows for example in row.examples]
    print("\n".join(examples[:20]), file=sys.stderr)
    if options.docs:
        write("reliability", "faults", table(rows))
    return 1 if examples else 0


if __name__ == "__main__":
    raise SystemExit(main())
