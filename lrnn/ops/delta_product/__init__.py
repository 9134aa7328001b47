"""The delta product: the recurrence of DeltaProduct, several Householder reflections a token."""
