"""What things are called: the names of the 1,000 ImageNet classes, and of the more general labels above them."""

from __future__ import annotations

from apibench.labels.imagenet import Group, ImageNetClass, Vocabulary, display_name, vocabulary

__all__ = ["Group", "ImageNetClass", "Vocabulary", "display_name", "vocabulary"]
