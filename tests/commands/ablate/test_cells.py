"""How the cells of an ablation are handed out, ended and taken up."""

import pytest

from stockenh.commands.ablate.cells import DONE, FAILED, FORECASTS, AblationFolder
from stockenh.commands.ablate.plan import AblateSettings, Plan
from stockenh.commands.ablate.spec import AblationSpec, CellAssignment
from stockenh.errors import RunFolderError

EMA = {"overrides": ["averaging.ema_decay=0.9"]}
STUDENT = {"kind": "student", "overrides": ["model=student"]}


def source(tmp_path, techniques):
    settings = AblateSettings.of({"seeds": [1], "techniques": techniques})
    arguments, folder = ["model=tft_xl", "device=cpu"], AblationFolder(tmp_path)
    return AblationSpec(None, None, settings, Plan.of(settings, True), arguments, [], {}, folder)


def end(assignment, **figures):
    """Closes a cell as its job does, whose forecasts are there by then."""
    folder = assignment.spec.folder
    folder.forecasts(assignment.cell).parent.mkdir(parents=True, exist_ok=True)
    folder.forecasts(assignment.cell).write_bytes(b"")
    assignment.end({"views": False, "weights": "raw", **figures})


def taken(cells):
    found = cells.take()
    assert isinstance(found, CellAssignment)
    return found


def test_each_cell_is_handed_out_once(tmp_path):
    cells = source(tmp_path, {"ema": EMA})
    held = [taken(cells), taken(cells), taken(cells)]
    assert [a.cell.path for a in held] == ["plain/seed1", "ema/seed1", "cost"]
    assert cells.take() is None


def test_a_cell_that_is_given_back_is_handed_out_again_and_one_that_ended_is_not(tmp_path):
    cells = source(tmp_path, {"ema": EMA})
    first = taken(cells)
    first.give_back()
    again = taken(cells)
    assert again.cell == first.cell and first.stopped
    end(again)
    assert taken(cells).cell.path == "ema/seed1"
    assert cells.folder.state(first.cell)["state"] == DONE


def test_a_job_s_overrides_are_its_recipe_s_before_those_of_all(tmp_path):
    cells = source(tmp_path, {"distillation": STUDENT})
    plain, alone = taken(cells), taken(cells)
    assert plain.overrides == ["model=tft_xl", "device=cpu", "hydra.sweep.subdir='plain/seed1'", "seed=1"]
    assert "model=tft_xl" not in alone.overrides and alone.overrides[-1] == "model=student"
    end(plain)
    student = taken(cells)
    assert student.overrides[-1] == f"++teacher='{tmp_path}/plain/seed1'"


def test_a_student_is_not_begun_before_its_teacher_is_done_and_fails_with_it(tmp_path):
    cells = source(tmp_path, {"distillation": STUDENT})
    plain, alone = taken(cells), taken(cells)
    found, waiting = cells._look()
    assert found is not None and found.cell.path == "cost" and not waiting
    assert cells._look() == (None, True)
    plain.fail("no bars")
    end(alone)
    assert cells.take() is None
    student = next(c for c in cells.plan.cells if c.path == "distillation/seed1")
    assert cells.folder.state(student) == {"state": FAILED, "why": "plain/seed1, its teacher, failed"}


def test_a_cell_that_kills_its_workers_is_given_up(tmp_path):
    cells = source(tmp_path, {"ema": EMA})
    plain = cells.plan.cells[0]
    claims = tmp_path / "workers" / "plain-seed1.tries"
    claims.parent.mkdir()
    claims.write_text("..")  # what two dead workers left of their claims
    assert taken(cells).cell.path == "ema/seed1"
    assert "died 2 times" in cells.folder.state(plain)["why"]
    cells.folder.reopen(plain)
    assert taken(cells).cell == plain


def test_a_dead_worker_s_cell_goes_on(tmp_path):
    cells = source(tmp_path, {"ema": EMA})
    claims = tmp_path / "workers" / "plain-seed1.tries"
    claims.parent.mkdir()
    claims.write_text(".")
    assert not cells.folder.is_claimed(cells.plan.cells[0])
    held = taken(cells)
    assert held.cell.path == "plain/seed1" and cells.folder.is_claimed(held.cell)


def test_one_command_at_a_time_works_on_an_ablation(tmp_path):
    folder = AblationFolder(tmp_path)
    with folder.lock(), pytest.raises(RunFolderError, match="another process works on this"), folder.lock():
        pass


def test_a_cell_without_forecasts_or_without_the_views_wanted_now_is_done_again(tmp_path):
    cells = source(tmp_path, {"ema": EMA})
    plain = taken(cells)
    end(plain)
    assert cells.folder.state(plain.cell)["state"] == DONE and not cells.folder.lacks_forecasts(plain.cell)
    more = source(tmp_path, {"ema": EMA, "tta": {"kind": "views"}})
    assert taken(more).cell.path == "plain/seed1"
    (tmp_path / "plain/seed1" / FORECASTS).unlink()  # as an earlier version left it
    assert cells.folder.lacks_forecasts(plain.cell)
    assert cells.folder.state(plain.cell) == {}
    cost = next(c for c in cells.plan.cells if c.recipe is None)
    cells.folder.close(cost, DONE, {"seconds": 1.0, "figures": {}})
    assert cells.folder.state(cost)["state"] == DONE
