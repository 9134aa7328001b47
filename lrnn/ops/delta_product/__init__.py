"""The delta product: the recurrence of DeltaProduct, several Householder reflections for each token."""
