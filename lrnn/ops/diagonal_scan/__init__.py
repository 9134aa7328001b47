"""The recurrence of a diagonal linear RNN, with transitions of any sign."""
