"""What is wrong with a plugin is one line that names the plugin and the fix, and exit code 2."""

import pytest

HEAD = """
import torch
from torch import nn
import stockenh

class Net(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.h = inputs.horizons
        self.linear = nn.Linear(inputs.context, inputs.horizons)
        INIT
    def forward(self, price, kron, ctx):
        out = self.linear(ctx)
        return RETURN

@stockenh.plugin("model", "mine")
class Mine:
    width: int = 4  # of nothing
    def build(self, inputs):
        return Net(inputs)
"""
GOOD = "{'ret': out, 'up_logits': out}"


def source(returns=GOOD, init="pass"):
    return HEAD.replace("RETURN", returns).replace("INIT", init)


def settings(*lines, head=""):
    """A plugin whose settings class is these lines."""
    body = source().partition("@stockenh")[0] + head
    return body + "\n".join(("", *lines, "    def build(self, inputs):", "        return Net(inputs)", ""))


ABOVE = '@stockenh.plugin("model", "mine")'

# what the file holds, and what the line must have
BROKEN = {
    "a syntax error": ("x = (\n", ["mine.py, line 1: SyntaxError"]),
    "an import": ("import nowhere_such\n", ["mine.py, line 1: ModuleNotFoundError", "nowhere_such"]),
    "an error": ("x = 1\n\ny = x / 0\n", ["mine.py, line 3: ZeroDivisionError"]),
    "an error far below": ("import json\njson.loads('{')\n", ["mine.py, line 2: JSONDecodeError"]),
    "an exit": ("import sys\nsys.exit(3)\n", ["mine.py, line 2: SystemExit"]),
    "nothing": ("x = 1\n", ["registers nothing", "@stockenh.plugin("]),
    "an empty file": ("", ["registers nothing"]),
    "no text": (b"\x00\xff", ["--plugin mine.py"]),
    "a wrong group": (source().replace('"model"', '"modle"'), ["no such group", "Nearest: model"]),
    "a taken name": (source().replace('"mine"', '"timeformer"'), ["stockenh has a model of this name"]),
    "a wrong name": (source().replace('"mine"', '"../x"'), ["letters, digits, _ and - only"]),
    "two of a name": (
        source() + "\n@stockenh.plugin('model', 'mine')\nclass Other:\n    def build(self, inputs): ...\n",
        ["the plugin mine.py has a model of this name"],
    ),
    "the network itself": (
        source() + "\nstockenh.plugin('model', 'net')(Net)\n", ["the network itself", "build(self, inputs)"],
    ),
    "a function": (source() + "\nstockenh.plugin('model', 'f')(lambda: 0)\n", ["not a function"]),
    "no build": (f"import stockenh\n{ABOVE}\nclass Mine:\n    a: int = 1\n", ["Mine lacks build()"]),
    "a setting without a type": (settings(ABOVE, "class M:", "    width = 4"), ["write width: int = 4"]),
    "a list": (settings(ABOVE, "class M:", "    w: list[int] = [1]"), ["mutable default", "default_factory"]),
    "a type of no YAML": (
        settings(ABOVE, "class M:", "    f: nn.Module = nn.ReLU()"), ["the plugin mine.py, model=mine"],
    ),
    "a function as default": (
        settings(ABOVE, "class M:", "    f: object = nn.functional.gelu"), ["model=mine: f: its default"],
    ),
    "a loss of no base": (
        "import stockenh\n@stockenh.plugin('loss', 'l')\nclass L:\n    a: int = 1\n",
        ["must inherit from stockenh.training.losses.Loss"],
    ),
    "a loss without elements": (
        "import stockenh\nfrom stockenh.training.losses import Loss\n"
        "@stockenh.plugin('loss', 'l')\nclass L(Loss):\n    a: int = 1\n",
        ["L lacks elements()"],
    ),
    "a loss without weights": (
        "import stockenh\nfrom stockenh.training.losses import Loss\n"
        "@stockenh.plugin('loss', 'l')\nclass L(Loss):\n    def elements(self, out, micro): ...\n",
        ["L lacks return_weight"],
    ),
}  # fmt: skip
WRONG = {
    "nothing": (source("None"), ["forward() returns nothing"]),
    "a tensor": (source("out"), ["forward() returns a Tensor", "up_logits"]),
    "one key": (source("{'ret': out}"), ["without up_logits", "it has ret"]),
    "probabilities": (source("{'ret': out, 'up_prob': out.sigmoid()}"), ["before the sigmoid"]),
    "three values": (source("(out, out, out)"), ["returns 3 values", "(ret, up_logits)"]),
    "numbers": (source("(1.0, out)"), ["returns a float as ret"]),
    "a shape": (source("(out[:, 0], out)"), ["ret of shape (3,)", "(3, 3)"]),
    "a squeezed window": (source("(out.squeeze(0), out.squeeze(0))"), ["for 1 window", "(1, 3)"]),
    "all windows": (source("(out.mean(0), out)"), ["ret of shape (3,)"]),
    "NaN": (source("(out * float('nan'), out)"), ["a ret with NaN"]),
    "NaN without a move": (
        source("(out / price.std(1).mean(1, keepdim=True), out)"), ["whose price does not move"],
    ),
    "no gradient": (source("(out, out.detach())"), ["up_logits that no parameter can learn from"]),
    "no parameters": (
        source("(ctx[:, :3], ctx[:, :3])", "del self.linear").replace("out = self.linear(ctx)", "pass"),
        ["no parameters"],
    ),
    "an error": (source("(out @ out, out)"), ["mine.py, line 14: RuntimeError", "lookback 20"]),
    "an error in the beginning": (
        source(init="assert inputs.horizons == 99, 'no'"), ["line 11: AssertionError: no"],
    ),
    "no network": (source().replace("return Net(inputs)", "return 3"), ["build() returns a int"]),
    "a device of its own": (source("(out.to('cuda:7'), out)"), ["mine.py, line 14"]),
}  # fmt: skip


