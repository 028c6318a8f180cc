"""How this house is built, checked on its source: who imports whom, how large a model file is, what is never done."""

import ast
import dataclasses
import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
from torch import nn

import fieldguide
from fieldguide import catalog

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "fieldguide"
FILES = {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
MODEL_FILES = [name for name in FILES if re.fullmatch(r"models/\w+/(?!__init__)\w+\.py", name)]

ORDER = [
    *["cli"],
    *["advisor", "doctor", "report", "train", "profile"],
    *["objectives", "sampling", "metrics", "optim", "data"],
    *["models"],
    *["blocks"],
]
"""A room imports only rooms that stand after it here."""
FREE = {"bounded", "catalog", "errors", "shapes", "trace", "weights"}
"""Anyone may import these; they import only one another."""
STRANGERS = {("train", "models"), ("profile", "models")}
"""These take any module, so they never import ours."""
STAND_INS = {"doctor/observe/losses.py"}
"""These stand in for functions of PyTorch and pass on whatever those are given."""
LAZY = {
    "matplotlib",
    "torchmetrics",
    "sklearn",
    "PIL",
    "jinja2",
    "huggingface_hub",
    "torchvision",
    "onnxruntime",
    "pytorch_optimizer",
    "sacrebleu",
}
"""Libraries so slow to import, or so optional, that a function may do it when it is called."""


def room(name: str) -> str:
    return Path(name).parts[0].removesuffix(".py")


def imports(tree: ast.AST):
    """``(line, dotted module)`` for every import of fieldguide in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: import by the full name"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def fieldguide_rooms(tree: ast.AST):
    for line, module in imports(tree):
        parts = module.split(".")
        if parts[0] == "fieldguide" and len(parts) > 1 and parts[1] != "__version__":
            yield line, parts[1]


def functions(tree: ast.AST):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_every_room_has_its_place():
    rooms = {room(name) for name in FILES} - {"__init__", "__main__"}
    assert rooms <= set(ORDER) | FREE, "a new room needs a place in ORDER"


@pytest.mark.parametrize("name", [name for name in FILES if room(name) not in {"__init__", "__main__"}])
def test_imports_point_downwards(name):
    """The front door alone opens every room."""
    here = room(name)
    for line, there in fieldguide_rooms(FILES[name]):
        where = f"{name}:{line}: {here} imports {there}"
        if here in FREE:
            assert there in FREE, where
        elif there not in FREE and there != here:
            assert ORDER.index(there) > ORDER.index(here), where
            assert (here, there) not in STRANGERS, where


def test_the_front_door_is_lazy():
    assert not [
        node
        for node in FILES["__init__.py"].body
        if "fieldguide" in ast.unparse(node) and "import " in ast.unparse(node)
    ]
    for name in ("catalog.py", "errors.py", "trace.py"):
        assert not [module for _, module in imports(FILES.get(name, ast.Module([], []))) if module.startswith("torch")]


@pytest.mark.parametrize("name", [name for name in FILES if room(name) != "cli"])
def test_imports_are_at_the_top(name):
    """Verbs alone import what they need when they run, so that --help is fast."""
    for function in functions(FILES[name]):
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                foreign = {module.split(".")[0] for module in modules} - LAZY
                assert not foreign, f"{name}:{node.lineno}: {function.name} imports {foreign}"


@pytest.mark.parametrize("name", [name for name in FILES if name not in STAND_INS])
def test_no_keyword_funnels(name):
    """Keywords that a function takes without naming them and passes on unread."""
    for function in functions(FILES[name]):
        funnel = function.args.kwarg.arg if function.args.kwarg else None
        passed = {
            ast.unparse(keyword.value)
            for node in ast.walk(function)
            if isinstance(node, ast.Call)
            for keyword in node.keywords
            if keyword.arg is None
        }
        assert funnel not in passed, f"{name}:{function.lineno}: {function.name} passes **{funnel} on"


def test_no_drawer_for_everything():
    drawers = {"utils", "util", "common", "misc", "base", "helpers", "helper"}
    assert not [name for name in FILES if {Path(part).stem for part in Path(name).parts} & drawers]


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "yaml.load", "os.system", "pickle.load", "pickle.loads"}


@pytest.mark.parametrize("name", FILES)
def test_nothing_executes_what_it_reads(name):
    for line, module in imports(FILES[name]):
        assert module.split(".")[0] not in FORBIDDEN_MODULES, f"{name}:{line}"
    for node in ast.walk(FILES[name]):
        if isinstance(node, ast.Call):
            call, where = ast.unparse(node.func), f"{name}:{node.lineno}"
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert call not in FORBIDDEN_CALLS, f"{where}: {call}"
            assert keywords.get("allow_pickle", "False") == "False", where
            assert keywords.get("trust_remote_code", "False") == "False", where
            assert keywords.get("shell", "False") == "False", where
            if call == "torch.load":
                assert keywords.get("weights_only") == "True", where
            if call in {"np.load", "numpy.load"}:
                assert keywords.get("allow_pickle") == "False", where


@pytest.mark.parametrize("name", FILES)
def test_shapes_come_from_one_place(name):
    """``jaxtyping`` is for tests only; the product must run without it."""
    if name != "shapes.py":
        assert not [module for _, module in imports(FILES[name]) if module.startswith(("jaxtyping", "beartype"))]


@pytest.mark.parametrize("name", [name for name in FILES if FILES[name].body])
def test_every_file_says_what_it_is(name):
    assert ast.get_docstring(FILES[name])


def test_everything_public_has_a_docstring():
    assert not [name for name in fieldguide.__all__ if name != "__version__" and not getattr(fieldguide, name).__doc__]


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_model_file_reads_like_its_paper(name):
    tree, lines = FILES[name], (SOURCE / name).read_text().count("\n")
    assert lines <= 200, f"{name} has {lines} lines"
    kinds = (ast.If, ast.IfExp, ast.match_case, ast.Try, ast.While)
    branches = [node.lineno if hasattr(node, "lineno") else 0 for node in ast.walk(tree) if isinstance(node, kinds)]
    assert len(branches) <= 5, f"{name} has branches in lines {branches}"
    assert re.search(r"\b(19|20)\d\d\b", ast.get_docstring(tree) or ""), f"{name} does not name its paper"
    assert not [module for _, module in imports(tree) if module.startswith("fieldguide.models")], (
        "models share blocks only"
    )
    for function in functions(tree):
        if function.name == "forward":
            assert function.end_lineno - function.body[0].lineno < 10, f"{name}:{function.lineno}: forward is too long"


def test_every_model_file_has_its_row_and_every_row_its_file():
    rows = sorted(f"models/{row.module.replace('.', '/')}.py" for row in catalog.ARCHITECTURES)
    assert rows == sorted(MODEL_FILES)


@pytest.mark.parametrize("row", catalog.ARCHITECTURES, ids=lambda row: row.family)
def test_a_row_and_its_file_say_the_same(row):
    module = import_module(f"fieldguide.models.{row.module}")
    model, config = getattr(module, row.model), getattr(module, f"{row.model}Config")
    assert issubclass(model, nn.Module)
    assert list(module.SIZES) == list(row.sizes)
    assert f"{row.family}_mini" in row.sizes
    assert dataclasses.is_dataclass(config)
    assert config.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(config))
    assert row.paper
    assert 1950 < row.year < 2100
    assert (row.task == "classify") == (row.image is not None) == (row.mini_image is not None)
    named = {field.name for field in dataclasses.fields(config)}
    if row.image and row.mini_image:
        assert {"num_classes", "in_channels"} <= named
        assert row.image[0] <= row.image[1]
        assert row.mini_image[0] <= row.mini_image[1] <= 32
    elif row.task == "regress":
        assert {"in_features", "out_features"} <= named
    else:
        assert {"vocab_size", "d_model", "num_layers", "num_heads"} <= named


def test_public_names_are_unique():
    names = list(catalog.names())
    assert len(names) == len(set(names))


def tracked_files() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [path for line in listing.stdout.splitlines() if (path := ROOT / line).is_file()]


# Written in pieces, so that this file passes its own test.
MACHINE = "|".join(
    [
        r"(?:index|extra-index|find-links)[-_]?" + r"url\s*[=:]?\s*\S+://",
        r"\bpy" + r"pi\.org|pythonhosted\.org|download\.py" + r"torch\.org",
        r"(?<![\w.])/" + r"(?:home/(?!me/)|Users/|work/|root/|mnt/|scratch/)\w",
        r"[A-Z]:\\\\?" + r"Users\\",
        r"\b(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))" + r"\.\d{1,3}\.\d{1,3}(?:\.\d{1,3})?\b(?!\.)(?=[:/])",
        r"\b[\w-]+\.(?:internal|corp|intra|lan)\b",
    ]
)


def test_no_index_host_or_machine_path_is_written_anywhere():
    found = []
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if match := re.search(MACHINE, line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert not found, "\n".join(found)
