"""Pairs of clips made from people's videos."""
