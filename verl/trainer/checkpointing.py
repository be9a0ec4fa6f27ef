"""When a run saves, what the driver adds to the workers' shards, and how it resumes.

The workers write model, optimizer, schedule, teacher and random state; the driver adds the step, the sampler's state
and the fingerprint of the data, commits the folder whole (`verl.checkpoint`), and only then deletes older ones.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from verl.checkpoint import begin_save, commit_save, find_latest, prune, verify
from verl.config.root import TrainerConfig
from verl.dataset import StatefulSampler
from verl.single_controller import WorkerGroup

logger = logging.getLogger(__name__)

DRIVER_FILE = "trainer.json"


class RunCheckpoints:
    """The checkpoints of one run.

    Args:
        folder: the run folder.
        trainer: frequencies, resume mode, how many to keep.
        workers: the actor group, which writes and reads the shards.
        sampler: the order of the training rows.
        contents: parts to save; `hf_model` exports a Hugging Face folder too.
        fingerprint: of the training data; a checkpoint of other data is refused.
    """

    def __init__(
        self,
        folder: Path,
        trainer: TrainerConfig,
        workers: WorkerGroup,
        sampler: StatefulSampler,
        contents: list[str],
        fingerprint: str = "",
    ) -> None:
        self.folder = folder
        self.trainer = trainer
        self.workers = workers
        self.sampler = sampler
        self.contents = contents
        self.fingerprint = fingerprint

    def resume(self) -> int:
        """Load the checkpoint that `trainer.resume_mode` asks for. Returns its step; 0 when there is none to load."""
        path = self._to_resume()
        if path is None:
            return 0
        state = json.loads((path / DRIVER_FILE).read_text(encoding="utf-8"))
        if state["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"{path} was written while training on other data than data.train_files (or their filters) name now."
                " Use the same data, or start anew with trainer.resume_mode=disable in another run folder."
            )
        self.sampler.load_state_dict(state["sampler"])
        self.workers.load_checkpoint(str(path / "actor"))
        logger.info("Resuming from %s", path)
        return int(state["step"])

    def _to_resume(self) -> Path | None:
        if self.trainer.resume_mode == "disable":
            return None
        if self.trainer.resume_mode == "resume_path":
            path = Path(str(self.trainer.resume_from_path))
            verify(path)
            return path
        return find_latest(self.folder)

    def save_if_due(self, step: int, total_steps: int) -> bool:
        """Save when the frequency, or the end of the run, says so. Returns whether it did."""
        is_due = self.trainer.save_freq > 0 and step % self.trainer.save_freq == 0
        is_last = step == total_steps and (self.trainer.save_last or self.trainer.save_freq > 0)
        if is_due or is_last:
            self.save(step)
        return is_due or is_last

    def save(self, step: int) -> None:
        """Write one checkpoint whole, then delete the ones that are no longer kept."""
        partial = begin_save(self.folder, step)
        self.workers.save_checkpoint(str(partial / "actor"))
        if "hf_model" in self.contents:
            self.workers.export_huggingface(str(partial / "actor" / "huggingface"))
        state = {"step": step, "sampler": self.sampler.state_dict(), "fingerprint": self.fingerprint}
        (partial / DRIVER_FILE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        commit_save(partial)
        if self.trainer.max_actor_ckpt_to_keep:
            prune(self.folder, self.trainer.max_actor_ckpt_to_keep)
