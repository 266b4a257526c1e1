"""Neural networks in Flax linen: the causal 3-D VAE, the diffusion transformer and the T5 text encoder."""
