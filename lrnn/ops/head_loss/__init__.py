"""Cross-entropy of the head's logits, computed for some tokens at a time."""
