"""A look-alike of `vllm serve` for tests and load: the same HTTP, no model, no memory, any speed."""
