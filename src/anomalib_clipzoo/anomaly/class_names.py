# Copyright (C) 2026 The anomalib-clipzoo authors
# SPDX-License-Identifier: Apache-2.0

"""Torch models whose sentences are about a class of objects."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from anomalib_clipzoo.clip import Backbone


class TakesClassNames(ABC):
    """A torch model that encodes sentences about what an image shows, by the class name that it is called with."""

    backbone: Backbone

    @abstractmethod
    def sentences_about(self, class_name: str) -> Sequence[str]:
        """Write all sentences about a class."""

    def check_class_names(self, class_names: Iterable[str]) -> None:
        """Make sure that the sentences about some classes can be encoded.

        Raises:
            ValueError: If a name has no words, or makes a sentence longer than the text tower's context.
        """
        for name in class_names:
            self.backbone.text.tokenize(self.sentences_about(name))
