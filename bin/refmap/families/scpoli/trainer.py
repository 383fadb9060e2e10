"""scArches' trainer of scPoli (scarches 0.6.1), mended. Importing this module imports the library.

* It embeds all training cells in `batch_size` chunks, not in chunks of `batch_size`: where a chunk of a sparse matrix is one
  cell, its row loses a dimension (`Tensors must have same number of dimensions: got 1 and 2`).
* It takes cells out of a sparse matrix one by one.
* A new label's prototype starts without the cells held out for validation, and as no number if there are no others.
* Prototypes move with samples of the latent posterior, in the first epoch with dropout; here with its means.
"""

from __future__ import annotations

import torch
from scarches.trainers.scpoli.trainer import scPoliTrainer
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler

from .prototypes import label_prototypes


class Trainer(scPoliTrainer):
    def initialize_loaders(self) -> None:
        super().initialize_loaders()
        sampler = self.sampler or RandomSampler(self.train_data)
        self.dataloader_train = self.batches_of(self.train_data, sampler)
        if self.valid_data is not None:
            self.dataloader_valid = self.batches_of(self.valid_data, SequentialSampler(self.valid_data))

    def batches_of(self, data: Dataset, cells: Sampler) -> DataLoader:
        """The cells of a dataset in batches, each taken out of the sparse matrix at once."""

        def with_dimensions(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return batch | {"x": batch["x"].reshape(len(batch["batch"]), -1)}

        batches = BatchSampler(cells, self.batch_size, drop_last=False)
        return DataLoader(data, sampler=batches, collate_fn=with_dimensions, batch_size=None)

    def get_latent_train(self) -> torch.Tensor:
        return self.latent_of(self.train_data)

    @torch.no_grad()
    def latent_of(self, data: Dataset) -> torch.Tensor:
        """The mean latent of all cells of a dataset, cells x dimensions."""
        training, latent = self.model.training, []
        self.model.eval()
        for batch in self.batches_of(data, SequentialSampler(data)):
            latent.append(self.model.get_latent(batch["x"].to(self.device), batch["batch"].to(self.device), mean=True))
        self.model.train(training)
        return torch.cat(latent)

    def initialize_prototypes(self) -> None:
        """Give each label that has no prototype one."""
        data = [part for part in (self.train_data, self.valid_data) if part is not None]
        latent = torch.cat([self.latent_of(part) for part in data])
        codes = torch.cat([part.cell_types for part in data]).to(self.device)
        held = [] if self.prototypes_labeled is None else [(self.prototypes_labeled, self.prototypes_labeled_cov)]
        n_held = len(held[0][0]) if held else 0
        if n_held < self.model.n_cell_types:
            held.append(label_prototypes(latent, codes, range(n_held, self.model.n_cell_types)))
        self.prototypes_labeled, self.prototypes_labeled_cov = (torch.cat(parts) for parts in zip(*held))
