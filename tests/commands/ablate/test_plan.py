"""Which runs a list of techniques takes, and what they are compared as."""

from __future__ import annotations

import pytest
import yaml

from stockenh.commands.ablate.plan import AblateSettings, Plan
from stockenh.config.compose import compose
from stockenh.config.schema import plain
from stockenh.errors import ConfigError

EMA = {"overrides": ["averaging.ema_decay=0.9"]}
FOCAL = {"overrides": ["loss.gamma=2.0"]}
TTA = {"kind": "views"}
STUDENT = {"kind": "student", "overrides": ["model.layers=1"]}
SEARCH = {"kind": "search", "overrides": ["sweep.n_trials=2"]}


def settings(techniques: dict, **more: object) -> AblateSettings:
    return AblateSettings.of({"seeds": [1, 2], "techniques": techniques, **more})


def plan(techniques: dict, bars: bool = True, **more: object) -> Plan:
    return Plan.of(settings(techniques, **more), bars)


def test_plain_each_all_and_all_minus_each():
    found = plan({"ema": EMA, "focal": FOCAL, "swa": {"overrides": ["averaging.swa_start=0.5"]}})
    names = [row.name for row in found.rows]
    assert names == ["plain", "ema", "focal", "swa", "all", "without_ema", "without_focal", "without_swa"]
    together = ("averaging.ema_decay=0.9", "loss.gamma=2.0", "averaging.swa_start=0.5")
    assert found.recipe("all").overrides == together
    assert found.recipe("without_focal").overrides == (together[0], together[2])


def test_views_train_nothing_of_their_own():
    found = plan({"ema": EMA, "focal": FOCAL, "tta": TTA})
    assert [recipe.name for recipe in found.recipes] == ["plain", "ema", "focal", "all"]
    of = {row.name: (row.recipe, row.views) for row in found.rows}
    assert of["tta"] == ("plain", True) and of["all"] == ("all", True)
    assert of["without_tta"] == ("all", False) and of["without_focal"] == ("ema", True)
    assert {c.recipe.name for c in found.cells if c.viewed} == {"plain", "ema", "focal", "all"}


def test_ready_windows_have_no_views():
    found = plan({"ema": EMA, "tta": TTA}, bars=False)
    (row,) = (row for row in found.rows if row.name == "tta")
    assert row.recipe == "" and "no raw bars" in row.note
    assert not any(cell.viewed for cell in found.cells)


def test_a_student_waits_for_the_plain_run_of_its_seed_and_stands_beside_itself_alone():
    found = plan({"distillation": STUDENT})
    assert [recipe.name for recipe in found.recipes] == ["plain", "student_alone", "distillation"]
    assert found.recipe("distillation").teacher == "plain"
    assert found.recipe("student_alone").overrides == found.recipe("distillation").overrides


def test_what_changes_the_model_or_the_compute_is_no_part_of_all():
    found = plan({"ema": EMA, "focal": FOCAL, "distillation": STUDENT, "optuna": SEARCH})
    assert found.recipe("all").overrides == ("averaging.ema_decay=0.9", "loss.gamma=2.0")


def test_cells_go_seed_by_seed_and_end_with_the_costs():
    paths = [cell.path for cell in plan({"ema": EMA}).cells]
    assert paths == ["plain/seed1", "ema/seed1", "plain/seed2", "ema/seed2", "cost"]


def test_only_the_technique_s_own_row_is_judged_by_its_weights():
    found = plan({"ema": EMA | {"weights": "ema"}, "focal": FOCAL, "tta": TTA})
    assert {row.name: row.weights for row in found.rows if row.weights} == {"ema": "ema"}
    # the run without focal loss is EMA's, seen as a user gets it
    assert next(row.recipe for row in found.rows if row.name == "without_focal") == "ema"


def test_only_the_techniques_asked_for():
    found = plan({"ema": EMA, "focal": FOCAL}, only=["focal"])
    assert [row.name for row in found.rows] == ["plain", "focal"]


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"only": ["emma"]}, "ablate.only=['emma']: no such technique: emma. Nearest: ema. Options: ema"),
        ({"seeds": []}, "ablate.seeds=[]: name one or more"),
        ({"seeds": [1, 1]}, "each once"),
        ({"seeds": [-1]}, "ablate.seeds=-1 must be at least 0"),
        ({"n_workers": 0}, "ablate.n_workers=0"),
        ({"rounds": 1}, "ablate.rounds=1"),
        ({"techniques": {"x": {"kind": "trian", "overrides": ["a=1"]}}}, "kind=trian: no such kind. Nearest"),
        ({"techniques": {"x": {}}}, "ablate.techniques.x.overrides must be given"),
        ({"techniques": {"x": {"overrides": ["focal"]}}}, "focal: write GROUP=OPTION"),
        ({"techniques": {"x": {"kind": "views", "overrides": ["tta.views=2"]}}}, "on the command line"),
        ({"techniques": {"x": EMA | {"weights": "sma"}}}, "weights=sma: no such weights. Nearest: "),
        ({"techniques": {"x": TTA | {"weights": "ema"}}}, "kind views has what validation chooses"),
        ({"techniques": {"x": SEARCH | {"weights": "ema"}}}, "kind search has what validation chooses"),
        ({"techniques": {"a b": EMA}}, "the name must be a word"),
        (
            {"techniques": {"x": EMA | {"claims": {"acuracy": {"least": 1}}}}},
            "no such figure. Nearest: accur",
        ),
        ({"techniques": {"x": EMA | {"claims": {"accuracy": {"most": 1}}}}}, "accuracy.least must be given"),
        ({"techniques": {"x": EMA | {"claims": {"ece": {"least": 1}}}}}, "ece.most must be given"),
    ],
)
def test_settings_that_make_no_sense(node, said):
    with pytest.raises(ConfigError) as error:
        AblateSettings.of({"seeds": [1], "techniques": {"ema": EMA}, **node})
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["plain", "all", "cost", "without_ema"])
def test_names_of_its_own_folders_are_taken(name):
    with pytest.raises(ConfigError, match="this name is taken"):
        plan({name: EMA})


@pytest.mark.parametrize("option", ["quick", "full"])
def test_the_shipped_lists_hold_every_claim(option):
    node = plain(compose([f"ablate={option}"], "ablate"))["ablate"]
    found = AblateSettings.of(node)
    assert list(found.chosen) == [
        "precision", "accumulate", "swa", "ema", "smoothing", "focal", "lr_finder", "tta", "distillation",
        "optuna",
    ]  # fmt: skip
    of_accuracy = {"accuracy", "accuracy_kept"}
    assert all(of_accuracy & set(technique.claims) for technique in found.chosen.values())
    own = {name: technique.weights for name, technique in found.chosen.items() if technique.weights}
    assert own == {"swa": "swa", "ema": "ema"}
    assert set(found.all_claims) == {"accuracy", "time_to_plain", "inference_speed"}
    assert all(claim.says for technique in found.chosen.values() for claim in technique.claims.values())
    assert yaml.safe_dump(node)