@pytest.fixture
def plugin(here):
    def write(content):
        (here / "mine.py").write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


@pytest.mark.parametrize("case", BROKEN)
def test_a_plugin_that_cant_be_loaded(case, plugin, refused):
    content, words = BROKEN[case]
    plugin(content)
    err = refused("train", "--plugin", "mine.py", "model=mine")
    assert "mine.py" in err and all(word in err for word in words), err


@pytest.mark.parametrize("case", WRONG)
def test_a_network_that_does_not_do_what_it_must(case, plugin, refused, small, here):
    content, words = WRONG[case]
    plugin(content)
    err = refused("train", "--plugin=mine.py", "model=mine", *small, f"hydra.run.dir={here / 'run'}")
    assert "mine.py" in err and "model=mine" in err and all(word in err for word in words), err
    assert not (here / "run/checkpoints").exists()


@pytest.mark.parametrize(
    ("returns", "init", "words"),
    [
        ("(nn.functional.dropout(out, 0.5), out)", "pass", "differ from call to call"),
        ("(self.lstm(out)[0], out)", "self.lstm = nn.LSTM(3, 3)", "batch_first=True"),
    ],
)
def test_mistakes_that_can_be_trained_are_warned_of(returns, init, words, plugin, stockenh, small, here):
    plugin(source(returns, init))
    answer = stockenh(
        "train", "--plugin=mine.py", "model=mine", *small, f"hydra.run.dir={here / 'r'}", code=0
    )
    lines = [line for line in answer.err.splitlines() if words in line]
    assert len(lines) == 1 and "mine.py" in lines[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--plugin", "none.py"], "no such file"),
        (["--plugin", "."], "is no file"),
        (["--plugin", "folder.py"], "is no file"),
        (["--plugin", "a/b.txt"], "no such file"),
        (["--plugin", "net.ipynb"], "is a notebook"),
        (["--plugin", "none_such"], "no module of this name is installed"),
        (["--plugin", "json"], "registers nothing"),
        (["--plugin", "json.none.such"], "no module of this name"),
        (["--plugin", "mine"], "the file is --plugin mine.py"),
        (["--plugin"], "--plugin needs a value"),
        (["--plugin="], "--plugin needs a value"),
        (["--plugin", "mine.py", "--plugin", "other/mine.py"], "another plugin of this name"),
        (["plugin=mine.py"], "Write --plugin mine.py"),
        (["--plugins", "mine.py"], "--plugin"),
        (["--plugin", "mine.py", "model.widht=3"], "Nearest: model.width"),
        (["--plugin", "mine.py", "model.width=x"], "model.width=x is not a whole number"),
        (["--plugin", "mine.py", "model=min"], "Nearest: mine"),
    ],
)
def test_flags(flags, words, plugin, refused, here):
    plugin(source())
    (here / "other").mkdir()
    (here / "other/mine.py").write_text(source().replace('"mine"', '"others"'))
    (here / "folder.py").mkdir()
    (here / "net.ipynb").write_text("{}")
    model = [] if any("model=" in flag for flag in flags) else ["model=mine"]
    assert words in refused("train", *model, *flags)


def test_the_same_file_named_twice_counts_once(plugin, refused, here):
    plugin(source())
    flags = ["--plugin", "mine.py", f"--plugin={here / 'mine.py'}"]
    assert "model.width=x is not a whole number" in refused("train", *flags, "model=mine", "model.width=x")


@pytest.mark.parametrize(
    "raised", ["ValueError('width must be even')", "AssertionError('width must be even')"]
)
def test_what_must_hold_between_settings(raised, plugin, refused):
    check = f"    def __post_init__(self):\n        if self.width % 2:\n            raise {raised}\n"
    plugin(source().replace("    def build", check + "    def build"))
    err = refused("train", "--plugin=mine.py", "model=mine", "model.width=3")
    assert "model" in err and "width must be even" in err


def test_an_error_in_training_names_the_line(plugin, refused, small, here):
    late = "(out if len(ctx) < 10 else out @ out, out)"
    plugin(source(late))
    err = refused("train", "--plugin=mine.py", "model=mine", *small, f"hydra.run.dir={here / 'run'}")
    assert "mine.py, line 14: RuntimeError" in err
    assert "Traceback" in (here / "run/run.log").read_text()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "return returns, direction",
            "return returns.mean(), direction.mean()",
            "elements() must return two",
        ),
        ("return returns, direction", "return returns", "elements() must return two"),
        ("return y, y", "return y[:, 0], y", "values() must return two"),
        ("return y, y", "return y / 0 if False else y.no, y", "AttributeError"),
    ],
)
def test_a_loss_or_target_that_returns_something_else(old, new, words, guide, refused, small, here):
    (here / "task.py").write_text((guide / "mytask.py").read_text().replace(old, new))
    err = refused("train", "--plugin=task.py", "loss=squared", "target=clipped", *small, "hydra.run.dir=run")
    assert "task.py" in err and words in err
