"""The log of a run, whoever wrote its lines."""

from minibert.training.progress import read_log


def test_lines_of_the_log_that_hold_anything_but_numbers_are_left_out(tmp_path):
    log = tmp_path / "metrics.jsonl"
    assert read_log(tmp_path) == []
    bad = ["NaN", "[1]", '{"step": 1, "loss": NaN}', '{"step": "x"}', '{"loss": 1}', '{"step": 1, "f1": {}}']
    log.write_text("\n".join([*bad, "[" * 10**5, '{"step": 2, "loss": 0.5}', '{"st']), "utf-8")
    assert read_log(tmp_path) == [{"step": 2, "loss": 0.5}]
