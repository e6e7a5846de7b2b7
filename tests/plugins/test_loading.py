"""Which plugins are loaded: those that the command line names and installed ones, never one of a folder."""

import json
import os
import shutil
import sys

import processes
import pytest
import yaml

from stockenh.config import catalog, options, plugins, registry

MODULE = """
import stockenh
@stockenh.plugin("model", "packaged")
class Packaged:
    width: int = 4  # of nothing
    def build(self, inputs):
        from {parent} import Net
        return Net(inputs)
"""
NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.linear = nn.Linear(inputs.context, inputs.horizons)
    def forward(self, price, embedding, context):
        return self.linear(context), self.linear(context)
"""
COMMANDS = [
    "evaluate run={run}", "tta-predict run={run}", "export run={run}", "explain run={run}", "audit run={run}",
    "distill teacher={run}", "train resume={run}", "distill resume={run}",
    "train run_config={run}/config.yaml",
    "find-lr run_config={run}/config.yaml", "evaluate run=[{run},{run}]", "sweep teacher={run} sweep=distill",
]  # fmt: skip


@pytest.fixture(autouse=True)
def afterwards():
    yield
    plugins.use([])


@pytest.fixture
def site(here):
    """A folder of installed packages with one that has a plugin."""
    package, info = here / "site/mynets", here / "site/mynets-1.2.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text(NET)
    (package / "models.py").write_text(MODULE.format(parent="mynets"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mynets\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[stockenh.plugins]\nmynets = mynets.models\n")
    return here / "site"


def run(site, *arguments, first="", **environment):
    """In a process of its own, with the packages of a folder installed."""
    path = f"import sys; sys.path.append({str(site)!r})\n{first}"
    process = processes.start(*arguments, first=path, PYTHONPATH=str(site), **environment)
    out, err = process.communicate()
    assert "Traceback" not in err
    return process.returncode, out, err


def test_an_installed_plugin_needs_no_flag(site, small, here):
    code, _, err = run(site, "train", "model=packaged", *small, f"hydra.run.dir={here / 'run'}")
    assert code == 0, err
    (entry,) = json.loads((here / "run/manifest.json").read_text())["plugins"]
    assert (entry["name"], entry["distribution"], entry["version"]) == ("mynets.models", "mynets", "1.2")
    assert (
        yaml.safe_load((here / "run/config.yaml").read_text())["model"]["_target_"]
        == "mynets.models:packaged"
    )

    # the same without the package, with it turned off, broken, changed, and named as a module
    code, _, err = run(here, "evaluate", f"run={here / 'run'}")
    assert (
        code == 2 and "comes from the plugin mynets.models: add --plugin mynets.models, or install it" in err
    )
    code, _, err = run(site, "evaluate", "run=run", STOCKENH_NO_INSTALLED_PLUGINS="1")
    assert code == 2 and "comes from the plugin mynets.models" in err
    forecast = ["tta-predict", "run=run", "tta.views=0", f"hydra.run.dir={here / 'f'}"]
    code, _, err = run(site, *forecast, "--plugin", "mynets.models", STOCKENH_NO_INSTALLED_PLUGINS="1")
    assert (code, err) == (0, "")
    file = site / "mynets/models.py"
    file.write_text(file.read_text() + "# changed\n")
    (site / "mynets-1.2.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: mynets\nVersion: 1.3\n")
    code, _, err = run(site, *forecast)
    assert code == 0 and "mynets.models is not the one that was used (version 1.2 then, 1.3 now)" in err
    assert len(err.splitlines()) == 1
    file.write_text("import nowhere_such\n")
    code, _, err = run(site, "evaluate", "run=run")
    assert code == 2 and "can't be loaded: mynets.models: models.py, line 1: ModuleNotFoundError" in err


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("import nowhere_such\n", "models.py, line 1: ModuleNotFoundError"),
        *(pytest.param(*case, marks=pytest.mark.deep) for case in (
            ("x = (\n", "models.py, line 1: SyntaxError"),
            ("raise SystemExit(3)\n", "SystemExit"),
            ("x = 1\n", "registers nothing"),
            (MODULE.replace("packaged", "timeformer"), "stockenh has a model of this name"),
        )),
    ],
)
def test_a_broken_installed_plugin_is_left_out_with_a_line(content, why, site, small):
    (site / "mynets/models.py").write_text(content.replace("{parent}", "mynets"))
    code, out, err = run(site, "train", "--cfg", "job")
    assert code == 0 and "TimeFormerSettings" in out
    assert len(err.splitlines()) == 1 and "the installed plugin mynets (mynets 1.2) is left out" in err
    assert why in err and "STOCKENH_NO_INSTALLED_PLUGINS=1" in err
    assert run(site, "train", "--cfg", "job", STOCKENH_NO_INSTALLED_PLUGINS="1")[2] == ""


def test_help_and_a_run_without_plugins_import_none(site):
    said = "import atexit; atexit.register(lambda: print('mynets' in sys.modules, 'torch' in sys.modules))\n"
    for arguments in (["--help"], ["train", "--help"], ["runs", "--help"]):
        process = processes.start(*arguments, first=f"import sys; sys.path.append({str(site)!r})\n{said}")
        assert process.communicate()[0].splitlines()[-1].startswith("False")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_whose_plugin_is_not_named(command, own, refused, here):
    err = refused(*command.format(run=own.run).split())
    assert f"this run's model comes from the plugin {own.file.name}: add --plugin {own.file.name}" in err


def test_another_file_does_not_do(own, guide, refused, here):
    shutil.copy(own.file, here / "renamed.py")
    err = refused("evaluate", f"run={own.run}", "--plugin", "renamed.py")
    assert f"from the plugin {own.file.name}, not from renamed.py: add --plugin {own.file.name}" in err
    (here / own.file.name).write_text((guide / "mytask.py").read_text())
    err = refused("evaluate", f"run={own.run}", "--plugin", own.file.name)
    assert f"this run's model={own.name} is not in the plugin {own.file.name}" in err


def test_a_changed_file_is_used_after_a_warning(own, stockenh, here):
    (here / own.file.name).write_text("# new\n" + own.file.read_text())
    arguments = [f"run={own.run}", "tta.views=0", f"hydra.run.dir={here / 'f'}"]
    err = stockenh("tta-predict", "--plugin", own.file.name, *arguments, code=0).err
    assert len(err.splitlines()) == 1 and f"the plugin {own.file.name} is not the one that was used" in err


@pytest.mark.parametrize("before", [True, False])
def test_the_flag_may_stand_anywhere(before, own, stockenh, here):
    flag = ["--plugin", str(own.file)]
    forecast = ["tta-predict", f"run={own.run}", "tta.views=0", f"hydra.run.dir={here / 'f'}"]
    stockenh(*(flag + forecast if before else forecast + flag), code=0)


@pytest.mark.parametrize(
    "target",
    [
        "os:system", "subprocess:Popen", "builtins:exec", "/tmp/x.py:mine", "../mynet.py:mine", ":mine",
        "mynet.py:", "mynet.py:../mine", "mynet.py:mine:mine", "\x1b[2Jmynet.py:mine", "a\nb.py:mine",
        "x" * 300 + ":mine",
    ],
)  # fmt: skip
def test_a_run_folder_never_loads_anything(target, own, refused, here, monkeypatch):
    run = shutil.copytree(own.run, here / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["_target_"] = target
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (here / "mynet.py").write_text("open('loaded', 'w')\n")
    (run / "mynet.py").write_text("open('loaded', 'w')\n")
    err = refused("evaluate", "run=run")
    assert "\x1b" not in err and len(err) < 1000
    assert not (here / "loaded").exists() and not (run / "loaded").exists()


@pytest.mark.parametrize("entry", [3, {"name": 3, "sha256": None}, {"name": "mynet.py"}, "x"])
def test_a_manifest_with_something_else(entry, own, refused, here):
    run = shutil.copytree(own.run, here / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "plugins": [entry]}))
    assert "does not hold what stockenh writes" in refused("evaluate", own.flag, "run=run")


def test_help_and_completion_have_its_keys(guide, stockenh, monkeypatch):
    out = stockenh("train", "--help", "--plugin", str(guide / "mynet.py"), code=0).out
    assert "model=mine | student" in out and "model.patch" in out and "bars per token" in out
    plugins.use([str(guide / "mynet.py")])
    plugins.load(installed=False)
    words = ["stockenh", "train", "--plugin", "mynet.py"]
    assert "mine" in catalog.complete("train", words, "model=mi")[0]
    assert catalog.complete("train", [*words, "model=mine"], "model.w") == ["model.width=", "model.width=64"]
    assert catalog.complete("train", [*words, "model", "=", "mine", "model.patch", "="], "") == ["10"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "--plugin", "a.py"], ["a.py"]),
        (["train", "--plugin=a.py", "x=1"], ["a.py"]),
        (["train", "--plugin", "=", "a.py", "--plugin", "b"], ["a.py", "b"]),
        (["train", "--plugin"], []),
        (["train", "--plugins", "a.py"], []),
    ],
)
def test_a_shells_words(words, named):
    assert registry.named_in(words) == named


def test_another_process_runs_the_source_that_the_command_has_read(guide, here):
    shutil.copy(guide / "mynet.py", here / "mynet.py")
    plugins.use(["mynet.py"])
    plugins.load()
    handed, digest = plugins.handed(), registry.OPTIONS["model", "mine"].plugin.sha256
    (here / "mynet.py").write_text("raise ValueError\n")
    plugins.use([])
    assert ("model", "mine") not in registry.OPTIONS
    plugins.take(json.loads(json.dumps(handed)))
    assert registry.OPTIONS["model", "mine"].plugin.sha256 == digest
    assert plugins.flags() == ["--plugin", str(here / "mynet.py")]


def test_modules_beside_a_file_can_be_imported_and_shadow_nothing(here, refused):
    (here / "nets").mkdir()
    (here / "nets/beside.py").write_text("WIDTH = 7\n")
    (here / "nets/json.py").write_text("raise ValueError\n")
    content = MODULE.replace("width: int = 4", "width: int = beside.WIDTH").format(parent="x")
    (here / "nets/a net.py").write_text(f"import json, beside\n{content}")
    err = refused("train", "--plugin", "nets/a net.py", "model=packaged", "model.width=x")
    assert "model.width=x is not a whole number" in err
    assert not any(str(here) in path for path in os.sys.path)


def test_a_loss_and_a_target(guide, stockenh, small, here):
    flag = f"--plugin={guide / 'mytask.py'}"
    run = here / "run"
    stockenh("train", flag, "loss=squared", "target=clipped", *small, f"hydra.run.dir={run}", code=0)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["target"] == "clipped"
    (entry,) = json.loads((run / "manifest.json").read_text())["plugins"]
    assert entry["name"] == "mytask.py"
    stockenh("evaluate", flag, f"run={run}", "evaluate.resamples=100", f"hydra.run.dir={here / 'e'}", code=0)
    stockenh("tta-predict", flag, f"run={run}", "tta.views=0", f"hydra.run.dir={here / 'f'}", code=0)


def test_a_loss_trains_as_a_shipped_one_of_the_same_formula(here, stockenh, small):
    (here / "own.py").write_text(
        "from stockenh import plugin\n"
        "from stockenh.training.losses.huber_bce import HuberBCE\n"
        "@plugin('loss', 'huber')\nclass Huber(HuberBCE): ...\n"
    )
    for name, more in (("own", ["--plugin=own.py", "loss=huber"]), ("shipped", ["loss=huber_bce"])):
        stockenh("train", *more, *small, f"hydra.run.dir={name}", code=0)
    weights = [(here / name / "weights/raw.safetensors").read_bytes() for name in ("own", "shipped")]
    assert weights[0] == weights[1]


def test_two_commands_of_one_process_have_their_own_plugins(here, site, monkeypatch):
    monkeypatch.syspath_prepend(str(site))
    for folder, width in (("a", 1), ("b", 2)):
        (here / folder).mkdir()
        (here / folder / "beside.py").write_text(f"WIDTH = {width}\n")
        content = MODULE.replace("width: int = 4", "width: int = beside.WIDTH").format(parent="x")
        (here / folder / "net.py").write_text(f"import beside\n{content.replace('packaged', folder)}")
    for folder, width in (("a", 1), ("b", 2), ("a", 1)):
        plugins.use([f"{folder}/net.py"])
        plugins.load()
        plugins.load()
        assert {name for _, name in registry.OPTIONS} == {folder, "packaged"}
        assert registry.OPTIONS["model", folder].kind().width == width
    for named in (["mynets.models"], [], ["mynets"], ["mynets.models"]):
        plugins.use(named)
        plugins.load()
        assert [(key, o.plugin.name) for key, o in registry.OPTIONS.items()] == [
            (("model", "packaged"), "mynets.models")
        ]
    monkeypatch.setenv("STOCKENH_NO_INSTALLED_PLUGINS", "1")
    for option in [*registry.OPTIONS.values()]:
        options.withdraw(option)


@pytest.mark.parametrize("file", ["notebook.py", None])  # None: typed into an interpreter
def test_a_cell_that_registers_again_replaces_what_it_registered(here, monkeypatch, file):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", file, raising=False)
    for width in (1, 2):
        cell = {"__name__": "__main__"}
        exec(MODULE.format(parent="x").replace("width: int = 4", f"width: int = {width}"), cell)
        plugins.load()
        assert registry.OPTIONS["model", "packaged"].kind().width == width
    options.withdraw(registry.OPTIONS["model", "packaged"])
