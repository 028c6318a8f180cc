"""Nothing in the product can run what a file says: no pickle, no eval, no exec, no shell, in any file of it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fieldguide

SOURCE = Path(fieldguide.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "code"}
NAMES = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "os.system",
    "os.popen",
    "os.execv",
    "os.execvp",
    "yaml.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.save",
}
OPTIONS = {"weights_only": False, "allow_pickle": True, "shell": True, "trust_remote_code": True}
RUNNERS = {"doctor/scripts.py": {"runpy"}}
"""``doctor run SCRIPT`` runs the user's own script."""


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def dangers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (name for name in names if name.split(".")[0] in MODULES | {"runpy"})
        elif isinstance(node, ast.Call):
            called = dotted(node.func)
            if called in NAMES | CALLS:
                yield called
            given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
            yield from (f"{name}={value}" for name, value in OPTIONS.items() if given.get(name) is value)
            if called == "torch.load" and given.get("weights_only") is not True:
                yield "torch.load without weights_only=True"
            if called in {"np.load", "numpy.load"} and given.get("allow_pickle") is not False:
                yield "np.load without allow_pickle=False"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(SOURCE).as_posix())
def test_it_can_run_nothing(file: Path):
    allowed = RUNNERS.get(file.relative_to(SOURCE).as_posix(), set())
    assert not [danger for danger in dangers(ast.parse(file.read_text())) if danger not in allowed]


@pytest.mark.parametrize("text", [
    "import pickle", "from pickle import loads", "eval('1')", "exec(text)", "torch.load(f)",
    "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)", "subprocess.run(x, shell=True)",
    "os.system(x)", "yaml.load(x)", "from_pretrained(x, trust_remote_code=True)",
])  # fmt: skip
def test_the_scan_would_see_it(text: str):
    assert [*dangers(ast.parse(text))]
    assert not [*dangers(ast.parse("model.eval(); re.compile('a'); torch.load(f, weights_only=True)"))]
