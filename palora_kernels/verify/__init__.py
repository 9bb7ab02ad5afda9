"""What shows that the kernels are right, beside the tests; nothing that is shipped imports it."""
