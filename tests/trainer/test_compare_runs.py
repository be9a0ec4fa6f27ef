"""Comparing methods: grouping, sample efficiency by hand, table and picture."""

import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
from test_report import make_run

from verl.trainer.compare import efficiency, generations_to, group_runs, markdown_table, method_label
from verl.trainer.main_report import main
from verl.trainer.plot import apart
from verl.trainer.report import Point, read_run

METRIC = "val-core/home_api/acc/mean@8"
LOSS = "actor_rollout_ref__actor__policy_loss__loss_mode"


@pytest.fixture
def folders(tmp_path):
    """Two seeds of each method; 8 generations a step."""
    sdpo = [[(0, 0.1), (10, 0.5), (20, 0.8), (40, 0.9)], [(0, 0.1), (10, 0.3), (20, 0.6), (40, 0.8)]]
    grpo = [[(0, 0.1), (20, 0.3), (40, 0.5)], [(0, 0.1), (20, 0.2), (40, 0.4)]]
    return [
        *(make_run(tmp_path / f"sdpo{i}", points, trainer__seed=i) for i, points in enumerate(sdpo)),
        *(make_run(tmp_path / f"grpo{i}", p, trainer__seed=i, **{LOSS: "vanilla"}) for i, p in enumerate(grpo)),
    ]


def methods_of(folders):
    runs = [read_run(folder) for folder in folders]
    return group_runs([(method_label(run), run) for run in runs], METRIC)


def test_labels_come_from_the_configuration(tmp_path):
    def label(number, **config):
        return method_label(read_run(make_run(tmp_path / str(number), [(0, 0.1)], **config)))

    mix = "actor_rollout_ref__actor__self_distillation__grpo_lambda"
    assert label(1) == "SDPO"
    assert label(2, **{mix: 0.9}) == "SDPO+GRPO"
    assert label(3, **{LOSS: "vanilla"}) == "GRPO"
    assert label(4, **{LOSS: "vanilla"}, algorithm__adv_estimator="rloo") == "RLOO"
    assert label(5, **{LOSS: "gspo"}) == "GSPO"


def test_ratio_by_hand(folders):
    sdpo, grpo = methods_of(folders)
    # GRPO ends at (0.5 + 0.4) / 2 = 0.45 after 40 x 8 = 320 generations. SDPO's mean is 0.4 at 80 and 0.7 at 160: it
    # passes 0.45 at 80 + 80/6 = 93.3. Single seeds: 0.1 -> 0.5 at 70; 0.3 -> 0.6 between 80 and 160 at 120.
    found = efficiency(sdpo, grpo)
    assert found.target == pytest.approx(0.45)
    assert found.generations == pytest.approx(93.3333, abs=1e-3)
    assert found.ratio == pytest.approx(320 / 93.3333, abs=1e-3)
    assert found.ratios == pytest.approx([320 / 70, 320 / 120])
    assert str(found) == (
        "SDPO reaches GRPO's final accuracy (0.450) after 93 generations, 3.4 times fewer than GRPO"
        " (single seeds: 2.7-4.6, 2 of 2 get there)."
    )


def test_generations_to_the_ends():
    curve = [Point(0, 0, 0.1), Point(1, 8, 0.3), Point(2, 16, 0.2)]
    assert generations_to(curve, 0.05) == 0
    assert generations_to(curve, 0.2) == pytest.approx(4)
    assert generations_to(curve, 0.3) == 8
    assert generations_to(curve, 0.31) is None


def test_markdown_table(folders):
    assert markdown_table(methods_of(folders)).splitlines()[2:] == [
        "| SDPO | 2 | 0.100 | 0.850 [0.800-0.900] | 0.850 [0.800-0.900] | 320 | 0.50 |",
        "| GRPO | 2 | 0.100 | 0.450 [0.400-0.500] | 0.450 [0.400-0.500] | 320 | 0.50 |",
    ]


