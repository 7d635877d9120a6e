"""Compares optimizers of MindSpore with those of PyTorch, step by step: every parameter and every state slot."""
