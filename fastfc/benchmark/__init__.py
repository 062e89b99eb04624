"""`fastfc compare`: kernels and networks against other libraries."""
