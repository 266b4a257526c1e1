"""Networks in Flax linen: the causal 3-D VAE, the diffusion transformer, the T5 text encoder, TAPNext and LPIPS."""
