"""Who runs a case: PyTorch, MindSpore, and the rules themselves on torch tensors."""
