"""The recurrence of the sLSTM."""
