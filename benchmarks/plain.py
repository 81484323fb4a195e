"""A training step and an epoch as published distillation codes write them, to compare ours with.

float32, NCHW, images one by one through PIL transforms in a DataLoader, features of every layer kept, the teacher run
as it stands, torch's own SGD. Networks, losses and their weights are this project's. AFD's attention, which this
project computes in another way, is written out here as its formula reads.
"""

from itertools import groupby

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pipeline.data.arrays import Split
from pipeline.distillation import afd
from pipeline.distillation.base import Method
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import embedding, thin
from pipeline.models.base import MapShape, shapes
from pipeline.settings.data import Normalization

PADDING_PX = 4


class Images(Dataset[tuple[Tensor, int, int]]):
    """(image (3, H, W), label, position) of a split, decoded, cropped, flipped and normalised one at a time."""

    def __init__(self, split: Split, normalization: Normalization) -> None:
        self.split = split
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(split.images.shape[1], padding=PADDING_PX),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(normalization.mean, normalization.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        image: Tensor = self.transform(Image.fromarray(self.split.images[index]))
        return image, int(self.split.labels[index]), index


class PlainLoop:
    """Trains a method without anything that this project does for speed."""

    def __init__(self, method: Method, image_px: int, lr: float, momentum: float, weight_decay: float) -> None:
        if isinstance(method, afd.Method):
            student, teacher = (shapes(model, image_px).blocks for model in (method.student, method.teacher))
            plain = PlainAttention(thin(student), thin(teacher), method.config.query_dim)
            method.register_module("attention", plain)
        self.method = method.train()
        self.optimizer = torch.optim.SGD(
            method.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, fused=False
        )

    def step(self, batch: Batch) -> float:
        """One step; the loss, which published loops ask for at every step."""
        _, terms = self.method(batch)
        loss = sum(terms.values(), start=torch.zeros(()))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def epoch(self, data: Images, batch_size: int, num_workers: int) -> None:
        """One pass over all whole batches."""
        loader = DataLoader(data, batch_size, shuffle=True, drop_last=True, num_workers=num_workers)
        for images, labels, positions in loader:
            self.step(Batch(images, labels, positions, 0.0, 0))


class PlainAttention(nn.Module):
    """AFD's meta-network as its formula reads: one tensor of all differences for each size of the teacher's maps."""

    def __init__(self, student: tuple[MapShape, ...], teacher: tuple[MapShape, ...], query_dim: int) -> None:
        super().__init__()
        self.queries = nn.ModuleList(embedding(shape.channels, query_dim) for shape in teacher)
        self.keys = nn.ModuleList(embedding(shape.channels, query_dim) for shape in student)
        self.bilinear = embedding(query_dim, query_dim * len(teacher))
        self.position_t = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(teacher), query_dim)))
        self.position_s = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(student), query_dim)))

    def forward(self, maps_s: list[Tensor], maps_t: list[Tensor]) -> Tensor:
        """Lists of maps (B, C, H, W), one per block."""
        query = torch.stack([embed(x.mean((2, 3))) for embed, x in zip(self.queries, maps_t, strict=True)], 1)
        key = torch.stack([embed(x.mean((2, 3))).relu() for embed, x in zip(self.keys, maps_s, strict=True)], 1)
        batch, num_t, dim = query.shape
        bilinear = self.bilinear(key.flatten(0, 1)).view(batch, -1, num_t, dim).transpose(1, 2)
        logits = (bilinear @ query.unsqueeze(3)).squeeze(3) + self.position_t @ self.position_s.T
        attention = (logits / dim**0.5).softmax(2)
        distances = []
        for size, alike in groupby(maps_t, key=lambda x: (x.shape[2], x.shape[3])):
            values_t = torch.stack([values(x, size) for x in alike], 1)
            values_s = torch.stack([values(x, size) for x in maps_s], 1)
            distances.append((values_t.unsqueeze(2) - values_s.unsqueeze(1)).pow(2).mean(3))
        attended: Tensor = (attention * torch.cat(distances, 1)).sum(2).mean(0).sum()
        return attended


def values(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, C, H, W) -> unit vectors (B, size) of their mean squares over channels, pooled to `size`."""
    energy = maps.pow(2).mean(1, keepdim=True)
    return functional.normalize(functional.adaptive_avg_pool2d(energy, size).flatten(1), dim=1)
