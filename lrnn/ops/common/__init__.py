"""Code that several ops share: the choice of a form, dtypes, the eigenvalue range, SiLU in kernels."""
