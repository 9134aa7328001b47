"""The paper's theorems as weights, the machines that show what cannot be done, and the spectra of transitions."""
