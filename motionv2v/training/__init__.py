"""The loop, what trains in it, and what it reads: latents and pairs prepared beforehand."""
