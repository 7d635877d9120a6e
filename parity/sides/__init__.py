"""Who runs a case: PyTorch, MindSpore, and the rules themselves on arrays of NumPy."""
