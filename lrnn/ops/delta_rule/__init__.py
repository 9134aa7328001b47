"""The delta rule: the recurrence of DeltaNet."""
