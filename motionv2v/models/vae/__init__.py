"""The causal video autoencoder, whole, in tiles and in strips."""
