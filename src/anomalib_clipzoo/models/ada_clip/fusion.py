# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Hybrid semantic fusion (HSF): an image feature from the clusters of the patches that look most anomalous."""

from typing import Literal

import torch
from torch import nn

from anomalib_clipzoo.anomaly.precision import full_precision, unit

HsfMode = Literal["clusters", "most_anomalous"]

PATCHES_PER_CLUSTER = 5  # patches that are clustered, for each cluster; the reference code
ITERATIONS = 30  # of Lloyd's algorithm; a hundred patches settle in about ten


class HybridSemanticFusion(nn.Module):
    """Hybrid semantic fusion (HSF).

    "clusters" is what the code does: the most anomalous patches of the image are clustered, and all clusters count
    alike however large they are. "most_anomalous" is what the paper says: all patches are clustered, and the cluster
    with the highest mean probability of an anomaly stands for the image.

    Args:
        mode: "clusters" or "most_anomalous".
        k_clusters: Number of clusters K.
    """

    def __init__(self, mode: HsfMode, k_clusters: int) -> None:
        super().__init__()
        self.mode = mode
        self.k_clusters = k_clusters

    @full_precision
    def forward(self, patches: torch.Tensor, layer_logits: torch.Tensor) -> torch.Tensor:
        """Fuse patches to an image feature.

        Args:
            patches: Projected patches of K layers, unit length, ``(K, B, N, E)``.
            layer_logits: Logits whose sigmoid is the probability of an anomaly, ``(K, B, N)``.

        Returns:
            Image features, unit length, ``(B, E)``. Gradients flow through the patches, not through their clusters.
        """
        fuse = self._all_clusters if self.mode == "clusters" else self._most_anomalous_cluster
        return unit(fuse(patches, layer_logits.mean(dim=0)))

    def _all_clusters(self, patches: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        rank = min(logits.shape[1], PATCHES_PER_CLUSTER * self.k_clusters)
        chosen = logits.topk(rank, dim=1).indices
        rows = patches.permute(1, 2, 0, 3)[_each(chosen)[:, None], chosen]
        labels = k_means(rows.flatten(2), self.k_clusters)
        centres, counts = cluster_means(rows.mean(dim=2), labels, self.k_clusters)
        return centres.sum(dim=1) / (counts > 0).sum(dim=1)

    def _most_anomalous_cluster(self, patches: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        rows = patches.mean(dim=0)
        labels = k_means(rows, self.k_clusters)
        centres, counts = cluster_means(rows, labels, self.k_clusters)
        anomaly, _ = cluster_means(logits.sigmoid()[..., None], labels, self.k_clusters)
        worst = anomaly.masked_fill(counts == 0, -1).squeeze(-1).argmax(dim=1)
        return centres[_each(centres), worst]


def check_fusion(hsf: HsfMode | bool, clusters: int, grid: tuple[int, int]) -> None:
    """Make sure that the fusion is known and has enough patches for its clusters.

    Raises:
        ValueError: If not.
    """
    if hsf not in {False, "clusters", "most_anomalous"}:
        msg = f"hsf must be 'clusters', 'most_anomalous' or False, not {hsf!r}."
        raise ValueError(msg)
    if hsf and not 1 <= clusters <= grid[0] * grid[1]:
        msg = (
            f"k_clusters {clusters} must be 1 to {grid[0] * grid[1]}, the number of patches of an image: "
            "take fewer clusters, a larger image_size, or hsf=False."
        )
        raise ValueError(msg)


def cluster_means(rows: torch.Tensor, labels: torch.Tensor, clusters: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Average the rows of each cluster.

    Args:
        rows: ``(B, R, D)``.
        labels: Cluster of each row, ``(B, R)``.
        clusters: Number of clusters K.

    Returns:
        Means ``(B, K, D)``, zero where a cluster is empty, and the clusters' sizes ``(B, K, 1)``.
    """
    members = _members(labels, clusters).to(rows.dtype).transpose(1, 2)
    counts = members.sum(dim=2, keepdim=True)
    return members @ rows / counts.clamp(min=1), counts


@torch.no_grad()
@full_precision
def k_means(rows: torch.Tensor, clusters: int) -> torch.Tensor:
    """Cluster the rows of every image of a batch at once.

    scikit-learn's k-means runs on one image at a time, on the CPU; anomalib's too takes one image, and starts from
    rows that it draws from the global generator. Here nothing is drawn: as in greedy k-means++, each further centre is
    the row that lowers the summed squared distance most, but all rows are tried instead of a random few. So an image
    always has the same clusters. The number of steps is fixed, which lets the model be exported.

    Everything is computed from the rows' squared distances: a row's distance to a cluster's centre is its mean distance
    to the members, less half the mean distance between members.

    Args:
        rows: ``(B, R, D)``.
        clusters: Number of clusters, at most R.

    Returns:
        Cluster of each row, ``(B, R)``. Clusters are empty where fewer rows than clusters are distinct.
    """
    distances = _squared_distances(rows)
    labels = _first_clusters(distances, clusters)
    for _ in range(ITERATIONS):
        labels = _reassign(distances, labels, clusters)
    return labels


def _squared_distances(rows: torch.Tensor) -> torch.Tensor:
    centred = rows - rows.mean(dim=1, keepdim=True)  # keeps precision where all rows are alike
    norms = centred.square().sum(dim=-1)
    return (norms[:, :, None] + norms[:, None] - 2 * centred @ centred.transpose(1, 2)).clamp(min=0)


def _first_clusters(distances: torch.Tensor, clusters: int) -> torch.Tensor:
    """Choose rows as first centres, one after the other, and put each row to the nearest."""
    images = _each(distances)
    nearest = torch.full_like(distances[:, 0], torch.inf)
    centres = []
    for _ in range(clusters):
        remaining = torch.minimum(nearest[:, None], distances).sum(dim=-1)
        centres.append(distances[images, remaining.argmin(dim=1)])
        nearest = torch.minimum(nearest, centres[-1])
    return torch.stack(centres, dim=-1).argmin(dim=-1)


def _reassign(distances: torch.Tensor, labels: torch.Tensor, clusters: int) -> torch.Tensor:
    """Put every row to the cluster whose centre is nearest: one step of Lloyd's algorithm."""
    members = _members(labels, clusters).to(distances.dtype)
    counts = members.sum(dim=1, keepdim=True)
    to_members = distances @ members / counts.clamp(min=1)
    between_members = (to_members * members).sum(dim=1, keepdim=True) / counts.clamp(min=1)
    return (to_members - between_members / 2).masked_fill(counts == 0, torch.inf).argmin(dim=-1)


def _each(batch: torch.Tensor) -> torch.Tensor:
    """Number the images of a batch, to pick something of each."""
    return torch.arange(batch.shape[0], device=batch.device)


def _members(labels: torch.Tensor, clusters: int) -> torch.Tensor:
    """Tell which rows belong to which cluster: ``(B, R)`` to ``(B, R, K)``."""
    return labels[..., None] == torch.arange(clusters, device=labels.device)
