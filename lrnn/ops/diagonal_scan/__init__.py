"""The recurrence of a diagonal linear RNN with any transitions."""
