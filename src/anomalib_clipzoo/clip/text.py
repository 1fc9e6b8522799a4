# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""The text tower as explicit steps: tokenize, embed, insert learned tokens, blocks, project."""

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from anomalib_clipzoo.anomaly.precision import FullPrecision

from .attention import residual_block, select, single_token_block

START_OF_TEXT = 49406
END_OF_TEXT = 49407


class TextTower(FullPrecision):
    """CLIP's frozen text transformer, with room for learned tokens.

    The mask is causal and the feature is read at the end-of-text token, so what follows that token has no influence:
    sequences are only as long as the longest sentence needs, not the whole context, which is several times faster.

    It stays in single precision where the model is brought to another: what texts lose tilts all scores alike, and they
    are a small part of the work.

    Args:
        clip: open_clip's ``CLIP``, which holds the weights.
    """

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.token_embedding: nn.Embedding = clip.token_embedding
        self.position: nn.Parameter = clip.positional_embedding
        self.blocks: nn.ModuleList = clip.transformer.resblocks
        self.ln_final: nn.Module = clip.ln_final
        self.projection: nn.Parameter = clip.text_projection

    @property
    def width(self) -> int:
        """Width D of the tokens."""
        return self.token_embedding.embedding_dim

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def context_length(self) -> int:
        """Longest sequence, start and end of text included."""
        return self.position.shape[0]

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the token ids ``(S, L)`` of sentences on the tower's device, see :func:`tokenize`."""
        return tokenize(texts, self.context_length).to(self.position.device)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Look up token embeddings ``(S, L, D)`` of ids ``(S, L)``, without positions."""
        return self.token_embedding(ids)

    def run_blocks(
        self,
        tokens: torch.Tensor,
        end: torch.Tensor,
        deep_prompts: Mapping[int, torch.Tensor] | None = None,
        *,
        first: int = 0,
        recompute: bool = False,
    ) -> torch.Tensor:
        """Run the blocks, overwriting tokens with learned prompts on the way, the last for the end of text alone.

        Args:
            tokens: Embeddings with positions, ``(S, L, D)``, or what the block before ``first`` made of them.
            end: Position of each sentence's end of text, ``(S,)``.
            deep_prompts: For a block's index (from 0) the prompt ``(S, P, D)`` or ``(1, P, D)`` that overwrites
                positions 1 to P, those after the start of text, before that block.
            first: Index of the first block to run.
            recompute: Whether what gradients need of a block is made again instead of kept, which saves memory.

        Returns:
            End-of-text tokens after the last block, ``(S, D)``.
        """
        deep_prompts = deep_prompts or {}
        run_block = partial(checkpoint, residual_block, use_reentrant=False) if recompute else residual_block
        for index, block in enumerate(self.blocks[first:], start=first):
            if index in deep_prompts:
                prompt = deep_prompts[index].expand(tokens.shape[0], -1, -1).to(tokens.dtype)
                tokens = torch.cat([tokens[:, :1], prompt, tokens[:, 1 + prompt.shape[1] :]], dim=1)
            if index == self.depth - 1:
                return single_token_block(block, tokens, end)[:, 0]
            tokens = run_block(block, tokens, causal=True)
        return select(tokens, end)

    def project(self, tokens: torch.Tensor) -> torch.Tensor:
        """Bring end-of-text tokens ``(S, D)`` into the joint space ``(S, E)``: ``ln_final``, then the projection."""
        return self.ln_final(tokens) @ self.projection

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Encode token ids ``(S, L)`` to text features ``(S, E)``, not normalised, as CLIP does."""
        tokens = self.embed(ids) + self.position[: ids.shape[1]]
        return self.project(self.run_blocks(tokens, end_of_text(ids)))


def end_of_text(ids: torch.Tensor) -> torch.Tensor:
    """Return the position ``(S,)`` of the end-of-text token in ids ``(S, L)``: it has the largest id."""
    return ids.argmax(dim=-1)


def tokenize(texts: Sequence[str], context_length: int) -> torch.Tensor:
    """Turn sentences into CLIP's token ids.

    Args:
        texts: Sentences.
        context_length: Longest sequence that the text tower takes.

    Returns:
        Ids ``(S, L)``, zero-padded, L as long as the longest sentence needs.

    Raises:
        ValueError: If there is no sentence, or one is longer than the context. Nothing is cut silently.
    """
    if not texts:
        msg = "There is no sentence to encode: give at least one."
        raise ValueError(msg)
    sequences = [[START_OF_TEXT, *encode(text), END_OF_TEXT] for text in texts]
    longest = max(range(len(texts)), key=lambda index: len(sequences[index]))
    if len(sequences[longest]) > context_length:
        msg = (
            f"The prompt {texts[longest]!r} takes {len(sequences[longest])} tokens, but the text tower has room for "
            f"{context_length}: use a shorter class name, state or template."
        )
        raise ValueError(msg)
    return nn.utils.rnn.pad_sequence([torch.tensor(sequence) for sequence in sequences], batch_first=True)


def encode(text: str) -> list[int]:
    """Return the byte-pair ids of a text, without start and end of text."""
    return _tokenizer().encode(text)


@cache
def _tokenizer() -> Any:
    # open_clip is imported when a model is built, not before.
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
