"""The programs in examples/ that serve an export."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).parents[1] / "examples"
QUICK = ["model.conv_dilations=[]"]  # a smaller graph; test_deployed exports one with all its parts
# what an example must do without
WITHOUT = "import sys; sys.modules['torch'] = sys.modules['stockenh'] = sys.modules['onnx'] = None; "


def example(name: str) -> ModuleType:
    """A file of examples/ as a module."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def command(name: str, *arguments: object) -> list[str]:
    """The command line that runs it with onnxruntime and numpy alone."""
    start = (
        f"{WITHOUT}import runpy; sys.argv = sys.argv[1:]; sys.path.insert(0, {str(EXAMPLES)!r}); "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return [sys.executable, "-c", start, str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
