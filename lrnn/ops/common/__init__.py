"""What several ops share: the choice of a form, dtypes, the eigenvalue range, exponentials in kernels."""
