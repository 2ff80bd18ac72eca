"""Training step, and the state that it changes: weights, optimizer, averaged weights."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from loupe.augment import random
from loupe.augment.pipeline import Augmenter
from loupe.config.recipe import Stage
from loupe.data.pixels.batches import Batch
from loupe.devices import Compute
from loupe.models.classifier import Classifier
from loupe.ranks import Ranks
from loupe.training import losses, optimizers
from loupe.training.activation_loader import CyclicAugment, IdentityAugment
from loupe.training.averaging import WeightAverage
from loupe.training.checkpoint import Snapshot, optimizer_tensors, restore_optimizer
from loupe.training.rank_network import RankNetwork
from loupe.training.sliced import sliced


@dataclass(frozen=True)
class Teaching:
    """Probabilities of another classifier for the training images, which a network learns beside the labels.

    Attributes:
        probability_NK: of each image of the table; rows of other images than training images are not used.
        share: of the probabilities in the target; the rest is the label.
    """

    probability_NK: Tensor
    share: float


class TrainStep:
    """Training step of a stage.

    Attributes:
        first: block that receives the inputs; above 0, the inputs are outputs of the block before.
        decayed: parameters with weight decay.
        penalised: parameters with the L2 penalty.
        average: moving average of the weights; None if the stage has none.
        sliced: passes of the network in slices of the batch; None where they are not taken.
        over_ranks: passes of the network over several ranks; None for one rank, and for heads that are solved.
    """

    def __init__(
        self,
        model: Classifier,
        stage: Stage,
        augmenter: Augmenter | IdentityAugment | CyclicAugment,
        compute: Compute,
        class_weights_K: Tensor | None,
        first: int = 0,
        ranks: Ranks | None = None,
        log_prior_K: Tensor | None = None,
        teaching: Teaching | None = None,
    ) -> None:
        """Freeze the blocks of the model that the stage does not train, and build its loss and optimizer.

        Raises:
            LostRankError: another rank has ended.
        """
        model.learn(stage.part, batch_statistics=stage.batch_statistics)
        self.model = model
        self.stage = stage
        self.augmenter = augmenter
        self.compute = compute
        self.class_weights_K = class_weights_K
        self.first = first
        self.log_prior_K = log_prior_K
        self.teaching = teaching
        self.loss = losses.build(stage, class_weights_K, log_prior_K)
        self.optimizer = optimizers.build(stage, model)
        self.decayed = optimizers.decayed(model, everything=stage.decay_all)
        self.penalised = optimizers.penalised(model, stage)
        self.scaler = compute.scaler()
        ranks = ranks or Ranks()
        self.sliced = sliced(model, compute, first) if ranks.alone else None
        together = not (ranks.alone or stage.is_solved)
        self.over_ranks = RankNetwork(model, stage, compute, ranks, first) if together else None
        self.average = WeightAverage(model, stage.ema_decay) if stage.ema_decay else None

    @property
    def result(self) -> Classifier:
        """Network to evaluate and to save: the averaged one, if there is one."""
        return self.average.model if self.average else self.model

    def penalty(self) -> float:
        """L2 term of the loss, for the network that is evaluated; 0 if the stage has none."""
        chosen = {id(parameter) for parameter in self.penalised}
        pairs = zip(self.model.parameters(), self.result.parameters(), strict=True)
        return optimizers.l2_penalty([kept for mine, kept in pairs if id(mine) in chosen], self.stage.l2)

    def share(self, index_B: np.ndarray) -> np.ndarray:
        """Rows of a batch that this rank computes."""
        return self.over_ranks.share(index_B) if self.over_ranks else index_B

    def step(
        self,
        batch: Batch,
        partner: Batch | None,
        *,
        epoch: int,
        step: int,
        steps: int,
        lr: float,
        images: int | None = None,
    ) -> Tensor:
        """Take one step of the optimizer; return the batch's sum of the loss and number of hits, on the device.

        Over several ranks, these are sums over the rank's share of the batch.

        Args:
            partner: images that those of the batch are mixed with, if any.
            epoch: number of the epoch over all stages, from 0.
            step: number of the step in the epoch, from 0.
            steps: number of steps of this stage before this one.
            lr: learning rate of this step.
            images: number of images in the batches of all ranks together; None: those of `batch`.

        Raises:
            LostRankError: another rank has ended.
        """
        stage, images = self.stage, len(batch) if images is None else images
        seed = random.integer_seed(self.augmenter.seed, epoch, step, "dropout")
        torch.manual_seed(seed)
        x_BCHW, target = self._inputs(batch, partner, epoch)
        logits_BK = self._logits(x_BCHW, seed, images)
        losses_B = self.loss(logits_BK.float(), target)
        self._backward(losses_B, logits_BK, images)
        self.scaler.unscale_(self.optimizer)
        if stage.l2:
            optimizers.add_l2_gradient(self.penalised, stage.l2)
        if stage.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), stage.clip_norm)
        optimizers.set_rate(self.optimizer, lr)
        if steps % optimizers.FLUSH_EVERY_STEPS == 0:
            optimizers.flush_subnormals(self.optimizer)
        if stage.weight_decay:
            optimizers.decay(self.optimizer, self.decayed, stage.weight_decay)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.model, steps)
        hits = losses.hits(logits_BK.detach(), batch.y_B if partner is None else target)
        sums = torch.stack([losses_B.detach().sum(), hits.to(losses_B.dtype)])
        return sums if self.over_ranks is None or self.over_ranks.counts(images) else torch.zeros_like(sums)

    def _backward(self, losses_B: Tensor, logits_BK: Tensor, images: int) -> None:
        """Set the gradients of the mean loss over the images of the batch."""
        if self.over_ranks:
            self.over_ranks.backward(self.scaler.scale(self.over_ranks.loss(losses_B, images)))
            return
        self.scaler.scale(losses_B.mean()).backward()  # type: ignore[no-untyped-call]
        if self.sliced:
            self.sliced.backward(logits_BK)

    def settle(self) -> None:
        """Set the running statistics on all ranks to those of rank 0, at the end of an epoch.

        Raises:
            LostRankError: another rank has ended.
        """
        if self.over_ranks:
            self.over_ranks.settle([self.model, *([self.average.model] if self.average else [])])

    def _logits(self, x_BCHW: Tensor, seed: int, images: int) -> Tensor:
        if self.over_ranks:
            return self.over_ranks.forward(x_BCHW, images, seed)
        if self.sliced:
            return self.sliced.forward(x_BCHW, seed)
        with self.compute.autocast():
            logits_BK: Tensor = self.model(x_BCHW, self.first)
            return logits_BK

    def _inputs(self, batch: Batch, partner: Batch | None, epoch: int) -> tuple[Tensor, Tensor]:
        """Augmented inputs and their target, mixed with those of the partner if there is one."""
        classes, own = len(self.model.classes), self._target(batch)
        x_BCHW = self.augmenter.train(batch.x_BCHW, batch.index_B, epoch)
        if partner is None:
            return x_BCHW, own
        assert isinstance(self.augmenter, Augmenter), "images are mixed as images"
        other_BCHW = self.augmenter.train(partner.x_BCHW, partner.index_B, epoch)
        x_BCHW, share_B = self.augmenter.mix(x_BCHW, other_BCHW, batch.index_B, epoch)
        return x_BCHW, losses.target(own, self._target(partner), share_B, classes)

    def _target(self, batch: Batch) -> Tensor:
        """Class indices [B] of a batch, or the shares of each class [B, K] where a teacher has a part in them."""
        if self.teaching is None:
            return batch.y_B
        teacher_BK = self.teaching.probability_NK[torch.from_numpy(batch.index_B)].to(batch.y_B.device)
        return losses.taught(batch.y_B, teacher_BK, self.teaching.share)

    def state(self) -> Snapshot:
        """State that training changes."""
        tensors = {"weights": self.model.state_dict(), "optimizer": optimizer_tensors(self.optimizer)}
        if self.average:
            tensors["average"] = self.average.model.state_dict()
        return Snapshot(tensors, {"scaler": self.scaler.state_dict()})

    def restore(self, snapshot: Snapshot) -> None:
        """Restore the state of a snapshot that `state` returned."""
        self.model.load_state_dict(snapshot.tensors["weights"])
        restore_optimizer(self.optimizer, snapshot.tensors["optimizer"])
        if self.average:
            self.average.model.load_state_dict(snapshot.tensors["average"])
        self.scaler.load_state_dict(snapshot.values["scaler"])
