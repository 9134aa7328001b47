"""Cross-entropy of the head's logits, made for some tokens at a time."""
