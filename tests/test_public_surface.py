"""What `import fieldguide` promises: cheap, lazy, and every name leads somewhere."""

import subprocess
import sys

import pytest

import fieldguide

HEAVY = ("torch", "torchvision", "torchmetrics", "matplotlib", "sklearn", "PIL", "jinja2", "numpy")


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter holds after this code, whatever the code prints."""
    script = f"import sys\ntry:\n    {code}\nfinally:\n    print('\\n'.join(['', *sys.modules]), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    return set(done.stderr.split("\n"))


@pytest.mark.parametrize(
    "code",
    [
        "import fieldguide; fieldguide.list_models('*vit*', task='classify'); fieldguide.FieldguideError",
        "from fieldguide.cli import run; run(['--help'])",
        "from fieldguide.cli import run; run(['train', '--help'])",
        "from fieldguide.cli import run; run(['models'])",
        "from fieldguide.cli import run; run(['train', 'resnet_mini', '--print-recipe'])",
        "from fieldguide.cli import run; run(['trian'])",
    ],
)
def test_needs_nothing_heavy(code: str) -> None:
    loaded = modules_after(code)
    assert "fieldguide" in loaded
    assert not loaded.intersection(HEAVY)


@pytest.mark.parametrize("name", fieldguide.__all__)
def test_every_name_resolves(name: str) -> None:
    assert getattr(fieldguide, name) is not None
    assert name in dir(fieldguide)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        fieldguide.no_such_name  # noqa: B018


def test_list_models() -> None:
    assert "resnet_mini" in fieldguide.list_models("resnet*")
    assert fieldguide.list_models("*", task="no such task") == []
