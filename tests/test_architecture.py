"""The order of the modules: each imports only from modules above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import refquant

PACKAGE = Path(refquant.__file__).parent

# From the ground up, folder by folder; a folder's own line is its ``__init__``, which names modules of all of it.
# ``batchnorm`` stands above ``float_forward``, whose gain and shift it shares; both interpreters stand above
# ``proof``, so that QuantizedNetwork can prove its ranges and run.
ORDER = """
integers.checks integers.formats integers.rounding integers.multiplier integers.dialects integers.devices
integers.far_from_ties integers.fast_requantization
integers.requantization integers.several_sums integers.stages integers.simd integers.accumulation integers workers
scales.float32_codes scales.linear scales.metrics scales.statistics scales.kl scales.thresholds scales
convolution.geometry
convolution.work_arrays convolution.blas convolution.direct convolution.int16 convolution.bounds convolution
winograd.transforms winograd.blas winograd.convolution winograd.bounds winograd
easyquant.layer easyquant.candidate_cosines easyquant.gram easyquant.remembered easyquant.initial_scales
easyquant.paper easyquant.demo easyquant.ncnn easyquant
shift_equalizer
pwlq.quantizer pwlq.theory pwlq.optimal pwlq.breakpoints pwlq.inner_product pwlq.moments
pwlq
network.graph network.moves network.pointwise network.forward network.batchnorm network.float_forward
network.qparams network.program network.pointwise_layers network.integer_forward
network.simulated_scaling network.simulated_forward network.proof network.storage network.costs network
recipes.calibration recipes.lowering recipes.walk recipes.settings recipes.weights recipes.corrections
recipes.network_search recipes.quantize recipes
runtimes.model runtimes.arithmetic runtimes.fast runtimes.softmax runtimes.average_pools runtimes.operators
runtimes.elementwise runtimes.onnx_layers runtimes.onnx_elementwise runtimes.own runtimes.kernels runtimes.run
runtimes
readers.onnx_translation readers.onnx_tensors readers.onnx_constants readers.onnx_layers readers.onnx_moves
readers.onnx_values readers.onnx_operators readers.onnx_file
readers.onnx_fusions readers.onnx_codes readers.onnx_code_moves readers.onnx_code_operators readers.onnx_quantized
readers.tflite_file readers
writers.onnx_qdq writers
digits.data digits.architecture digits.gradients digits.weights digits.disparity digits.training digits.qat digits
refquant
vectors.descriptions vectors.probes vectors.identify vectors.streams vectors.cases vectors.operations
vectors.code_faults vectors.layer_faults vectors.winograd_faults vectors.faults vectors.suites
vectors.layer_suites vectors.winograd_suites vectors.network_cases vectors.runtime_cases
vectors.build vectors.reading vectors.diagnosis vectors.check vectors
node_strategies strategies
exercises.judging exercises.codes exercises.ranges exercises.layers exercises.methods exercises
interrupts
commands.arguments commands.layers commands.evaluation commands.kernel_check commands.report commands.page
commands.demo
commands.quantize commands.run commands.compare commands.identify commands.vectors commands.exercise commands.qat
commands
own_network
cli
__main__
""".split()

# What a plain ``import refquant`` may load beside the standard library.
GROUND = {"numpy", "scipy"}
EXERCISES = ("judging", "codes", "ranges", "layers", "methods")
EXTRAS = {"matplotlib": {"commands.report", "commands.compare"}, "tqdm": {"cli", "digits.training"},
          "onnx": {"readers.onnx_file", "readers.onnx_constants", "readers.onnx_quantized", "writers.onnx_qdq"},
          "tflite": {"readers.tflite_file"},
          "hypothesis": {"strategies", "node_strategies", *(f"exercises.{name}" for name in EXERCISES)}}


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
            assert statement.level == 0, f"{path}: relative imports hide the order"
            # ``from refquant.commands import report`` imports a module, not a name of the folder.
            modules = {f"{statement.module}.{alias.name}" for alias in statement.names
                       if (PACKAGE.parent / Path(*statement.module.split("."), f"{alias.name}.py")).exists()}
            names |= modules if len(modules) == len(statement.names) else {*modules, statement.module}
    return names


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def test_the_order_names_every_module():
    assert set(MODULES) == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_only_from_modules_above_it(name):
    for imported in imported_modules(MODULES[name]):
        top = imported.split(".")[0]
        if imported == "refquant":
            # Only as ``from refquant import <module>``, which is listed under the module's own name.
            assert ORDER.index(name) >= ORDER.index("refquant"), f"{name} imports all of refquant"
        elif top == "refquant":
            module = imported.removeprefix("refquant.")
            assert ORDER.index(module) < ORDER.index(name), f"{name} imports {module}, which stands below it"
        elif top in EXTRAS:
            assert name in EXTRAS[top], f"{name} imports {top}"
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
