"""Pairs of clips from MOVi's rendered scenes."""
