"""TensorBoard and offline wandb: written for real and read back."""

import struct

import pytest

from verl.tracking import Tracking


def test_tensorboard_scalars_come_back(tmp_path, monkeypatch):
    monkeypatch.delenv("TENSORBOARD_DIR", raising=False)
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    first = Tracking("p", "e", "tensorboard", folder=tmp_path)
    for step, value in [(0, 0.1), (1, 0.25), (2, 99.0)]:
        first.log({"critic/score/mean": value}, step)
    resumed = Tracking("p", "e", "tensorboard", folder=tmp_path)  # `first` was killed; the checkpoint is of step 1
    resumed.start_from(1)
    resumed.log({"critic/score/mean": 0.5}, 2)
    resumed.finish()
    reader = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    events = [(event.step, round(event.value, 6)) for event in reader.Scalars("critic/score/mean")]
    assert events == [(0, 0.1), (1, 0.25), (2, 0.5)]


def wandb_records(path):
    """Records of an offline wandb file: a 7-byte header, then blocks of 32 KiB of (checksum, length, type, data)."""
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts, records = 7, b"", []
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # full, or last part
            record = pb.Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def test_offline_wandb_holds_metrics_group_and_config(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    tracking = Tracking(
        "proj", "exp", ["wandb"], config={"data": {"seed": 5}}, group_name="my-group", folder=tmp_path / "run"
    )
    tracking.log({"critic/score/mean": 0.125}, 3)
    assert tracking.active == ["file", "wandb"]
    tracking.finish()
    wandb.teardown()  # waits for wandb's own process, which writes the file, as the end of a run does
    (path,) = (tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb")
    records = wandb_records(path)
    (run,) = [record.run for record in records if record.HasField("run")][:1]
    assert (run.project, run.display_name, run.run_group, run.entity) == ("proj", "exp", "my-group", "")
    assert any(
        update.key == "data" and '"seed":5' in update.value_json.replace(" ", "") for update in run.config.update
    )
    history = [item for record in records if record.HasField("history") for item in record.history.item]
    values = {item.key or "/".join(item.nested_key): item.value_json for item in history}
    assert values["critic/score/mean"] == "0.125" and values["_step"] == "3"
    assert (tmp_path / "run" / "wandb_id.txt").read_text().strip() == run.run_id


def test_a_wandb_without_account_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    wandb = pytest.importorskip("wandb")

    def refuse(**_):
        raise wandb.errors.UsageError("api_key not configured (no-tty)")

    monkeypatch.setattr(wandb, "init", refuse)
    tracking = Tracking("proj", "exp", ["wandb"], folder=tmp_path)
    tracking.log({"a": 1.0}, 1)
    assert tracking.active == ["file"] and "api_key not configured" in caplog.text