def test_the_mean_stops_where_a_seed_stops(tmp_path):
    folders = [make_run(tmp_path / "a", [(0, 0.2), (2, 0.4), (4, 0.6)]), make_run(tmp_path / "b", [(0, 0.4), (2, 0.6)])]
    (method,) = methods_of(folders)
    assert [(p.generations, round(p.value, 6)) for p in method.mean] == [(0, 0.3), (16, 0.5)]


def test_compare_draws_every_method(folders, tmp_path, capsys):
    output = tmp_path / "plots" / "curves.png"
    assert main(["--compare", *map(str, folders), "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert "3.4 times fewer" in out and str(output) in out and "Note" not in out
    pixels = (matplotlib.image.imread(output)[..., :3] * 255).round().astype(int)
    for color in ((0x1F, 0x5F, 0xBF), (0xE0, 0x7B, 0x00)):  # SDPO's and GRPO's thick lines
        assert (np.abs(pixels - color).max(-1) <= 2).sum() > 500
    main(["--compare", *map(str, folders[:2]), "--output", str(tmp_path / "other.png")])
    other = (matplotlib.image.imread(tmp_path / "other.png")[..., :3] * 255).round().astype(int)
    assert (np.abs(other - (0xE0, 0x7B, 0x00)).max(-1) <= 2).sum() == 0


def test_the_picture_names_axes_methods_and_gain(folders, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    from verl.trainer.plot import draw_curves

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: drawn.append(self))
    draw_curves(methods_of(folders), METRIC, tmp_path / "x.png")
    (axes,) = drawn[0].axes
    assert axes.get_xlabel().startswith("generations") and axes.get_ylabel() == "held-out accuracy (mean@8)"
    assert axes.get_title(loc="left") == "home_api"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["SDPO (2 seeds)", "GRPO (2 seeds)"]
    assert "3.4x fewer generations" in [text.get_text() for text in axes.texts]
    widths = sorted(line.get_linewidth() for line in axes.lines if len(line.get_xdata()) > 1)
    assert widths == [1, 1, 1, 1, 3, 3]


def test_runs_that_are_not_only_seeds_are_noted(tmp_path, capsys):
    rate = "actor_rollout_ref__actor__self_distillation__teacher_update_rate"
    folders = [make_run(tmp_path / str(r), [(0, 0.1), (1, 0.2)], **{rate: r}) for r in (0.0, 0.05)]
    main(["--compare", *map(str, folders), "--output", str(tmp_path / "x.png")])
    assert "differ in actor_rollout_ref.actor.self_distillation.teacher_update_rate" in capsys.readouterr().out
    main(["--compare", f"frozen={folders[0]}", f"ema={folders[1]}", "--output", str(tmp_path / "x.png")])
    out = capsys.readouterr().out
    assert "Note" not in out and "| frozen | 1 |" in out and "| ema | 1 |" in out


def test_runs_without_a_common_metric_are_refused(tmp_path, capsys):
    one = make_run(tmp_path / "a", [(0, 0.1)])
    two = make_run(tmp_path / "b", [(0, 0.1)], metric="val-core/other/acc/mean@8")
    assert main(["--compare", str(one), str(two)]) == 2
    assert "no validation metric in common" in capsys.readouterr().err


def test_the_door_needs_no_torch(folders):
    code = (
        "import sys; from verl.trainer.main_report import main; main([sys.argv[1]]);"
        " sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(folders[0])], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "held-out mean@8 after" in result.stdout


def test_labels_do_not_cover_each_other():
    assert apart([0.1, 0.5], 0.04, 1.0) == [0.1, 0.5]
    assert apart([0.0, 0.02, 0.5], 0.04, 1.0) == [0.0, 0.04, 0.5]
    assert apart([0.95, 0.98, 1.0], 0.04, 1.0) == pytest.approx([0.92, 0.96, 1.0])
