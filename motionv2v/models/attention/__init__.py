"""Attention behind one function, `dispatch.attention`, and its implementations."""
