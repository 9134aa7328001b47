"""The recurrence of the mLSTM."""
