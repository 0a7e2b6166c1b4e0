"""The order of the rooms: each module imports only from modules above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import refquant

PACKAGE = Path(refquant.__file__).parent

# From the ground up. Two departures from a purely alphabetical reading of the pipeline: ``batchnorm``
# stands above ``float_forward`` because the float interpreter shares its gain and shift; ``layers`` and
# both interpreters stand above ``quantized`` so that QuantizedNetwork can prove its ranges and run.
ROOMS = """
formats
rounding
requantization
lanes
linear
similarity
kl
ranges
geometry
work_arrays
correlate
convolution
cook_toom
winograd
bounds
winograd_bounds
output_likeness
search_start
easyquant
network
network.graph
network.batchnorm
network.float_forward
network.layers
network.integer_forward
network.simulated_scaling
network.simulated_forward
network.quantized
network.storage
network.assembly
calibration
layer_search
recipe_settings
recipes
evaluation
integer_kernels
digits
digits.data
digits.architecture
digits.gradients
digits.weights
digits.training
strategies
report
refquant
demo
onnx_translation
onnx_operators
onnx_io
own_network
cli
__main__
""".split()

# What a plain ``import refquant`` may load beside the standard library.
GROUND = {"numpy", "scipy"}
AT_THE_DOOR = {"matplotlib": {"report"}, "hypothesis": {"strategies"}, "tqdm": {"cli", "digits.training"},
               "onnx": {"onnx_io"}}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts == ("__init__",):
        return "refquant"
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> set[str]:
    """Every module named by an import statement, wherever it stands in the file."""
    names = set()
    for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{path}: relative imports hide the room"
            names.add(statement.module)
            # ``from refquant import report`` imports a module, not a name.
            names |= {f"{statement.module}.{alias.name}" for alias in statement.names
                      if (PACKAGE.parent / Path(*statement.module.split("."), f"{alias.name}.py")).exists()}
    return names


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def test_every_module_has_a_room_and_every_room_a_module():
    assert set(MODULES) == set(ROOMS)


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_only_from_rooms_above_it(name):
    for imported in imported_modules(MODULES[name]):
        top = imported.split(".")[0]
        if imported == "refquant":
            # Only as ``from refquant import <module>``, which is listed under the module's own name.
            assert ROOMS.index(name) >= ROOMS.index("refquant"), f"{name} imports all of refquant"
        elif top == "refquant":
            room = imported.removeprefix("refquant.")
            assert ROOMS.index(room) < ROOMS.index(name), f"{name} imports {room}, which stands below it"
        elif top in AT_THE_DOOR:
            assert name in AT_THE_DOOR[top], f"{name} imports {top}"
        else:
            assert top in GROUND or top in sys.stdlib_module_names, f"{name} imports {top}"


def test_import_needs_numpy_and_scipy_alone():
    script = ("import sys; sys.modules.update(dict.fromkeys(['matplotlib', 'tqdm', 'hypothesis', 'onnx', 'pytest']));"
              "import refquant; print(len(refquant.__all__))")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) <= 20


def test_no_float_inside_the_integer_interpreter():
    """No float literal, float dtype or true division in the module that runs integers."""
    tree = ast.parse(MODULES["network.integer_forward"].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), node.lineno
        assert not isinstance(node, ast.Div), "true division makes floats"
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("float") and node.attr not in ("real", "scale"), node.lineno


def test_modules_can_be_read_in_one_sitting():
    for name, path in MODULES.items():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, name
