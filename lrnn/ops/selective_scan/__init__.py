"""The selective scan: the recurrence of Mamba."""
