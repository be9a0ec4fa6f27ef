"""discovery@k of three methods, from log files to the table and the picture."""

from attempt_logs import write_log

from verl.trainer.main_report import main


def make_logs(folder):
    """q_1 and q_2. SDPO: at 2 and at 4. Multi-turn: at 3 and never in 4. Best-of-k, 8 each: 2 and 0 right."""
    sdpo = folder / "sdpo_run"
    write_log(sdpo / "attempts.jsonl", "sdpo", {("q_1", 0): "01", ("q_2", 0): "0001"})
    write_log(folder / "multiturn-1.jsonl", "multiturn", {("q_1", 0): "001"})
    write_log(folder / "multiturn-2.jsonl", "multiturn", {("q_2", 0): "0000"})
    outcomes = {("q_1", 0): "01000100", ("q_2", 0): "00000000"}
    write_log(folder / "best.jsonl", "best_of_k", outcomes, stops_when_solved=False)
    return [str(sdpo), *(str(folder / name) for name in ("multiturn-1.jsonl", "multiturn-2.jsonl", "best.jsonl"))]


def rows(markdown):
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return cells[0], {line[0]: [cell.split(" ")[0] for cell in line[1:]] for line in cells[2:]}


def test_table_and_picture(tmp_path, capsys, png_size):
    output = tmp_path / "out" / "discovery.png"
    assert main(["--discovery", *make_logs(tmp_path), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    head, found = rows(printed)
    assert head == ["method", "questions", "runs", "@1", "@2", "@4", "@8", "mean attempts (of 4)"]
    # 2 right of 8: one of k is right with 1/4, 1 - 6*5/(8*7), 1 - 15/70, 1; E[min(T, 4)] = 1 + 3/4 + 15/28 + 5/14
    assert found == {
        "SDPO": ["2", "2", "0.0", "50.0", "100.0", "100.0", "3.0"],
        "multi-turn": ["2", "2", "0.0", "0.0", "50.0", "-", "3.5"],
        "best-of-k": ["2", "2", "12.5", "23.2", "39.3", "50.0", "3.3"],
    }
    assert "The curve of multi-turn ends at 4: question q_2 with seed 0 has no more attempts." in printed
    assert "counts as 4" in printed and "over questions and seeds" in printed
    assert png_size(output) == (1200, 750)
    assert output.with_suffix(".md").read_text() in printed


def test_labels_set_methods_apart_and_questions_that_differ_are_told(tmp_path, capsys):
    first, second, *_ = make_logs(tmp_path)
    arguments = ["--discovery", f"ours={first}", f"theirs={second}", "--interval", "seeds"]
    assert main([*arguments, "--output", str(tmp_path / "x.png")]) == 0
    printed = capsys.readouterr().out
    _, found = rows(printed)
    assert list(found) == ["ours", "theirs"]
    assert "theirs has no attempts at q_2, others have: do not compare them." in printed
    assert "over the seeds of each question" in printed
    assert found["theirs"][-1] == "3.0"  # all solved at 3: the curve goes on as far as the other's


def test_what_is_no_log_is_told(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n')
    assert main(["--discovery", str(path)]) == 2
    assert "line 1 is no header" in capsys.readouterr().err
