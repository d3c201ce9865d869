"""transformers' Trainer, where it does other than a training here is to. It knows no sample and nobody who is told."""

from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerState, get_scheduler

from vlyard.jobs.training import TrainingSpec
from workers.qwen.training.callbacks import wait_for_all
from workers.qwen.training.checkpoints import whole_or_none
from workers.qwen.training.recipe import shape_of_schedule


class WholeTrainer(Trainer):
    """With warm-up and decay as parts of all steps, and checkpoints that are whole and may be the last one's.

    transformers begins an epoch before it asks whether there is anything to do: from the checkpoint of the last step
    it would do one more. Here nothing is done once a callback has said at the beginning that it is over.
    """

    spec: TrainingSpec

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            name, warm, own = shape_of_schedule(self.spec, num_training_steps)
            taught: Any = optimizer or self.optimizer
            self.lr_scheduler = get_scheduler(name, taught, warm, num_training_steps, own)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def take_weights(self, checkpoint: Path) -> None:
        """Have the weights of a checkpoint of this training; the optimiser and the step stay."""
        wait_for_all()  # one process has written it
        self._load_from_checkpoint(str(checkpoint), self.model)

    def go_back(self, checkpoint: Path) -> None:
        """Have the weights of a checkpoint, and be at its step."""
        self.take_weights(checkpoint)
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))

    def _run_epoch(self, *words: Any, **given: Any) -> None:
        if not self.control.should_training_stop:
            super()._run_epoch(*words, **given)  # type: ignore[no-untyped-call]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        whole_or_none(lambda: super(WholeTrainer, self)._save_checkpoint(model, trial), folder)
