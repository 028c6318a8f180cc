"""``doctor run``: a script exactly as it would run by itself, with the doctor beside it."""

import runpy
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from fieldguide.doctor.attending import Doctor, Enough
from fieldguide.doctor.examination import Diagnosis

OBSERVING = str(Path(__file__).with_name("observe"))


@dataclass(frozen=True)
class Consultation:
    """How a script ended, and what was found."""

    code: int
    """Its own exit code."""
    diagnosis: Diagnosis
    doctor: Doctor


def run_script(
    target: str,
    arguments: list[str],
    *,
    module: bool = False,
    folder: Path | None = None,
    first_step_only: bool = False,
    treatable: bool = False,
) -> Consultation:
    """Runs a file, or with ``module`` what ``python -m`` would run, as ``__main__`` with ``arguments``.

    Its output, random numbers and exit code are its own; its traceback is printed as Python would.
    """
    kept = sys.argv, list(sys.path)
    sys.argv = [target, *arguments]
    sys.path[0:0] = [str(Path.cwd()) if module else str(Path(target).resolve().parent)]
    doctor = Doctor(folder=folder, first_step_only=first_step_only, treatable=treatable)
    code, problem = 0, None
    try:
        if module:
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(Path(target).absolute()), run_name="__main__")
    except SystemExit as ending:
        code = _code(ending)
    except Enough:
        pass
    except KeyboardInterrupt as interrupt:
        code, problem = 130, interrupt
        _print_as_python(interrupt)
    except BaseException as crash:
        code, problem = 1, crash
        _print_as_python(crash)
    finally:
        sys.argv, sys.path[:] = kept
        sys.stdout.flush()
    return Consultation(code, doctor.close(problem), doctor)


def _code(ending: SystemExit) -> int:
    if isinstance(ending.code, int) or ending.code is None:
        return ending.code or 0
    print(ending.code, file=sys.stderr)
    return 1


def _print_as_python(crash: BaseException) -> None:
    """The traceback without the frames that are the doctor's: it is as it would be without one."""
    traceback.print_exception(type(crash), crash, _without_own(crash.__traceback__))


def _without_own(step: TracebackType | None) -> TracebackType | None:
    if step is None:
        return None
    file, rest = step.tb_frame.f_code.co_filename, _without_own(step.tb_next)
    if file in {__file__, runpy.__file__, "<frozen runpy>"} or file.startswith(OBSERVING):
        return rest
    return TracebackType(rest, step.tb_frame, step.tb_lasti, step.tb_lineno)
